//! Where a session id may be, and what happens to a request without one.

use serde_json::Value;

use super::claims::ClaimBook;
use super::fields::{Faults, Fields, from_base64, path_of, quoted, shown};
use super::source::read_source;
use crate::session::{
    ClaimSource, CookieFault, CookieSettings, CookieTemplate, LEAST_SIGNING_KEY, LearnSource, RANDOM_DIGITS,
    SameSite, Signer, Source, is_header_name,
};
use crate::time::Millis;
use crate::wire::{MAX_TTL, MIN_TTL};

/// More sources than this is a mistake, and each costs a look per request.
const MAX_SOURCES: usize = 16;
/// A test uses a minute; no session lasts longer than a year.
const MAX_AGE: std::ops::RangeInclusive<Millis> = Millis(1000)..=Millis(366 * 24 * 3_600_000);
/// The key that signs, and those that are being replaced.
const MAX_SIGNING_KEYS: usize = 4;
/// Browsers cut a cookie's life at 400 days.
const COOKIE_AGE: std::ops::RangeInclusive<Millis> = Millis(1000)..=Millis(400 * 24 * 3_600_000);

/// What names a session.
#[derive(Debug)]
pub struct Session {
    /// Where its id may be, in order.
    pub sources: Vec<Source>,
    /// Where a response names it if its node mints the id.
    pub learned: Vec<LearnSource>,
    /// What happens to a request without one.
    pub missing: Missing,
    /// How long it lives unused in the state cluster; absent is the service's own time.
    pub ttl: Option<Millis>,
    /// How long after its creation claim it ends, however much it is used.
    pub max_age: Option<Millis>,
    /// What happens to a request whose token has a lower version than one that was seen.
    pub superseded: Superseded,
    /// The header that names the id before a rotation.
    pub previous_header: Option<String>,
}

/// What happens to a request whose token has a lower version than one that was seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Superseded {
    /// It goes where its session is.
    Accept,
    /// It is answered with 401.
    Reject,
}

/// What happens to a request that names no session.
#[derive(Debug)]
pub enum Missing {
    /// Any node may serve it.
    Pass,
    /// It begins a session: the answer sets this cookie.
    IssueCookie(CookieTemplate),
    /// It is answered with 400.
    Reject,
}

