//! Sessions that keep asking, where each was served, and how often that changed.

use std::collections::BTreeMap;
use std::time::Duration;

use berth_core::ring::{Algorithm, Member, Ring, session_hash};
use berth_core::wire::{SessionKey, SessionReply};
use berth_harness::hyper::Method;
use berth_harness::{Client, Request, StateService, World};
use futures_util::{StreamExt, stream};

use crate::identity::Identity;
use crate::native;
use crate::session::Session;

/// Requests under way at once.
pub(crate) const CONCURRENCY: usize = 32;
/// The pool of envoy/envoy-state.yaml.
const POOL: &str = "nodes";

/// Who places the sessions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum By {
    Berth,
    /// Envoy's own ring_hash, on the same nodes.
    Native,
}

impl By {
    /// Has a request go there.
    pub(crate) fn way(self, request: Request) -> Request {
        match self {
            Self::Berth => request,
            Self::Native => request.header(native::HEADER, "1"),
        }
    }
}

pub(crate) struct Crowd<'i> {
    identity: &'i Identity,
    pub(crate) sessions: Vec<Session>,
}

impl<'i> Crowd<'i> {
    /// `player-1`, `player-2`, …
    pub(crate) fn named(identity: &'i Identity, name: &str, count: usize) -> Self {
        let session = |number| Session::new(&format!("{name}-{number}"));
        Self { identity, sessions: (1..=count).map(session).collect() }
    }

    /// The same ones by new ids.
    pub(crate) fn renewed(&self) -> Self {
        let renew = |former: &Session| Session {
            id: format!("{}-renewed", former.id),
            previous: Some(former.id.clone()),
        };
        Self { identity: self.identity, sessions: self.sessions.iter().map(renew).collect() }
    }

    pub(crate) fn len(&self) -> usize {
        self.sessions.len()
    }

    /// One request of every session.
    pub(crate) async fn look(&self, client: &Client, by: By) -> Look {
        let requests: Vec<_> = self
            .sessions
            .iter()
            .map(|session| self.identity.name(by.way(client.get("/")), session))
            .collect();
        let nodes = requests.into_iter().map(async |request| {
            let answer = request.try_send().await.ok()?;
            (answer.status == 200).then(|| answer.node().to_owned())
        });
        Look { nodes: stream::iter(nodes).buffered(CONCURRENCY).collect().await }
    }

    /// How many sessions the state cluster has pinned, and how many of them where this look found them.
    pub(crate) async fn pins(&self, world: &World, look: &Look) -> (usize, usize) {
        let pins = self.sessions.iter().map(|session| pin(world.state(0), &session.id));
        let pins: Vec<Option<String>> = stream::iter(pins).buffered(CONCURRENCY / 4).collect().await;
        let right = pins.iter().zip(&look.nodes).filter(|(pin, node)| pin.is_some() && pin == node).count();
        (pins.iter().flatten().count(), right)
    }

    /// Where a ring of these nodes has each session.
    pub(crate) fn on_ring(&self, nodes: &[String], algorithm: Algorithm) -> Look {
        let members: Vec<Member> = nodes.iter().map(|node| Member::new(node.clone(), 1)).collect();
        let ring = Ring::build(&members, algorithm).expect("a few nodes make a ring");
        let owner = |session: &Session| ring.candidates(session_hash(session.id.as_bytes())).next();
        let nodes = self.sessions.iter().map(|session| owner(session).map(|index| nodes[index].clone()));
        Look { nodes: nodes.collect() }
    }
}

