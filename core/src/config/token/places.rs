//! Where a request may have its token, and what deletes a cookie whose token is refused.

use serde_json::Value;

use crate::config::fields::{Faults, Fields};
use crate::config::session::place_of;
use crate::session::{CookieFault, CookieSettings, SameSite, SourceError};
use crate::token::TokenSource;

/// Each costs a look per request.
const MAX_SOURCES: usize = 8;

/// By default what OAuth says (RFC 6750, section 2.1).
pub(super) fn read_sources(fields: &mut Fields<'_>, faults: &mut Faults) -> Vec<TokenSource> {
    if fields.value("from").is_none() {
        return TokenSource::header("authorization", "Bearer ").into_iter().collect();
    }
    let advice = "name at least one place, or leave it out for a bearer token";
    let elements = fields.required_array("from", MAX_SOURCES, advice, faults);
    elements.iter().filter_map(|(path, value)| read_source(value, path, faults)).collect()
}

fn read_source(value: &Value, path: &str, faults: &mut Faults) -> Option<TokenSource> {
    const ONE_OF: &str = "must have one of header, cookie, query or subprotocol";
    let mut fields = Fields::of(value, path, faults);
    let kinds = ["header", "cookie", "query", "subprotocol"];
    let found: Vec<&'static str> = kinds.into_iter().filter(|name| fields.value(name).is_some()).collect();
    let source = match found.as_slice() {
        ["header"] => {
            let name = fields.required_string("header", "name it", faults);
            let prefix = read_prefix(&mut fields, faults);
            name.map(|name| ("header", TokenSource::header(name, &prefix)))
        }
        ["cookie"] => {
            let name = fields.required_string("cookie", "name it", faults);
            let deletion = name.and_then(|name| read_deletion(&mut fields, name, faults));
            name.map(|name| {
                let source = TokenSource::cookie(name);
                let source = source.map(|source| match deletion {
                    Some(deletion) => source.deleted_by(deletion),
                    None => source,
                });
                ("cookie", source)
            })
        }
        [kind] => {
            type Make = fn(&str) -> Result<TokenSource, SourceError>;
            let make: Make = match *kind {
                "query" => TokenSource::query,
                _ => TokenSource::subprotocol,
            };
            fields.required_string(kind, "name it", faults).map(|name| (*kind, make(name)))
        }
        [] if value.is_object() => {
            faults.add(path, ONE_OF);
            None
        }
        [] => None,
        several => {
            faults.add(path, format!("{ONE_OF}, has {}", several.join(" and ")));
            None
        }
    };
    let source = source.and_then(|(kind, made)| {
        made.map_err(|error| faults.add(&fields.path_of(kind), format!("cannot be used: {error}"))).ok()
    });
    if found.len() == 1 {
        fields.finish(faults);
    }
    source
}

fn read_prefix(fields: &mut Fields<'_>, faults: &mut Faults) -> String {
    let Some(prefix) = fields.string("prefix", faults) else { return String::new() };
    if !prefix.bytes().all(|byte| (b' '..=b'~').contains(&byte)) {
        faults.add(&fields.path_of("prefix"), "must be ASCII characters that can stand in a header");
    }
    prefix.to_owned()
}

/// The `set-cookie` value that deletes the cookie of a refused token.
fn read_deletion(fields: &mut Fields<'_>, name: &str, faults: &mut Faults) -> Option<Box<str>> {
    const FIELD: &str = "delete_when_refused";
    let value = fields.value(FIELD)?;
    let mut fields = Fields::of(value, &fields.path_of(FIELD), faults);
    let mut cookie = CookieSettings::named(name);
    if let Some(path) = fields.string("path", faults) {
        path.clone_into(&mut cookie.path);
    }
    cookie.domain = fields.string("domain", faults).map(str::to_owned);
    cookie.secure = fields.flag("secure", cookie.secure, faults);
    let choices = [("lax", SameSite::Lax), ("strict", SameSite::Strict), ("none", SameSite::None)];
    cookie.same_site = fields.choice("same_site", &choices, faults).unwrap_or(cookie.same_site);
    cookie.partitioned = fields.flag("partitioned", false, faults);
    let deletion = cookie.deletion().map_err(|found| {
        for fault in found {
            // The name's own fault is reported where the name is.
            if fault == CookieFault::Name {
                continue;
            }
            let place = fields.path_of(place_of(fault));
            if !faults.are_at(&place) {
                faults.add(&place, format!("would not work: {fault}"));
            }
        }
    });
    fields.finish(faults);
    deletion.ok()
}
