//! What Envoy says of its hosts: the admin's `/clusters` text, read into [`Observation`]s.
//!
//! The text costs a fifth of the JSON form on Envoy's main thread. Its lines are `cluster::address::key::value`; hosts
//! come in the order of the host set, which the ring needs. Lines of other clusters and unknown keys are skipped,
//! because Envoy before 1.38 ignores `?filter=` and later versions add keys.

use crate::ring::session_hash;

use std::net::SocketAddr;

/// One host of a cluster, as Envoy sees it at this moment.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Observation {
    /// The textual address by which `override_host` knows the host: `ip:port` as a rule.
    pub address: String,
    /// The name that the cluster hashes the host by instead of its address, if it does: the node is then this name,
    /// wherever it listens.
    pub name: Option<String>,
    /// What Envoy calls it, empty if nothing; [`crate::cluster`] decides whether that is its name.
    pub hostname: String,
    /// Envoy's load-balancing weight, at least 1.
    pub weight: u32,
    /// Where it stands: `region/zone/sub_zone`, empty if Envoy's configuration names no locality.
    pub locality: String,
    /// What all hosts of its locality share, if the cluster weighs localities.
    pub locality_weight: Option<u32>,
    /// Envoy's priority; 0 is the first choice.
    pub priority: u32,
    /// What is wrong with it, if anything.
    pub flags: HostFlags,
}

impl Observation {
    /// What the node is called.
    #[must_use]
    pub fn name(&self) -> &str {
        self.name.as_deref().unwrap_or(&self.address)
    }
}

/// Envoy's health flags, folded into the four facts that placement asks for.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct HostFlags {
    /// An active check failed, or EDS says UNHEALTHY or TIMEOUT.
    pub unhealthy: bool,
    /// Envoy's outlier detection ejected it, by what requests to it came to.
    pub ejected: bool,
    /// Its first active check has not answered yet: nothing is known.
    pub pending: bool,
    /// EDS or its own health answer says DEGRADED.
    pub degraded: bool,
    /// EDS says DRAINING, or it left EDS and stays only because it is healthy.
    pub draining: bool,
}

/// What a look shows: the hosts of each cluster that was asked for, in that order.
pub type Hosts = Vec<Option<Vec<Observation>>>;

/// The hosts of each of `clusters` in an admin `/clusters` text, in host-set order.
///
/// A cluster that the text does not name at all has `None`: Envoy does not know it (yet), which is something else than a
/// cluster without hosts.
#[must_use]
pub fn parse_clusters(text: &[u8], clusters: &[String]) -> Hosts {
    let mut hosts: Hosts = vec![None; clusters.len()];
    // Each host's lines begin with the same key. Where one address is in two priorities, only that parts the two.
    let mut first_key = "";
    for line in text.split(|&byte| byte == b'\n') {
        let Ok(line) = std::str::from_utf8(line) else { continue };
        // A cluster's name may itself hold "::"; ours are known, so the longest of them that fits is meant.
        let Some((observed, rest)) = clusters
            .iter()
            .zip(&mut hosts)
            .filter_map(|(name, hosts)| Some((hosts, line.strip_prefix(name.as_str())?.strip_prefix("::")?)))
            .min_by_key(|(_, rest)| rest.len())
        else {
            continue;
        };
        let observed = observed.get_or_insert_default();
        // From the right: an IPv6 address holds "::" too, keys and values do not.
        let Some((rest, value)) = rest.rsplit_once("::") else { continue };
        let Some((address, key)) = rest.rsplit_once("::") else { continue };
        if !is_address(address) {
            continue;
        }
        if observed.last().is_none_or(|host| host.address != address) || key == first_key {
            first_key = key;
            observed.push(Observation { address: address.to_owned(), weight: 1, ..Observation::default() });
        }
        if let Some(host) = observed.last_mut() {
            note(host, key, value);
        }
    }
    hosts
}

/// The names of all clusters in an admin `/clusters` text, in its order.
#[must_use]
pub fn cluster_names(text: &[u8]) -> Vec<&str> {
    let names = text.split(|&byte| byte == b'\n').filter_map(|line| {
        let (name, _) = std::str::from_utf8(line).ok()?.rsplit_once("::observability_name::")?;
        Some(name)
    });
    names.collect()
}

