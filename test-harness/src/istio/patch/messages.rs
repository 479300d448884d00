//! What Envoy's proto files say of a field and its JSON does not: whether `{}` is a map or a message, which enum name is 0, which fields
//! exclude each other. The table is messages.txt; nothing is guessed about a field or a message that it lacks.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use serde_json::{Map, Value};

/// What precedes the name of a message in `@type`.
const TYPE_URL: &str = "type.googleapis.com/";

static MESSAGES: LazyLock<BTreeMap<&'static str, Message>> =
    LazyLock::new(|| read(include_str!("messages.txt")));

/// The fields of one message.
#[derive(Debug)]
pub(super) struct Message {
    name: &'static str,
    fields: BTreeMap<&'static str, Field>,
}

#[derive(Debug)]
pub(super) struct Field {
    pub(super) kind: Kind,
    /// Proto knows whether it is set, even if it is 0.
    pub(super) has_presence: bool,
    /// The group of which only one field is set.
    pub(super) one_of: Option<&'static str>,
}

#[derive(Debug)]
pub(super) enum Kind {
    String,
    Number,
    Bool,
    /// The names of its value 0.
    Enum(Vec<&'static str>),
    /// A number, string or bool that can be absent, such as `UInt32Value`.
    Wrapper,
    Duration,
    Any,
    List(Option<&'static str>),
    Map(Option<&'static str>),
    Message(&'static str),
    /// A message that the table lacks.
    Opaque,
}

impl Message {
    /// The message of this full name.
    pub(super) fn named(name: &str) -> Option<&'static Self> {
        MESSAGES.get(name)
    }

    /// The message in an `Any`.
    pub(super) fn in_any(any: &Value) -> Option<&'static Self> {
        Self::named(type_of(any)?.strip_prefix(TYPE_URL)?)
    }

    pub(super) fn field(&self, name: &str) -> Option<&Field> {
        self.fields.get(name)
    }

    /// The other fields of a field's group.
    pub(super) fn rivals(&self, name: &str) -> impl Iterator<Item = &'static str> {
        let group = self.fields.get(name).and_then(|field| field.one_of);
        let rivals = self.fields.iter().filter(move |(_, field)| group.is_some() && field.one_of == group);
        rivals.map(|(&rival, _)| rival).filter(move |&rival| rival != name)
    }
}

/// The type URL of an `Any`.
pub(super) fn type_of(any: &Value) -> Option<&str> {
    any.get("@type")?.as_str()
}

/// How a value gets into the configuration.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Use {
    /// As it is: fields of unknown messages do not matter.
    Copy,
    /// Field by field, which needs to know each.
    Merge,
}

/// Adds what is wrong with a message, each fault with its path.
pub(super) fn check(message: &Message, value: &Value, usage: Use, path: &str, faults: &mut Vec<String>) {
    let Value::Object(fields) = value else {
        faults.push(format!("{path}: expected an object, a {}", message.name));
        return;
    };
    for (name, value) in fields {
        let path = format!("{path}.{name}");
        if name == "@type" {
            continue;
        }
        let Some(field) = message.field(name) else {
            let known: Vec<&str> = message.fields.keys().copied().collect();
            faults.push(format!(
                "{path}: unknown field of {}; expected one of {}",
                message.name,
                known.join(", ")
            ));
            continue;
        };
        if !value.is_null() {
            check_field(field, value, usage, &path, faults);
        }
    }
}

fn check_field(field: &Field, value: &Value, usage: Use, path: &str, faults: &mut Vec<String>) {
    let mut expect = |is_right: bool, what: &str| {
        if !is_right {
            faults.push(format!("{path}: expected {what}, not {value}"));
        }
    };
    match &field.kind {
        Kind::String => expect(value.is_string(), "a string"),
        Kind::Number => expect(is_number(value), "a number"),
        Kind::Bool => expect(value.is_boolean(), "true or false"),
        Kind::Enum(_) => expect(value.is_string() || value.is_u64(), "a name"),
        Kind::Wrapper => expect(!value.is_object() && !value.is_array(), "a plain value"),
        Kind::Duration => expect(is_duration(value), "a duration such as 1.5s"),
        Kind::Any => check_any(value, usage, path, faults),
        Kind::List(of) => match value {
            Value::Array(elements) => {
                for (index, element) in elements.iter().enumerate() {
                    check_copied(*of, element, &format!("{path}[{index}]"), faults);
                }
            }
            _ => expect(false, "a list"),
        },
        Kind::Map(of) => match value {
            Value::Object(entries) => {
                for (key, entry) in entries {
                    check_copied(*of, entry, &format!("{path}[{key}]"), faults);
                }
            }
            _ => expect(false, "an object"),
        },
        Kind::Message(name) => {
            let message = Message::named(name).expect("the table has what it refers to");
            check(message, value, usage, path, faults);
        }
        Kind::Opaque if usage == Use::Merge => faults.push(format!(
            "{path}: messages.txt lacks this message, so its merge cannot be judged; add the message there"
        )),
        Kind::Opaque => {}
    }
}

