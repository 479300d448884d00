//! Which name is a node's identity, and which of several hosts of one name is the node.

use super::Index;
use crate::membership::Observation;
use crate::ring::session_hash;
use crate::wire::NodeId;

/// One address is one host, in two priorities too. Envoy lists the first choice first; and a host that was given another name
/// before its former self, which stays for as long as it passes its checks.
pub(super) fn keep_first(hosts: &mut Vec<Observation>) {
    let mut is_repeated = vec![false; hosts.len()];
    for same in index(hosts, |host| Some(&host.address)).chunk_by(|(one, _), (other, _)| one == other) {
        for (_, place) in same.iter().skip(1) {
            if let Some(is_repeated) = is_repeated.get_mut(*place as usize) {
                *is_repeated = true;
            }
        }
    }
    strike(hosts, &is_repeated);
}

fn strike(hosts: &mut Vec<Observation>, is_struck: &[bool]) {
    let mut is_struck = is_struck.iter();
    hosts.retain(|_| is_struck.next() != Some(&true));
}

/// Decides on the names that the hosts bear. Two hosts of one name are one node that moves while one of them leaves: the
/// one that stays is the node, or the other until that one is well. If more than one stays the name tells no nodes apart.
/// Returns the first name that is no identity; its hosts lose it.
pub(super) fn settle(hosts: &mut Vec<Observation>) -> Option<String> {
    let names = index(hosts, |host| host.name.as_ref());
    if names.is_empty() {
        return None;
    }
    let addresses = index(hosts, |host| Some(&host.address));
    let mut dropped = vec![false; hosts.len()];
    let mut bad_name = None;
    for bearers in names.chunk_by(|(one, _), (other, _)| one == other) {
        let mut found = Bearers::default();
        for (_, place) in bearers {
            if let Some(host) = hosts.get(*place as usize) {
                found.add(*place, host);
            }
        }
        let node = found.node().filter(|node| {
            let name = hosts.get(*node as usize).and_then(|host| host.name.as_deref()).unwrap_or_default();
            is_identity(name) && !is_others(&addresses, name, *node)
        });
        for (_, place) in bearers {
            let place = *place as usize;
            match (node, hosts.get_mut(place), dropped.get_mut(place)) {
                (Some(node), _, Some(is_dropped)) => *is_dropped = node as usize != place,
                (None, Some(host), _) => bad_name = host.name.take().or(bad_name),
                _ => {}
            }
        }
    }
    strike(hosts, &dropped);
    bad_name
}

/// The hosts in the order of the hash of this text of theirs.
fn index(hosts: &[Observation], text: fn(&Observation) -> Option<&String>) -> Index {
    let places = (0_u32..).zip(hosts);
    let mut index: Index =
        places.filter_map(|(place, host)| Some((session_hash(text(host)?.as_bytes()), place))).collect();
    index.sort_unstable();
    index
}

/// The hosts that bear one name, by their places.
#[derive(Default)]
struct Bearers {
    all: u32,
    staying: u32,
    /// The last of those that stay; the last of all if no one stays.
    last: u32,
    last_is_well: bool,
    leaving_well: Option<u32>,
}

impl Bearers {
    fn add(&mut self, place: u32, host: &Observation) {
        let is_well = !host.flags.unhealthy && !host.flags.pending && !host.flags.ejected;
        self.all += 1;
        if !host.flags.draining {
            self.staying += 1;
            (self.last, self.last_is_well) = (place, is_well);
        } else {
            if self.staying == 0 {
                self.last = place;
            }
            if is_well {
                self.leaving_well = Some(place);
            }
        }
    }

    /// The host that is the node.
    fn node(&self) -> Option<u32> {
        match (self.staying, self.all) {
            (1, _) if self.last_is_well => Some(self.last),
            (1, _) => self.leaving_well.or(Some(self.last)),
            (0, 1) => Some(self.last),
            _ => None,
        }
    }
}

/// True if it is the address of another host.
fn is_others(addresses: &Index, name: &str, node: u32) -> bool {
    let hash = session_hash(name.as_bytes());
    let start = addresses.partition_point(|(other, _)| *other < hash);
    addresses.get(start).is_some_and(|(other, place)| *other == hash && *place != node)
}

/// True if pins, headers and commands can hold it: see [`NodeId`]. Of what Envoy escapes in a dump that leaves `<` and `>`.
fn is_identity(name: &str) -> bool {
    name.parse::<NodeId>().is_ok_and(|id| id.as_str() == name)
}
