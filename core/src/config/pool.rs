//! One pool of the configuration: which requests it takes, who its members are, and its policies.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use super::fields::{Faults, Fields, quoted};
use super::members::read_membership;
use super::policy::{read_health, read_ring};
use super::session::read_session;
use crate::health::HealthPolicy;
use crate::membership::Observation;
use crate::ring::{Algorithm, MAXIMUM_POINTS, RingSize};
use crate::session::{CookieTemplate, Source};

/// Names of Envoy's filters, clusters and stats stay readable below this.
const MAX_NAME: usize = 128;

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
        if value.as_object().is_some_and(Map::is_empty) {
            faults.add(&path, "is empty: give hosts, path_prefixes or clusters, or leave it out");
        }
        let mut fields = Fields::of(value, &path, faults);
        let hosts = fields.strings("hosts", faults);
        let path_prefixes = fields.strings("path_prefixes", faults);
        let clusters = fields.strings("clusters", faults);
        fields.finish(faults);
        for (path, host) in &hosts {
            if !is_host_pattern(host) {
                let message = "must be a host name without port, or *.name for any below it";
                faults.add(path, format!("{message}, is {}", quoted(host)));
            }
        }
        for (path, prefix) in path_prefixes.iter().filter(|(_, prefix)| !prefix.starts_with('/')) {
            faults.add(path, format!("must start with /, is {}", quoted(prefix)));
        }
        let texts = |pairs: Vec<(String, &str)>| pairs.into_iter().map(|(_, text)| text.to_owned()).collect();
        Self {
            hosts: hosts.iter().map(|(_, host)| host.to_ascii_lowercase()).collect(),
            path_prefixes: texts(path_prefixes),
            clusters: texts(clusters),
        }
    }
}

impl Pool {
    /// Reads all pools: each by itself, then how they go together.
    pub(super) fn read_all(elements: &[(String, &Value)], faults: &mut Faults) -> Vec<Self> {
        let pools = elements.iter().filter_map(|(path, value)| Self::read(value, path, faults)).collect();
        // On the document, because a pool with a fault is not among the pools but still a neighbour.
        let mut names = BTreeSet::new();
        for (index, (path, value)) in elements.iter().enumerate() {
            let name = value.get("name").and_then(Value::as_str).unwrap_or_default();
            if !name.is_empty() && !names.insert(name) {
                let message = format!("{} is taken by another pool: give it its own", quoted(name));
                faults.add(&format!("{path}.name"), message);
            }
            let takes_everything = value.is_object() && value.get("match").is_none_or(Value::is_null);
            if takes_everything && index + 1 < elements.len() {
                faults.add(
                    &format!("{path}.match"),
                    "is missing: this pool takes every request, so those after it get none: say which it takes, \
                     or move it to the end",
                );
            }
        }
        pools
    }

    fn read(value: &Value, path: &str, faults: &mut Faults) -> Option<Self> {
        let mut fields = Fields::of(value, path, faults);
        let name = fields.required_string("name", "name the pool, as its metrics will", faults);
        if let Some(name) = name {
            check_name(name, &fields.path_of("name"), faults);
        }
        let membership = read_membership(&mut fields, faults);
        let matches = Match::read(&mut fields, faults);
        let (sources, missing) = read_session(&mut fields, faults);
        let algorithm = read_ring(&mut fields, faults);
        if let Some(Membership::Static(members)) = &membership {
            check_points(members, algorithm, &fields.path_of("members"), faults);
        }
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

/// A name that becomes part of stats and shared keys.
fn check_name(name: &str, path: &str, faults: &mut Faults) {
    let fits = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    if name.len() > MAX_NAME || !name.chars().all(fits) {
        faults.add(path, format!("must be 1 to {MAX_NAME} letters, digits, - or _, is {}", quoted(name)));
    }
}

/// A ring of listed members that could never be built is a fault now, not an error on the first request.
fn check_points(members: &[Observation], algorithm: Algorithm, path: &str, faults: &mut Faults) {
    let Algorithm::RingHash(RingSize::VirtualNodes(virtual_nodes)) = algorithm else { return };
    let weights = || members.iter().map(|member| u64::from(member.weight));
    let smallest = weights().min().unwrap_or(1).max(1);
    let points = (u64::from(virtual_nodes) * weights().sum::<u64>()).div_ceil(smallest);
    if points > MAXIMUM_POINTS {
        faults.add(
            path,
            format!(
                "would make a ring of {points} points, the most is {MAXIMUM_POINTS}: \
                 take fewer virtual_nodes, or weights closer to each other"
            ),
        );
    }
}

fn is_host_pattern(text: &str) -> bool {
    let name = text.strip_prefix("*.").unwrap_or(text);
    let has_port = without_port(text.as_bytes()).len() < text.len();
    !name.is_empty() && !name.contains(['*', '/']) && name.chars().all(|c| c.is_ascii_graphic()) && !has_port
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
