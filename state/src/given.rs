//! Values of settings, with the place that each comes from: a flag, an environment variable, or the default, which may
//! be a line of a file.
//!
//! clap reports the first wrong value and exits. [`Parser`] never fails: it keeps what is wrong with a value inside
//! [`Given`], so that all faults can be reported at once.

use std::ffi::OsStr;
use std::fmt::{self, Display};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;

use berth_core::time::Millis;
use clap::builder::{PossibleValue, TypedValueParser};
use clap::parser::ValueSource;
use clap::{Arg, Command, Error, ValueEnum};

/// Where a value comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// The flag of this name, with its dashes, or the argument of this name in capitals.
    Flag(String),
    /// The environment variable of this name.
    Variable(String),
    /// The default of the flag of this name, without dashes.
    Default(String),
}

impl Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::Flag(name) | Self::Variable(name) | Self::Default(name)) = self;
        f.write_str(name)
    }
}

/// A value, or at least one fault.
pub type Checked<T> = Result<T, Vec<String>>;

/// A value, or what is wrong with it.
#[derive(Debug, Clone)]
pub struct Given<T> {
    /// Where it comes from.
    pub place: Place,
    /// The value, or its faults.
    pub value: Checked<T>,
}

/// What is wrong with a setting, and where.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{place}: {message}")]
pub struct Fault {
    /// A flag, a variable, a line of a file, or the settings that do not go together.
    pub place: String,
    /// What is wrong and what to do.
    pub message: String,
}

impl Fault {
    /// A fault of the settings `place`.
    #[must_use]
    pub fn new(place: impl Into<String>, message: impl Into<String>) -> Self {
        Self { place: place.into(), message: message.into() }
    }
}

impl<T> Given<T> {
    /// The value, or adds its faults to the others.
    pub fn take(self, faults: &mut Vec<Fault>) -> Option<T> {
        let place = self.place.to_string();
        self.take_from(&place, faults)
    }

    /// The same, with another name for the place.
    pub fn take_from(self, place: &str, faults: &mut Vec<Fault>) -> Option<T> {
        self.value.map_err(|all| faults.extend(all.into_iter().map(|fault| Fault::new(place, fault)))).ok()
    }
}

type Parse<T> = dyn Fn(&str) -> Checked<T> + Send + Sync;

/// Parses a value for clap, and keeps its faults until the value is taken.
#[derive(Clone)]
pub struct Parser<T> {
    parse: Arc<Parse<T>>,
    /// For help.
    known: Vec<PossibleValue>,
}

impl<T> Parser<T> {
    /// A value has one fault at most.
    pub fn new(parse: impl Fn(&str) -> Result<T, String> + Send + Sync + 'static) -> Self {
        Self::of_several(move |text| parse(text).map_err(|fault| vec![fault]))
    }

    /// A value may have several faults.
    pub fn of_several(parse: impl Fn(&str) -> Checked<T> + Send + Sync + 'static) -> Self {
        Self { parse: Arc::new(parse), known: Vec::new() }
    }
}

impl<T: 'static> Parser<T> {
    /// With one more thing that a value must be.
    #[must_use]
    pub fn and(self, check: impl Fn(&T) -> Result<(), String> + Send + Sync + 'static) -> Self {
        let Self { parse, known } = self;
        let parse = move |text: &str| {
            let value = parse(text)?;
            check(&value).map_err(|fault| vec![fault])?;
            Ok(value)
        };
        Self { parse: Arc::new(parse), known }
    }
}

