//! What was broken on purpose and when, what the load met, and whether the former explains the latter.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// Between the end of a part and the moment at which its peers know: a busy machine delivers resets late.
const NOTICE: Duration = Duration::from_secs(2);
/// After a node's death its sessions are placed one by one, and after its return until cooldowns are over.
const MOVING: Duration = Duration::from_secs(15);
/// Redis replicates without being asked to wait: what was written so shortly before a primary's death may be lost with it.
const UNREPLICATED: Duration = Duration::from_secs(5);
/// A breaker tries again after up to 5 s, and asks about sessions that the ring has placed after 2 s.
const SETTLING: Duration = Duration::from_secs(15);
/// Of each kind of violation so many are described.
const DESCRIBED: usize = 20;

/// A part of the world that is broken for a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    Node(usize),
    Envoy(usize),
    Service,
    Redis,
}

#[derive(Clone, Copy, Debug)]
struct Outage {
    part: Part,
    from: Instant,
    until: Option<Instant>,
}

/// What is counted. Those of [`Event::is_violation`] are Berth's own faults.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Event {
    Session,
    Socket,
    Message,
    Request,
    /// A socket that ended because its node or its Envoy did.
    Cut,
    /// A request that its node or its Envoy took with it.
    Failed,
    /// A session of a node that died, at another one.
    Moved,
    /// Placed by the ring, because the state service did not answer in time; its pin decides as soon as it does.
    Provisional,
    /// Its node did not take a connection in time, and the next one answered in the same request, as documented.
    Retried,
    /// A session that began while Redis, a service or an Envoy was away, and was placed for good afterwards.
    Settled,
    CutByBerth,
    FailedByBerth,
    WrongNode,
    TwoNodes,
    /// What the schedule asked for was refused.
    Refused,
    /// A part ended by itself.
    Ended,
}

impl Event {
    pub(crate) const ALL: [Self; 16] = [
        Self::Session,
        Self::Socket,
        Self::Message,
        Self::Request,
        Self::Cut,
        Self::Failed,
        Self::Moved,
        Self::Provisional,
        Self::Retried,
        Self::Settled,
        Self::CutByBerth,
        Self::FailedByBerth,
        Self::WrongNode,
        Self::TwoNodes,
        Self::Refused,
        Self::Ended,
    ];

    pub(crate) fn is_violation(self) -> bool {
        self >= Self::CutByBerth
    }

    pub(crate) fn text(self) -> &'static str {
        match self {
            Self::Session => "sessions that began",
            Self::Socket => "WebSockets opened",
            Self::Message => "messages echoed",
            Self::Request => "requests beside open WebSockets, through the other Envoy",
            Self::Cut => "WebSockets that ended with their node or Envoy",
            Self::Failed => "requests that their node or Envoy took with it",
            Self::Moved => "sessions that moved because a node died",
            Self::Provisional => "answers by the ring, as the state service gave none in time",
            Self::Retried => "answers by the next node, as the owner took no connection within five seconds",
            Self::Settled => "sessions that began during an outage and were placed for good after it",
            Self::CutByBerth => "WebSockets cut though node and Envoy lived",
            Self::FailedByBerth => "requests lost though node and Envoy lived",
            Self::WrongNode => "sessions sent away from a node that lived",
            Self::TwoNodes => "sessions on two nodes at once",
            Self::Refused => "operations refused",
            Self::Ended => "parts that ended by themselves",
        }
    }
}

/// What an answer says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum By {
    Pin,
    /// The ring decided for now.
    Ring,
    /// Envoy's retry.
    Retry,
}

impl By {
    /// By the header `x-berth`.
    pub(crate) fn of(header: &str) -> Self {
        match header {
            _ if header.contains("reason=state_away") => Self::Ring,
            _ if header.contains("reason=retried") => Self::Retry,
            _ => Self::Pin,
        }
    }
}