pub(super) fn read_session(
    fields: &mut Fields<'_>,
    has_state: bool,
    book: &mut ClaimBook,
    faults: &mut Faults,
) -> Session {
    let nothing = Session {
        sources: Vec::new(),
        learned: Vec::new(),
        missing: Missing::Pass,
        ttl: None,
        max_age: None,
        superseded: Superseded::Accept,
        previous_header: None,
    };
    let advice = "say where the session id is, for example {\"sources\": [{\"cookie\": \"sid\"}]}";
    let Some(value) = fields.required("session", advice, faults) else { return nothing };
    let mut fields = Fields::of(value, &fields.path_of("session"), faults);
    let advice = "name at least one source, for example {\"cookie\": \"sid\"}";
    let elements = fields.required_array("sources", MAX_SOURCES, advice, faults);
    let mut learned = Vec::new();
    let mut read = |(path, value): &(String, &Value)| {
        let before = learned.len();
        let source = read_source(value, path, Some(&mut learned), book, faults);
        if learned.len() > before && !has_state {
            let message = "needs a state cluster, which tells all workers and proxies: add state, or let Envoy's own \
                           stateful_session write the node into the id";
            faults.add(&path_of(path, "learn"), message);
        }
        source
    };
    let mut sources: Vec<Source> = elements.iter().filter_map(&mut read).collect();
    // A source that cannot be read may be the one that is looked for.
    let all_read = !elements.is_empty() && sources.len() == elements.len();
    let names = elements.iter().filter_map(|(_, source)| source.get("cookie").and_then(Value::as_str));
    let cookies = all_read.then(|| names.collect::<Vec<_>>());
    let missing = read_missing(&mut fields, cookies.as_deref(), faults);
    let issued = value.pointer("/missing/issue_cookie/name");
    let is_minted =
        |element: &Value| element.get("learn") == Some(&Value::Bool(true)) && element.get("cookie") == issued;
    if issued.is_some() && elements.iter().any(|(_, element)| is_minted(element)) {
        let message = "is a cookie that nodes set themselves: a client would keep only one of the two. Leave out learn, or \
                       missing";
        faults.add(&path_of(&path_of(&fields.path_of("missing"), "issue_cookie"), "name"), message);
    }
    for (path, source) in
        elements.iter().filter(|(_, source)| issued.is_some() && source.get("cookie") == issued)
    {
        let until = source.get("until").and_then(Value::as_str);
        if until.is_some_and(|until| {
            (1..=RANDOM_DIGITS).contains(&until.len())
                && until.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
        }) {
            let message = "would cut the ids that Berth issues, which are of 0 to 9 and a to f: leave it out";
            faults.add(&path_of(path, "until"), message);
        }
    }
    if let Missing::IssueCookie(template) = &missing
        && let Some(signer) = template.signer()
    {
        sources = sources.into_iter().map(|source| source.signed_by(template.name(), signer)).collect();
        for (path, source) in &elements {
            let is_it = |part: &Value| part.get("cookie").and_then(Value::as_str) == Some(template.name());
            if source.get("all").and_then(Value::as_array).is_some_and(|parts| parts.iter().any(is_it)) {
                let message = "reads a cookie whose ids are signed together with others, where no signature is looked at: \
                               give it another cookie";
                faults.add(path, message);
            }
        }
    }
    let ttl = fields.duration("ttl", Millis(MIN_TTL)..=Millis(MAX_TTL), faults);
    let max_age = fields.duration("max_age", MAX_AGE, faults);
    let choices = [("accept", Superseded::Accept), ("reject", Superseded::Reject)];
    let superseded = fields.choice("superseded", &choices, faults).unwrap_or(Superseded::Accept);
    let previous_header = read_previous_header(&mut fields, faults);
    // Only a token can say these.
    let is_read = |claim: fn(&ClaimSource) -> bool| sources.iter().filter_map(Source::as_claims).any(claim);
    if max_age.is_some() && all_read && !is_read(|source| source.created.is_some()) {
        let message = "needs to know when a session began: name the claim as created in a jwt source";
        faults.add(&fields.path_of("max_age"), message);
    }
    if superseded == Superseded::Reject && all_read && !is_read(|source| source.version.is_some()) {
        let message = "needs to know a session's version: name the claim as version in a jwt source";
        faults.add(&fields.path_of("superseded"), message);
    }
    let needs_state = [
        ("ttl", ttl.is_some()),
        ("superseded", superseded == Superseded::Reject),
        ("previous_header", previous_header.is_some()),
    ];
    for (name, _) in needs_state.into_iter().filter(|(_, is_given)| *is_given && !has_state) {
        let path = fields.path_of(name);
        if !faults.are_at(&path) {
            faults.add(&path, "needs a state cluster, which remembers it: add state, or leave it out");
        }
    }
    fields.finish(faults);
    Session { sources, learned, missing, ttl, max_age, superseded, previous_header }
}

fn read_previous_header(fields: &mut Fields<'_>, faults: &mut Faults) -> Option<String> {
    let name = fields.string("previous_header", faults)?;
    if !is_header_name(name) || name.starts_with(':') {
        faults.add(
            &fields.path_of("previous_header"),
            format!("must be the name of a header, is {}", quoted(name)),
        );
    }
    Some(name.to_ascii_lowercase())
}

/// `"pass"`, `"reject"` or `{"issue_cookie": {…}}`. `cookies` are those that a source reads, if
/// that is known.
fn read_missing(fields: &mut Fields<'_>, cookies: Option<&[&str]>, faults: &mut Faults) -> Missing {
    let Some(value) = fields.value("missing") else { return Missing::Pass };
    let path = fields.path_of("missing");
    match value {
        Value::String(text) if text == "pass" => Missing::Pass,
        Value::String(text) if text == "reject" => Missing::Reject,
        Value::Object(object) if object.contains_key("issue_cookie") => {
            let mut fields = Fields::of(value, &path, faults);
            let cookie = fields.required("issue_cookie", "give the cookie's name", faults);
            let path = fields.path_of("issue_cookie");
            fields.finish(faults);
            cookie
                .and_then(|value| read_cookie(value, &path, cookies, faults))
                .map_or(Missing::Pass, Missing::IssueCookie)
        }
        other => {
            let message = "must be \"pass\", \"reject\" or {\"issue_cookie\": {\"name\": …}}";
            faults.add(&path, format!("{message}, is {}", shown(other)));
            Missing::Pass
        }
    }
}

