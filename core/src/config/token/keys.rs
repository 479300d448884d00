//! Keys in the configuration, one by one or as a set.
//!
//! Secrets are never repeated, neither in a fault nor in `Debug` output; so whatever stands where one belongs is not either.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::config::fields::{Faults, Fields, from_base64, quoted};
use crate::token::{Algorithm, Key, Keys, MAX_KEY_ID};

/// Old and new, for a few issuers; more would be a set of keys.
const MAX_KEYS: usize = 16;

pub(super) fn read_static_keys(
    fields: &mut Fields<'_>,
    algorithms: &[Algorithm],
    faults: &mut Faults,
) -> Keys {
    let path = fields.path_of("keys");
    let Some(elements) = fields.value("keys").and_then(Value::as_array) else {
        faults.add(&path, "must be an array of keys");
        return Keys::default();
    };
    match elements.len() {
        0 => faults.add(&path, "is empty: give at least one key"),
        1..=MAX_KEYS => {}
        many => faults.add(&path, format!("must have at most {MAX_KEYS} elements, has {many}")),
    }
    let mut ids = BTreeSet::new();
    let mut keys = Vec::new();
    for (index, value) in elements.iter().enumerate() {
        let path = format!("{path}[{index}]");
        let id = value.get("kid").filter(|id| !id.is_null()).map(Value::as_str);
        let is_wrong = id == Some(None);
        if value.is_object() && !is_wrong && !ids.insert(id) {
            let message = match id {
                Some(Some(id)) => format!("{} is taken by another key: give it its own", quoted(id)),
                _ => "is missing, as it is of another key: give both one, or tokens could not say which"
                    .to_owned(),
            };
            faults.add(&format!("{path}.kid"), message);
        }
        keys.extend(read_static_key(value, &path, algorithms, faults));
    }
    Keys::new(keys)
}

/// A key with its id. Whatever else stands here may be a secret, so it is not shown.
fn read_static_key(value: &Value, path: &str, algorithms: &[Algorithm], faults: &mut Faults) -> Option<Key> {
    const ONE_OF: &str = "must have one of secret, secret_base64 or pem";
    if !value.is_object() {
        faults.add(path, "must be an object with a secret, a secret_base64 or a pem");
        return None;
    }
    let mut fields = Fields::of(value, path, faults);
    let id = fields.string("kid", faults);
    if let Some(length) = id.map(str::len).filter(|length| *length > MAX_KEY_ID) {
        faults.add(&fields.path_of("kid"), format!("must have at most {MAX_KEY_ID} bytes, has {length}"));
    }
    let kinds = ["secret", "secret_base64", "pem"];
    let found: Vec<&'static str> = kinds.into_iter().filter(|name| fields.value(name).is_some()).collect();
    let text = |fields: &mut Fields<'_>, name| fields.value(name).and_then(Value::as_str).map(str::to_owned);
    let key = match *found.as_slice() {
        [name @ "secret"] => match text(&mut fields, name).filter(|text| is_printable(text)) {
            Some(secret) => Some((name, Key::secret(id, secret.as_bytes()))),
            None => {
                let message = "must be a string of printable ASCII characters: give others as secret_base64";
                faults.add(&fields.path_of(name), message);
                None
            }
        },
        [name @ "secret_base64"] => match text(&mut fields, name).and_then(|text| from_base64(&text)) {
            Some(secret) => Some((name, Key::secret(id, &secret))),
            None => {
                let message = "must be a string in base64, as openssl rand -base64 64 writes it";
                faults.add(&fields.path_of(name), message);
                None
            }
        },
        [name] => match text(&mut fields, name) {
            Some(pem) => Some((name, Key::pem(id, &pem))),
            None => {
                faults.add(&fields.path_of(name), "must be a string with a public key in PEM");
                None
            }
        },
        [] => {
            faults.add(path, ONE_OF);
            None
        }
        [..] => {
            faults.add(path, format!("{ONE_OF}, has {}", found.join(" and ")));
            None
        }
    };
    let (name, key) = key.map_or(("", None), |(name, made)| {
        (name, made.map_err(|error| faults.add(&fields.path_of(name), error.to_string())).ok())
    });
    if let Some(key) = &key {
        check_fit(key, &fields.path_of(name), algorithms, faults);
    }
    fields.finish(faults);
    key
}

/// A key that no token could use, or a secret that only some could.
fn check_fit(key: &Key, path: &str, algorithms: &[Algorithm], faults: &mut Faults) {
    if algorithms.is_empty() {
        return;
    }
    let too_short = algorithms.iter().filter(|algorithm| !key.fits(**algorithm) && key.is_secret());
    let longest = too_short.filter_map(|algorithm| Some((algorithm.least_secret()?, algorithm))).max();
    if let Some((least, algorithm)) = longest {
        faults.add(path, format!("is too short for {algorithm}: take at least {least} random bytes"));
    } else if !algorithms.iter().any(|algorithm| key.fits(*algorithm)) {
        faults.add(path, "goes with none of algorithms: name those that its issuer signs with");
    }
}

pub(super) fn read_jwks(
    fields: &mut Fields<'_>,
    algorithms: &[Algorithm],
    faults: &mut Faults,
) -> Option<Keys> {
    let path = fields.path_of("jwks");
    let Some(set) = fields.value("jwks").and_then(Value::as_object) else {
        faults.add(&path, "must be an object, such as the issuer publishes it: {\"keys\": [...]}");
        return None;
    };
    let keys = Keys::from_inline_jwks(set).map_err(|error| faults.add(&path, error.to_string())).ok()?;
    if !algorithms.is_empty() && !keys.fit_any(algorithms) {
        faults.add(&path, "has no key that goes with algorithms: name those that its issuer signs with");
    }
    Some(keys)
}

fn is_printable(text: &str) -> bool {
    text.bytes().all(|byte| (b' '..=b'~').contains(&byte))
}
