//! Which name is a node's identity, and which of several hosts of one name is the node.

use super::Index;
use crate::membership::Observation;
use crate::ring::session_hash;

/// As long as a DNS name may be.
const LONGEST_NAME: usize = 253;

/// Decides on the names that the hosts bear. Two hosts of one name are one node that moves while one of them leaves: the
/// one that stays is the node, or the other until that one is well. If more than one stays the name tells nobody apart.
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
        let mut former = "";
        for (_, place) in bearers {
            // One address in two priorities is one host, and Envoy lists the first choice first.
            if let Some(host) = hosts.get(*place as usize).filter(|host| host.address != former) {
                former = &host.address;
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
    let mut dropped = dropped.iter();
    hosts.retain(|_| dropped.next() != Some(&true));
    bad_name
}

/// The hosts in the order of the hash of this text of theirs.
fn index(hosts: &[Observation], text: impl Fn(&Observation) -> Option<&String>) -> Index {
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
    /// The last of those that stay, or if there is none of all.
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

/// A name goes into headers, keys and commands: printable, no separator of any of them, nothing that JSON has to escape, and
/// not longer than a DNS name.
fn is_identity(name: &str) -> bool {
    let is_plain = |byte: u8| byte > b' ' && byte != 0x7f && !b"|,;\"\\<>".contains(&byte);
    !name.is_empty() && name.len() <= LONGEST_NAME && name.bytes().all(is_plain)
}
