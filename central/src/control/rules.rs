//! Rules of a site: which events it knows, what becomes of personal data and of driven browsers, whether its pages are told.
//! Gateways hold to them.

use std::collections::BTreeMap;

use proto::limits::{EVENT_NAME_BYTES_MAX, PROP_KEY_BYTES_MAX, PROP_VALUE_BYTES_MAX, PROPS_MAX};
use proto::uplink;
use serde::{Deserialize, Serialize};

/// Rules that were checked. The default: no schema, personal data is redacted, driven browsers are dropped, nobody is
/// told.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(transparent)]
pub struct Rules(NewRules);

/// Rules as the sites API takes them, and as they are kept.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct NewRules {
    /// Without one pages send what they like.
    schema: Option<Schema>,
    personal_data: PersonalData,
    /// Whoever sends is told of each event that is refused, redacted or observed.
    debug: bool,
    /// Of browsers that say that a program drives them.
    automated: Automated,
}

/// The events that a site knows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Schema {
    mode: Mode,
    /// By name.
    events: BTreeMap<String, EventRule>,
    #[serde(default)]
    other_props: OtherProps,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Mode {
    Observe,
    Enforce,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum OtherProps {
    #[default]
    Refuse,
    Allow,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct EventRule {
    /// By key.
    props: BTreeMap<String, PropRule>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct PropRule {
    r#type: PropType,
    /// Of text: one of these. Without them any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    values: Option<Vec<String>>,
    /// Of text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    bytes_max: Option<u32>,
    /// Of a number, like `max`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    min: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    max: Option<f64>,
    #[serde(default)]
    required: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum PropType {
    Text,
    Number,
    Boolean,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum PersonalData {
    #[default]
    Redact,
    Allow,
    Drop,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Automated {
    #[default]
    Drop,
    Allow,
}

/// Rules that cannot be.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum RulesError {
    /// Too many events.
    #[error("a schema lists at most {EVENTS_MAX} events, not {0}")]
    Events(usize),
    /// A name that no event can have.
    #[error(
        "the schema's event {0:?} cannot be: a name has 1 to {EVENT_NAME_BYTES_MAX} bytes and no control characters"
    )]
    EventName(String),
    /// Too many properties.
    #[error("the schema's event {event:?} has {props} properties: list at most {PROPS_MAX}")]
    Props {
        /// Its name.
        event: String,
        /// How many it lists.
        props: usize,
    },
    /// A key that no property can have.
    #[error(
        "the schema's property {0:?} cannot be: a key has 1 to {PROP_KEY_BYTES_MAX} bytes and no control characters"
    )]
    PropKey(String),
    /// A bound that belongs to another type.
    #[error("the schema's property {key:?} has `{bound}`, which is for type {of}: leave it out or change the type")]
    Misplaced {
        /// The property's.
        key: String,
        /// As it is written.
        bound: &'static str,
        /// The type that can have it.
        of: &'static str,
    },
    /// No values, or too many.
    #[error(
        "the schema's property {key:?} lists {values} values: list 1 to {VALUES_MAX}, or leave `values` out to take any"
    )]
    Values {
        /// The property's.
        key: String,
        /// How many it lists.
        values: usize,
    },
    /// A value that no property can have.
    #[error(
        "the schema's property {key:?} lists a value that it can never have: values have at most {bytes_max} bytes here and no control characters"
    )]
    Value {
        /// The property's.
        key: String,
        /// Its own bound, or that of all values.
        bytes_max: usize,
    },
    /// A length that cannot be one.
    #[error("the schema's property {key:?} has `bytes_max` {bytes_max}: give 1 to {PROP_VALUE_BYTES_MAX}")]
    BytesMax {
        /// The property's.
        key: String,
        /// As it is written.
        bytes_max: u32,
    },
    /// No number lies between.
    #[error("the schema's property {key:?} has `min` {min} above `max` {max}: no number would fit")]
    Range {
        /// The property's.
        key: String,
        /// As it is written.
        min: f64,
        /// As it is written.
        max: f64,
    },
}

const EVENTS_MAX: usize = 200;
const VALUES_MAX: usize = 100;

impl Rules {
    /// Checks every part.
    pub fn try_new(new: NewRules) -> Result<Self, RulesError> {
        let events = new.schema.as_ref().map(|schema| &schema.events);
        if let Some(events) = events {
            if events.len() > EVENTS_MAX {
                return Err(RulesError::Events(events.len()));
            }
            for (name, event) in events {
                event.check(name)?;
            }
        }
        Ok(Self(new))
    }

    /// As gateways are told.
    pub fn wire(&self) -> uplink::Rules {
        let personal_data = match self.0.personal_data {
            PersonalData::Redact => uplink::PersonalData::Redact,
            PersonalData::Allow => uplink::PersonalData::Allow,
            PersonalData::Drop => uplink::PersonalData::Drop,
        };
        let automated = match self.0.automated {
            Automated::Drop => uplink::Automated::Drop,
            Automated::Allow => uplink::Automated::Allow,
        };
        uplink::Rules {
            schema: self.0.schema.as_ref().map(Schema::wire),
            personal_data: personal_data.into(),
            debug: self.0.debug,
            automated: automated.into(),
        }
    }
}

