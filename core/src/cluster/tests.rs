use super::*;
use crate::membership::HostFlags;

const CLUSTERS: &[u8] = include_bytes!("../../testdata/cluster/clusters.json");
const ENDPOINTS: &[u8] = include_bytes!("../../testdata/cluster/endpoints.json");

fn clusters() -> Clusters {
    let mut clusters = Clusters::read(CLUSTERS).unwrap();
    assert!(clusters.read_endpoints(ENDPOINTS));
    clusters
}

fn host(address: &str) -> Observation {
    Observation { address: address.into(), weight: 1, ..Observation::default() }
}

fn named(address: &str, name: &str, flags: HostFlags) -> Observation {
    Observation { hostname: name.into(), flags, ..host(address) }
}

fn by_hostname() -> ClusterFacts {
    ClusterFacts { hashes_by_hostname: true, ..ClusterFacts::default() }
}

/// Each node's name and address.
fn nodes(hosts: &[Observation]) -> Vec<(&str, &str)> {
    hosts.iter().map(|host| (host.name.as_deref().unwrap_or(""), host.address.as_str())).collect()
}

const WELL: HostFlags =
    HostFlags { unhealthy: false, ejected: false, pending: false, degraded: false, draining: false };
const ILL: HostFlags = HostFlags { unhealthy: true, ..WELL };
const LEAVING: HostFlags = HostFlags { draining: true, ..WELL };

#[test]
fn kinds_that_cannot_be_steered_are_known_by_their_configuration() {
    let clusters = clusters();

    for (name, unsupported) in [
        ("nodes", None),
        ("st", None),
        ("dns", None),
        ("dyn", Some(Unsupported::Subset)),
        ("mg", Some(Unsupported::Subset)),
        ("agg", Some(Unsupported::Aggregate)),
        ("od", Some(Unsupported::OriginalDestination)),
        ("dfp", Some(Unsupported::DynamicForwardProxy)),
    ] {
        let facts = clusters.get(name).unwrap();
        assert_eq!(facts.unsupported, unsupported, "{name}");
        assert_eq!(facts.is_steered, matches!(name, "nodes" | "dyn"), "{name}");
        assert_eq!(facts.complaint().is_none(), name == "nodes", "{name}");
    }
    assert_eq!(clusters.get("svc"), None);
    // Of the others no endpoints are needed.
    assert_eq!(clusters.services().collect::<Vec<_>>(), ["dns", "svc", "pipes", "st"]);
}

#[test]
fn a_check_has_answered_after_its_longest_interval_jitter_and_timeout() {
    let clusters = clusters();

    // max(1 s, 2 s unhealthy, 1 s without traffic) and 50 % of it, 250 ms, and a timeout of 3 s.
    assert_eq!(clusters.get("nodes").unwrap().check_period, Some(Millis(6250)));
    // Without traffic once a minute, as nothing else is said.
    assert_eq!(clusters.get("mg").unwrap().check_period, Some(Millis(63_000)));
    assert_eq!(clusters.get("st").unwrap().check_period, None);
}

#[test]
fn hosts_take_their_hash_key_hostname_place_and_weight_of_the_locality() {
    let clusters = clusters();
    let facts = clusters.get("nodes").unwrap();
    assert!(facts.matter());
    let at = |locality: &str, host: Observation| Observation { locality: locality.into(), ..host };
    // As /clusters lists them: in the order of EDS, while the ring goes by locality.
    let mut hosts = vec![
        at("eu/y", host("127.0.0.1:9003")),
        at("eu/y", host("[::1]:9006")),
        at("eu/x", named("127.0.0.1:9001", "pod-0", WELL)),
        at("eu/x", named("127.0.0.1:9002", "pod-1", WELL)),
        at("eu/z", host("127.0.0.1:9004")),
        Observation { priority: 1, ..at("us/z/s", host("envoy://x0/10.0.0.9:80")) },
        at("eu/new", named("127.0.0.1:9005", "pod-5", WELL)),
    ];

    let bad = facts.apply(&mut hosts);

    let seen: Vec<_> = hosts
        .iter()
        .map(|host| {
            (host.name.as_deref().unwrap_or(""), host.address.as_str(), host.locality_weight.unwrap())
        })
        .collect();
    let expected = [
        ("", "127.0.0.1:9001", 5),
        // A number is no hash key.
        ("pod-1", "127.0.0.1:9002", 5),
        ("", "127.0.0.1:9003", 95),
        ("six", "[::1]:9006", 95),
        ("", "127.0.0.1:9004", 0),
        ("pod-5", "127.0.0.1:9005", 0),
        ("inner", "envoy://x0/10.0.0.9:80", 1),
    ];
    assert_eq!(seen, expected);
    assert!(bad.is_some(), "three have no hostname, one has a key with quotes");
    let mut pipe = vec![host("/run/a.sock")];
    clusters.get("pipes").unwrap().apply(&mut pipe);
    assert_eq!(nodes(&pipe), [("p", "/run/a.sock")]);
}

