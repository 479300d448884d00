//! Which connections are open, and which one is closed to make room for another.
//!
//! Anybody who reaches the port can open connections and send nothing. So a connection is new until a request on it was
//! authorised (without access control: until one was complete), and new ones have a quarter of the places. No connection is refused: if
//! the quarter is full, or the sixteenth that one peer may have, the one that was idle for the longest is closed for it. A
//! proxy's request comes within a millisecond of its connection, which is then admitted, and is not closed for others.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use crate::lock::lock;

/// The part of all places that new connections may have, and the part that those of one peer may.
const NEW: usize = 4;
const NEW_OF_A_PEER: usize = 16;
/// One line in the log for all that were closed since the last line.
const LOGGED_EACH: Duration = Duration::from_secs(10);

/// How many connections, and how long they may say nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Connections at once. Each worker of a proxy keeps a handful.
    pub all: usize,
    /// From the connection to the first byte of a request, a TLS handshake included.
    pub first_byte: Duration,
    /// From a request's first byte to the end of its header.
    pub header: Duration,
    /// Between two requests. Longer than the idle timeout of the shipped Envoy cluster: else each connection that is closed
    /// could be the one that a call was just sent on.
    pub idle: Duration,
}

impl Default for Bounds {
    fn default() -> Self {
        let secs = Duration::from_secs;
        Self { all: 8192, first_byte: secs(10), header: secs(10), idle: secs(300) }
    }
}

impl Bounds {
    fn most_new(&self) -> usize {
        (self.all / NEW).max(1)
    }

    fn most_new_of_a_peer(&self) -> usize {
        (self.all / NEW_OF_A_PEER).max(1)
    }

    fn most_admitted(&self) -> usize {
        self.all.saturating_sub(self.most_new())
    }
}

/// Why the service closed a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Closed {
    /// It sent nothing.
    Silent,
    /// A header took too long.
    SlowHeader,
    /// The TLS handshake failed or took too long.
    Handshake,
    /// It made room for another.
    Displaced,
    /// No request came for long.
    Idle,
}

impl Closed {
    pub(crate) const ALL: [Self; 5] =
        [Self::Silent, Self::SlowHeader, Self::Handshake, Self::Displaced, Self::Idle];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Silent => "silent",
            Self::SlowHeader => "slow_header",
            Self::Handshake => "handshake",
            Self::Displaced => "displaced",
            Self::Idle => "idle",
        }
    }
}

/// The open connections.
pub struct Connections {
    pub(crate) bounds: Bounds,
    open: Mutex<Open>,
    closed: [AtomicU64; Closed::ALL.len()],
    logged: Mutex<Logged>,
}

#[derive(Default)]
struct Open {
    /// The next use; a connection with a smaller number was idle for longer.
    next: u64,
    /// By peer and last use.
    new: HashMap<IpAddr, BTreeMap<u64, Arc<Standing>>>,
    new_count: usize,
    admitted: usize,
}

struct Logged {
    at: Option<Instant>,
    counts: [u64; Closed::ALL.len()],
}

impl Connections {
    /// Without an open connection.
    #[must_use]
    pub fn new(bounds: Bounds) -> Arc<Self> {
        Arc::new(Self {
            bounds,
            open: Mutex::default(),
            closed: Default::default(),
            logged: Mutex::new(Logged { at: None, counts: Default::default() }),
        })
    }

    /// A place for a new connection of this peer.
    pub(crate) fn enter(self: &Arc<Self>, peer: IpAddr) -> Place {
        let peer = network(peer);
        let standing = Arc::new(Standing {
            connections: Arc::clone(self),
            peer,
            use_number: AtomicU64::new(0),
            is_admitted: AtomicBool::new(false),
            displaced: Notify::new(),
        });
        let mut open = lock(&self.open);
        if open.new.get(&peer).is_some_and(|own| own.len() >= self.bounds.most_new_of_a_peer()) {
            open.displace(peer);
        }
        if open.new_count >= self.bounds.most_new() {
            open.displace_any();
        }
        open.insert(&standing);
        Place(standing)
    }

