//! The TOML file of `berth serve`: what it says, each setting with its line.

use std::collections::BTreeMap;
use std::path::Path;

use toml::{Spanned, Value};

use crate::given::{Fault, Place};

/// A file that was read, or none.
#[derive(Default)]
pub(super) struct File {
    path: String,
    settings: BTreeMap<String, Setting>,
}

struct Setting {
    line: usize,
    /// As a flag would have it; none if a setting cannot be of this type.
    text: Option<String>,
}

impl File {
    /// Reads it; what cannot be read has no settings.
    pub(super) fn read(path: &Path, faults: &mut Vec<Fault>) -> Self {
        let path = path.display().to_string();
        let settings = match std::fs::read_to_string(&path) {
            Ok(text) => settings(&path, &text, faults),
            Err(error) => {
                faults.push(Fault::new("config", format!("cannot read {path}: {error}")));
                BTreeMap::new()
            }
        };
        Self { path, settings }
    }

    /// What a setting is, as a flag would have it.
    pub(super) fn text(&self, name: &str) -> Option<&str> {
        self.settings.get(name)?.text.as_deref()
    }

    /// Reports what no setting is called, and what has the wrong type unless something else wins over it.
    pub(super) fn check(&self, known: &[&str], is_overruled: impl Fn(&str) -> bool, faults: &mut Vec<Fault>) {
        for (name, setting) in &self.settings {
            let message = if !known.contains(&name.as_str()) {
                "there is no such setting"
            } else if setting.text.is_none() && !is_overruled(name) {
                "must be a text in quotes, a whole number, true or false"
            } else {
                continue;
            };
            faults.push(Fault::new(self.line_of(name), message));
        }
    }

    /// A value's place in words: a default is a line of this file.
    pub(super) fn place(&self, place: &Place) -> String {
        match place {
            Place::Default(name) => self.line_of(name),
            Place::Flag(_) | Place::Variable(_) => place.to_string(),
        }
    }

    fn line_of(&self, name: &str) -> String {
        let line = self.settings.get(name).map_or(0, |setting| setting.line);
        format!("{}:{line}: {name}", self.path)
    }
}

fn settings(path: &str, text: &str, faults: &mut Vec<Fault>) -> BTreeMap<String, Setting> {
    let line = |at: usize| 1 + text.bytes().take(at).filter(|byte| *byte == b'\n').count();
    match toml::from_str::<BTreeMap<Spanned<String>, Value>>(text) {
        Ok(file) => {
            let setting = |(name, value): (Spanned<String>, Value)| {
                let line = line(name.span().start);
                (name.into_inner(), Setting { line, text: as_flag(value) })
            };
            file.into_iter().map(setting).collect()
        }
        // Its own text would show the line, and there may be a password in it.
        Err(error) => {
            let line = line(error.span().map_or(0, |span| span.start));
            faults.push(Fault::new(format!("{path}:{line}"), format!("is not TOML: {}", error.message())));
            BTreeMap::new()
        }
    }
}

fn as_flag(value: Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text),
        Value::Integer(number) => Some(number.to_string()),
        Value::Boolean(flag) => Some(flag.to_string()),
        _ => None,
    }
}
