//! Reading a JSON object field by field, so that every fault is found in one pass and named by its path.
//!
//! Serde stops at the first fault. Here each reader notes what is wrong, hands back the default and goes on; a
//! configuration counts only if no fault was noted.

use std::collections::BTreeSet;
use std::fmt;
use std::ops::RangeInclusive;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::time::Millis;

/// One thing wrong with a configuration, and where.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault {
    /// Such as `pools[0].ring.virtual_nodes`; empty for the whole document.
    pub path: String,
    /// What is wrong and what would be right.
    pub message: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.path.is_empty() {
            return f.write_str(&self.message);
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
}

/// An object whose fields are taken one by one; what nobody took is unknown.
pub(crate) struct Fields<'v> {
    path: String,
    object: Option<&'v Map<String, Value>>,
    known: BTreeSet<&'static str>,
}

impl<'v> Fields<'v> {
    /// The object at `path`; a fault if it is something else.
    pub(crate) fn of(value: &'v Value, path: &str, faults: &mut Faults) -> Self {
        let object = value.as_object();
        if object.is_none() {
            faults.add(path, format!("must be an object, is {}", kind(value)));
        }
        Self { path: path.to_owned(), object, known: BTreeSet::new() }
    }

    /// The path of the field `name`.
    pub(crate) fn path_of(&self, name: &str) -> String {
        if self.path.is_empty() { name.to_owned() } else { format!("{}.{name}", self.path) }
    }

    /// The field as it is. Null counts as absent: that is how a protobuf Struct writes "nothing".
    pub(crate) fn value(&mut self, name: &'static str) -> Option<&'v Value> {
        self.known.insert(name);
        self.object?.get(name).filter(|value| !value.is_null())
    }

    /// A string that must be there.
    pub(crate) fn required_string(&mut self, name: &'static str, faults: &mut Faults) -> Option<&'v str> {
        if self.object.is_some() && self.value(name).is_none() {
            faults.add(&self.path_of(name), "is missing");
        }
        self.string(name, faults)
    }

    /// A string that may be there; an empty one is a fault.
    pub(crate) fn string(&mut self, name: &'static str, faults: &mut Faults) -> Option<&'v str> {
        let value = self.value(name)?;
        string(value, &self.path_of(name), faults)
    }

    /// True or false.
    pub(crate) fn flag(&mut self, name: &'static str, default: bool, faults: &mut Faults) -> bool {
        let Some(value) = self.value(name) else { return default };
        value.as_bool().unwrap_or_else(|| {
            faults.add(&self.path_of(name), format!("must be true or false, is {}", kind(value)));
            default
        })
    }

    /// A whole number within `range`.
    pub(crate) fn number(
        &mut self,
        name: &'static str,
        range: RangeInclusive<u64>,
        faults: &mut Faults,
    ) -> Option<u64> {
        let value = self.value(name)?;
        let number = whole_number(value);
        if let Some(number) = number.filter(|number| range.contains(number)) {
            return Some(number);
        }
        let found = match value {
            Value::Number(number) => number.to_string(),
            other => kind(other).to_owned(),
        };
        let (start, end) = (range.start(), range.end());
        faults.add(&self.path_of(name), format!("must be a whole number from {start} to {end}, is {found}"));
        None
    }

    /// A length of time such as `"30s"`, within `range`.
    pub(crate) fn duration(
        &mut self,
        name: &'static str,
        default: Millis,
        range: RangeInclusive<Millis>,
        faults: &mut Faults,
    ) -> Millis {
        let Some(value) = self.value(name) else { return default };
        let path = self.path_of(name);
        let Some(length) = value.as_str().and_then(parse_duration) else {
            let found = value.as_str().map_or_else(|| kind(value).to_owned(), |text| format!("{text:?}"));
            faults.add(
                &path,
                format!("must be a whole number with a unit (ms, s, m or h), such as \"30s\", is {found}"),
            );
            return default;
        };
        if !range.contains(&length) {
            let (from, to) = (show_duration(*range.start()), show_duration(*range.end()));
            faults.add(&path, format!("must be from {from} to {to}, is {}", show_duration(length)));
            return default;
        }
        length
    }

    /// The elements of an array with their paths.
    pub(crate) fn array(
        &mut self,
        name: &'static str,
        faults: &mut Faults,
    ) -> Option<Vec<(String, &'v Value)>> {
        let value = self.value(name)?;
        let path = self.path_of(name);
        let Some(elements) = value.as_array() else {
            faults.add(&path, format!("must be an array, is {}", kind(value)));
            return None;
        };
        Some(elements.iter().enumerate().map(|(index, value)| (format!("{path}[{index}]"), value)).collect())
    }

    /// An array of non-empty strings; none if it is absent.
    pub(crate) fn strings(&mut self, name: &'static str, faults: &mut Faults) -> Vec<String> {
        let elements = self.array(name, faults).unwrap_or_default();
        elements.iter().filter_map(|(path, value)| string(value, path, faults)).map(str::to_owned).collect()
    }

    /// Notes every field that nobody asked for.
    pub(crate) fn finish(self, faults: &mut Faults) {
        let unknown = |name: &&String| !self.known.contains(name.as_str());
        for name in self.object.into_iter().flat_map(Map::keys).filter(unknown) {
            let known: Vec<&str> = self.known.iter().copied().collect();
            faults.add(&self.path_of(name), format!("is not a field; fields are {}", known.join(", ")));
        }
    }
}

/// What a value is, in the words of JSON.
pub(crate) fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

fn string<'v>(value: &'v Value, path: &str, faults: &mut Faults) -> Option<&'v str> {
    match value.as_str() {
        Some("") => faults.add(path, "must not be empty"),
        Some(text) => return Some(text),
        None => faults.add(path, format!("must be a string, is {}", kind(value))),
    }
    None
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

fn parse_duration(text: &str) -> Option<Millis> {
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = text.split_at_checked(digits)?;
    let factor = match unit {
        "ms" => 1,
        "s" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return None,
    };
    Some(Millis(number.parse::<u64>().ok()?.checked_mul(factor)?))
}

fn show_duration(length: Millis) -> String {
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
        assert_eq!(parse_duration("250ms"), Some(Millis(250)));
        assert_eq!(parse_duration("30s"), Some(Millis(30_000)));
        assert_eq!(parse_duration("5m"), Some(Millis(300_000)));
        assert_eq!(parse_duration("1h"), Some(Millis(3_600_000)));
        for bad in
            ["", "s", "30", "1.5s", "-1s", "3 s", "99999999999999999999s", "18446744073709551615h", "é"]
        {
            assert_eq!(parse_duration(bad), None, "{bad}");
        }
    }

    #[test]
    fn lengths_are_shown_in_their_largest_whole_unit() {
        let shown = [0, 250, 1500, 30_000, 90_000, 300_000, 7_200_000].map(|ms| show_duration(Millis(ms)));

        assert_eq!(shown, ["0s", "250ms", "1500ms", "30s", "90s", "5m", "2h"]);
    }
}