    /// Closes a new connection, if there is one: the process has used up its file descriptors.
    pub(crate) fn make_room(&self) {
        lock(&self.open).displace_any();
    }

    /// How many are new, and how many are admitted.
    pub(crate) fn counts(&self) -> (usize, usize) {
        let open = lock(&self.open);
        (open.new_count, open.admitted)
    }

    /// How many were closed for this reason since the start.
    pub(crate) fn closed(&self, why: Closed) -> u64 {
        self.closed.get(why as usize).map_or(0, |count| count.load(Ordering::Relaxed))
    }

    /// Counts a connection that is closed, and says so now and then.
    pub(crate) fn close(&self, why: Closed, peer: IpAddr) {
        if let Some(count) = self.closed.get(why as usize) {
            count.fetch_add(1, Ordering::Relaxed);
        }
        // Each client ends like that.
        if why == Closed::Idle {
            return;
        }
        let mut logged = lock(&self.logged);
        if let Some(count) = logged.counts.get_mut(why as usize) {
            *count += 1;
        }
        if logged.at.is_some_and(|at| at.elapsed() < LOGGED_EACH) {
            return;
        }
        let [silent, slow_header, handshake, displaced, _] = std::mem::take(&mut logged.counts);
        logged.at = Some(Instant::now());
        drop(logged);
        tracing::warn!(
            silent, slow_header, handshake, displaced, last_peer = %peer,
            "closed connections that made no request; further ones are counted in berth_state_connections_closed_total"
        );
    }
}

impl Open {
    fn insert(&mut self, standing: &Arc<Standing>) {
        self.next += 1;
        standing.use_number.store(self.next, Ordering::Relaxed);
        self.new.entry(standing.peer).or_default().insert(self.next, Arc::clone(standing));
        self.new_count += 1;
    }

    /// Whether it was there: it may have been displaced.
    fn remove(&mut self, standing: &Standing) -> bool {
        let Some(own) = self.new.get_mut(&standing.peer) else { return false };
        let was_there = own.remove(&standing.use_number.load(Ordering::Relaxed)).is_some();
        if own.is_empty() {
            self.new.remove(&standing.peer);
        }
        self.new_count -= usize::from(was_there);
        was_there
    }

    fn displace(&mut self, peer: IpAddr) {
        let longest_idle = self.new.get(&peer).and_then(|own| own.values().next()).map(Arc::clone);
        if let Some(standing) = longest_idle {
            self.remove(&standing);
            standing.displaced.notify_one();
        }
    }

    /// Of the peer that has the most: who opens few keeps them.
    fn displace_any(&mut self) {
        let most =
            self.new.iter().max_by_key(|(_, own)| (own.len(), own.keys().next().map(std::cmp::Reverse)));
        if let Some(peer) = most.map(|(peer, _)| *peer) {
            self.displace(peer);
        }
    }
}

/// Whether a connection is admitted.
pub(crate) struct Standing {
    connections: Arc<Connections>,
    peer: IpAddr,
    /// Changed under the lock of all connections.
    use_number: AtomicU64,
    is_admitted: AtomicBool,
    displaced: Notify,
}

impl Standing {
    /// A request was authorised. Without a free place among the admitted it stays new, and works as long as its place is not
    /// needed.
    pub(crate) fn admit(&self) {
        if self.is_admitted.load(Ordering::Relaxed) {
            return;
        }
        let mut open = lock(&self.connections.open);
        let is_free = open.admitted < self.connections.bounds.most_admitted();
        if !self.is_admitted.load(Ordering::Relaxed) && is_free && open.remove(self) {
            open.admitted += 1;
            self.is_admitted.store(true, Ordering::Relaxed);
        }
    }

    /// A request came: others are closed first.
    pub(crate) fn refresh(self: &Arc<Self>) {
        if self.is_admitted.load(Ordering::Relaxed) {
            return;
        }
        let mut open = lock(&self.connections.open);
        if open.remove(self) {
            open.insert(self);
        }
    }
}

