//! Where a session id may be, and what happens to a request without one.

use serde_json::Value;

use super::fields::{Faults, Fields, kind};
use super::pool::Missing;
use crate::session::{CookieSettings, CookieTemplate, SameSite, Source, SourceError};
use crate::time::Millis;

/// More sources than this is a mistake, and each costs a look per request.
const MAX_SOURCES: usize = 16;
/// Browsers cut a cookie's life at 400 days.
const COOKIE_AGE: std::ops::RangeInclusive<Millis> = Millis(1000)..=Millis(400 * 24 * 3_600_000);

pub(super) fn read_session(
    fields: &mut Fields<'_>,
    expected: bool,
    faults: &mut Faults,
) -> (Vec<Source>, Missing) {
    let path = fields.path_of("session");
    let Some(value) = fields.value("session") else {
        if expected {
            faults.add(
                &path,
                "is missing: say where the session id is, for example {\"sources\": [{\"cookie\": \"sid\"}]}",
            );
        }
        return (Vec::new(), Missing::Pass);
    };
    let mut fields = Fields::of(value, &path, faults);
    let elements = fields.array("sources", faults);
    if value.is_object() && elements.as_ref().map_or(fields.value("sources").is_none(), Vec::is_empty) {
        faults.add(&fields.path_of("sources"), "name at least one source");
    }
    let elements = elements.unwrap_or_default();
    if elements.len() > MAX_SOURCES {
        faults.add(
            &fields.path_of("sources"),
            format!("must be at most {MAX_SOURCES}, are {}", elements.len()),
        );
    }
    let sources =
        elements.iter().filter_map(|(path, value)| read_source(value, path, true, faults)).collect();
    let missing = read_missing(&mut fields, faults);
    fields.finish(faults);
    (sources, missing)
}

/// An object with one field, which names the kind of source.
fn read_source(value: &Value, path: &str, may_be_composite: bool, faults: &mut Faults) -> Option<Source> {
    const ONE_OF: &str = "must have one of header, cookie, path, query, subprotocol or all";
    let mut fields = Fields::of(value, path, faults);
    let object = value.as_object()?;
    if object.len() != 1 {
        faults.add(path, format!("{ONE_OF}, has {} fields", object.len()));
        return None;
    }
    let mut simple = |name, make: fn(&str) -> Result<Source, SourceError>| {
        fields.value(name)?;
        let field = fields.path_of(name);
        Some(
            fields
                .string(name, faults)
                .and_then(|text| make(text).map_err(|error| faults.add(&field, error.to_string())).ok()),
        )
    };
    let found = simple("header", Source::header)
        .or_else(|| simple("cookie", Source::cookie))
        .or_else(|| simple("path", Source::path))
        .or_else(|| simple("query", Source::query))
        .or_else(|| simple("subprotocol", Source::subprotocol));
    if let Some(source) = found {
        return source;
    }
    match fields.array("all", faults) {
        Some(_) if !may_be_composite => {
            faults.add(&fields.path_of("all"), "must not be within another all");
            None
        }
        Some(parts) => {
            let count = parts.len();
            let parts: Vec<Source> =
                parts.iter().filter_map(|(path, value)| read_source(value, path, false, faults)).collect();
            if parts.len() < count {
                return None;
            }
            Source::composite(parts)
                .map_err(|error| faults.add(&fields.path_of("all"), error.to_string()))
                .ok()
        }
        None => {
            if fields.value("all").is_none() {
                let name = object.keys().next().map_or("", String::as_str);
                faults.add(path, format!("{ONE_OF}, has {name:?}"));
            }
            None
        }
    }
}

/// `"pass"`, `"reject"` or `{"issue_cookie": {…}}`.
fn read_missing(fields: &mut Fields<'_>, faults: &mut Faults) -> Missing {
    const ONE_OF: &str = "must be \"pass\", \"reject\" or {\"issue_cookie\": {…}}";
    let Some(value) = fields.value("missing") else { return Missing::Pass };
    let path = fields.path_of("missing");
    match value {
        Value::String(text) if text == "pass" => Missing::Pass,
        Value::String(text) if text == "reject" => Missing::Reject,
        Value::Object(_) => {
            let mut fields = Fields::of(value, &path, faults);
            let cookie = fields
                .value("issue_cookie")
                .and_then(|value| read_cookie(value, &fields.path_of("issue_cookie"), faults));
            if fields.value("issue_cookie").is_none() {
                faults.add(&path, ONE_OF);
            }
            fields.finish(faults);
            cookie.map_or(Missing::Pass, Missing::IssueCookie)
        }
        Value::String(text) => {
            faults.add(&path, format!("{ONE_OF}, is {text:?}"));
            Missing::Pass
        }
        other => {
            faults.add(&path, format!("{ONE_OF}, is {}", kind(other)));
            Missing::Pass
        }
    }
}

fn read_cookie(value: &Value, path: &str, faults: &mut Faults) -> Option<CookieTemplate> {
    let mut fields = Fields::of(value, path, faults);
    let name = fields.required_string("name", faults);
    let mut settings = CookieSettings::named(name.unwrap_or("unnamed"));
    if let Some(path) = fields.string("path", faults) {
        path.clone_into(&mut settings.path);
    }
    if fields.value("max_age").is_some() {
        let age = fields.duration("max_age", *COOKIE_AGE.start(), COOKIE_AGE, faults);
        settings.max_age_seconds = u32::try_from(age.0 / 1000).ok();
    }
    settings.secure = fields.flag("secure", settings.secure, faults);
    settings.http_only = fields.flag("http_only", settings.http_only, faults);
    settings.same_site = match fields.string("same_site", faults) {
        None | Some("lax") => SameSite::Lax,
        Some("strict") => SameSite::Strict,
        Some("none") => SameSite::None,
        Some(other) => {
            faults.add(
                &fields.path_of("same_site"),
                format!("must be \"strict\", \"lax\" or \"none\", is {other:?}"),
            );
            SameSite::Lax
        }
    };
    fields.finish(faults);
    let template = CookieTemplate::new(&settings).map_err(|found| {
        for fault in found {
            faults.add(path, fault.to_string());
        }
    });
    name.and(template.ok())
}
