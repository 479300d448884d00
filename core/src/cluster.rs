//! What Envoy's configuration says of a cluster and `/clusters` does not: the admin's `/config_dump`, read into
//! [`ClusterFacts`].
//!
//! Two questions, because a mask fits one kind of dump only: how each cluster is configured ([`Clusters::read`]), a few
//! kilobytes; and its endpoints ([`Clusters::read_endpoints`]), which costs Envoy 57 µs a host. The answers are Envoy's
//! view after it has merged its sources: localities come in the order of its rings, with the weights that it uses.
//!
//! When to ask is the filter's affair. What the facts mean for hosts, [`ClusterFacts::apply`] decides.

mod identity;
mod skim;

use std::rc::Rc;

use crate::membership::{Observation, join_locality};
use crate::ring::session_hash;
use crate::time::Millis;
use skim::{Step, skim};

/// How Envoy's admin names what [`Clusters::read`] reads.
pub const CLUSTERS_QUERY: &str = "/config_dump?mask=static_clusters,dynamic_active_clusters&name_regex=";
/// How it names what [`Clusters::read_endpoints`] reads.
pub const ENDPOINTS_QUERY: &str =
    "/config_dump?include_eds&mask=static_endpoint_configs,dynamic_endpoint_configs&name_regex=";

/// Hashes, or ranks, and the places in a list that they belong to; sorted, one that is found by binary search. The same
/// type as a ring's points, and so the same code.
type Index = Vec<(u64, u32)>;

/// Until it has had traffic, Envoy checks a cluster once a minute unless it is configured otherwise.
const NO_TRAFFIC_INTERVAL: Millis = Millis(60_000);

/// A kind of cluster that cannot be steered: its own choice comes before or after that of `override_host`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unsupported {
    /// The route's `metadata_match` chooses among the hosts.
    Subset,
    /// It has no hosts, but clusters.
    Aggregate,
    /// The connection's or the request's own address is the host.
    OriginalDestination,
    /// The request's own host name is the host.
    DynamicForwardProxy,
}

/// What is known of one cluster.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct ClusterFacts {
    name: String,
    /// Why its requests cannot be steered, if so.
    pub unsupported: Option<Unsupported>,
    /// Its policy, or one that it falls back to, reads the destination header.
    is_steered: bool,
    /// The time within which its active check of a host surely comes to a result.
    pub check_period: Option<Millis>,
    /// What its endpoints are called by.
    service: String,
    hashes_by_hostname: bool,
    weighs_localities: bool,
    endpoints: Rc<Endpoints>,
}

/// What is known of a cluster's endpoints.
#[derive(Debug, Default, PartialEq, Eq)]
struct Endpoints {
    service: String,
    /// In the order of Envoy's rings.
    localities: Vec<Locality>,
    /// `envoy.lb`'s `hash_key` of hosts by address, and where each stands.
    hash_keys: Vec<(String, String)>,
    index: Index,
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Locality {
    priority: u32,
    name: String,
    weight: u32,
}

impl ClusterFacts {
    /// What keeps a pool from doing its work on this cluster, and what to do.
    #[must_use]
    pub fn complaint(&self) -> Option<&'static str> {
        Some(match self.unsupported {
            Some(Unsupported::Subset) => {
                "has a subset policy, so its requests are left to Envoy: make a cluster of each subset, as Istio does"
            }
            Some(Unsupported::Aggregate) => {
                "is an aggregate, so its requests are left to Envoy: name the cluster inside it that has the nodes"
            }
            Some(Unsupported::OriginalDestination) => {
                "is of type ORIGINAL_DST, so its requests are left to Envoy: use EDS, DNS or STATIC"
            }
            Some(Unsupported::DynamicForwardProxy) => {
                "is a dynamic forward proxy, so its requests are left to Envoy: use EDS, DNS or STATIC"
            }
            None if !self.is_steered => "has no override_host policy, so it does not go where Berth says",
            None => return None,
        })
    }