impl Schema {
    fn wire(&self) -> uplink::Schema {
        let mode = match self.mode {
            Mode::Observe => uplink::SchemaMode::Observe,
            Mode::Enforce => uplink::SchemaMode::Enforce,
        };
        let other_props = match self.other_props {
            OtherProps::Refuse => uplink::OtherProps::Refuse,
            OtherProps::Allow => uplink::OtherProps::Allow,
        };
        let props = |event: &EventRule| event.props.iter().map(|(key, prop)| prop.wire(key)).collect();
        let event = |(name, event): (&String, _)| uplink::EventRule { name: name.clone(), props: props(event) };
        uplink::Schema {
            mode: mode.into(),
            events: self.events.iter().map(event).collect(),
            other_props: other_props.into(),
        }
    }
}

impl EventRule {
    fn check(&self, name: &str) -> Result<(), RulesError> {
        if !is_text(name, 1, EVENT_NAME_BYTES_MAX) {
            return Err(RulesError::EventName(name.to_owned()));
        }
        if self.props.len() > PROPS_MAX {
            return Err(RulesError::Props { event: name.to_owned(), props: self.props.len() });
        }
        self.props.iter().try_for_each(|(key, prop)| prop.check(key))
    }
}

impl PropRule {
    fn check(&self, key: &str) -> Result<(), RulesError> {
        if !is_text(key, 1, PROP_KEY_BYTES_MAX) {
            return Err(RulesError::PropKey(key.to_owned()));
        }
        let key = || key.to_owned();
        let (text, number) = (self.r#type == PropType::Text, self.r#type == PropType::Number);
        let bounds = [
            ("values", "text", self.values.is_some() && !text),
            ("bytes_max", "text", self.bytes_max.is_some() && !text),
            ("min", "number", self.min.is_some() && !number),
            ("max", "number", self.max.is_some() && !number),
        ];
        if let Some((bound, of, _)) = bounds.into_iter().find(|(.., misplaced)| *misplaced) {
            return Err(RulesError::Misplaced { key: key(), bound, of });
        }
        if let (Some(min), Some(max)) = (self.min, self.max)
            && min > max
        {
            return Err(RulesError::Range { key: key(), min, max });
        }
        let bytes_max = match self.bytes_max {
            None => PROP_VALUE_BYTES_MAX,
            Some(bytes) if (1..=PROP_VALUE_BYTES_MAX).contains(&(bytes as usize)) => bytes as usize,
            Some(bytes_max) => return Err(RulesError::BytesMax { key: key(), bytes_max }),
        };
        let Some(values) = &self.values else { return Ok(()) };
        if values.is_empty() || values.len() > VALUES_MAX {
            return Err(RulesError::Values { key: key(), values: values.len() });
        }
        match values.iter().all(|value| is_text(value, 0, bytes_max)) {
            true => Ok(()),
            false => Err(RulesError::Value { key: key(), bytes_max }),
        }
    }

    fn wire(&self, key: &str) -> uplink::PropRule {
        let r#type = match self.r#type {
            PropType::Text => uplink::PropType::Text,
            PropType::Number => uplink::PropType::Number,
            PropType::Boolean => uplink::PropType::Boolean,
        };
        uplink::PropRule {
            key: key.to_owned(),
            r#type: r#type.into(),
            values: self.values.clone().unwrap_or_default(),
            bytes_max: self.bytes_max.unwrap_or(0),
            min: self.min,
            max: self.max,
            required: self.required,
        }
    }
}

