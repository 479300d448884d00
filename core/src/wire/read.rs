//! Reading requests: a request that exists is right, and every fault of a wrong one is named with its path.

use std::collections::BTreeSet;
use std::str::FromStr;

use serde_json::Value;

use super::name::{NameError, NodeId, SessionKey};
use super::{
    KnownPin, MAX_BOOT_ID, MAX_CANDIDATES, MAX_COOLDOWN, MAX_CORRELATION_ID, MAX_NOTE, MAX_SESSIONS,
    MAX_TOUCHED, MAX_TTL, MAX_UNUSABLE, MAX_WEIGHT, MIN_TTL, NodeChange, NodeState, ResolveRequest,
    SessionAsk, TouchRequest, TouchedPin,
};
use crate::config::Fault;
use crate::config::fields::{Faults, Fields, shown as shown_value};

/// A longer list of faults helps no reader, and a hostile body would have it grow to many times its own size.
const MAX_FAULTS: usize = 64;

impl ResolveRequest {
    /// Reads a request.
    ///
    /// # Errors
    /// Every fault, up to a bound.
    pub fn parse(json: &[u8]) -> Result<Self, Vec<Fault>> {
        read(json, |fields, faults| {
            let pool = name(fields, "pool", true, faults);
            let region = name(fields, "region", false, faults);
            let panic = fields.flag("panic", false, faults);
            let correlation_id = correlation_id(fields, faults);
            let elements = list(fields, "sessions", 1, MAX_SESSIONS, faults);
            let mut sessions = Vec::with_capacity(elements.len());
            let mut known = BTreeSet::new();
            for (path, value) in elements {
                let Some(session) = session(value, &path, faults) else { continue };
                if !known.insert(session.key) {
                    faults.add(&path, "has the key of a session before it: ask for each once");
                }
                sessions.push(session);
            }
            Some(Self { pool: pool?, region, panic, correlation_id, sessions })
        })
    }
}

impl TouchRequest {
    /// Reads a request.
    ///
    /// # Errors
    /// Every fault, up to a bound.
    pub fn parse(json: &[u8]) -> Result<Self, Vec<Fault>> {
        read(json, |fields, faults| {
            let pool = name(fields, "pool", true, faults);
            let before = faults.0.len();
            let keys = list(fields, "keys", 0, MAX_TOUCHED, faults);
            let pins = list(fields, "pins", 0, MAX_TOUCHED, faults);
            let count = keys.len() + pins.len();
            if !(1..=MAX_TOUCHED).contains(&count) && faults.0.len() == before {
                faults.add(
                    "keys",
                    format!("must have 1 to {MAX_TOUCHED} entries with those of pins, has {count}"),
                );
            }
            let keys = keys.iter().filter_map(|(path, value)| parsed(value, path, faults)).collect();
            let pins = pins.into_iter().filter_map(|(path, value)| touched(value, &path, faults)).collect();
            Some(Self { pool: pool?, keys, pins })
        })
    }
}

impl NodeChange {
    /// Reads a change.
    ///
    /// # Errors
    /// Every fault.
    pub fn parse(json: &[u8]) -> Result<Self, Vec<Fault>> {
        read(json, |fields, faults| {
            let state = state(fields, "state", |_| true, faults);
            let self_state = self::state(fields, "self_state", |state| state != NodeState::Standby, faults);
            let weight = fields.number("weight", 1..=MAX_WEIGHT, faults);
            let boot_id = text(fields, "boot_id", MAX_BOOT_ID, faults).filter(|id| {
                let fits = id.bytes().all(|b| b.is_ascii_alphanumeric() || b"._:-".contains(&b));
                if !fits {
                    faults.add("boot_id", "must be letters, digits, dots, colons, - or _");
                }
                fits
            });
            let note = match fields.value("note") {
                Some(Value::String(note)) if note.is_empty() => Some(String::new()),
                _ => text(fields, "note", MAX_NOTE, faults),
            };
            let cooldown_until_ms = fields.number("cooldown_until_ms", 0..=MAX_TIME, faults);
            let cooldown_ms = fields.number("cooldown_ms", 0..=MAX_COOLDOWN, faults);
            Some(Self {
                state,
                self_state,
                weight,
                boot_id,
                note,
                cooldown_until_ms,
                cooldown_ms,
                correlation_id: correlation_id(fields, faults),
            })
        })
    }
}