#[test]
fn durations_are_read_to_the_millisecond() {
    for (text, millis) in
        [("3s", 3000), ("0.250s", 250), ("1.000000001s", 1000), ("60.500s", 60_500), ("", 0)]
    {
        assert_eq!(duration(text), Millis(millis), "{text}");
    }
}

#[test]
fn without_such_options_hosts_stay_what_clusters_says() {
    let listed = vec![named("10.0.0.2:80", "b", WELL), named("10.0.0.1:80", "a", WELL)];

    let mut hosts = listed.clone();
    let bad = ClusterFacts::default().apply(&mut hosts);

    assert_eq!((nodes(&hosts), bad), (vec![("", "10.0.0.2:80"), ("", "10.0.0.1:80")], None));
    assert!(hosts.iter().all(|host| host.locality_weight.is_none()));
}

#[test]
fn one_address_in_two_priorities_is_one_host_and_keeps_its_name() {
    let second = |address: &str| Observation { priority: 1, ..named(address, address, WELL) };
    let first = |address: &str| named(address, address, WELL);
    let mut hosts = vec![first("a:1"), first("b:1"), second("b:1"), second("c:1")];
    hosts.iter_mut().for_each(|host| host.hostname = format!("pod-{}", &host.address[..1]));

    assert_eq!(by_hostname().apply(&mut hosts), None);

    assert_eq!(nodes(&hosts), [("pod-a", "a:1"), ("pod-b", "b:1"), ("pod-c", "c:1")]);
    assert_eq!(hosts[1].priority, 0);
}

#[test]
fn a_host_that_was_given_another_name_is_not_its_former_self_too() {
    // Envoy keeps the former one, at the end, for as long as it passes its checks.
    let mut hosts =
        vec![named("a:1", "pod-a", WELL), named("b:1", "pod-b", WELL), named("a:1", "old", LEAVING)];

    assert_eq!(by_hostname().apply(&mut hosts), None);

    assert_eq!(nodes(&hosts), [("pod-a", "a:1"), ("pod-b", "b:1")]);
}

#[test]
fn a_name_that_cannot_tell_nodes_apart_is_none() {
    let long = "n".repeat(261);
    for name in
        ["", "a|b", "a,b", "a;b", "a b", "a\tb", "a\u{7f}", "a\\u003cb", "é", long.as_str(), "10.0.0.9:80"]
    {
        let mut hosts = vec![
            named("10.0.0.1:80", name, WELL),
            named("10.0.0.2:80", "good", WELL),
            named("10.0.0.9:80", "x", WELL),
        ];

        let bad = by_hostname().apply(&mut hosts);

        assert_eq!(bad.as_deref(), Some(name));
        assert_eq!(
            nodes(&hosts),
            [("", "10.0.0.1:80"), ("good", "10.0.0.2:80"), ("x", "10.0.0.9:80")],
            "{name:?}"
        );
    }
    // As STRICT_DNS gives all hosts one.
    let mut hosts = vec![named("10.0.0.1:80", "n.test", WELL), named("10.0.0.2:80", "n.test", ILL)];
    assert_eq!(by_hostname().apply(&mut hosts).as_deref(), Some("n.test"));
    assert_eq!(nodes(&hosts), [("", "10.0.0.1:80"), ("", "10.0.0.2:80")]);
    let mut hosts = vec![named("10.0.0.1:80", "10.0.0.1:80", WELL)];
    assert_eq!(by_hostname().apply(&mut hosts), None);
    assert_eq!(nodes(&hosts), [("10.0.0.1:80", "10.0.0.1:80")]);
}

#[test]
fn a_node_that_moves_is_where_it_stays_once_that_is_well() {
    for (old, new, address) in [
        (LEAVING, WELL, "new:1"),
        (LEAVING, ILL, "old:1"),
        (LEAVING, HostFlags { pending: true, ..WELL }, "old:1"),
        (HostFlags { unhealthy: true, ..LEAVING }, ILL, "new:1"),
    ] {
        for swapped in [false, true] {
            let mut hosts = vec![named("old:1", "pod-1", old), named("new:1", "pod-1", new)];
            if swapped {
                hosts.reverse();
            }
            assert_eq!(by_hostname().apply(&mut hosts), None);
            assert_eq!(nodes(&hosts), [("pod-1", address)], "{old:?} {new:?}");
        }
    }
}

#[test]
fn what_is_no_dump_is_none() {
    for text in [&b""[..], b"{", b"[", b"\xff", b"not found", &CLUSTERS[..CLUSTERS.len() - 3]] {
        assert_eq!(Clusters::read(text), None);
        assert!(!Clusters::default().read_endpoints(text));
    }
    assert_eq!(Clusters::read(b"{}"), Some(Clusters::default()));
}