fn is_text(text: &str, bytes_min: usize, bytes_max: usize) -> bool {
    (bytes_min..=bytes_max).contains(&text.len()) && !text.contains(char::is_control)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn rules(json: Value) -> Result<Rules, RulesError> {
        Rules::try_new(serde_json::from_value(json).unwrap())
    }

    fn of_prop(key: &str, prop: Value) -> Result<Rules, RulesError> {
        rules(json!({"schema": {"mode": "enforce", "events": {"Signup": {"props": {key: prop}}}}}))
    }

    #[test]
    fn rules_come_out_as_they_went_in() {
        let whole = json!({
            "schema": {
                "mode": "enforce",
                "events": {"Signup": {"props": {
                    "plan": {"type": "text", "values": ["free", "pro"], "bytes_max": 40, "required": true},
                    "seats": {"type": "number", "min": 1.0, "max": 500.0, "required": false},
                    "trial": {"type": "boolean", "required": false},
                }}},
                "other_props": "allow",
            },
            "personal_data": "drop",
            "debug": true,
            "automated": "allow",
        });
        let read = rules(whole.clone()).unwrap();
        assert_eq!(json!(read), whole);
        let wire = read.wire();
        assert_eq!((wire.personal_data(), wire.debug), (uplink::PersonalData::Drop, true));
        assert_eq!(wire.automated(), uplink::Automated::Allow);
        let schema = wire.schema.unwrap();
        assert_eq!((schema.mode(), schema.other_props()), (uplink::SchemaMode::Enforce, uplink::OtherProps::Allow));
        let [plan, seats, trial] = schema.events[0].props.as_slice() else { panic!("{schema:?}") };
        assert_eq!(
            (plan.r#type(), plan.values.len(), plan.bytes_max, plan.required),
            (uplink::PropType::Text, 2, 40, true)
        );
        assert_eq!((seats.r#type(), seats.min, seats.max), (uplink::PropType::Number, Some(1.0), Some(500.0)));
        assert_eq!((trial.r#type(), trial.required), (uplink::PropType::Boolean, false));
    }

    #[test]
    fn without_rules_personal_data_is_redacted_and_driven_browsers_are_dropped() {
        assert_eq!(
            json!(rules(json!({})).unwrap()),
            json!({"schema": null, "personal_data": "redact", "debug": false, "automated": "drop"})
        );
        assert_eq!(Rules::default().wire(), uplink::Rules::default());
    }

    #[test]
    fn what_cannot_be_a_rule_is_refused_in_a_sentence_that_says_what_can() {
        let named = |name: String| rules(json!({"schema": {"mode": "observe", "events": {name: {}}}}));
        let events = |n: usize| -> Value {
            (0..n).map(|n| (format!("e{n}"), json!({}))).collect::<serde_json::Map<_, _>>().into()
        };
        let props = |n: usize| -> Value {
            (0..n).map(|n| (format!("p{n}"), json!({"type": "text"}))).collect::<serde_json::Map<_, _>>().into()
        };
        let of_events = |n| rules(json!({"schema": {"mode": "observe", "events": events(n)}}));
        let of_props = |n| rules(json!({"schema": {"mode": "observe", "events": {"e": {"props": props(n)}}}}));
        let values = |n: usize| of_prop("p", json!({"type": "text", "values": vec!["v"; n]}));
        assert!(of_events(200).is_ok() && of_props(30).is_ok() && values(100).is_ok());
        assert!(named("n".repeat(120)).is_ok() && of_prop(&"k".repeat(300), json!({"type": "boolean"})).is_ok());
        for (refused, said) in [
            (of_events(201), "at most 200 events, not 201"),
            (named("n".repeat(121)), "1 to 120 bytes"),
            (named(String::new()), "1 to 120 bytes"),
            (named("a\nb".into()), "no control characters"),
            (of_props(31), "list at most 30"),
            (of_prop("", json!({"type": "text"})), "1 to 300 bytes"),
            (of_prop(&"k".repeat(301), json!({"type": "text"})), "1 to 300 bytes"),
            (values(0), "list 1 to 100"),
            (values(101), "list 1 to 100"),
            (of_prop("p", json!({"type": "text", "values": ["v".repeat(2_001)]})), "at most 2000 bytes"),
            (of_prop("p", json!({"type": "text", "values": ["free"], "bytes_max": 3})), "at most 3 bytes"),
            (of_prop("p", json!({"type": "text", "values": ["a\tb"]})), "no control characters"),
            (of_prop("p", json!({"type": "text", "bytes_max": 0})), "give 1 to 2000"),
            (of_prop("p", json!({"type": "text", "bytes_max": 2_001})), "give 1 to 2000"),
            (of_prop("p", json!({"type": "text", "min": 1})), "`min`, which is for type number"),
            (of_prop("p", json!({"type": "boolean", "max": 1})), "`max`, which is for type number"),
            (of_prop("p", json!({"type": "number", "values": ["1"]})), "`values`, which is for type text"),
            (of_prop("p", json!({"type": "number", "bytes_max": 9})), "`bytes_max`, which is for type text"),
            (of_prop("p", json!({"type": "number", "min": 2, "max": 1})), "no number would fit"),
        ] {
            let error = refused.unwrap_err().to_string();
            assert!(error.contains(said), "{error}");
        }
    }

    #[test]
    fn what_nobody_knows_is_no_rule() {
        for unknown in [
            json!({"schemas": {}}),
            json!({"personal_data": "hide"}),
            json!({"automated": true}),
            json!({"schema": {"events": {}}}),
            json!({"schema": {"mode": "warn", "events": {}}}),
            json!({"schema": {"mode": "observe", "events": {"e": {"prop": {}}}}}),
            json!({"schema": {"mode": "observe", "events": {"e": {"props": {"p": {"type": "date"}}}}}}),
            json!({"schema": {"mode": "observe", "events": {"e": {"props": {"p": {"type": "text", "length": 3}}}}}}),
        ] {
            assert!(serde_json::from_value::<NewRules>(unknown.clone()).is_err(), "{unknown}");
        }
    }
}