impl<T: Clone + Send + Sync + 'static> TypedValueParser for Parser<T> {
    type Value = Given<T>;

    fn parse_ref(&self, command: &Command, arg: Option<&Arg>, value: &OsStr) -> Result<Given<T>, Error> {
        self.parse_ref_(command, arg, value, ValueSource::CommandLine)
    }

    fn parse_ref_(
        &self,
        _: &Command,
        arg: Option<&Arg>,
        value: &OsStr,
        source: ValueSource,
    ) -> Result<Given<T>, Error> {
        let name = arg.and_then(Arg::get_long).unwrap_or_default();
        let variable = arg.and_then(Arg::get_env).map(|name| name.to_string_lossy().into_owned());
        let place = match (source, variable) {
            (ValueSource::EnvVariable, Some(variable)) => Place::Variable(variable),
            (ValueSource::DefaultValue, _) => Place::Default(name.to_owned()),
            _ if name.is_empty() => {
                Place::Flag(arg.map(|arg| arg.get_id().as_str().to_uppercase()).unwrap_or_default())
            }
            _ => Place::Flag(format!("--{name}")),
        };
        let value = match value.to_str() {
            Some(text) => (self.parse)(text),
            None => Err(vec!["is not UTF-8".to_owned()]),
        };
        Ok(Given { place, value })
    }

    fn possible_values(&self) -> Option<Box<dyn Iterator<Item = PossibleValue> + '_>> {
        (!self.known.is_empty()).then(|| Box::new(self.known.iter().cloned()) as Box<_>)
    }
}

/// One of the names of an enumeration.
#[must_use]
pub fn choice<T: ValueEnum + Send + Sync + 'static>() -> Parser<T> {
    let known: Vec<PossibleValue> = T::value_variants().iter().filter_map(T::to_possible_value).collect();
    let names: Vec<String> = known.iter().map(|value| value.get_name().to_owned()).collect();
    let parse = move |text: &str| {
        T::from_str(text, false).map_err(|_| format!("must be {}, is {text:?}", names.join(" or ")))
    };
    Parser { known, ..Parser::new(parse) }
}

/// `true` or `false`.
#[must_use]
pub fn boolean() -> Parser<bool> {
    Parser::new(|text| text.parse().map_err(|_| format!("must be true or false, is {text:?}")))
}

/// A whole number within a range.
#[must_use]
pub fn number<T>(range: RangeInclusive<T>) -> Parser<T>
where
    T: FromStr + PartialOrd + Display + Send + Sync + 'static,
{
    Parser::new(move |text| {
        let number = text.parse().ok().filter(|number| range.contains(number));
        let (from, to) = (range.start(), range.end());
        number.ok_or_else(|| format!("must be a whole number from {from} to {to}, is {text:?}"))
    })
}

/// A time with its unit, within a range.
#[must_use]
pub fn time(range: RangeInclusive<Millis>) -> Parser<Millis> {
    Parser::new(move |text| {
        let (from, to) = (range.start().0, range.end().0 / 1000);
        Millis::parse(text).filter(|time| range.contains(time)).ok_or_else(|| {
            format!("must be a time with its unit (ms, s, m, h) from {from}ms to {to}s, is {text:?}")
        })
    })
}

/// Text that is not empty. It is not repeated in a fault: it may be a secret.
pub fn text(text: &str) -> Result<String, String> {
    if text.is_empty() { Err("is empty: set it or leave it out".to_owned()) } else { Ok(text.to_owned()) }
}

/// Text that is not empty.
#[must_use]
pub fn filled() -> Parser<String> {
    Parser::new(text)
}

/// The path of a file.
#[must_use]
pub fn file() -> Parser<PathBuf> {
    Parser::new(|path| text(path).map(PathBuf::from))
}

/// Names with commas between them, each read by `read`.
#[must_use]
pub fn list<T>(read: impl Fn(&str) -> Result<T, String> + Send + Sync + 'static) -> Parser<Vec<T>> {
    Parser::of_several(move |text| {
        let (mut values, mut faults) = (Vec::new(), Vec::new());
        let entries: Vec<&str> = text.split(',').map(str::trim).collect();
        if entries.iter().any(|entry| entry.is_empty()) {
            faults.push(format!("must be names with commas between them, is {text:?}"));
        }
        for entry in entries.into_iter().filter(|entry| !entry.is_empty()) {
            match read(entry) {
                Ok(value) => values.push(value),
                Err(fault) => faults.push(fault),
            }
        }
        if faults.is_empty() { Ok(values) } else { Err(faults) }
    })
}
