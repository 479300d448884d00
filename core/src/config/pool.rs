//! One pool of the configuration: which requests it takes, who its members are, and its policies.

use serde_json::Value;

use super::check_name;
use super::fields::{Faults, Fields};
use super::members::read_membership;
use super::policy::{read_health, read_ring};
use super::session::read_session;
use crate::health::HealthPolicy;
use crate::membership::Observation;
use crate::ring::Algorithm;
use crate::session::{CookieTemplate, Source};

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
            if name.is_empty()
                || name.contains(['*', '/', ' '])
                || without_port(host.as_bytes()).len() < host.len()
            {
                faults.add(
                    &format!("{path}.hosts[{index}]"),
                    format!("must be a host name without port, or *.name, is {host:?}"),
                );
            }
        }
        for (index, prefix) in matches.path_prefixes.iter().enumerate() {
            if !prefix.starts_with('/') {
                faults.add(
                    &format!("{path}.path_prefixes[{index}]"),
                    format!("must start with /, is {prefix:?}"),
                );
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