/// Where a session was found last.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Home {
    pub(crate) node: usize,
    /// When the session began.
    pub(crate) began: Instant,
    /// When its node served it last.
    pub(crate) seen: Instant,
    /// Whether its pin, not the ring alone, had it there.
    pub(crate) settled: bool,
    /// It began in an outage and was placed for good since. From then on it is a session like any other.
    pub(crate) is_placed: bool,
}

#[derive(Debug, Default)]
pub(crate) struct Ledger {
    outages: Mutex<Vec<Outage>>,
    counts: Mutex<BTreeMap<Event, u64>>,
    described: Mutex<Vec<(Event, String)>>,
}

impl Ledger {
    pub(crate) fn count(&self, event: Event) {
        *self.counts.lock().unwrap().entry(event).or_default() += 1;
    }

    /// Counts a violation, and keeps what happened of the first ones.
    pub(crate) fn violation(&self, event: Event, what: String) {
        self.count(event);
        let mut described = self.described.lock().unwrap();
        if described.iter().filter(|(kind, _)| *kind == event).count() < DESCRIBED {
            eprintln!("soak: {}: {what}", event.text());
            described.push((event, what));
        }
    }

    pub(crate) fn counted(&self, event: Event) -> u64 {
        self.counts.lock().unwrap().get(&event).copied().unwrap_or_default()
    }

    pub(crate) fn described(&self) -> Vec<(Event, String)> {
        self.described.lock().unwrap().clone()
    }

    pub(crate) fn breaks(&self, part: Part) {
        self.outages.lock().unwrap().push(Outage { part, from: Instant::now(), until: None });
    }

    pub(crate) fn mended(&self, part: Part) {
        let mut outages = self.outages.lock().unwrap();
        let open = outages.iter_mut().find(|outage| outage.part == part && outage.until.is_none());
        open.expect("what was broken").until = Some(Instant::now());
    }

    /// How often each part was broken.
    pub(crate) fn outages(&self, is: impl Fn(Part) -> bool) -> usize {
        self.outages.lock().unwrap().iter().filter(|outage| is(outage.part)).count()
    }

    /// Whether something that went on from here until now ended with its Envoy, or with a node: a request may have been on its
    /// way to that one when it died.
    pub(crate) fn explains_failure(&self, envoy: usize, node: Option<usize>, from: Instant) -> bool {
        let now = Instant::now();
        self.any(|outage| match outage.part {
            Part::Envoy(index) => index == envoy && outage.overlaps(from, now, NOTICE),
            Part::Node(index) => {
                node.is_none_or(|node| node == index)
                    && outage.from <= now + NOTICE
                    && outage.from + NOTICE >= from
            }
            Part::Service | Part::Redis => false,
        })
    }

    /// Judges the node that answered a session, and keeps where it is from now on. Returns what is to be counted, if the node is
    /// another one than before.
    pub(crate) fn judge(&self, home: &mut Option<Home>, found: usize, envoy: usize, by: By) -> Option<Event> {
        let now = Instant::now();
        let settled = by == By::Pin;
        let for_now = match by {
            By::Pin => None,
            By::Ring => Some(Event::Provisional),
            By::Retry => Some(Event::Retried),
        };
        let Some(known) = home else {
            *home = Some(Home { node: found, began: now, seen: now, settled, is_placed: false });
            return for_now;
        };
        if known.node == found {
            known.seen = now;
            known.settled |= settled;
            return None;
        }
        let died = |node| {
            self.any(|outage| {
                outage.part == Part::Node(node) && outage.overlaps(known.seen - MOVING, now, MOVING)
            })
        };
        let event = if died(known.node) || died(found) {
            Event::Moved
        } else if for_now.is_some() {
            return for_now;
        } else if !known.settled || !known.is_placed && self.began_in_an_outage(known.began) {
            Event::Settled
        } else if self.any(|outage| {
            outage.part == Part::Envoy(envoy)
                && outage.until.is_none_or(|until| until + NOTICE > now)
                && outage.from < now
        }) {
            // The first moments of a worker: the ring decides.
            return Some(Event::Provisional);
        } else {
            Event::WrongNode
        };
        let is_placed = known.is_placed || event == Event::Settled;
        *home = Some(Home { node: found, began: known.began, seen: now, settled, is_placed });
        Some(event)
    }