/// All whole numbers up to here are exact in the doubles that scripts of a store compute with.
const MAX_TIME: u64 = 1 << 53;

/// Reads the object that a body is; what `take` does not ask for is unknown.
fn read<T>(
    json: &[u8],
    take: impl FnOnce(&mut Fields<'_>, &mut Faults) -> Option<T>,
) -> Result<T, Vec<Fault>> {
    let mut faults = Faults::default();
    let document: Value = serde_json::from_slice(json).map_err(|error| {
        vec![Fault { path: String::new(), message: format!("the body is not JSON: {error}") }]
    })?;
    let mut fields = Fields::of(&document, "", &mut faults);
    if !document.is_object() {
        return Err(faults.0);
    }
    let request = take(&mut fields, &mut faults);
    fields.finish(&mut faults);
    match request {
        Some(request) if faults.0.is_empty() => Ok(request),
        _ => {
            let more = faults.0.len().saturating_sub(MAX_FAULTS);
            faults.0.truncate(MAX_FAULTS);
            if more > 0 {
                faults.add("", format!("has {more} more faults"));
            }
            Err(faults.0)
        }
    }
}

fn session(value: &Value, path: &str, faults: &mut Faults) -> Option<SessionAsk> {
    let mut fields = Fields::of(value, path, faults);
    if !value.is_object() {
        return None;
    }
    let key: Option<SessionKey> = name(&mut fields, "key", true, faults);
    let candidates = nodes(&mut fields, "candidates", 1, MAX_CANDIDATES, faults);
    let unusable = nodes(&mut fields, "unusable", 0, MAX_UNUSABLE, faults);
    let strict = fields.flag("strict", false, faults);
    let ttl_ms = fields.number("ttl_ms", MIN_TTL..=MAX_TTL, faults);
    let claim_ttl_ms = fields.number("claim_ttl_ms", MIN_TTL..=MAX_TTL, faults);
    let ends_ms = fields.number("ends_ms", 0..=MAX_TIME, faults);
    let created_ms = fields.number("created_ms", 0..=MAX_TIME, faults);
    let session_version = fields.number("session_version", 0..=u32::MAX, faults);
    let alias_of: Option<SessionKey> = name(&mut fields, "alias_of", false, faults);
    if alias_of.is_some() && alias_of == key {
        faults.add(&fields.path_of("alias_of"), "is the key itself: it must be the one before it");
    }
    let path = fields.path_of("known");
    let known = fields.value("known").and_then(|value| known(value, &path, faults));
    let renew = fields.flag("renew", false, faults);
    fields.finish(faults);
    let ask = SessionAsk::new(key?, candidates, unusable);
    Some(SessionAsk {
        strict,
        ttl_ms,
        claim_ttl_ms,
        ends_ms,
        created_ms,
        session_version,
        alias_of,
        known,
        renew,
        ..ask
    })
}

fn known(value: &Value, path: &str, faults: &mut Faults) -> Option<KnownPin> {
    let mut fields = Fields::of(value, path, faults);
    if !value.is_object() {
        return None;
    }
    let known = known_of(&mut fields, faults);
    fields.finish(faults);
    known
}

fn touched(value: &Value, path: &str, faults: &mut Faults) -> Option<TouchedPin> {
    let mut fields = Fields::of(value, path, faults);
    if !value.is_object() {
        return None;
    }
    let key = name(&mut fields, "key", true, faults);
    let known = known_of(&mut fields, faults);
    let lives_ms = fields.number("lives_ms", 0..=MAX_TTL, faults);
    fields.finish(faults);
    Some(TouchedPin { key: key?, known: known?, lives_ms })
}

fn known_of(fields: &mut Fields<'_>, faults: &mut Faults) -> Option<KnownPin> {
    let version = fields.number("version", 1..=MAX_TIME, faults);
    if version.is_none() && fields.value("version").is_none() {
        faults.add(&fields.path_of("version"), "is missing");
    }
    let node = name(fields, "node", true, faults);
    Some(KnownPin { version: version?, node: node? })
}

fn nodes(
    fields: &mut Fields<'_>,
    name: &'static str,
    least: usize,
    most: usize,
    faults: &mut Faults,
) -> Vec<NodeId> {
    let elements = list(fields, name, least, most, faults);
    let mut nodes: Vec<NodeId> = Vec::with_capacity(elements.len());
    for (path, value) in elements {
        match parsed(value, &path, faults) {
            Some(node) if nodes.contains(&node) => faults.add(&path, format!("{node} is listed twice")),
            Some(node) => nodes.push(node),
            None => {}
        }
    }
    nodes
}

/// The elements of an array of a certain length; an optional one may be absent.
fn list<'v>(
    fields: &mut Fields<'v>,
    name: &'static str,
    least: usize,
    most: usize,
    faults: &mut Faults,
) -> Vec<(String, &'v Value)> {
    let before = faults.0.len();
    let elements = fields.array(name, faults);
    if elements.is_none() && (least == 0 || faults.0.len() > before) {
        return Vec::new();
    }
    let elements = elements.unwrap_or_default();
    if !(least..=most).contains(&elements.len()) {
        faults.add(
            &fields.path_of(name),
            format!("must have {least} to {most} entries, has {}", elements.len()),
        );
        return Vec::new();
    }
    elements
}

