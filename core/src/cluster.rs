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

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::membership::{Observation, join_locality};
use crate::time::Millis;
use skim::{Step, skim};

/// How Envoy's admin names what [`Clusters::read`] reads.
pub const CLUSTERS_QUERY: &str = "/config_dump?mask=static_clusters,dynamic_active_clusters&name_regex=";
/// How it names what [`Clusters::read_endpoints`] reads.
pub const ENDPOINTS_QUERY: &str =
    "/config_dump?include_eds&mask=static_endpoint_configs,dynamic_endpoint_configs&name_regex=";

/// Until it has had traffic, Envoy checks a cluster once a minute unless it is configured otherwise.
const NO_TRAFFIC_INTERVAL: Millis = Millis(60_000);

/// A kind of cluster that cannot be steered: its own choice comes before or after that of `override_host`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
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

impl Unsupported {
    /// What it is, and what to do.
    #[must_use]
    pub fn advice(self) -> &'static str {
        match self {
            Self::Subset => {
                "has a subset policy, which a destination would overrule: make a cluster of each subset, as Istio does"
            }
            Self::Aggregate => {
                "is an aggregate: name the cluster inside it that has the nodes as the pool's cluster"
            }
            Self::OriginalDestination => {
                "is of type ORIGINAL_DST, which goes where the client wanted: use EDS, DNS or STATIC"
            }
            Self::DynamicForwardProxy => {
                "is a dynamic forward proxy, which goes where the request says: use EDS, DNS or STATIC"
            }
        }
    }
}

/// What is known of one cluster.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct ClusterFacts {
    /// Why its requests cannot be steered, if so.
    pub unsupported: Option<Unsupported>,
    /// Its policy, or one that it falls back to, reads the destination header.
    pub is_steered: bool,
    /// The time within which its active check of a host surely comes to a result.
    pub check_period: Option<Millis>,
    /// What its endpoints are called by.
    service: String,
    hashes_by_hostname: bool,
    weighs_localities: bool,
    /// In the order of Envoy's rings, if it weighs them.
    localities: Vec<Locality>,
    /// `envoy.lb`'s `hash_key` by address.
    hash_keys: BTreeMap<String, String>,
}

#[derive(Debug, Default, Clone, PartialEq, Eq)]
struct Locality {
    priority: u32,
    name: String,
    weight: u32,
}

impl ClusterFacts {
    /// True if hosts without these facts would be other nodes, or stand elsewhere on the ring.
    #[must_use]
    pub fn matter(&self) -> bool {
        self.hashes_by_hostname || self.weighs_localities || !self.hash_keys.is_empty()
    }

    /// Makes of each host the node that it is: once in the list, under the name that Envoy hashes, in the order of
    /// Envoy's ring and with the weight of its locality. Returns the first name that cannot tell nodes apart; hosts with
    /// such a name stay what they are without it.
    pub fn apply(&self, hosts: &mut Vec<Observation>) -> Option<String> {
        identity::keep_first(hosts);
        for host in hosts.iter_mut() {
            let hostname = std::mem::take(&mut host.hostname);
            host.name = match self.hash_keys.get(&host.address) {
                Some(key) => Some(key.clone()),
                None => self.hashes_by_hostname.then_some(hostname),
            };
        }
        if self.weighs_localities {
            let place = |host: &Observation| self.localities.iter().position(|place| place.is_of(host));
            // An unknown one has no weight and is last.
            hosts.sort_by_cached_key(|host| (host.priority, place(host).unwrap_or(usize::MAX)));
            for host in hosts.iter_mut() {
                let weight =
                    place(host).and_then(|place| self.localities.get(place)).map(|place| place.weight);
                host.locality_weight = Some(weight.unwrap_or(0));
            }
        }
        identity::settle(hosts)
    }
}

impl Locality {
    fn is_of(&self, host: &Observation) -> bool {
        self.priority == host.priority && self.name == host.locality
    }
}

/// The facts of all clusters that a dump names.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Clusters(BTreeMap<String, ClusterFacts>);

