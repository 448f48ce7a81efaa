//! The events that a site knows. Trees and not hash tables: of a long name or value only what tells it from the schema's own is
//! looked at, so a batch that refers to it a thousand times costs no more than the site's own words.

use std::collections::{BTreeMap, BTreeSet};

use proto::agent::Reason;
use proto::limits;
use proto::uplink::{self, OtherProps, PropType, SchemaMode};

/// JavaScript writes no number longer than this.
const NUMBER_BYTES_MAX: usize = 32;

/// A site's schema, for all its batches.
#[derive(Debug)]
pub struct Schema {
    /// What breaks it is dropped; otherwise it is counted, and so is the breach.
    pub enforced: bool,
    other_props: OtherProps,
    /// By name.
    events: BTreeMap<String, EventRule>,
}

#[derive(Debug)]
struct EventRule {
    /// By key.
    props: BTreeMap<String, Fit>,
    required: Vec<String>,
}

/// Which values a property may have.
#[derive(Debug)]
enum Fit {
    Text { values: BTreeSet<String>, bytes_max: usize },
    Number { min: f64, max: f64 },
    Boolean,
}

/// How an event breaks the schema. Names nothing that the page sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Breach<'s> {
    /// The schema has no event of this name.
    Event,
    /// It lists no property of this key for the event: the how-manieth of its properties that is, from 0.
    Unlisted(usize),
    /// A property is required and not there.
    Missing(&'s str),
    /// A property's value does not fit.
    Unfit(&'s str),
}

impl Breach<'_> {
    /// As the ledger knows it.
    pub fn reason(self) -> Reason {
        match self {
            Self::Event => Reason::SchemaEvent,
            Self::Unlisted(_) | Self::Missing(_) | Self::Unfit(_) => Reason::SchemaProps,
        }
    }
}

impl Schema {
    /// The first breach of an event: unknown, then its properties in their order, then what is missing.
    pub fn breach<'p>(
        &self,
        name: &str,
        props: impl Iterator<Item = (&'p str, &'p str)> + Clone,
    ) -> Option<Breach<'_>> {
        let Some(event) = self.events.get(name) else {
            return (name != limits::PAGEVIEW).then_some(Breach::Event);
        };
        for (place, (key, value)) in props.clone().enumerate() {
            match event.props.get_key_value(key) {
                Some((_, fit)) if fit.takes(value) => {}
                Some((key, _)) => return Some(Breach::Unfit(key)),
                None if self.other_props == OtherProps::Allow => {}
                None => return Some(Breach::Unlisted(place)),
            }
        }
        let is_missing = |required: &&String| props.clone().all(|(key, _)| key != *required);
        event.required.iter().find(is_missing).map(|key| Breach::Missing(key))
    }
}

impl Fit {
    fn takes(&self, value: &str) -> bool {
        match self {
            Self::Text { values, bytes_max } => {
                value.len() <= *bytes_max && (values.is_empty() || values.contains(value))
            }
            Self::Number { min, max } => number(value).is_some_and(|number| (*min..=*max).contains(&number)),
            Self::Boolean => matches!(value, "true" | "false"),
        }
    }
}

/// Decimal and finite: neither `Infinity` nor `0x10`.
fn number(text: &str) -> Option<f64> {
    let decimal = |byte: u8| byte.is_ascii_digit() || b"+-.eE".contains(&byte);
    let is_decimal = text.len() <= NUMBER_BYTES_MAX && text.bytes().all(decimal);
    is_decimal.then(|| text.parse().ok())?.filter(|number: &f64| number.is_finite())
}

impl From<&uplink::Schema> for Schema {
    fn from(schema: &uplink::Schema) -> Self {
        Self {
            enforced: schema.mode() == SchemaMode::Enforce,
            other_props: schema.other_props(),
            events: schema.events.iter().map(|event| (event.name.clone(), EventRule::from(event))).collect(),
        }
    }
}

impl From<&uplink::EventRule> for EventRule {
    fn from(event: &uplink::EventRule) -> Self {
        let required = event.props.iter().filter(|prop| prop.required);
        Self {
            props: event.props.iter().map(|prop| (prop.key.clone(), Fit::from(prop))).collect(),
            required: required.map(|prop| prop.key.clone()).collect(),
        }
    }
}