    /// True if hosts without these facts would be other nodes, or stand elsewhere on the ring.
    #[must_use]
    pub fn matter(&self) -> bool {
        self.hashes_by_hostname || self.weighs_localities || !self.endpoints.hash_keys.is_empty()
    }

    /// Makes of each host the node that it is: under the name that Envoy hashes, in the order of Envoy's ring and with the
    /// weight of its locality. Returns the first name that cannot tell nodes apart; hosts with
    /// such a name stay what they are without it.
    pub fn apply(&self, hosts: &mut Vec<Observation>) -> Option<String> {
        identity::keep_first(hosts);
        for host in hosts.iter_mut() {
            let hostname = std::mem::take(&mut host.hostname);
            host.name = match self.endpoints.hash_key(&host.address) {
                Some(key) => Some(key.to_owned()),
                None => self.hashes_by_hostname.then_some(hostname),
            };
        }
        if self.weighs_localities {
            self.weigh(hosts);
        }
        identity::settle(hosts)
    }

    /// Orders hosts as Envoy's ring does when it weighs localities. One in a locality that is not known has no weight.
    fn weigh(&self, hosts: &mut Vec<Observation>) {
        let localities = &self.endpoints.localities;
        let mut order = Index::default();
        for (place, host) in (0_u32..).zip(hosts.iter_mut()) {
            let found = localities.iter().position(|locality| locality.is_of(host));
            let locality = found.and_then(|found| localities.get(found));
            host.locality_weight = Some(locality.map_or(0, |locality| locality.weight));
            let rank = found.map_or(u64::from(u32::MAX), |found| found as u64);
            order.push((u64::from(host.priority) << 32 | rank, place));
        }
        order.sort_unstable();
        let taken = order.iter().filter_map(|(_, place)| hosts.get_mut(*place as usize).map(std::mem::take));
        *hosts = taken.collect();
    }
}

impl Endpoints {
    fn hash_key(&self, address: &str) -> Option<&str> {
        let hash = session_hash(address.as_bytes());
        let start = self.index.partition_point(|(other, _)| *other < hash);
        let (_, place) = self.index.get(start)?;
        let (known, key) = self.hash_keys.get(*place as usize)?;
        (known == address).then_some(key)
    }
}

impl Locality {
    fn is_of(&self, host: &Observation) -> bool {
        self.priority == host.priority && self.name == host.locality
    }
}

/// The facts of all clusters that a dump names.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Clusters(Vec<ClusterFacts>);

impl Clusters {
    /// Reads the answer to [`CLUSTERS_QUERY`]; `None` if `dump` is not such an answer.
    #[must_use]
    pub fn read(dump: &[u8]) -> Option<Self> {
        let mut clusters = Vec::new();
        let mut facts = ClusterFacts::default();
        let mut check = Check::default();
        let whole = skim(std::str::from_utf8(dump).ok()?, &mut |path, step| {
            let Some(way) = below(path, &["static_clusters[].cluster", "dynamic_active_clusters[].cluster"])
            else {
                return;
            };
            match (way, step) {
                ("", Step::End) => {
                    if facts.service.is_empty() {
                        facts.service.clone_from(&facts.name);
                    }
                    clusters.push(std::mem::take(&mut facts));
                }
                (".health_checks[]", _) => {
                    facts.check_period = facts.check_period.max(Some(std::mem::take(&mut check).period()));
                }
                (_, Step::Text(text) | Step::Word(text)) => match way.strip_prefix(".health_checks[].") {
                    Some(field) => check.note(field, text),
                    None => facts.note(way, text),
                },
                (_, Step::End) => facts.note(way, ""),
            }
        });
        whole.then_some(Self(clusters))
    }