fn name<T: FromStr<Err = NameError>>(
    fields: &mut Fields<'_>,
    name: &'static str,
    required: bool,
    faults: &mut Faults,
) -> Option<T> {
    let path = fields.path_of(name);
    match fields.value(name) {
        Some(value) => parsed(value, &path, faults),
        None => {
            if required {
                faults.add(&path, "is missing");
            }
            None
        }
    }
}

fn parsed<T: FromStr<Err = NameError>>(value: &Value, path: &str, faults: &mut Faults) -> Option<T> {
    let Some(text) = value.as_str() else {
        faults.add(path, format!("must be a string, is {}", shown_value(value)));
        return None;
    };
    text.parse().map_err(|error| faults.add(path, format!("{error}, is {}", shown(text)))).ok()
}

fn state(
    fields: &mut Fields<'_>,
    name: &'static str,
    may: impl Fn(NodeState) -> bool,
    faults: &mut Faults,
) -> Option<NodeState> {
    let text = fields.string(name, faults)?;
    let state = NodeState::from_name(text).filter(|state| may(*state));
    if state.is_none() {
        let known = NodeState::ALL.iter().filter(|(_, state)| may(*state)).map(|(name, _)| *name);
        let names = known.collect::<Vec<_>>().join(", ");
        faults.add(name, format!("must be one of {names}, is {}", shown(text)));
    }
    state
}

/// The `x-request-id` of the request, in a body: it goes into logs and event fields.
fn correlation_id(fields: &mut Fields<'_>, faults: &mut Faults) -> Option<String> {
    text(fields, "correlation_id", MAX_CORRELATION_ID, faults)
}

fn text(fields: &mut Fields<'_>, name: &'static str, most: usize, faults: &mut Faults) -> Option<String> {
    let text = fields.string(name, faults)?;
    if text.len() > most || text.chars().any(char::is_control) {
        let path = fields.path_of(name);
        faults.add(&path, format!("must be at most {most} bytes without control characters"));
        return None;
    }
    Some(text.to_owned())
}

/// A value in a message, cut where it gets long.
fn shown(text: &str) -> String {
    const LONGEST: usize = 64;
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{:?}…", text.get(..end).unwrap_or_default()),
        None => format!("{text:?}"),
    }
}
