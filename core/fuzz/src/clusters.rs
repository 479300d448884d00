//! What an admin interface may answer, poll by poll: a roster whose sessions can be placed.
//!
//! The input is a `/clusters` text; a line of `---` begins the next poll. The polls are folded into one roster per
//! cluster at times that jump and go backwards.

use berth_core::cluster::Clusters;
use berth_core::health::HealthPolicy;
use berth_core::membership::parse_clusters;
use berth_core::ring::Algorithm;
use berth_core::roster::Roster;
use berth_core::time::Millis;

use super::roster::check_view;
use super::sections;

/// One of them begins with the other's name; the third is asked for and may be absent.
const CLUSTERS: [&str; 3] = ["nodes", "nodes::x", "other"];
/// Seconds at which polls come, over and over.
const TIMES: [u64; 6] = [1_000_000, 1_000_001, 1_000_031, 999_000, u64::MAX / 1000, 0];
/// Patient and impatient, with and without warm-up and panic.
const POLICIES: [HealthPolicy; 2] = [
    HealthPolicy::DEFAULT,
    HealthPolicy {
        cooldown: Millis(100),
        max_cooldown: Millis(86_400_000),
        warm_up: Millis(86_400_000),
        warm_up_from_percent: 0,
        passive_failures: 0,
        panic_threshold: 0,
        panic_hold: Millis(0),
        vanish_grace: Millis(0),
    },
];

/// Folds every poll into rosters, and looks at each of them. As a dump of the configuration it is refused or read.
pub fn check(input: &[u8]) {
    let mut clusters = Clusters::read(input).unwrap_or_default();
    clusters.read_endpoints(input);
    for policy in &POLICIES {
        let mut rosters = CLUSTERS.map(|_| Roster::default());
        let mut times = TIMES.iter().cycle();
        let mut now = Millis(0);
        for text in sections(input) {
            now = Millis(times.next().unwrap().saturating_mul(1000));
            let hosts = parse_clusters(&text, &CLUSTERS.map(String::from));
            for (roster, hosts) in rosters.iter_mut().zip(hosts) {
                let Some(hosts) = hosts else { continue };
                assert!(hosts.iter().all(|host| host.weight > 0), "a weight of zero: {hosts:?}");

                let version = roster.version;
                let news = roster.observe(hosts.clone(), policy, now);
                assert_eq!(news, roster.version != version, "the version tells the news");
                assert!(!roster.observe(hosts.clone(), policy, now), "the same look again is no news");
                if let Some(first) = roster.nodes.first().map(|node| node.address.clone()) {
                    roster.report_failure(&first, policy, now);
                }
                roster.reassess(policy, now);
                assert_eq!(Roster::decode(&roster.encode()).as_ref(), Some(&*roster), "published as it is");
            }
        }
        // Rings cost more than all the rest, and are the roster's target to try.
        for roster in rosters.iter().filter(|roster| !roster.nodes.is_empty()) {
            check_view(roster, Algorithm::Rendezvous, policy, now);
        }
    }
}