    /// Adds the answer to [`ENDPOINTS_QUERY`]. False if `dump` is not such an answer.
    pub fn read_endpoints(&mut self, dump: &[u8]) -> bool {
        let Ok(dump) = std::str::from_utf8(dump) else { return false };
        let mut reader = Reader::default();
        skim(dump, &mut |path, step| {
            let kinds =
                ["static_endpoint_configs[].endpoint_config", "dynamic_endpoint_configs[].endpoint_config"];
            let Some(way) = below(path, &kinds) else { return };
            if let ("", Step::End) = (way, step) {
                let mut endpoints = std::mem::take(&mut reader.endpoints);
                endpoints.index.sort_unstable();
                let endpoints = Rc::new(endpoints);
                for facts in self.0.iter_mut().filter(|facts| facts.service == endpoints.service) {
                    facts.endpoints = Rc::clone(&endpoints);
                }
            } else {
                reader.note(way, step);
            }
        })
    }

    /// What the endpoints are called by whose facts are still to be read.
    pub fn services(&self) -> impl Iterator<Item = &str> {
        self.0.iter().filter(|facts| facts.unsupported.is_none()).map(|facts| facts.service.as_str())
    }

    /// What is known of the cluster of this name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&ClusterFacts> {
        self.0.iter().find(|facts| facts.name == name)
    }

    /// True if it matters for some cluster that its facts are up to date: see [`ClusterFacts::matter`].
    #[must_use]
    pub fn matter(&self) -> bool {
        self.0.iter().any(ClusterFacts::matter)
    }
}

impl ClusterFacts {
    /// Takes in what a cluster's configuration says at this place, nothing at the end of a list or object. Of its policies
    /// only the types count, wherever they stand: `override_host` falls back to others, and a subset policy holds others.
    fn note(&mut self, way: &str, text: &str) {
        match way {
            ".name" => self.name = text.to_owned(),
            ".eds_cluster_config.service_name" => self.service = text.to_owned(),
            ".type" if text == "ORIGINAL_DST" => self.unsupported = Some(Unsupported::OriginalDestination),
            // The name beside it is free text.
            ".cluster_type.typed_config.@type" if text.contains(".clusters.aggregate.") => {
                self.unsupported = Some(Unsupported::Aggregate);
            }
            ".cluster_type.typed_config.@type" if text.contains(".clusters.dynamic_forward_proxy.") => {
                self.unsupported = Some(Unsupported::DynamicForwardProxy);
            }
            ".lb_subset_config.subset_selectors" => self.unsupported = Some(Unsupported::Subset),
            _ if way.starts_with(".load_balancing_policy.") => match way.rsplit('.').next() {
                Some("@type") if text.ends_with(".OverrideHost") => self.is_steered = true,
                // Without selectors it parts nothing.
                Some("subset_selectors") => self.unsupported = Some(Unsupported::Subset),
                Some("use_hostname_for_hashing") => self.hashes_by_hostname = text == "true",
                Some("locality_weighted_lb_config") => self.weighs_localities = true,
                _ => {}
            },
            _ => {}
        }
    }
}

/// One active check.
#[derive(Default)]
struct Check {
    /// The longest of its intervals while the cluster has traffic.
    interval: Millis,
    /// The longest of those without traffic.
    no_traffic_interval: Option<Millis>,
    /// By how much its intervals may be longer, in percent.
    jitter_percent: u64,
    /// The timeout and a jitter.
    more: Millis,
    /// So many checks must fail before one counts.
    threshold: u64,
}

impl Check {
    fn note(&mut self, field: &str, text: &str) {
        match field {
            "timeout" | "interval_jitter" => self.more = self.more + duration(text),
            "interval_jitter_percent" => self.jitter_percent = text.parse().unwrap_or(100),
            "unhealthy_threshold" => self.threshold = text.parse().unwrap_or(1),
            _ if field.starts_with("no_traffic") => {
                self.no_traffic_interval = self.no_traffic_interval.max(Some(duration(text)));
            }
            _ if field.ends_with("interval") => self.interval = self.interval.max(duration(text)),
            _ => {}
        }
    }