fn check_any(value: &Value, usage: Use, path: &str, faults: &mut Vec<String>) {
    if type_of(value).is_none() {
        faults.push(format!("{path}: expected an object with @type"));
    } else if usage == Use::Merge && is_empty_any(value) {
        // Its bytes are empty, and empty is not set: only the type would change.
        faults.push(format!("{path}: with nothing but @type it would keep the fields it is to replace"));
    } else {
        check_copied(None, value, path, faults);
    }
}

/// An element of a list, an entry of a map, an `Any` that replaces another.
fn check_copied(of: Option<&str>, value: &Value, path: &str, faults: &mut Vec<String>) {
    if let Some(message) = of.and_then(Message::named).or_else(|| Message::in_any(value)) {
        check(message, value, Use::Copy, path, faults);
    }
}

/// Whether nothing of the message is set, as far as its JSON shows.
fn is_empty_any(any: &Value) -> bool {
    any.as_object().is_some_and(|fields| fields.iter().all(|(name, value)| name == "@type" || is_zero(value)))
}

/// Whether proto takes a plain value as not set.
pub(super) fn is_zero(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(value) => !value,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::Object(_) => false,
    }
}

impl Field {
    /// Whether a patch that has this value sets the field.
    pub(super) fn is_set(&self, value: &Value) -> bool {
        if value.is_null() {
            return false;
        }
        match &self.kind {
            Kind::List(_) => !is_zero(value),
            Kind::Map(_) => value.as_object().is_some_and(|entries| !entries.is_empty()),
            _ if self.has_presence => true,
            Kind::String | Kind::Bool => !is_zero(value),
            // 64-bit numbers may be strings.
            Kind::Number => {
                !is_zero(value) && value.as_str().and_then(|text| text.parse::<f64>().ok()) != Some(0.0)
            }
            Kind::Enum(zeros) => !is_zero(value) && !value.as_str().is_some_and(|name| zeros.contains(&name)),
            Kind::Wrapper | Kind::Duration | Kind::Any | Kind::Message(_) | Kind::Opaque => true,
        }
    }
}

fn is_number(value: &Value) -> bool {
    value.is_number() || value.as_str().is_some_and(|text| text.parse::<f64>().is_ok())
}

fn is_duration(value: &Value) -> bool {
    let seconds = value.as_str().and_then(|text| text.strip_suffix('s'));
    seconds.is_some_and(|seconds| seconds.parse::<f64>().is_ok())
}

fn read(table: &'static str) -> BTreeMap<&'static str, Message> {
    let mut messages = BTreeMap::new();
    let mut name = "";
    for line in table.lines().filter(|line| !line.starts_with('#')) {
        if let Some(fields) = line.strip_prefix("  ") {
            let message: &mut Message = messages.get_mut(name).expect("a message's name comes first");
            message.fields.extend(fields.split(' ').map(read_field));
        } else {
            name = line;
            messages.insert(name, Message { name, fields: BTreeMap::new() });
        }
    }
    messages
}

fn read_field(text: &'static str) -> (&'static str, Field) {
    let (name, kind) = text.split_once('=').expect("FIELD=KIND");
    let (kind, one_of) = match kind.split_once('@') {
        Some((kind, group)) => (kind, Some(group)),
        None => (kind, None),
    };
    let (kind, is_optional) = match kind.strip_suffix('?') {
        Some(kind) => (kind, true),
        None => (kind, false),
    };
    let (kind, of) = match kind.strip_suffix('>').and_then(|kind| kind.split_once('<')) {
        Some((kind, of)) => (kind, Some(of)),
        None => (kind, None),
    };
    let kind = match kind {
        "string" => Kind::String,
        "number" => Kind::Number,
        "bool" => Kind::Bool,
        "enum" => Kind::Enum(of.expect("the name of 0").split('|').collect()),
        "wrapper" => Kind::Wrapper,
        "duration" => Kind::Duration,
        "any" => Kind::Any,
        "list" => Kind::List(of),
        "map" => Kind::Map(of),
        "opaque" => Kind::Opaque,
        message => Kind::Message(message),
    };
    (name, Field { kind, has_presence: is_optional || one_of.is_some(), one_of })
}

/// An object's fields.
///
/// # Panics
/// If it is something else, which generated configuration never is.
pub(super) fn fields_mut(value: &mut Value) -> &mut Map<String, Value> {
    value.as_object_mut().expect("a message is an object")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table_has_every_message_it_refers_to() {
        for message in MESSAGES.values() {
            for (name, field) in &message.fields {
                let of = match &field.kind {
                    Kind::Message(of) | Kind::List(Some(of)) | Kind::Map(Some(of)) => *of,
                    _ => continue,
                };
                assert!(Message::named(of).is_some(), "{}.{name} is of {of}", message.name);
            }
        }
        assert!(MESSAGES.len() > 50);
    }
}