impl From<&uplink::PropRule> for Fit {
    fn from(prop: &uplink::PropRule) -> Self {
        match prop.r#type() {
            PropType::Text => Self::Text {
                values: prop.values.iter().cloned().collect(),
                bytes_max: match prop.bytes_max {
                    0 => limits::PROP_VALUE_BYTES_MAX,
                    bytes => bytes as usize,
                },
            },
            PropType::Number => {
                Self::Number { min: prop.min.unwrap_or(f64::NEG_INFINITY), max: prop.max.unwrap_or(f64::INFINITY) }
            }
            PropType::Boolean => Self::Boolean,
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::{collection::vec, option, prelude::*, sample::select};
    use proto::uplink::PropRule;

    use super::*;

    fn signup(other_props: OtherProps) -> Schema {
        let prop =
            |key: &str, r#type: PropType| PropRule { key: key.into(), r#type: r#type.into(), ..Default::default() };
        let values = ["free", "pro", ""].map(str::to_owned).to_vec();
        let props = vec![
            PropRule { values, bytes_max: 4, required: true, ..prop("plan", PropType::Text) },
            PropRule { min: Some(1.0), max: Some(500.0), ..prop("seats", PropType::Number) },
            PropRule { bytes_max: 4, ..prop("note", PropType::Text) },
            prop("any", PropType::Number),
            prop("trial", PropType::Boolean),
        ];
        let event = uplink::EventRule { name: "Signup".into(), props };
        let mode = SchemaMode::Enforce.into();
        Schema::from(&uplink::Schema { mode, events: vec![event], other_props: other_props.into() })
    }

    #[test]
    fn what_breaks_a_schema_is_named_by_its_own_words() {
        let schema = signup(OtherProps::Refuse);
        let breach = |name, props: &[(&'static str, &'static str)]| schema.breach(name, props.iter().copied());
        let with = |key, value| breach("Signup", &[("plan", "free"), (key, value)]);
        for (key, value) in [
            ("plan", "pro"),
            ("plan", ""),
            ("seats", "1"),
            ("seats", "500"),
            ("seats", "1e2"),
            ("seats", "12.5"),
            ("note", "four"),
            ("any", "-1.7976931348623157e+308"),
            ("trial", "false"),
        ] {
            assert_eq!(with(key, value), None, "{key} {value}");
        }
        for (key, value) in [
            ("plan", "Free"),
            ("seats", "0.99"),
            ("seats", "501"),
            ("seats", ""),
            ("seats", "many"),
            ("note", "fives"),
            ("any", "Infinity"),
            ("any", "1e999"),
            ("any", "NaN"),
            ("any", "0x10"),
            ("any", " 1"),
            ("any", "000000000000000000000000000000001"),
            ("trial", "TRUE"),
            ("trial", "1"),
        ] {
            assert_eq!(with(key, value), Some(Breach::Unfit(key)), "{key} {value}");
        }
        assert_eq!(with("colour", "red"), Some(Breach::Unlisted(1)));
        assert_eq!(breach("Signup", &[("trial", "true")]), Some(Breach::Missing("plan")));
        assert_eq!(breach("Login", &[]), Some(Breach::Event));
        assert_eq!(breach("signup", &[("plan", "free")]), Some(Breach::Event));
        assert_eq!(breach("pageview", &[("anything", "goes")]), None);
        let open = signup(OtherProps::Allow);
        assert_eq!(open.breach("Signup", [("colour", "red"), ("plan", "pro")].into_iter()), None);
        assert_eq!(open.breach("Signup", [("colour", "red")].into_iter()), Some(Breach::Missing("plan")));
    }

    #[test]
    fn a_breach_has_the_reason_of_its_kind() {
        assert_eq!(Breach::Event.reason(), Reason::SchemaEvent);
        for breach in [Breach::Unlisted(0), Breach::Missing("plan"), Breach::Unfit("plan")] {
            assert_eq!(breach.reason(), Reason::SchemaProps);
        }
    }

    /// Names, keys and values come from few, so that they meet.
    fn word() -> impl Strategy<Value = String> {
        select(vec!["pageview", "a", "b", "ab", "1", "2.5", "-3", "true", "false", ""]).prop_map(str::to_owned)
    }

    pub(in crate::ingest::validate) fn any_schema() -> impl Strategy<Value = uplink::Schema> {
        let prop = (
            word(),
            0..4i32,
            vec(word(), 0..3),
            0..4u32,
            option::of(-5.0..5.0f64),
            option::of(-5.0..5.0f64),
            any::<bool>(),
        )
            .prop_map(|(key, r#type, values, bytes_max, min, max, required)| PropRule {
                key,
                r#type,
                values,
                bytes_max,
                min,
                max,
                required,
            });
        let event = (word(), vec(prop, 0..4)).prop_map(|(name, mut props)| {
            props.sort_by(|a, b| a.key.cmp(&b.key));
            props.dedup_by(|a, b| a.key == b.key);
            uplink::EventRule { name, props }
        });
        (0..3i32, vec(event, 0..4), 0..3i32).prop_map(|(mode, mut events, other_props)| {
            events.sort_by(|a, b| a.name.cmp(&b.name));
            events.dedup_by(|a, b| a.name == b.name);
            uplink::Schema { mode, events, other_props }
        })
    }

    /// The schema, read out loud.
    fn keeps(schema: &uplink::Schema, name: &str, props: &[(String, String)]) -> bool {
        let Some(event) = schema.events.iter().find(|event| event.name == name) else { return name == "pageview" };
        let fits = |rule: &PropRule, value: &str| match rule.r#type {
            1 => value.parse::<f64>().is_ok_and(|number| {
                rule.min.is_none_or(|min| number >= min) && rule.max.is_none_or(|max| number <= max)
            }),
            2 => value == "true" || value == "false",
            _ => {
                (rule.values.is_empty() || rule.values.iter().any(|allowed| allowed == value))
                    && (rule.bytes_max == 0 || value.len() <= rule.bytes_max as usize)
            }
        };
        let listed = props.iter().all(|(key, value)| match event.props.iter().find(|rule| rule.key == *key) {
            Some(rule) => fits(rule, value),
            None => schema.other_props == 1,
        });
        let there = |rule: &PropRule| props.iter().any(|(key, _)| *key == rule.key);
        listed && event.props.iter().all(|rule| !rule.required || there(rule))
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]

        #[test]
        fn a_compiled_schema_says_what_a_naive_reading_says(
            schema in any_schema(), name in word(), props in vec((word(), word()), 0..4),
        ) {
            let compiled = Schema::from(&schema);
            let breach = compiled.breach(&name, props.iter().map(|(key, value)| (key.as_str(), value.as_str())));
            prop_assert_eq!(breach.is_none(), keeps(&schema, &name, &props), "{:?}", breach);
            prop_assert_eq!(compiled.enforced, schema.mode == 1);
        }
    }
}