fn read_cookie(
    value: &Value,
    path: &str,
    cookies: Option<&[&str]>,
    faults: &mut Faults,
) -> Option<CookieTemplate> {
    let mut fields = Fields::of(value, path, faults);
    let name = fields.required_string("name", "name the cookie", faults);
    let mut settings = CookieSettings::named(name.unwrap_or("unnamed"));
    if let Some(path) = fields.string("path", faults) {
        path.clone_into(&mut settings.path);
    }
    if let Some(age) = fields.duration("max_age", COOKIE_AGE, faults) {
        if age.0 % 1000 != 0 {
            faults.add(&fields.path_of("max_age"), format!("must be whole seconds, is {}ms", age.0));
        }
        settings.max_age_seconds = u32::try_from(age.0 / 1000).ok();
    }
    settings.domain = fields.string("domain", faults).map(str::to_owned);
    settings.partitioned = fields.flag("partitioned", settings.partitioned, faults);
    settings.secure = fields.flag("secure", settings.secure, faults);
    settings.http_only = fields.flag("http_only", settings.http_only, faults);
    let choices = [("lax", SameSite::Lax), ("strict", SameSite::Strict), ("none", SameSite::None)];
    settings.same_site = fields.choice("same_site", &choices, faults).unwrap_or(settings.same_site);
    let signer = read_signer(&mut fields, &settings.name, faults);
    let template = CookieTemplate::new(&settings).map_err(|found| {
        for fault in found {
            let place = fields.path_of(place_of(fault));
            if !faults.are_at(&place) {
                faults.add(&place, format!("would not work: {fault}"));
            }
        }
    });
    let path = fields.path_of("name");
    let is_unread = |name: &&str| cookies.is_some_and(|cookies| !cookies.contains(name));
    if let Some(name) = name.filter(is_unread).filter(|_| !faults.are_at(&path)) {
        let problem = "is read by no source, so each request would begin a session";
        faults.add(&path, format!("{problem}: add {{\"cookie\": {name:?}}} to sources"));
    }
    fields.finish(faults);
    let template = name.and(template.ok())?;
    Some(match signer {
        Some(signer) => template.signed_by(signer),
        None => template,
    })
}

/// Keys are secrets, so whatever stands where one belongs is not shown.
fn read_signer(fields: &mut Fields<'_>, cookie: &str, faults: &mut Faults) -> Option<Signer> {
    let value = fields.value("signing_keys")?;
    let path = fields.path_of("signing_keys");
    let elements = value.as_array().map(Vec::as_slice).unwrap_or_default();
    if !(1..=MAX_SIGNING_KEYS).contains(&elements.len()) {
        faults.add(
            &path,
            format!("must be an array of 1 to {MAX_SIGNING_KEYS} keys, of which the first one signs"),
        );
        return None;
    }
    let keys = elements.iter().enumerate().filter_map(|(index, value)| {
        let key = value.as_str().and_then(from_base64).filter(|key| key.len() >= LEAST_SIGNING_KEY);
        if key.is_none() {
            let message =
                "must be at least 32 random bytes in base64, as openssl rand -base64 32 writes them";
            faults.add(&format!("{path}[{index}]"), message);
        }
        key
    });
    let keys: Vec<Vec<u8>> = keys.collect();
    Signer::new(cookie, &keys)
}

/// The field to change.
pub(super) fn place_of(fault: CookieFault) -> &'static str {
    match fault {
        CookieFault::Name => "name",
        CookieFault::Path | CookieFault::PathTooLong | CookieFault::HostPrefixWithPath => "path",
        CookieFault::Domain | CookieFault::DomainOfOneHost | CookieFault::HostPrefixWithDomain => "domain",
        CookieFault::MaxAgeZero => "max_age",
        CookieFault::SameSiteNoneNotSecure
        | CookieFault::PrefixNotSecure
        | CookieFault::PartitionedNotSecure => "secure",
        CookieFault::HttpPrefixNotHttpOnly => "http_only",
    }
}
