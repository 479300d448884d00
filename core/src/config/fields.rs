//! Reading a JSON object field by field, so that every fault is found in one pass and named by its path.
//!
//! Serde stops at the first fault. Here each reader notes what is wrong, hands back nothing or the default and goes on;
//! a configuration counts only if no fault was noted.

use std::collections::BTreeSet;
use std::fmt;
use std::ops::RangeInclusive;

use base64::Engine as _;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::time::Millis;

/// What `openssl rand -base64` writes; the padding may be missing.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

pub(super) fn from_base64(text: &str) -> Option<Vec<u8>> {
    BASE64.decode(text).ok()
}

/// What a fault repeats of a value: enough to find it by.
const SHOWN: usize = 64;

/// One thing wrong with a configuration, and where.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault {
    /// Such as `pools[0].ring.virtual_nodes`; empty for the whole document.
    pub path: String,
    /// What is wrong and what would be right, as a sentence whose subject is the place.
    pub message: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.path.is_empty() {
            return write!(f, "the configuration {}", self.message);
        }
        write!(f, "{}: {}", self.path, self.message)
    }
}

/// The faults of one document.
#[derive(Debug, Default)]
pub(crate) struct Faults(pub(crate) Vec<Fault>);

impl Faults {
    pub(crate) fn add(&mut self, path: &str, message: impl Into<String>) {
        self.0.push(Fault { path: path.to_owned(), message: message.into() });
    }

    /// True if this very place has a fault, so that a second one there may be its consequence.
    pub(crate) fn are_at(&self, path: &str) -> bool {
        self.0.iter().any(|fault| fault.path == path)
    }
}

/// An object whose fields are taken one by one; a field that is never taken is unknown.
pub(crate) struct Fields<'v> {
    path: String,
    object: Option<&'v Map<String, Value>>,
    known: BTreeSet<&'static str>,
}

impl<'v> Fields<'v> {
    /// The object at `path`; a fault if it is something else, and then every field is absent.
    pub(crate) fn of(value: &'v Value, path: &str, faults: &mut Faults) -> Self {
        let object = value.as_object();
        if object.is_none() {
            faults.add(path, format!("must be an object, is {}", shown(value)));
        }
        Self { path: path.to_owned(), object, known: BTreeSet::new() }
    }

    /// The path of the field `name`.
    pub(crate) fn path_of(&self, name: &str) -> String {
        path_of(&self.path, name)
    }

    /// The field as it is. Null counts as absent: that is how a protobuf Struct writes "nothing".
    pub(crate) fn value(&mut self, name: &'static str) -> Option<&'v Value> {
        self.known.insert(name);
        self.object?.get(name).filter(|value| !value.is_null())
    }

    /// The field as it is, which must be there: else `advice` is a fault, unless there is no object at all.
    pub(crate) fn required(
        &mut self,
        name: &'static str,
        advice: &str,
        faults: &mut Faults,
    ) -> Option<&'v Value> {
        let value = self.value(name);
        if value.is_none() && self.object.is_some() {
            faults.add(&self.path_of(name), format!("is missing: {advice}"));
        }
        value
    }

