//! The providers of tokens: where a token is, what it must satisfy, and the keys that tell.
//!
//! Whether the keys are any good is decided in `keys`, where a token may be in `places`; here, how they go with the rest.

mod keys;
mod places;

use std::collections::BTreeSet;
use std::ops::RangeInclusive;

use serde_json::Value;

use self::keys::{read_jwks, read_static_keys};
use self::places::read_sources;
use super::fields::{Faults, Fields, quoted, shown, string};
use crate::time::Millis;
use crate::token::{Algorithm, ClaimPath, Keys, Limits, Policy, TokenSource};

/// More issuers than this is a mistake, and each has keys in every worker.
const MAX_PROVIDERS: usize = 16;
/// More than an issuer has names for its service.
const MAX_AUDIENCES: usize = 16;
/// Names become part of stats.
const MAX_NAME: usize = 128;
/// More leeway would be another expiry.
const LEEWAY: RangeInclusive<Millis> = Millis(0)..=Millis(600_000);
/// At some 500 bytes a token this is half a gigabyte a worker.
const CACHED: RangeInclusive<usize> = 0..=1_000_000;
/// Below, the issuer would be asked for nothing; above, a withdrawn key would be trusted for too long.
const REFRESH: RangeInclusive<Millis> = Millis(10_000)..=Millis(24 * 3_600_000);
/// Issuers publish a new key hours before they sign with it, and what they withdraw in a hurry must not be trusted for long.
const DEFAULT_REFRESH: Millis = Millis(300_000);
/// No request waits longer for keys than for an answer.
const TIMEOUT: RangeInclusive<Millis> = Millis(50)..=Millis(30_000);
/// Envoy's default for such calls.
const DEFAULT_TIMEOUT: Millis = Millis(1000);
/// One issuer of tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JwtProvider {
    /// Its name in metrics and where its claims are used.
    pub name: String,
    /// Where a request may have its token, in order. None if Envoy has read it.
    pub from: Vec<TokenSource>,
    /// How a token's truth is known.
    pub verification: Verification,
    /// What happens to a request whose token is refused.
    pub on_invalid: OnInvalid,
    /// How many verified tokens a worker remembers.
    pub cached: Limits,
}

/// How a token's truth is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verification {
    /// By keys of the configuration.
    Keys(Policy, Keys),
    /// By keys that the issuer publishes.
    Remote(Policy, RemoteKeys),
    /// Envoy's `jwt_authn` has verified it, and left its payload in the metadata under this name.
    Upstream(String),
}

/// Where an issuer publishes its keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RemoteKeys {
    /// The Envoy cluster to ask.
    pub cluster: String,
    /// The value of `:authority`.
    pub host: String,
    /// The value of `:path`.
    pub path: String,
    /// How often to ask.
    pub refresh: Millis,
    /// When an answer is no longer waited for.
    pub timeout: Millis,
}

impl RemoteKeys {
    /// True if these are published at the same place.
    pub(crate) fn are_at(&self, other: &Self) -> bool {
        (&self.cluster, &self.host, &self.path) == (&other.cluster, &other.host, &other.path)
    }
}

/// What happens to a request whose token is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnInvalid {
    /// It is answered with 401.
    Reject,
    /// It goes on as if it had no token.
    Sessionless,
}

impl JwtProvider {
    /// Reads all providers: each by itself, then how they go together.
    pub(super) fn read_all(fields: &mut Fields<'_>, faults: &mut Faults) -> Vec<Self> {
        const FIELD: &str = "jwt_providers";
        if fields.value(FIELD).is_none() {
            return Vec::new();
        }
        let advice = "name at least one provider, or leave it out";
        let elements = fields.required_array(FIELD, MAX_PROVIDERS, advice, faults);
        // On the document, because a provider with a fault is not among them but still has its name.
        let mut names = BTreeSet::new();
        for (path, value) in &elements {
            let name = value.get("name").and_then(Value::as_str).unwrap_or_default();
            if !name.is_empty() && !names.insert(name) {
                let message = format!("{} is taken by another provider: give it its own", quoted(name));
                faults.add(&format!("{path}.name"), message);
            }
        }
        elements.iter().filter_map(|(path, value)| Self::read(value, path, faults)).collect()
    }