/// A connection's place, given back when it ends.
pub(crate) struct Place(Arc<Standing>);

impl Place {
    pub(crate) fn standing(&self) -> &Arc<Standing> {
        &self.0
    }

    /// Another connection needs the place.
    pub(crate) async fn displaced(&self) {
        self.0.displaced.notified().await;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut open = lock(&self.0.connections.open);
        if self.0.is_admitted.load(Ordering::Relaxed) {
            open.admitted -= 1;
        } else {
            open.remove(&self.0);
        }
    }
}

/// A network of IPv6 is one peer: its owner has all 2^64 addresses.
fn network(peer: IpAddr) -> IpAddr {
    match peer.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX)).into(),
        address => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connections(all: usize) -> Arc<Connections> {
        Connections::new(Bounds { all, ..Bounds::default() })
    }

    fn is_displaced(place: &Place) -> bool {
        !lock(&place.0.connections.open)
            .new
            .get(&place.0.peer)
            .is_some_and(|own| own.values().any(|standing| Arc::ptr_eq(standing, &place.0)))
            && !place.0.is_admitted.load(Ordering::Relaxed)
    }

    fn peer(last: u8) -> IpAddr {
        [10, 0, 0, last].into()
    }

    #[test]
    fn a_peer_with_many_makes_room_with_its_own_longest_idle() {
        // 16 new ones, 4 of a peer.
        let connections = connections(64);
        let other = connections.enter(peer(2));
        let mut own: Vec<Place> = (0..4).map(|_| connections.enter(peer(1))).collect();
        own[0].standing().refresh();

        own.push(connections.enter(peer(1)));

        let displaced: Vec<bool> = own.iter().map(is_displaced).collect();
        assert_eq!(displaced, [false, true, false, false, false]);
        assert!(!is_displaced(&other));
    }

    #[test]
    fn when_all_are_taken_the_peer_with_the_most_makes_room() {
        let connections = connections(64);
        let many: Vec<Place> = (0..4).map(|_| connections.enter(peer(1))).collect();
        let few: Vec<Place> = (2..14).map(|last| connections.enter(peer(last))).collect();
        assert_eq!(connections.counts(), (16, 0));

        let last = connections.enter(peer(20));

        assert!(is_displaced(&many[0]) && !is_displaced(&last));
        assert!(many[1..].iter().chain(&few).all(|place| !is_displaced(place)));
        assert_eq!(connections.counts(), (16, 0));
    }

    #[test]
    fn what_is_admitted_is_in_nobodys_way_and_has_its_own_bound() {
        let connections = connections(16);
        // 4 new ones, 1 of a peer, 12 admitted.
        let mut proxies = Vec::new();
        for _ in 0..14 {
            let place = connections.enter(peer(1));
            place.standing().admit();
            proxies.push(place);
        }
        // The last two found no free place: the second displaced the first.
        assert_eq!(connections.counts(), (1, 12));
        assert!(is_displaced(&proxies[12]) && !is_displaced(&proxies[13]));

        let silent: Vec<Place> = (0..100).map(|last| connections.enter(peer(last))).collect();
        assert_eq!(connections.counts(), (4, 12));
        assert!(proxies[..12].iter().all(|place| !is_displaced(place)));

        drop((proxies, silent));
        assert_eq!(connections.counts(), (0, 0));
    }

    #[test]
    fn addresses_of_one_network_are_one_peer() {
        let network = |text: &str| network(text.parse().unwrap());
        assert_eq!(network("2001:db8:0:1::1"), network("2001:db8:0:1:ffff::2"));
        assert_ne!(network("2001:db8:0:1::1"), network("2001:db8:0:2::1"));
        assert_eq!(network("::ffff:10.0.0.1"), network("10.0.0.1"));
        assert_ne!(network("10.0.0.1"), network("10.0.0.2"));
    }
}
