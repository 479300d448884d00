//! Which name is a node's identity, and which of several hosts of one name is the node.

use std::collections::{BTreeMap, BTreeSet};

use crate::membership::Observation;

/// One address in two priorities is one host. Envoy lists the first choice first.
pub(super) fn keep_first(hosts: &mut Vec<Observation>) {
    let mut seen = BTreeSet::new();
    let first: Vec<bool> = hosts.iter().map(|host| seen.insert(host.address.as_str())).collect();
    let mut first = first.into_iter();
    hosts.retain(|_| first.next().unwrap_or(true));
}

/// Decides on the names that the hosts bear. Two hosts of one name are one node that moves while one of them leaves: the
/// one that stays is the node, or the other until that one is well. If more than one stays the name tells nobody apart.
/// Returns the first name that is no identity; its hosts lose it.
pub(super) fn settle(hosts: &mut Vec<Observation>) -> Option<String> {
    let mut bearers: BTreeMap<&str, Bearers> = BTreeMap::new();
    for (place, host) in hosts.iter().enumerate() {
        if let Some(name) = &host.name {
            bearers.entry(name).or_default().add(place, host);
        }
    }
    let addresses: BTreeSet<&str> = hosts.iter().map(|host| host.address.as_str()).collect();
    let mut unnamed = Vec::new();
    let mut dropped = BTreeSet::new();
    for (name, bearers) in &bearers {
        let node = bearers.node().filter(|_| is_identity(name));
        match node {
            Some(node) if hosts.get(node).is_some_and(|host| host.address == *name) => {}
            // Nor is it one if it is another host's address.
            Some(node) if !addresses.contains(name) => {
                dropped.extend(bearers.all.iter().copied().filter(|place| *place != node));
            }
            _ => unnamed.extend(bearers.all.iter().copied()),
        }
    }
    let bad = unnamed.first().and_then(|place| hosts.get(*place)).and_then(|host| host.name.clone());
    for place in unnamed {
        if let Some(host) = hosts.get_mut(place) {
            host.name = None;
        }
    }
    let mut place = 0..;
    hosts.retain(|_| place.next().is_none_or(|place| !dropped.contains(&place)));
    bad
}

/// The hosts that bear one name, by their places.
#[derive(Default)]
struct Bearers {
    all: Vec<usize>,
    staying: Vec<usize>,
    staying_is_well: bool,
    leaving_well: Option<usize>,
}

impl Bearers {
    fn add(&mut self, place: usize, host: &Observation) {
        let is_well = !host.flags.unhealthy && !host.flags.pending && !host.flags.ejected;
        self.all.push(place);
        if !host.flags.draining {
            self.staying.push(place);
            self.staying_is_well = is_well;
        } else if is_well {
            self.leaving_well = Some(place);
        }
    }

    /// The host that is the node.
    fn node(&self) -> Option<usize> {
        match (self.staying.as_slice(), self.leaving_well, self.all.as_slice()) {
            ([only], None, _) => Some(*only),
            ([only], Some(_), _) if self.staying_is_well => Some(*only),
            ([_], leaving, _) => leaving,
            ([], _, [only]) => Some(*only),
            _ => None,
        }
    }
}

/// A name goes into headers, keys and commands. Too long for any of them is longer than a DNS name.
fn is_identity(name: &str) -> bool {
    let is_separator = |c: char| matches!(c, '|' | ',' | ';') || c.is_whitespace() || c.is_control();
    !name.is_empty() && name.len() <= LONGEST_NAME && !name.contains(is_separator)
}

/// As long as a DNS name may be.
const LONGEST_NAME: usize = 253;