    fn read(value: &Value, path: &str, faults: &mut Faults) -> Option<Self> {
        let mut fields = Fields::of(value, path, faults);
        let name = fields.required_string("name", "name the provider, as its metrics will", faults);
        let fits = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        if let Some(name) = name.filter(|name| name.len() > MAX_NAME || !name.chars().all(fits)) {
            let message = format!("must be 1 to {MAX_NAME} letters, digits, - or _, is {}", quoted(name));
            faults.add(&fields.path_of("name"), message);
        }
        let choices = [("reject", OnInvalid::Reject), ("sessionless", OnInvalid::Sessionless)];
        let on_invalid = fields.choice("on_invalid", &choices, faults);
        let provider = match read_kind(&mut fields, value, faults) {
            Some(Kind::Upstream) => {
                for name in OF_VERIFYING {
                    if fields.value(name).is_some() {
                        let message =
                            "does not go with verified_upstream: jwt_authn decides it, leave it out";
                        faults.add(&fields.path_of(name), message);
                    }
                }
                let verification = read_upstream(&mut fields, faults).map(Verification::Upstream);
                (Vec::new(), verification, Limits { entries: 0, ..Limits::default() })
            }
            kind => {
                let from = read_sources(&mut fields, faults);
                let policy = read_policy(&mut fields, faults);
                let default = Limits::default();
                let entries = fields.number("max_cached", CACHED, faults).unwrap_or(default.entries);
                let verification = read_keys(&mut fields, kind, policy, faults);
                (from, verification, Limits { entries, ..default })
            }
        };
        fields.finish(faults);
        let (from, verification, cached) = provider;
        Some(Self {
            name: name?.to_owned(),
            from,
            verification: verification?,
            on_invalid: on_invalid?,
            cached,
        })
    }
}

/// The fields that say how to verify, for those that do.
const OF_VERIFYING: [&str; 9] = [
    "from",
    "algorithms",
    "issuer",
    "audiences",
    "leeway",
    "require_expiry",
    "without_kid",
    "allow_padding",
    "max_cached",
];

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Keys,
    Jwks,
    Remote,
    Upstream,
}

/// The one field of four that is there.
fn read_kind(fields: &mut Fields<'_>, value: &Value, faults: &mut Faults) -> Option<Kind> {
    let kinds = [
        ("keys", Kind::Keys),
        ("jwks", Kind::Jwks),
        ("remote_jwks", Kind::Remote),
        ("verified_upstream", Kind::Upstream),
    ];
    let found: Vec<(&str, Kind)> =
        kinds.into_iter().filter(|(name, _)| fields.value(name).is_some()).collect();
    match found.as_slice() {
        [(_, kind)] => Some(*kind),
        [] => {
            if value.is_object() {
                faults.add(
                    &fields.path_of("keys"),
                    "is missing: give keys, jwks, remote_jwks or verified_upstream, which say how a token's truth \
                     is known",
                );
            }
            None
        }
        [(first, kind), others @ ..] => {
            for (name, _) in others {
                faults.add(&fields.path_of(name), format!("does not go with {first}: give one of them"));
            }
            Some(*kind)
        }
    }
}

/// What each token must satisfy. Without a fault it names at least one algorithm.
fn read_policy(fields: &mut Fields<'_>, faults: &mut Faults) -> Policy {
    let algorithms = read_algorithms(fields, faults);
    let issuer = fields.string("issuer", faults).map(str::to_owned);
    let audiences = fields.strings("audiences", faults);
    if audiences.len() > MAX_AUDIENCES {
        let message = format!("must have at most {MAX_AUDIENCES} elements, has {}", audiences.len());
        faults.add(&fields.path_of("audiences"), message);
    }
    Policy {
        issuer,
        audiences: audiences.into_iter().map(|(_, audience)| audience.to_owned()).collect(),
        leeway: fields.duration("leeway", LEEWAY, faults).unwrap_or(Policy::DEFAULT_LEEWAY),
        require_expiry: fields.flag("require_expiry", true, faults),
        try_keys: read_without_kid(fields, faults),
        allow_padding: fields.flag("allow_padding", false, faults),
        ..Policy::new(algorithms)
    }
}

/// Whether several keys are tried with a token that does not say which of them signed it.
fn read_without_kid(fields: &mut Fields<'_>, faults: &mut Faults) -> bool {
    let choices = [("one_key", false), ("try_keys", true)];
    fields.choice("without_kid", &choices, faults).unwrap_or(false)
}

fn read_algorithms(fields: &mut Fields<'_>, faults: &mut Faults) -> Vec<Algorithm> {
    let advice = "name those that the issuer signs with, for example [\"RS256\"]";
    let elements = fields.required_array("algorithms", Algorithm::ALL.len(), advice, faults);
    let mut algorithms = Vec::new();
    for (path, value) in &elements {
        match Algorithm::ALL.iter().find(|(name, _)| value.as_str() == Some(name)) {
            Some((_, algorithm)) => algorithms.push(*algorithm),
            None => {
                let names: Vec<&str> = Algorithm::ALL.iter().map(|(name, _)| *name).collect();
                faults.add(path, format!("must be one of {}, is {}", names.join(", "), shown(value)));
            }
        }
    }
    if Algorithm::are_mixed(&algorithms) {
        faults.add(
            &fields.path_of("algorithms"),
            "mixes secrets (HS256, HS384, HS512) with public keys, one of which could be taken for the other: \
             make two providers",
        );
    }
    algorithms
}