/// The node that a session is pinned to. A store that is slow for once (503) is asked again.
async fn pin(state: &StateService, session: &str) -> Option<String> {
    let path = format!("/v1/sessions/{}?pool={POOL}", SessionKey::new(POOL, session.as_bytes()));
    for _ in 0..5 {
        match state.request(Method::GET, &path).try_send().await {
            Ok(answer) if answer.status == 200 => {
                let reply: SessionReply = serde_json::from_slice(&answer.body).ok()?;
                return Some(reply.node.to_string());
            }
            Ok(answer) if answer.status == 404 => return None,
            _ => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
    None
}

/// Where each session of a crowd was served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Look {
    /// The node that answered, by session; `None` if the answer was not 200.
    pub(crate) nodes: Vec<Option<String>>,
}

impl Look {
    pub(crate) fn failed(&self) -> usize {
        self.nodes.iter().filter(|node| node.is_none()).count()
    }

    pub(crate) fn count_on(&self, node: &str) -> usize {
        self.nodes.iter().flatten().filter(|home| *home == node).count()
    }

    pub(crate) fn counts(&self) -> BTreeMap<&str, usize> {
        let mut counts = BTreeMap::new();
        for node in self.nodes.iter().flatten() {
            *counts.entry(node.as_str()).or_default() += 1;
        }
        counts
    }

    /// The sessions that are elsewhere in `after`, as (from, to).
    pub(crate) fn moves<'a>(&'a self, after: &'a Self) -> impl Iterator<Item = (&'a str, &'a str)> {
        let both = self.nodes.iter().zip(&after.nodes);
        both.filter_map(|(before, after)| Some((before.as_deref()?, after.as_deref()?)))
            .filter(|(before, after)| before != after)
    }

    /// The fullest node over the mean of so many.
    pub(crate) fn balance(&self, nodes: usize) -> f64 {
        let most = self.counts().values().copied().max().unwrap_or(0);
        (most * nodes) as f64 / self.nodes.len() as f64
    }
}

/// What a crowd went through since a chapter began.
pub(crate) struct Track {
    /// Where each session was then.
    start: Look,
    /// Where each was served last.
    now: Look,
    /// The last look, with those who were not served.
    seen: Look,
    /// How often each has changed its node.
    moves: Vec<usize>,
    failed: usize,
}

impl Track {
    pub(crate) fn new(look: Look) -> Self {
        let (moves, failed) = (vec![0; look.nodes.len()], look.failed());
        Self { start: look.clone(), now: look.clone(), seen: look, moves, failed }
    }

    /// A new chapter begins where the last one ended: what happens between two chapters is seen too.
    pub(crate) fn begin(&mut self) {
        self.start = self.now.clone();
        self.moves.fill(0);
        self.failed = 0;
    }

    pub(crate) fn note(&mut self, look: Look) {
        self.failed += look.failed();
        for ((now, moves), seen) in self.now.nodes.iter_mut().zip(&mut self.moves).zip(&look.nodes) {
            if seen.is_some() && now != seen {
                // A session that was not served before has not moved.
                *moves += usize::from(now.is_some());
                now.clone_from(seen);
            }
        }
        self.seen = look;
    }

    pub(crate) fn now(&self) -> &Look {
        &self.now
    }

    pub(crate) fn seen(&self) -> &Look {
        &self.seen
    }

    /// Requests that were not answered with 200.
    pub(crate) fn failed(&self) -> usize {
        self.failed
    }

    /// Sessions that this node had when the chapter began.
    pub(crate) fn started_on(&self, node: &str) -> usize {
        self.start.count_on(node)
    }

    /// How many of them have changed their node.
    pub(crate) fn moved_from(&self, node: &str) -> usize {
        let started = self.start.nodes.iter().zip(&self.moves);
        started.filter(|(start, moves)| start.as_deref() == Some(node) && **moves > 0).count()
    }

    /// Sessions that have changed their node.
    pub(crate) fn moved(&self) -> usize {
        self.moves.iter().filter(|moves| **moves > 0).count()
    }

    /// How often that happened.
    pub(crate) fn moves(&self) -> usize {
        self.moves.iter().sum()
    }

    /// Whether each session of this node moved exactly once, and no other did.
    pub(crate) fn only_left_once(&self, node: &str) -> bool {
        let started = self.start.nodes.iter().map(Option::as_deref);
        started.zip(&self.moves).all(|(start, moves)| *moves == usize::from(start == Some(node)))
    }
}
