//! JSON whose every member is there once.
//!
//! If a member is given twice, one parser takes the first and another the last. An attacker could make a token that two
//! parties read differently, so it is not read at all (RFC 7515, section 4; RFC 7519, section 4).

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

/// The whole of `json` as an object; `None` if it is something else, or if a member at any depth is given twice. The
/// depth is serde_json's to limit: 128.
pub(super) fn object(json: &[u8]) -> Option<Map<String, Value>> {
    let mut deserializer = serde_json::Deserializer::from_slice(json);
    let value = Once.deserialize(&mut deserializer).ok()?;
    deserializer.end().ok()?;
    match value {
        Value::Object(members) => Some(members),
        _ => None,
    }
}

#[derive(Clone, Copy)]
struct Once;

impl<'de> DeserializeSeed<'de> for Once {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Once {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Value, A::Error> {
        let mut array = Vec::new();
        while let Some(value) = elements.next_element_seed(self)? {
            array.push(value);
        }
        Ok(array.into())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Value, A::Error> {
        let mut object = Map::new();
        while let Some(name) = fields.next_key::<String>()? {
            let value = fields.next_value_seed(self)?;
            if object.insert(name, value).is_some() {
                return Err(A::Error::custom("given twice"));
            }
        }
        Ok(object.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_serde_json_reads() {
        let json = r#"{"b": [1, -2, 3.5, 1e3, true, null, "é\n", {}, []], "a": {"": 18446744073709551615}}"#;

        assert_eq!(object(json.as_bytes()).map(Value::from), serde_json::from_str(json).ok());
    }

    #[test]
    fn a_member_given_twice_is_refused_at_any_depth_and_in_any_spelling() {
        for json in
            [r#"{"a": 1, "a": 1}"#, r#"{"a": [{"b": 1, "b": 2}]}"#, r#"{"a": {"kid": 1, "k\u0069d": 2}}"#]
        {
            assert_eq!(object(json.as_bytes()), None, "{json}");
        }
    }

    #[test]
    fn what_is_no_object_is_refused() {
        let deep = format!("{{\"a\": {}", "[".repeat(200));
        for json in
            ["", "{", "[]", "1", "{} {}", "null", "\"a\"", "{\"a\": 1e999}", "\u{feff}{}", deep.as_str()]
        {
            assert_eq!(object(json.as_bytes()), None, "{json}");
        }
        assert_eq!(object(b"{\"a\": \"\xff\"}"), None);
    }
}
