//! Istio's merge of two protos (`pkg/proto/merge`), on their JSON. It is proto's own merge, with two differences: a Duration is replaced
//! whole, and for [`Lists::Replace`] so is a list. Hence nothing can be cleared but by setting another field of its group.

use serde_json::{Map, Value};

use super::messages::{Field, Kind, Message, fields_mut, is_zero, type_of};

/// What becomes of a list that a patch sets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lists {
    /// `MERGE`.
    Append,
    /// `MERGE_AND_REPLACE_LIST`.
    Replace,
}

/// Merges a patch, which [`super::messages::check`] has accepted, into a message.
pub(super) fn merge(target: &mut Value, patch: &Value, message: &Message, lists: Lists) {
    let (target, patch) = (fields_mut(target), patch.as_object().expect("a checked message"));
    for (name, value) in patch.iter().filter(|(name, _)| *name != "@type") {
        let field = message.field(name).expect("a checked field");
        if field.is_set(value) {
            for rival in message.rivals(name) {
                target.remove(rival);
            }
            set(target, name, value, field, lists);
        }
    }
}

fn set(target: &mut Map<String, Value>, name: &str, value: &Value, field: &Field, lists: Lists) {
    let old = target.get_mut(name).filter(|old| !old.is_null());
    match (&field.kind, old, value) {
        // It has a field `value`, which 0 does not set.
        (Kind::Wrapper, Some(_), value) if is_zero(value) => {}
        (Kind::List(_), Some(Value::Array(old)), Value::Array(new)) if lists == Lists::Append => {
            old.extend(new.iter().cloned());
        }
        (Kind::Map(_), Some(Value::Object(old)), Value::Object(new)) => {
            old.extend(new.iter().map(|(key, entry)| (key.clone(), entry.clone())));
        }
        (Kind::Message(of), Some(old), _) => {
            merge(old, value, Message::named(of).expect("the table has it"), lists);
        }
        (Kind::Opaque, ..) => panic!("{name}: checked patches do not merge into unknown messages"),
        _ => {
            target.insert(name.into(), value.clone());
        }
    }
}

/// Merges what two `Any`s hold; lists always append.
///
/// # Errors
/// If they hold different messages, for which Istio's merge panics.
pub(super) fn merge_any(target: &mut Value, patch: &Value) -> Result<(), String> {
    let (Some(of), Some(to)) = (type_of(patch), type_of(target)) else {
        return Err("typed_config has no @type".into());
    };
    if of != to {
        return Err(format!("a {of} cannot be merged into a {to}"));
    }
    merge(target, patch, Message::in_any(patch).expect("a checked message"), Lists::Append);
    Ok(())
}