    fn period(self) -> Millis {
        // Only the first of several that must fail can be one without traffic: the failures that are to be judged are some.
        let first = self.interval.max(self.no_traffic_interval.unwrap_or(NO_TRAFFIC_INTERVAL));
        let jitter = |interval: Millis| Millis(interval.0.saturating_mul(self.jitter_percent) / 100);
        let one = |interval: Millis| interval + jitter(interval) + self.more;
        one(first) + Millis(one(self.interval).0.saturating_mul(self.threshold.max(1) - 1))
    }
}

/// The endpoints of one cluster, as far as they have been read.
#[derive(Default)]
struct Reader {
    endpoints: Endpoints,
    locality: Locality,
    address: String,
    hash_key: String,
}

impl Reader {
    /// Takes in what stands at this place. Keys come in the order of their fields' numbers: the address before the port,
    /// a listener before the endpoint's id.
    fn note(&mut self, way: &str, step: Step<'_>) {
        let (Step::Text(text) | Step::Word(text)) = step else {
            match way {
                ".endpoints[]" => self.endpoints.localities.push(std::mem::take(&mut self.locality)),
                ".endpoints[].lb_endpoints[]" => self.end_host(),
                _ => {}
            }
            return;
        };
        let key = last_key(way);
        if let Some(way) = way.strip_prefix(".endpoints[].lb_endpoints[].") {
            if way.starts_with("endpoint.address.") {
                self.note_address(key, text);
            } else if way == "metadata.filter_metadata.envoy.lb.hash_key" && matches!(step, Step::Text(_)) {
                text.clone_into(&mut self.hash_key);
            }
            return;
        }
        match key {
            "cluster_name" => text.clone_into(&mut self.endpoints.service),
            "region" | "zone" | "sub_zone" => join_locality(&mut self.locality.name, text),
            "load_balancing_weight" => self.locality.weight = text.parse().unwrap_or(0),
            "priority" => self.locality.priority = text.parse().unwrap_or(0),
            _ => {}
        }
    }

    /// Puts an address together as `/clusters` writes it.
    fn note_address(&mut self, key: &str, text: &str) {
        match key {
            "address" if text.contains(':') => self.add_address("[", text, "]"),
            "address" | "path" | "endpoint_id" => self.add_address("", text, ""),
            "port_value" => self.add_address(":", text, ""),
            "server_listener_name" => self.add_address("envoy://", text, "/"),
            _ => {}
        }
    }

    fn add_address(&mut self, before: &str, text: &str, after: &str) {
        self.address.push_str(before);
        self.address.push_str(text);
        self.address.push_str(after);
    }

    fn end_host(&mut self) {
        let (address, key) = (std::mem::take(&mut self.address), std::mem::take(&mut self.hash_key));
        if !key.is_empty() {
            let Endpoints { hash_keys, index, .. } = &mut self.endpoints;
            index.push((session_hash(address.as_bytes()), hash_keys.len() as u32));
            hash_keys.push((address, key));
        }
    }
}

fn last_key(way: &str) -> &str {
    way.rsplit_once('.').map_or(way, |(_, key)| key)
}

/// The rest of a path that begins with one of these in any of a dump's configurations.
fn below<'p>(path: &'p str, places: &[&str]) -> Option<&'p str> {
    let path = path.strip_prefix(".configs[].")?;
    places.iter().find_map(|place| path.strip_prefix(place))
}

/// `3s`, `0.250s`: digits of a fraction come in threes.
fn duration(text: &str) -> Millis {
    let mut millis: u64 = 0;
    let mut after_point: Option<u32> = None;
    for byte in text.bytes() {
        match (byte, after_point) {
            (b'.', _) => after_point = Some(0),
            (b'0'..=b'9', None | Some(0..=2)) => {
                millis = millis.saturating_mul(10).saturating_add(u64::from(byte - b'0'));
                after_point = after_point.map(|digits| digits + 1);
            }
            _ => {}
        }
    }
    Millis(if after_point.is_none() { millis.saturating_mul(1000) } else { millis })
}

#[cfg(test)]
mod tests;