    fn began_in_an_outage(&self, began: Instant) -> bool {
        self.any(|outage| {
            !matches!(outage.part, Part::Node(_))
                && began + UNREPLICATED >= outage.from
                && outage.until.is_none_or(|until| began <= until + SETTLING)
        })
    }

    fn any(&self, is: impl Fn(&Outage) -> bool) -> bool {
        self.outages.lock().unwrap().iter().any(is)
    }
}

impl Outage {
    fn overlaps(&self, from: Instant, to: Instant, slack: Duration) -> bool {
        self.from <= to && self.until.is_none_or(|until| until + slack >= from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A session that its pin had at node 1 long ago.
    fn at_home() -> Option<Home> {
        let long_ago = Instant::now().checked_sub(Duration::from_mins(2)).unwrap();
        Some(Home { node: 1, began: long_ago, seen: long_ago, settled: true, is_placed: false })
    }

    #[test]
    fn a_session_away_from_a_node_that_lives_is_a_violation() {
        let ledger = Ledger::default();
        ledger.breaks(Part::Node(3));
        let mut home = at_home();

        let judged = ledger.judge(&mut home, 2, 0, By::Pin);

        assert_eq!(judged, Some(Event::WrongNode));
        assert!(judged.unwrap().is_violation());
        assert_eq!(ledger.judge(&mut home, 2, 0, By::Pin), None, "it is counted once");
    }

    #[test]
    fn one_whose_node_died_moves_and_what_is_only_for_now_leaves_it_at_home() {
        let ledger = Ledger::default();
        let mut home = at_home();
        assert_eq!(ledger.judge(&mut home, 2, 0, By::Ring), Some(Event::Provisional));
        assert_eq!(ledger.judge(&mut home, 2, 0, By::Retry), Some(Event::Retried));
        assert_eq!(home.unwrap().node, 1);

        ledger.breaks(Part::Node(1));

        assert_eq!(ledger.judge(&mut home, 2, 0, By::Pin), Some(Event::Moved));
        assert_eq!(home.unwrap().node, 2);
    }

    #[test]
    fn one_that_began_in_an_outage_is_placed_for_good_once() {
        let ledger = Ledger::default();
        ledger.breaks(Part::Service);
        let mut home = None;
        assert_eq!(ledger.judge(&mut home, 1, 0, By::Pin), None);

        assert_eq!(ledger.judge(&mut home, 2, 0, By::Pin), Some(Event::Settled));
        assert_eq!(ledger.judge(&mut home, 1, 0, By::Pin), Some(Event::WrongNode));
    }

    #[test]
    fn only_the_end_of_its_own_envoy_or_node_explains_a_failure() {
        let ledger = Ledger::default();
        let now = Instant::now();
        for part in [Part::Service, Part::Redis, Part::Envoy(1), Part::Node(4)] {
            ledger.breaks(part);
        }

        assert!(!ledger.explains_failure(0, Some(1), now));
        assert!(ledger.explains_failure(1, Some(1), now), "its Envoy");
        assert!(ledger.explains_failure(0, Some(4), now), "its node");
    }

    #[test]
    fn a_death_long_ago_explains_no_failure() {
        let ledger = Ledger::default();
        ledger.breaks(Part::Envoy(0));
        ledger.breaks(Part::Node(1));
        ledger.mended(Part::Envoy(0));
        ledger.mended(Part::Node(1));

        assert!(!ledger.explains_failure(0, Some(1), Instant::now() + Duration::from_secs(10)));
    }
}