    /// A string that must be there.
    pub(crate) fn required_string(
        &mut self,
        name: &'static str,
        advice: &str,
        faults: &mut Faults,
    ) -> Option<&'v str> {
        let value = self.required(name, advice, faults)?;
        string(value, &self.path_of(name), faults)
    }

    /// A string that may be there; an empty one is a fault.
    pub(crate) fn string(&mut self, name: &'static str, faults: &mut Faults) -> Option<&'v str> {
        let value = self.value(name)?;
        string(value, &self.path_of(name), faults)
    }

    /// One of the words in `choices`; the first of them is the default.
    pub(crate) fn choice<T: Copy>(
        &mut self,
        name: &'static str,
        choices: &[(&str, T)],
        faults: &mut Faults,
    ) -> Option<T> {
        let Some(value) = self.value(name) else { return choices.first().map(|(_, choice)| *choice) };
        let chosen = choices.iter().find(|(word, _)| value.as_str() == Some(word));
        if chosen.is_none() {
            let words: Vec<String> = choices.iter().map(|(word, _)| format!("{word:?}")).collect();
            faults.add(&self.path_of(name), format!("must be {}, is {}", either(&words), shown(value)));
        }
        chosen.map(|(_, choice)| *choice)
    }

    /// True or false.
    pub(crate) fn flag(&mut self, name: &'static str, default: bool, faults: &mut Faults) -> bool {
        let Some(value) = self.value(name) else { return default };
        value.as_bool().unwrap_or_else(|| {
            faults.add(&self.path_of(name), format!("must be true or false, is {}", shown(value)));
            default
        })
    }

    /// A whole number within `range`.
    pub(crate) fn number<N: TryFrom<u64> + PartialOrd + fmt::Display>(
        &mut self,
        name: &'static str,
        range: RangeInclusive<N>,
        faults: &mut Faults,
    ) -> Option<N> {
        let value = self.value(name)?;
        let number = whole_number(value).and_then(|number| N::try_from(number).ok());
        if let Some(number) = number.filter(|number| range.contains(number)) {
            return Some(number);
        }
        let (from, to) = (range.start(), range.end());
        faults.add(
            &self.path_of(name),
            format!("must be a whole number from {from} to {to}, is {}", shown(value)),
        );
        None
    }

    /// A length of time such as `"30s"`, within `range`.
    pub(crate) fn duration(
        &mut self,
        name: &'static str,
        range: RangeInclusive<Millis>,
        faults: &mut Faults,
    ) -> Option<Millis> {
        let value = self.value(name)?;
        let path = self.path_of(name);
        let Some(length) = value.as_str().and_then(Millis::parse) else {
            let found = shown(value);
            faults.add(
                &path,
                format!("must be a whole number with a unit (ms, s, m or h), such as \"30s\", is {found}"),
            );
            return None;
        };
        if !range.contains(&length) {
            let (from, to) = (show_duration(*range.start()), show_duration(*range.end()));
            faults.add(&path, format!("must be from {from} to {to}, is {}", show_duration(length)));
            return None;
        }
        Some(length)
    }

    /// The elements of an array with their paths.
    pub(crate) fn array(
        &mut self,
        name: &'static str,
        faults: &mut Faults,
    ) -> Option<Vec<(String, &'v Value)>> {
        let value = self.value(name)?;
        array(value, &self.path_of(name), faults)
    }

    /// The elements of an array with their paths, at least one and at most `most`; else `advice` is a fault.
    pub(crate) fn required_array(
        &mut self,
        name: &'static str,
        most: usize,
        advice: &str,
        faults: &mut Faults,
    ) -> Vec<(String, &'v Value)> {
        let Some(value) = self.required(name, advice, faults) else { return Vec::new() };
        let path = self.path_of(name);
        let Some(elements) = array(value, &path, faults) else { return Vec::new() };
        if elements.is_empty() {
            faults.add(&path, format!("is empty: {advice}"));
        }
        if elements.len() > most {
            faults.add(&path, format!("must have at most {most} elements, has {}", elements.len()));
        }
        elements
    }

    /// An array of non-empty strings with their paths; none if it is absent. An empty one could be meant as "nothing"
    /// or as "anything", so it is a fault.
    pub(crate) fn strings(&mut self, name: &'static str, faults: &mut Faults) -> Vec<(String, &'v str)> {
        let Some(elements) = self.array(name, faults) else { return Vec::new() };
        if elements.is_empty() {
            faults.add(&self.path_of(name), "is empty: name at least one, or leave it out");
        }
        elements
            .into_iter()
            .filter_map(|(path, value)| string(value, &path, faults).map(|text| (path, text)))
            .collect()
    }

    /// Notes every field that was never asked for.
    pub(crate) fn finish(self, faults: &mut Faults) {
        let unknown = |name: &&String| !self.known.contains(name.as_str());
        for name in self.object.into_iter().flat_map(Map::keys).filter(unknown) {
            let known: Vec<&str> = self.known.iter().copied().collect();
            faults.add(&self.path_of(name), format!("is not a field; fields are {}", known.join(", ")));
        }
    }
}

