//! One pool of the configuration: which requests it takes, who its members are, and its policies.

use serde_json::Value;

use super::check_name;
use super::fields::{Faults, Fields, kind};
use crate::health::HealthPolicy;
use crate::membership::{HostFlags, Observation};
use crate::ring::{Algorithm, RingSize};
use crate::session::{CookieTemplate, SameSite, Source};
use crate::time::Millis;

/// Long enough for any deploy, short enough that a slip such as hours for seconds is noticed.
const LONGEST: Millis = Millis(24 * 3_600_000);
/// More sources than this is a mistake, and each costs a look per request.
const MAX_SOURCES: usize = 16;

/// One upstream cluster with its ring and policies.
#[derive(Debug)]
pub struct Pool {
    /// Its name in metrics.
    pub name: String,
    /// Which requests it takes.
    pub matches: Match,
    /// Where its members come from.
    pub membership: Membership,
    /// Where a session id may be, in order.
    pub sources: Vec<Source>,
    /// What happens to a request without one.
    pub missing: Missing,
    /// How its ring is built.
    pub algorithm: Algorithm,
    /// How patient it is with its nodes.
    pub health: HealthPolicy,
    /// What panic means for a request.
    pub on_panic: OnPanic,
}

/// Which requests a pool takes: those that fit each condition that is given.
#[derive(Debug, Default)]
pub struct Match {
    /// Lower-case host names without port; `*.example.com` is any name below it.
    pub hosts: Vec<String>,
    /// Starts of the path.
    pub path_prefixes: Vec<String>,
    /// Clusters that the route names before Berth acts.
    pub clusters: Vec<String>,
}

/// Where a pool's members come from.
#[derive(Debug)]
pub enum Membership {
    /// From Envoy's admin interface, where the cluster has this name.
    Cluster(String),
    /// From the configuration.
    Static(Vec<Observation>),
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

/// What panic means for a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnPanic {
    /// It goes where it would if all nodes were healthy.
    IgnoreHealth,
    /// It is answered with 503.
    Reject,
}

impl Match {
    /// True if no condition is given.
    #[must_use]
    pub fn is_everything(&self) -> bool {
        self.hosts.is_empty() && self.path_prefixes.is_empty() && self.clusters.is_empty()
    }

    /// True if a request with this `:authority` fits the host condition.
    #[must_use]
    pub fn takes_host(&self, authority: &[u8]) -> bool {
        let host = without_port(authority);
        self.hosts.is_empty()
            || self.hosts.iter().any(|wanted| match wanted.strip_prefix('*') {
                Some(suffix) => {
                    host.len() > suffix.len()
                        && host
                            .get(host.len() - suffix.len()..)
                            .is_some_and(|end| end.eq_ignore_ascii_case(suffix.as_bytes()))
                }
                None => host.eq_ignore_ascii_case(wanted.as_bytes()),
            })
    }

    /// True if a request with this `:path` fits the path condition.
    #[must_use]
    pub fn takes_path(&self, path: &[u8]) -> bool {
        self.path_prefixes.is_empty()
            || self.path_prefixes.iter().any(|prefix| path.starts_with(prefix.as_bytes()))
    }

    /// True if a request that is routed to this cluster fits the cluster condition.
    #[must_use]
    pub fn takes_cluster(&self, cluster: &[u8]) -> bool {
        self.clusters.is_empty() || self.clusters.iter().any(|wanted| wanted.as_bytes() == cluster)
    }

    fn read(fields: &mut Fields<'_>, faults: &mut Faults) -> Self {
        let Some(value) = fields.value("match") else { return Self::default() };
        let path = fields.path_of("match");
        let mut fields = Fields::of(value, &path, faults);
        let matches = Self {
            hosts: fields.strings("hosts", faults).iter().map(|host| host.to_ascii_lowercase()).collect(),
            path_prefixes: fields.strings("path_prefixes", faults),
            clusters: fields.strings("clusters", faults),
        };
        for (index, host) in matches.hosts.iter().enumerate() {
            let name = host.strip_prefix("*.").unwrap_or(host);
            if name.is_empty() || name.contains(['*', '/', ' ']) || without_port(host.as_bytes()).len() < host.len() {
                faults.add(
                    &format!("{path}.hosts[{index}]"),
                    format!("must be a host name without port, or *.name, is {host:?}"),
                );
            }
        }
        for (index, prefix) in matches.path_prefixes.iter().enumerate() {
            if !prefix.starts_with('/') {
                faults.add(&format!("{path}.path_prefixes[{index}]"), format!("must start with /, is {prefix:?}"));
            }
        }
        if value.is_object() && matches.is_everything() {
            faults.add(&path, "says nothing: give hosts, path_prefixes or clusters, or leave it out");
        }
        fields.finish(faults);
        matches
    }
}