fn note(host: &mut Observation, key: &str, value: &str) {
    match key {
        "weight" => host.weight = value.parse().unwrap_or(1).max(1),
        "priority" => host.priority = value.parse().unwrap_or(0),
        "health_flags" => host.flags = parse_flags(value),
        "hostname" => host.hostname = value.to_owned(),
        "region" | "zone" | "sub_zone" => join_locality(&mut host.locality, value),
        _ => {}
    }
}

/// Adds a region, zone or sub-zone to a locality's name.
pub(crate) fn join_locality(locality: &mut String, part: &str) {
    if !locality.is_empty() && !part.is_empty() {
        locality.push('/');
    }
    locality.push_str(part);
}

/// Another number if other hosts are there, or in another order, locality or priority, or under another name.
#[must_use]
pub fn fingerprint(hosts: &Hosts) -> u64 {
    let mut text = Vec::new();
    for hosts in hosts {
        text.push(if hosts.is_some() { b'\n' } else { b'\0' });
        for host in hosts.iter().flatten() {
            for part in [&host.address, &host.hostname, &host.locality] {
                text.extend_from_slice(part.as_bytes());
                text.push(b'\n');
            }
            text.extend_from_slice(&host.priority.to_le_bytes());
        }
    }
    session_hash(&text)
}

/// `healthy`, or flags each led by a slash: `/failed_active_hc/pending_active_hc`.
fn parse_flags(text: &str) -> HostFlags {
    let mut flags = HostFlags::default();
    for flag in text.split('/') {
        match flag {
            "failed_active_hc"
            | "failed_eds_health"
            | "active_hc_timeout"
            | "excluded_via_immediate_hc_fail" => flags.unhealthy = true,
            "failed_outlier_check" => flags.ejected = true,
            "pending_active_hc" => flags.pending = true,
            "degraded_active_hc" | "degraded_eds_health" | "degraded_outlier_detection" => {
                flags.degraded = true
            }
            "eds_status_draining" | "pending_dynamic_removal" => flags.draining = true,
            _ => {}
        }
    }
    // Envoy starts a checked host as failed: until the first answer that is ignorance, not a failure.
    if flags.pending {
        flags.unhealthy = false;
        flags.ejected = false;
    }
    flags
}

/// `1.2.3.4:80`, `[::1]:80`, an internal listener's `envoy://listener/endpoint`, a pipe's path or its abstract name;
/// cluster-level lines begin with a word, such as `observability_name`.
fn is_address(text: &str) -> bool {
    text.starts_with(['/', '@'])
        || text.starts_with("envoy://")
        || text.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok())
}