fn read_keys(
    fields: &mut Fields<'_>,
    kind: Option<Kind>,
    policy: Policy,
    faults: &mut Faults,
) -> Option<Verification> {
    match kind? {
        Kind::Keys => {
            let keys = read_static_keys(fields, &policy.algorithms, faults);
            Some(Verification::Keys(policy, keys))
        }
        Kind::Jwks => {
            let keys = read_jwks(fields, &policy.algorithms, faults)?;
            Some(Verification::Keys(policy, keys))
        }
        Kind::Remote => {
            if policy.algorithms.iter().any(|algorithm| algorithm.is_symmetric()) {
                let message =
                    "must not be of secrets where keys are published: take RS256 or another with public keys";
                let path = fields.path_of("algorithms");
                if !faults.are_at(&path) {
                    faults.add(&path, message);
                }
            }
            let keys = read_remote(fields, faults)?;
            Some(Verification::Remote(policy, keys))
        }
        Kind::Upstream => None,
    }
}

fn read_remote(fields: &mut Fields<'_>, faults: &mut Faults) -> Option<RemoteKeys> {
    let value = fields.value("remote_jwks")?;
    let mut fields = Fields::of(value, &fields.path_of("remote_jwks"), faults);
    let cluster = fields.required_string("cluster", "name the Envoy cluster that publishes the keys", faults);
    let host = fields.required_string("host", "give its name, for example \"id.example.com\"", faults);
    if let Some(host) = host.filter(|host| !host.bytes().all(|byte| byte.is_ascii_graphic())) {
        faults.add(&fields.path_of("host"), format!("must be a host name, is {}", quoted(host)));
    }
    let path = fields.required_string("path", "give it, for example \"/.well-known/jwks.json\"", faults);
    let is_path = |path: &&str| path.starts_with('/') && path.bytes().all(|byte| byte.is_ascii_graphic());
    if let Some(path) = path.filter(|path| !is_path(path)) {
        let message = format!("must start with / and have no blanks, is {}", quoted(path));
        faults.add(&fields.path_of("path"), message);
    }
    let refresh = fields.duration("refresh", REFRESH, faults).unwrap_or(DEFAULT_REFRESH);
    let timeout = fields.duration("timeout", TIMEOUT, faults).unwrap_or(DEFAULT_TIMEOUT);
    fields.finish(faults);
    Some(RemoteKeys {
        cluster: cluster?.to_owned(),
        host: host?.to_owned(),
        path: path?.to_owned(),
        refresh,
        timeout,
    })
}

fn read_upstream(fields: &mut Fields<'_>, faults: &mut Faults) -> Option<String> {
    let value = fields.value("verified_upstream")?;
    let mut fields = Fields::of(value, &fields.path_of("verified_upstream"), faults);
    let advice = "give what jwt_authn's provider says there";
    let name = fields.required_string("payload_in_metadata", advice, faults).map(str::to_owned);
    fields.finish(faults);
    name
}

impl ClaimPath {
    /// Reads `"player.id"` or `["https://example.com/sid"]`.
    pub(crate) fn read(value: &Value, path: &str, faults: &mut Faults) -> Option<Self> {
        let made = match value {
            Value::String(text) => Self::parse(text),
            Value::Array(names) => {
                let names = names.iter().enumerate();
                let names: Vec<Option<&str>> =
                    names.map(|(index, name)| string(name, &format!("{path}[{index}]"), faults)).collect();
                let names: Option<Vec<String>> =
                    names.into_iter().map(|name| name.map(str::to_owned)).collect();
                Self::from_segments(names?)
            }
            other => {
                faults.add(path, format!("must be a claim's name or an array of names, is {}", shown(other)));
                return None;
            }
        };
        made.map_err(|error| faults.add(path, format!("is no claim: {error}"))).ok()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_claim_is_a_path_or_its_names() {
        let read = |value: Value| {
            let mut faults = Faults::default();
            let claim = ClaimPath::read(&value, "claim", &mut faults).map(|claim| claim.segments().to_vec());
            claim.ok_or_else(|| faults.0.iter().map(ToString::to_string).collect::<Vec<_>>())
        };

        assert_eq!(read(json!("player.id")).unwrap(), ["player", "id"]);
        assert_eq!(read(json!(["https://example.com/sid"])).unwrap(), ["https://example.com/sid"]);
        for (value, fault) in [
            (json!("a..b"), "claim: is no claim: name at least one member, none of them empty"),
            (json!([]), "claim: is no claim: name at least one member, none of them empty"),
            (json!(["a", ""]), "claim[1]: must not be empty"),
            (
                json!("https://a.b/c"),
                "claim: is no claim: is split at its dots: give it as an array of one name",
            ),
            (json!(7), "claim: must be a claim's name or an array of names, is 7"),
        ] {
            assert_eq!(read(value).unwrap_err(), [fault]);
        }
    }
}