impl Clusters {
    /// Reads the answer to [`CLUSTERS_QUERY`]; `None` if it is none.
    #[must_use]
    pub fn read(dump: &[u8]) -> Option<Self> {
        let mut clusters = BTreeMap::new();
        let mut name = String::new();
        let mut facts = ClusterFacts::default();
        let mut check = Check::default();
        let whole = skim(std::str::from_utf8(dump).ok()?, |path, step| {
            let ["configs", _, _, _, "cluster", way @ ..] = path else { return };
            match (way, step) {
                ([], Step::End) => {
                    if facts.service.is_empty() {
                        facts.service.clone_from(&name);
                    }
                    clusters.insert(std::mem::take(&mut name), std::mem::take(&mut facts));
                }
                (["name"], Step::Text(text)) => name = unescape(text),
                (["eds_cluster_config", "service_name"], Step::Text(text)) => facts.service = unescape(text),
                (["health_checks", _], Step::End) => {
                    facts.check_period = facts.check_period.max(Some(std::mem::take(&mut check).period()));
                }
                (["health_checks", _, field], Step::Text(text)) => check.note(field, text),
                (["health_checks", _, "interval_jitter_percent"], Step::Word(text)) => {
                    check.jitter_percent = text.parse().unwrap_or(0);
                }
                _ => facts.note(way, step),
            }
        });
        whole.then_some(Self(clusters))
    }

    /// Adds the answer to [`ENDPOINTS_QUERY`]. False if it is none.
    pub fn read_endpoints(&mut self, dump: &[u8]) -> bool {
        let Ok(dump) = std::str::from_utf8(dump) else { return false };
        let mut reader = Endpoints::default();
        skim(dump, |path, step| {
            let ["configs", _, _, _, "endpoint_config", way @ ..] = path else { return };
            if let ([], Step::End) = (way, step) {
                let Endpoints { service, localities, hash_keys, .. } = std::mem::take(&mut reader);
                for facts in self.0.values_mut().filter(|facts| facts.service == service) {
                    facts.hash_keys.extend(hash_keys.clone());
                    if facts.weighs_localities {
                        facts.localities.clone_from(&localities);
                    }
                }
            } else {
                reader.note(way, step);
            }
        })
    }

    /// What the endpoints are called by whose facts are still to be read.
    pub fn services(&self) -> impl Iterator<Item = &str> {
        self.0.values().filter(|facts| facts.unsupported.is_none()).map(|facts| facts.service.as_str())
    }

    /// What is known of the cluster of this name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&ClusterFacts> {
        self.0.get(name)
    }

    /// True if it matters for some cluster that its facts are up to date: see [`ClusterFacts::matter`].
    #[must_use]
    pub fn matter(&self) -> bool {
        self.0.values().any(ClusterFacts::matter)
    }
}

impl ClusterFacts {
    /// Takes in what a cluster's configuration says at this place. Of its policies only the types count, wherever they
    /// stand: `override_host` falls back to others, and a subset policy holds others.
    fn note(&mut self, way: &[&str], step: Step<'_>) {
        match (way, step) {
            (["type"], Step::Text("ORIGINAL_DST")) => {
                self.unsupported = Some(Unsupported::OriginalDestination);
            }
            (["cluster_type", "name"], Step::Text("envoy.clusters.aggregate")) => {
                self.unsupported = Some(Unsupported::Aggregate);
            }
            (["cluster_type", "name"], Step::Text("envoy.clusters.dynamic_forward_proxy")) => {
                self.unsupported = Some(Unsupported::DynamicForwardProxy);
            }
            (["lb_subset_config", "subset_selectors"], Step::End) => {
                self.unsupported = Some(Unsupported::Subset);
            }
            (["load_balancing_policy", .., "@type"], Step::Text(kind)) => match kind.rsplit('.').next() {
                Some("OverrideHost") => self.is_steered = true,
                Some("Subset") => self.unsupported = Some(Unsupported::Subset),
                _ => {}
            },
            (["load_balancing_policy", .., "use_hostname_for_hashing"], Step::Word("true")) => {
                self.hashes_by_hostname = true;
            }
            (["load_balancing_policy", .., "locality_weighted_lb_config"], Step::End) => {
                self.weighs_localities = true;
            }
            _ => {}
        }
    }
}