impl Pool {
    pub(super) fn read(value: &Value, path: &str, faults: &mut Faults) -> Option<Self> {
        let mut fields = Fields::of(value, path, faults);
        let name = fields.required_string("name", faults);
        if let Some(name) = name {
            check_name(name, &fields.path_of("name"), faults);
        }
        let membership = read_membership(&mut fields, value.is_object(), faults);
        let matches = Match::read(&mut fields, faults);
        let (sources, missing) = read_session(&mut fields, value.is_object(), faults);
        let algorithm = read_ring(&mut fields, faults);
        let (health, on_panic) = read_health(&mut fields, faults);
        fields.finish(faults);
        Some(Self {
            name: name?.to_owned(),
            matches,
            membership: membership?,
            sources,
            missing,
            algorithm,
            health,
            on_panic,
        })
    }
}

fn read_membership(fields: &mut Fields<'_>, expected: bool, faults: &mut Faults) -> Option<Membership> {
    let cluster = fields.string("cluster", faults);
    let members = fields.array("members", faults);
    match (cluster, members) {
        (Some(_), Some(_)) => {
            faults.add(
                &fields.path_of("members"),
                "and cluster exclude each other: the members come from Envoy's cluster or from this list",
            );
            None
        }
        (Some(cluster), None) => Some(Membership::Cluster(cluster.to_owned())),
        (None, Some(elements)) => {
            if elements.is_empty() {
                faults.add(&fields.path_of("members"), "name at least one member");
            }
            let mut members: Vec<Observation> = Vec::new();
            for (path, value) in &elements {
                let Some(member) = read_member(value, path, faults) else { continue };
                if members.iter().any(|other| other.address == member.address) {
                    faults.add(path, format!("{} is listed twice", member.address));
                }
                members.push(member);
            }
            Some(Membership::Static(members))
        }
        (None, None) => {
            if expected && fields.value("cluster").is_none() && fields.value("members").is_none() {
                faults.add(&fields.path_of("cluster"), "is missing: name Envoy's cluster, or list members");
            }
            None
        }
    }
}

/// `"10.0.0.1:80"` or `{"address": "10.0.0.1:80", "weight": 2}`.
fn read_member(value: &Value, path: &str, faults: &mut Faults) -> Option<Observation> {
    let (address, weight) = match value {
        Value::String(address) => (Some(address.as_str()), 1),
        Value::Object(_) => {
            let mut fields = Fields::of(value, path, faults);
            let address = fields.required_string("address", faults);
            let weight = fields.number("weight", 1..=128, faults).unwrap_or(1);
            fields.finish(faults);
            (address, weight)
        }
        other => {
            faults.add(path, format!("must be an address or an object, is {}", kind(other)));
            return None;
        }
    };
    let address = address?;
    if address.parse::<std::net::SocketAddr>().is_err() {
        faults.add(path, format!("must be ip:port or [ipv6]:port, is {address:?}"));
        return None;
    }
    Some(Observation {
        address: address.to_owned(),
        weight: u32::try_from(weight).unwrap_or(1),
        locality: String::new(),
        priority: 0,
        flags: HostFlags::default(),
    })
}