/// The path of a field of the object at `path`. A name that is not one word is quoted, and cut if it is long.
pub(crate) fn path_of(path: &str, name: &str) -> String {
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    if name.is_empty() || name.len() > SHOWN || !name.chars().all(is_word) {
        format!("{path}[{}]", quoted(name))
    } else if path.is_empty() {
        name.to_owned()
    } else {
        format!("{path}.{name}")
    }
}

/// The elements of an array with their paths.
pub(crate) fn array<'v>(
    value: &'v Value,
    path: &str,
    faults: &mut Faults,
) -> Option<Vec<(String, &'v Value)>> {
    let Some(elements) = value.as_array() else {
        faults.add(path, format!("must be an array, is {}", shown(value)));
        return None;
    };
    Some(elements.iter().enumerate().map(|(index, value)| (format!("{path}[{index}]"), value)).collect())
}

/// A string that is not empty.
pub(crate) fn string<'v>(value: &'v Value, path: &str, faults: &mut Faults) -> Option<&'v str> {
    match value.as_str() {
        Some("") => faults.add(path, "must not be empty"),
        Some(text) => return Some(text),
        None => faults.add(path, format!("must be a string, is {}", shown(value))),
    }
    None
}

/// A value as a fault repeats it: small ones as they were written, others by their kind.
pub(crate) fn shown(value: &Value) -> String {
    match value {
        Value::Null | Value::Bool(_) | Value::Number(_) => value.to_string(),
        Value::String(text) => quoted(text),
        Value::Array(_) => "an array".to_owned(),
        Value::Object(_) => "an object".to_owned(),
    }
}

/// Text as a fault repeats it: on one line, and not all of it if it is long.
pub(crate) fn quoted(text: &str) -> String {
    match text.char_indices().nth(SHOWN).and_then(|(end, _)| text.get(..end)) {
        Some(start) => format!("{start:?}…"),
        None => format!("{text:?}"),
    }
}

/// `a, b or c`.
fn either(words: &[String]) -> String {
    match words.split_last() {
        Some((last, [])) => last.clone(),
        Some((last, others)) => format!("{} or {last}", others.join(", ")),
        None => String::new(),
    }
}

/// Whether a value is this number, also if it is written as `1.0`.
pub(crate) fn is_number(value: &Value, number: u32) -> bool {
    whole_number(value) == Some(number.into())
}

/// Envoy turns every number of a protobuf Struct into a double: 3.0 is 3.
fn whole_number(value: &Value) -> Option<u64> {
    /// The doubles from here on are not all whole numbers.
    const EXACT: f64 = 9_007_199_254_740_992.0;
    value.as_u64().or_else(|| {
        let float = value.as_f64()?;
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "whole and in range")]
        (float.fract() == 0.0 && (0.0..EXACT).contains(&float)).then_some(float as u64)
    })
}

/// A length in its largest whole unit.
pub(crate) fn show_duration(length: Millis) -> String {
    match length.0 {
        0 => "0s".to_owned(),
        ms if ms % 3_600_000 == 0 => format!("{}h", ms / 3_600_000),
        ms if ms % 60_000 == 0 => format!("{}m", ms / 60_000),
        ms if ms % 1000 == 0 => format!("{}s", ms / 1000),
        ms => format!("{ms}ms"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_need_a_whole_number_and_a_unit() {
        assert_eq!(Millis::parse("250ms"), Some(Millis(250)));
        assert_eq!(Millis::parse("30s"), Some(Millis(30_000)));
        assert_eq!(Millis::parse("5m"), Some(Millis(300_000)));
        assert_eq!(Millis::parse("1h"), Some(Millis(3_600_000)));
        for bad in
            ["", "s", "30", "1.5s", "-1s", "3 s", "99999999999999999999s", "18446744073709551615h", "é"]
        {
            assert_eq!(Millis::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn lengths_are_shown_in_their_largest_whole_unit() {
        let shown = [0, 250, 1500, 30_000, 90_000, 300_000, 7_200_000].map(|ms| show_duration(Millis(ms)));

        assert_eq!(shown, ["0s", "250ms", "1500ms", "30s", "90s", "5m", "2h"]);
    }
}