/// One active check.
#[derive(Default)]
struct Check {
    longest_interval: Millis,
    no_traffic_interval: Option<Millis>,
    timeout: Millis,
    jitter: Millis,
    jitter_percent: u64,
}

impl Check {
    fn note(&mut self, field: &str, text: &str) {
        let Some(time) = duration(text) else { return };
        match field {
            "timeout" => self.timeout = time,
            "interval_jitter" => self.jitter = time,
            "no_traffic_interval" => self.no_traffic_interval = Some(time),
            _ if field.ends_with("interval") => self.longest_interval = self.longest_interval.max(time),
            _ => {}
        }
    }

    fn period(self) -> Millis {
        let interval = self.longest_interval.max(self.no_traffic_interval.unwrap_or(NO_TRAFFIC_INTERVAL));
        Millis(interval.0 + interval.0 * self.jitter_percent.min(100) / 100) + self.jitter + self.timeout
    }
}

/// The endpoints of one cluster, as far as they have been read.
#[derive(Default)]
struct Endpoints {
    service: String,
    localities: Vec<Locality>,
    hash_keys: BTreeMap<String, String>,
    locality: Locality,
    address: String,
    port: String,
    hash_key: Option<String>,
}

impl Endpoints {
    fn note(&mut self, way: &[&str], step: Step<'_>) {
        match (way, step) {
            (["cluster_name"], Step::Text(text)) => self.service = unescape(text),
            (["endpoints", _, rest @ ..], step) => self.note_locality(rest, step),
            _ => {}
        }
    }

    fn note_locality(&mut self, way: &[&str], step: Step<'_>) {
        match (way, step) {
            ([], Step::End) => self.localities.push(std::mem::take(&mut self.locality)),
            (["locality", "region" | "zone" | "sub_zone"], Step::Text(text)) => {
                join_locality(&mut self.locality.name, &unescape(text));
            }
            (["load_balancing_weight"], Step::Word(text)) => {
                self.locality.weight = text.parse().unwrap_or(0);
            }
            (["priority"], Step::Word(text)) => self.locality.priority = text.parse().unwrap_or(0),
            (["lb_endpoints", _], Step::End) => {
                let (address, port) = (std::mem::take(&mut self.address), std::mem::take(&mut self.port));
                if let Some(key) = self.hash_key.take() {
                    let address = match (port.as_str(), address.contains(':')) {
                        ("", _) => address,
                        (port, true) => format!("[{address}]:{port}"),
                        (port, false) => format!("{address}:{port}"),
                    };
                    self.hash_keys.insert(address, key);
                }
            }
            (["lb_endpoints", _, "endpoint", "address", way @ ..], step) => self.note_address(way, step),
            (
                ["lb_endpoints", _, "metadata", "filter_metadata", "envoy.lb", "hash_key"],
                Step::Text(text),
            ) if !text.is_empty() => {
                self.hash_key = Some(unescape(text));
            }
            _ => {}
        }
    }

    /// As `/clusters` writes it.
    fn note_address(&mut self, way: &[&str], step: Step<'_>) {
        match (way, step) {
            (["socket_address", "address"] | ["pipe", "path"], Step::Text(text)) => {
                self.address = unescape(text);
            }
            (["socket_address", "port_value"], Step::Word(text)) => self.port = text.to_owned(),
            (["envoy_internal_address", "server_listener_name"], Step::Text(text)) => {
                self.address = format!("envoy://{}/", unescape(text));
            }
            (["envoy_internal_address", "endpoint_id"], Step::Text(text)) => {
                self.address.push_str(&unescape(text));
            }
            _ => {}
        }
    }
}

/// `"3s"`, `"0.250s"`.
fn duration(text: &str) -> Option<Millis> {
    let seconds: f64 = text.strip_suffix('s')?.parse().ok()?;
    Some(Millis((seconds * 1000.0).ceil() as u64))
}

/// What a JSON string says.
fn unescape(text: &str) -> String {
    if !text.contains('\\') {
        return text.to_owned();
    }
    serde_json::from_str(&format!("\"{text}\"")).unwrap_or_default()
}

#[cfg(test)]
mod tests;