fn read_session(fields: &mut Fields<'_>, expected: bool, faults: &mut Faults) -> (Vec<Source>, Missing) {
    let path = fields.path_of("session");
    let Some(value) = fields.value("session") else {
        if expected {
            faults.add(&path, "is missing: say where the session id is, for example {\"sources\": [{\"cookie\": \"sid\"}]}");
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
    let mut simple = |name, make: fn(&str) -> Result<Source, crate::session::SourceError>| {
        fields.value(name)?;
        let field = fields.path_of(name);
        Some(fields.string(name, faults).and_then(|text| {
            make(text).map_err(|error| faults.add(&field, error.to_string())).ok()
        }))
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
            let cookie = fields.value("issue_cookie").and_then(|value| {
                read_cookie(value, &fields.path_of("issue_cookie"), faults)
            });
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
    let cookie_path = fields.string("path", faults).unwrap_or("/");
    let max_age = fields
        .value("max_age")
        .is_some()
        .then(|| fields.duration("max_age", Millis(0), Millis(1000)..=Millis(400 * LONGEST.0), faults))
        .map(|length| length.0 / 1000);
    let secure = fields.flag("secure", true, faults);
    let http_only = fields.flag("http_only", true, faults);
    let same_site = match fields.string("same_site", faults) {
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
    CookieTemplate::new(name?, cookie_path, max_age, secure, http_only, same_site)
        .map_err(|error| faults.add(path, error.to_string()))
        .ok()
}

fn read_ring(fields: &mut Fields<'_>, faults: &mut Faults) -> Algorithm {
    let default = Algorithm::default();
    let Some(value) = fields.value("ring") else { return default };
    let path = fields.path_of("ring");
    let mut fields = Fields::of(value, &path, faults);
    let algorithm = fields.string("algorithm", faults).unwrap_or("ring_hash");
    let virtual_nodes = fields.number("virtual_nodes", 1..=65_536, faults);
    let minimum = fields.number("minimum_ring_size", 1..=8_388_608, faults);
    let maximum = fields.number("maximum_ring_size", 1..=8_388_608, faults);
    let table_size = fields.number("table_size", 2..=5_000_011, faults);
    let has_size = virtual_nodes.is_some() || minimum.is_some() || maximum.is_some();
    let misplaced = |what: &str, faults: &mut Faults| {
        faults.add(&path, format!("{what} does not go with algorithm {algorithm:?}"));
    };
    let ring = match algorithm {
        "ring_hash" => {
            if table_size.is_some() {
                misplaced("table_size", faults);
            }
            if virtual_nodes.is_some() && (minimum.is_some() || maximum.is_some()) {
                faults.add(
                    &path,
                    "virtual_nodes and minimum_ring_size or maximum_ring_size exclude each other: a size per node, or Envoy's for the whole ring",
                );
            }
            if minimum.is_some() || maximum.is_some() {
                Algorithm::RingHash(RingSize::Envoy {
                    minimum: minimum.unwrap_or(1024),
                    maximum: maximum.unwrap_or(8_388_608),
                })
            } else {
                virtual_nodes.and_then(|nodes| u32::try_from(nodes).ok()).map_or(default, |nodes| {
                    Algorithm::RingHash(RingSize::VirtualNodes(nodes))
                })
            }
        }
        "maglev" => {
            if has_size {
                misplaced("a ring size", faults);
            }
            let table_size = table_size.and_then(|size| u32::try_from(size).ok()).unwrap_or(65_537);
            Algorithm::Maglev { table_size }
        }
        "rendezvous" => {
            if has_size {
                misplaced("a ring size", faults);
            }
            if table_size.is_some() {
                misplaced("table_size", faults);
            }
            Algorithm::Rendezvous
        }
        other => {
            faults.add(
                &fields.path_of("algorithm"),
                format!("must be \"ring_hash\", \"maglev\" or \"rendezvous\", is {other:?}"),
            );
            default
        }
    };
    if let Err(error) = ring.validate() {
        faults.add(&path, error.to_string());
    }
    fields.finish(faults);
    ring
}

fn read_health(fields: &mut Fields<'_>, faults: &mut Faults) -> (HealthPolicy, OnPanic) {
    let panic_threshold = fields.number("panic_threshold", 0..=100, faults).unwrap_or(50);
    let panic_hold = fields.duration("panic_hold", Millis(5000), Millis(0)..=LONGEST, faults);
    let on_panic = match fields.string("on_panic", faults) {
        None | Some("ignore_health") => OnPanic::IgnoreHealth,
        Some("reject") => OnPanic::Reject,
        Some(other) => {
            faults.add(
                &fields.path_of("on_panic"),
                format!("must be \"ignore_health\" or \"reject\", is {other:?}"),
            );
            OnPanic::IgnoreHealth
        }
    };
    let mut policy = HealthPolicy {
        cooldown: Millis(30_000),
        max_cooldown: Millis(300_000),
        warm_up: Millis(30_000),
        warm_up_from_percent: 10,
        passive_failures: 3,
        panic_threshold: u32::try_from(panic_threshold).unwrap_or(50),
        panic_hold,
    };
    let path = fields.path_of("health");
    if let Some(value) = fields.value("health") {
        let mut fields = Fields::of(value, &path, faults);
        policy.cooldown = fields.duration("cooldown", policy.cooldown, Millis(100)..=LONGEST, faults);
        let max_default = policy.max_cooldown.max(policy.cooldown);
        policy.max_cooldown = fields.duration("max_cooldown", max_default, Millis(100)..=LONGEST, faults);
        if policy.max_cooldown < policy.cooldown {
            faults.add(&fields.path_of("max_cooldown"), "must not be below cooldown");
        }
        policy.warm_up = fields.duration("warm_up", policy.warm_up, Millis(0)..=LONGEST, faults);
        let percent = |number: Option<u64>, default| number.and_then(|n| u32::try_from(n).ok()).unwrap_or(default);
        policy.warm_up_from_percent =
            percent(fields.number("warm_up_from_percent", 0..=100, faults), policy.warm_up_from_percent);
        policy.passive_failures =
            percent(fields.number("passive_failures", 0..=1000, faults), policy.passive_failures);
        fields.finish(faults);
    }
    (policy, on_panic)
}

/// `example.com:8080` → `example.com`; `[::1]:80` → `[::1]`.
fn without_port(authority: &[u8]) -> &[u8] {
    match authority.iter().rposition(|&byte| byte == b':') {
        Some(colon) if authority.get(colon + 1..).is_some_and(|port| port.iter().all(u8::is_ascii_digit)) => {
            // A bare IPv6 address is not a host with port.
            let host = authority.get(..colon).unwrap_or(authority);
            if host.contains(&b':') && !host.ends_with(b"]") { authority } else { host }
        }
        _ => authority,
    }
}
