//! JSON text to a value, keeping what `serde_json::Value` alone would lose: fields given twice, and where a field stood.
//!
//! If a field is given twice, serde silently keeps the last one and the author of the first would never notice. What the
//! fields mean is not decided here.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

use super::fields::{Fault, Faults, path_of};

/// A document that is JSON.
pub(super) struct Document {
    pub(super) value: Value,
    places: Places,
}

/// Each value's path, and how many values began before it.
type Places = BTreeMap<String, usize>;

impl Document {
    /// Reads the whole of `json`; a field that is given twice is a fault, and its last value counts.
    pub(super) fn read(json: &[u8], faults: &mut Faults) -> Result<Self, serde_json::Error> {
        let mut places = Places::new();
        let mut deserializer = serde_json::Deserializer::from_slice(json);
        let reader = Reader { path: String::new(), places: &mut places, faults };
        let value = reader.deserialize(&mut deserializer)?;
        deserializer.end()?;
        Ok(Self { value, places })
    }

    /// Faults in the order in which a reader of the document comes to them. What is missing counts as being where its
    /// object begins.
    pub(super) fn in_order(&self, faults: Faults) -> Vec<Fault> {
        // A map, because a sort would be 6 KB of wasm.
        let mut places: BTreeMap<usize, Vec<Fault>> = BTreeMap::new();
        for fault in faults.0 {
            places.entry(self.place(&fault.path)).or_default().push(fault);
        }
        places.into_values().flatten().collect()
    }

    fn place(&self, path: &str) -> usize {
        match (self.places.get(path), path.rfind(['.', '['])) {
            (Some(place), _) => *place,
            (None, Some(end)) => path.get(..end).map_or(0, |parent| self.place(parent)),
            (None, None) => 0,
        }
    }
}

/// Reads the value at `path`. The depth is serde_json's to limit: 128.
struct Reader<'r> {
    path: String,
    places: &'r mut Places,
    faults: &'r mut Faults,
}

impl<'de> DeserializeSeed<'de> for Reader<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        let place = self.places.len();
        self.places.entry(self.path.clone()).or_insert(place);
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Reader<'_> {
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

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Value, A::Error> {
        let Self { path, places, faults } = self;
        let mut array = Vec::new();
        loop {
            let path = format!("{path}[{}]", array.len());
            match elements.next_element_seed(Reader { path, places, faults })? {
                Some(value) => array.push(value),
                None => return Ok(array.into()),
            }
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Value, A::Error> {
        let Self { path, places, faults } = self;
        let mut object = Map::new();
        let mut repeated = BTreeSet::new();
        while let Some(name) = fields.next_key::<String>()? {
            let path = path_of(&path, &name);
            let value = fields.next_value_seed(Reader { path: path.clone(), places, faults })?;
            if object.insert(name, value).is_some() && repeated.insert(path.clone()) {
                faults.add(&path, "is given twice: keep one");
            }
        }
        Ok(object.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> (Document, Vec<String>) {
        let mut faults = Faults::default();
        let document = Document::read(json.as_bytes(), &mut faults).unwrap();
        (document, faults.0.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn reads_what_serde_json_reads() {
        let json = r#"{"b": [1, -2, 3.5, 1e3, true, null, "é\n", {}, []], "a": {"": 18446744073709551615}}"#;

        let (document, faults) = read(json);

        assert_eq!(document.value, serde_json::from_str::<Value>(json).unwrap());
        assert!(faults.is_empty());
    }

    #[test]
    fn refuses_what_serde_json_refuses_in_the_same_words() {
        let deep = "[".repeat(200);
        for json in ["", "{", "{\"a\":}", "[1,]", "{} {}", "nul", "\"\\x\"", "1e999", deep.as_str()] {
            let ours = Document::read(json.as_bytes(), &mut Faults::default()).err().unwrap();

            assert_eq!(ours.to_string(), serde_json::from_str::<Value>(json).unwrap_err().to_string());
        }
    }

    #[test]
    fn a_field_given_more_than_once_is_one_fault_and_its_last_value_counts() {
        let (document, faults) = read(r#"{"a": {"b": 1}, "c": [{"d": 1, "d": 2, "d": 3}], "a": {"b": 2}}"#);

        assert_eq!(faults, ["c[0].d: is given twice: keep one", "a: is given twice: keep one"]);
        assert_eq!(document.value, serde_json::json!({"a": {"b": 2}, "c": [{"d": 3}]}));
    }

    #[test]
    fn faults_come_in_the_order_of_the_document() {
        let (document, _) = read(r#"{"z": [{"y": 1}, {"x": 2}], "a": 3}"#);
        let paths = ["a", "z[1].x", "z[1].missing", "z[0].y", "", "nowhere"];
        let mut faults = Faults::default();
        paths.iter().for_each(|path| faults.add(path, ""));

        let ordered = document.in_order(faults);

        let ordered: Vec<&str> = ordered.iter().map(|fault| fault.path.as_str()).collect();
        assert_eq!(ordered, ["", "nowhere", "z[0].y", "z[1].missing", "z[1].x", "a"]);
    }
}
