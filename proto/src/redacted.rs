//! What is printed of messages that carry a site's key: a log may be read by many, the key is for nobody who reads it.

use std::fmt;

use crate::agent::{Envelope, Hello};

/// Only whether there is one.
struct Key<'a>(&'a str);

impl fmt::Debug for Key<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_empty() { "none" } else { "…" })
    }
}

impl fmt::Debug for Hello {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { site, agent_version, key } = self;
        f.debug_struct("Hello")
            .field("site", site)
            .field("agent_version", agent_version)
            .field("key", &Key(key))
            .finish()
    }
}

impl fmt::Debug for Envelope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { site, regions_tried, sent_ms, batch, key } = self;
        f.debug_struct("Envelope")
            .field("site", site)
            .field("regions_tried", regions_tried)
            .field("sent_ms", sent_ms)
            .field("batch", batch)
            .field("key", &Key(key))
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::{ClientFrame, client_frame::Frame};

    #[test]
    fn a_key_is_never_printed_and_everything_else_is() {
        let (site, key) = ("shop".to_owned(), "tlk_secret".to_owned());
        let hello = Hello { site: site.clone(), agent_version: "1".to_owned(), key: key.clone() };
        let envelope = Envelope { site, regions_tried: vec!["eu".to_owned()], sent_ms: 2, batch: vec![3], key };
        let printed = [Frame::Hello(hello), Frame::Batch(envelope)]
            .map(|frame| format!("{:?}", ClientFrame { frame: Some(frame) }));
        assert_eq!(
            printed,
            [
                r#"ClientFrame { frame: Some(Hello(Hello { site: "shop", agent_version: "1", key: … })) }"#,
                r#"ClientFrame { frame: Some(Batch(Envelope { site: "shop", regions_tried: ["eu"], sent_ms: 2, batch: [3], key: … })) }"#,
            ]
        );
        assert!(format!("{:?}", Hello::default()).ends_with("key: none }"));
    }
}