/// True if this can only be an address: a name may have a port too.
pub(crate) fn is_plain_address(text: &str) -> bool {
    text.starts_with(['/', '@']) || text.starts_with("envoy://") || text.parse::<SocketAddr>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\
nodes::observability_name::nodes
nodes::default_priority::max_connections::1024
nodes::added_via_api::false
nodes::127.0.0.1:9002::cx_active::0
nodes::127.0.0.1:9002::hostname::
nodes::127.0.0.1:9002::health_flags::healthy
nodes::127.0.0.1:9002::weight::3
nodes::127.0.0.1:9002::region::eu
nodes::127.0.0.1:9002::zone::a
nodes::127.0.0.1:9002::priority::0
nodes::127.0.0.1:9001::health_flags::/failed_active_hc/failed_outlier_check
nodes::127.0.0.1:9001::weight::1
nodes::[::1]:9003::health_flags::/failed_active_hc/pending_active_hc
nodes::[::1]:9003::priority::1
other::127.0.0.1:1::weight::9
nodes::x::127.0.0.1:7::weight::9
";

    fn nodes(text: &str) -> Vec<Observation> {
        parse_clusters(text.as_bytes(), &["nodes".into()]).remove(0).unwrap_or_default()
    }

    #[test]
    fn hosts_keep_envoys_order_weight_and_locality() {
        let hosts = nodes(TEXT);

        let seen: Vec<_> =
            hosts.iter().map(|h| (h.address.as_str(), h.weight, h.locality.as_str())).collect();
        assert_eq!(
            seen[..3],
            [("127.0.0.1:9002", 3, "eu/a"), ("127.0.0.1:9001", 1, ""), ("[::1]:9003", 1, "")]
        );
        assert_eq!(hosts[2].priority, 1);
    }

    #[test]
    fn flags_are_read_and_a_pending_first_check_is_not_a_failure() {
        let hosts = nodes(TEXT);

        assert_eq!(hosts[0].flags, HostFlags::default());
        assert!(hosts[1].flags.unhealthy && hosts[1].flags.ejected);
        assert_eq!(hosts[2].flags, HostFlags { pending: true, ..HostFlags::default() });
        let draining = nodes("nodes::10.0.0.1:1::health_flags::/eds_status_draining");
        assert!(draining[0].flags.draining && !draining[0].flags.unhealthy);
        let degraded = nodes("nodes::10.0.0.1:1::health_flags::/degraded_eds_health");
        assert!(degraded[0].flags.degraded);
    }

    /// Lines as Envoy 1.40 prints them.
    #[test]
    fn internal_listeners_and_pipes_are_hosts_and_lines_about_the_cluster_are_none() {
        let hosts = nodes(
            "nodes::observability_name::nodes\n\
             nodes::eds_service_name::envoy://x0/\n\
             nodes::outlier::success_rate_average::-1\n\
             nodes::default_priority::max_connections::1024\n\
             nodes::high_priority::max_retries::3\n\
             nodes::added_via_api::true\n\
             nodes::envoy://x0/::weight::2\n\
             nodes::envoy://connect_originate/10.0.0.9:8080::weight::3\n\
             nodes::envoy://connect_originate/[fd00::9]:8080::health_flags::/failed_active_hc\n\
             nodes::/run/node.sock::weight::4\n\
             nodes::@/berth/node::weight::5\n",
        );

        let seen: Vec<_> = hosts.iter().map(|host| (host.address.as_str(), host.weight)).collect();
        assert_eq!(
            seen,
            [
                ("envoy://x0/", 2),
                ("envoy://connect_originate/10.0.0.9:8080", 3),
                ("envoy://connect_originate/[fd00::9]:8080", 1),
                ("/run/node.sock", 4),
                ("@/berth/node", 5),
            ]
        );
        assert!(hosts[2].flags.unhealthy);
    }

    #[test]
    fn one_address_in_two_priorities_is_two_hosts_also_on_neighbouring_lines() {
        // As STATIC and STRICT_DNS clusters are printed.
        let host = |port: u16, priority: u32| {
            format!(
                "nodes::127.0.0.1:{port}::cx_active::0\nnodes::127.0.0.1:{port}::weight::1\n\
                 nodes::127.0.0.1:{port}::priority::{priority}\n"
            )
        };

        let hosts = nodes(&[host(1, 0), host(2, 0), host(2, 1), host(3, 1)].concat());

        let seen: Vec<_> = hosts.iter().map(|host| (host.address.as_str(), host.priority)).collect();
        let expected = [("127.0.0.1:1", 0), ("127.0.0.1:2", 0), ("127.0.0.1:2", 1), ("127.0.0.1:3", 1)];
        assert_eq!(seen, expected);
    }

    #[test]
    fn hosts_that_come_go_swap_or_move_give_another_fingerprint() {
        let host = |address: &str| Observation { address: address.into(), ..Observation::default() };
        let two = [host("10.0.0.1:80"), host("10.0.0.2:80")];
        let in_zone = Observation { locality: "eu".into(), ..two[0].clone() };
        let second = Observation { priority: 1, ..two[0].clone() };
        let named = Observation { hostname: "a".into(), ..two[0].clone() };
        let ill =
            Observation { flags: HostFlags { unhealthy: true, ..HostFlags::default() }, ..two[0].clone() };

        let of = |hosts: &[Observation]| fingerprint(&vec![Some(hosts.to_vec())]);
        for other in [in_zone, second, named] {
            assert_ne!(of(&two), of(&[other, two[1].clone()]));
        }
        assert_ne!(of(&two), of(&[two[1].clone(), two[0].clone()]));
        assert_ne!(of(&two), of(&two[..1]));
        assert_ne!(of(&[]), fingerprint(&vec![None]));
        assert_eq!(of(&two), of(&[ill, two[1].clone()]));
    }

    #[test]
    fn a_cluster_named_like_the_start_of_another_keeps_its_own_hosts() {
        let found = parse_clusters(TEXT.as_bytes(), &["nodes".into(), "nodes::x".into()]);

        assert_eq!(
            found.iter().map(|hosts| hosts.as_ref().map(Vec::len)).collect::<Vec<_>>(),
            [Some(3), Some(1)]
        );
    }

    #[test]
    fn an_unknown_cluster_is_absent_and_one_without_hosts_is_empty() {
        let found = parse_clusters(b"nodes::added_via_api::false\n", &["nodes".into(), "gone".into()]);

        assert_eq!(found, [Some(Vec::new()), None]);
    }
}
