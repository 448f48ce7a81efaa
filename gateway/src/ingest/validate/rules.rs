//! What a site wants of its events beyond what holds for everybody, read once for all its batches.

use proto::uplink::{self, Automated, PersonalData};

use super::schema::Schema;

/// The rules of one site. The default is that of a site without any: no schema, personal data is redacted, browsers
/// that a program drives are not counted.
#[derive(Debug, Default)]
pub struct Rules {
    /// The events it knows. Without a schema pages send what they like.
    pub schema: Option<Schema>,
    /// What becomes of what looks like an e-mail address.
    pub personal_data: PersonalData,
    /// Whoever sends is told of each event that is dropped, redacted or observed.
    pub debug: bool,
    /// What becomes of batches from browsers that a program drives.
    pub automated: Automated,
}

impl From<&uplink::Rules> for Rules {
    /// Central has checked them. What only a later version knows counts as the default.
    fn from(rules: &uplink::Rules) -> Self {
        let schema = rules.schema.as_ref().map(Schema::from);
        Self { schema, personal_data: rules.personal_data(), debug: rules.debug, automated: rules.automated() }
    }
}
