//! One place in a request that may name its session.

use serde_json::{Map, Value};

use super::claims::ClaimBook;
use super::fields::{Faults, Fields, array, quoted};
use crate::session::{ClaimSource, LearnSource, Reading, Source, SourceError};
use crate::token::{ClaimPath, Form, Slot};

/// How many claims may name a session together.
const CLAIMS: std::ops::RangeInclusive<usize> = 2..=4;
/// What may stand beside the field that names the kind of source.
const MODIFIERS: [&str; 3] = ["decode", "learn", "until"];
/// A longer text is not where an id ends.
const LONGEST_UNTIL: usize = 64;
const ONE_OF: &str = "must have one of header, cookie, path, query, matrix, subprotocol, jwt or all";
const NOT_LEARNED: &str =
    "goes with a header or a cookie of its own: a response names a session nowhere else";

/// An object with one field, which names the kind of source, and how its value is read. A part of a composite has no
/// `learned`, into which the places go that responses have too.
pub(super) fn read_source(
    value: &Value,
    path: &str,
    learned: Option<&mut Vec<LearnSource>>,
    book: &mut ClaimBook,
    faults: &mut Faults,
) -> Option<Source> {
    let mut fields = Fields::of(value, path, faults);
    let object = value.as_object()?;
    if object.contains_key("jwt") {
        return read_claims(fields, book, faults).map(Source::claims);
    }
    let names = object.keys().map(String::as_str).filter(|name| !MODIFIERS.contains(name));
    let names: Vec<&str> = names.collect();
    type Make = fn(&str) -> Result<Source, SourceError>;
    let (name, make): (&'static str, Make) = match *names.as_slice() {
        ["header"] => ("header", Source::header),
        ["cookie"] => ("cookie", Source::cookie),
        ["path"] => ("path", Source::path),
        ["query"] => ("query", Source::query),
        ["matrix"] => ("matrix", Source::matrix),
        ["subprotocol"] => ("subprotocol", Source::subprotocol),
        ["all"] => return read_composite(&mut fields, object, learned.is_some(), book, faults),
        [] => {
            faults.add(path, format!("{ONE_OF}, has none"));
            return None;
        }
        [other] => {
            faults.add(path, format!("{ONE_OF}, has {}", quoted(other)));
            return None;
        }
        _ => {
            let found: Vec<String> = names.iter().map(|name| quoted(name)).collect();
            let advice = "make each a source of its own, or all of them the parts of one all";
            faults.add(path, format!("{ONE_OF}, has {}: {advice}", found.join(" and ")));
            return None;
        }
    };
    let reading = read_reading(&mut fields, faults);
    let learns = fields.flag("learn", false, faults);
    let text = fields.required_string(name, "name it", faults);
    let source = text.and_then(|text| {
        make(text).map_err(|error| faults.add(&fields.path_of(name), describe(&error))).ok()
    });
    let source = source.map(|source| source.read_as(reading));
    if learns {
        let place = source.as_ref().map(LearnSource::of);
        match (learned, place) {
            (Some(learned), Some(Some(place))) => learned.push(place),
            (Some(_), None) if matches!(name, "header" | "cookie") => {}
            _ => faults.add(&fields.path_of("learn"), NOT_LEARNED),
        }
    }
    source
}

/// What of the value is the id.
fn read_reading(fields: &mut Fields<'_>, faults: &mut Faults) -> Reading {
    let decode = fields.flag("decode", false, faults);
    let until = fields.string("until", faults);
    if until.is_some_and(|until| until.len() > LONGEST_UNTIL) {
        faults.add(&fields.path_of("until"), format!("must be at most {LONGEST_UNTIL} bytes"));
    }
    Reading { decode, until: until.map(str::to_owned) }
}

/// Several parts that name the session together.
fn read_composite(
    fields: &mut Fields<'_>,
    object: &Map<String, Value>,
    may_be_composite: bool,
    book: &mut ClaimBook,
    faults: &mut Faults,
) -> Option<Source> {
    let path = fields.path_of("all");
    if !may_be_composite {
        faults.add(&path, "must not be within another all: list its parts in the outer one");
        return None;
    }
    for name in MODIFIERS.into_iter().filter(|name| object.contains_key(*name)) {
        let message = if name == "learn" { NOT_LEARNED } else { "does not go with all: say it in its parts" };
        faults.add(&fields.path_of(name), message);
    }
    let value = fields.required("all", "list its parts", faults)?;
    let parts = array(value, &path, faults)?;
    let sources: Vec<Source> =
        parts.iter().filter_map(|(path, value)| read_source(value, path, None, book, faults)).collect();
    if sources.len() < parts.len() {
        return None;
    }
    Source::composite(sources).map_err(|error| faults.add(&path, describe(&error))).ok()
}

/// The claims of a provider's tokens that name the session.
fn read_claims(mut fields: Fields<'_>, book: &mut ClaimBook, faults: &mut Faults) -> Option<ClaimSource> {
    let provider = book.provider(&mut fields, faults);
    let (one, several) = (fields.value("claim"), fields.value("claims"));
    let paths = match (one, several) {
        (Some(one), None) => vec![(fields.path_of("claim"), one)],
        (None, Some(_)) => fields.array("claims", faults).unwrap_or_default(),
        (Some(_), Some(_)) => {
            faults.add(&fields.path_of("claims"), "does not go with claim: list all in claims");
            Vec::new()
        }
        (None, None) => {
            faults.add(&fields.path_of("claim"), "is missing: name the claim that is the session id");
            Vec::new()
        }
    };
    if one.is_none() && several.is_some_and(Value::is_array) && !CLAIMS.contains(&paths.len()) {
        let (least, most) = (CLAIMS.start(), CLAIMS.end());
        let message =
            format!("must have {least} to {most} elements, has {}: for one take claim", paths.len());
        faults.add(&fields.path_of("claims"), message);
    }
    let mut slot = |value: &Value, path: &str, form: Form| {
        let claim = ClaimPath::read(value, path, faults)?;
        Some(book.slot(provider.as_ref()?.0, claim, form))
    };
    let id: Vec<Slot> = paths.iter().filter_map(|(path, value)| slot(value, path, Form::Text)).collect();
    let mut optional = |name: &'static str, form: Form| {
        let value = fields.value(name)?;
        slot(value, &fields.path_of(name), form)
    };
    let previous = optional("previous", Form::Text);
    let version = optional("version", Form::Version);
    let created = optional("created", Form::Time);
    fields.finish(faults);
    let is_whole = !id.is_empty() && id.len() == paths.len();
    provider.filter(|_| is_whole).map(|provider| ClaimSource { provider, id, previous, version, created })
}

/// The error as a sentence whose subject is the place.
fn describe(error: &SourceError) -> String {
    format!("cannot be used: {error}")
}
