//! The changes feed as a leader reads it, publishes it and other workers read it on.
//!
//! The input is one answer after the other to polls for changes and for records, with a line of `---` between them. An
//! empty answer is a call that failed.

use std::collections::BTreeSet;

use berth_core::changelog::{Change, ChangeLog, Head, News, digest};
use berth_core::feed::{Feed, FeedCall, FeedCallKind, FeedReply, Publication};
use berth_core::health::HealthPolicy;
use berth_core::membership::Observation;
use berth_core::ring::Algorithm;
use berth_core::roster::Roster;
use berth_core::time::Millis;
use berth_core::wire::{ChangeKind, ChangesReply, Cursor, NodeRecord};

use super::roster::check_view;
use super::sections;

const NODES: [&str; 2] = ["10.0.0.1:8080", "10.0.0.3:8080"];
const POLICY: HealthPolicy = HealthPolicy::DEFAULT;

/// Polls for as long as there are answers.
pub fn check(input: &[u8]) {
    let mut world = World::new();
    for body in sections(input) {
        world.poll(Some(&*body).filter(|body| !body.is_empty()));
    }
    check_view(&world.roster, Algorithm::Rendezvous, &POLICY, world.now);
}

struct World {
    feed: Feed,
    follower: Feed,
    log: ChangeLog,
    roster: Roster,
    now: Millis,
    /// The position that the next poll must go on from.
    after: Option<Cursor>,
    token: u32,
}

impl World {
    fn new() -> Self {
        let now = Millis(1_767_225_610_000);
        let mut roster = Roster::default();
        let host = |node: &str| Observation { address: node.to_owned(), weight: 1, ..Observation::default() };
        roster.observe(NODES.map(host).to_vec(), &POLICY, now);
        let mut follower = Feed::new("nodes");
        let log = ChangeLog::default();
        assert_eq!(follower.read(&log), News::Changes(Vec::new()));
        Self { feed: Feed::new("nodes"), follower, log, roster, now, after: None, token: 0 }
    }

    /// Makes the calls that are due, and answers all of them with this body.
    fn poll(&mut self, body: Option<&[u8]>) {
        let mut kinds = Vec::new();
        while let Some(FeedCall { kind, request, .. }) = self.feed.poll_call(self.now, Vec::new) {
            if kind == FeedCallKind::Changes {
                let after = self.after.as_ref().map(|cursor| format!("&after={cursor}&"));
                let goes_on =
                    after.map_or(!request.path.contains("after="), |after| request.path.contains(&after));
                assert!(goes_on, "{} does not go on from {:?}", request.path, self.after);
            }
            self.token += 1;
            self.feed.call_started(kind, self.token);
            assert!(!kinds.iter().any(|(known, _)| *known == kind), "one call of a kind at a time");
            kinds.push((kind, self.token));
        }
        for (kind, token) in kinds {
            let reply = self.feed.handle_reply(token, body, self.now).expect("it is this feed's call");
            match (kind, reply) {
                (FeedCallKind::Changes, FeedReply::Publish(publication)) => self.publish(publication, body),
                (FeedCallKind::Nodes, FeedReply::Records(records)) => self.record(&records),
                (_, FeedReply::Nothing) => {}
                (kind, reply) => panic!("{kind:?} was answered, and means {reply:?}"),
            }
            assert!(self.feed.handle_reply(token, body, self.now).is_none(), "a call is answered once");
        }
        self.now = self.now + Millis(10_000);
    }

    fn publish(&mut self, publication: Publication, body: Option<&[u8]>) {
        let reply: ChangesReply = serde_json::from_slice(body.unwrap()).expect("it was read as one");
        assert_eq!(publication.cursor, reply.cursor, "the next poll goes on from the reply's position");
        assert!(
            publication.is_gap == (reply.resync || self.after.is_none()),
            "a gap is one, and nothing else is"
        );
        check_changes(&reply, &publication.changes);
        self.record(&publication.records);

        let before = self.log.head();
        if publication.is_gap {
            self.log.note_gap();
        }
        self.log.append(publication.changes.iter().copied());
        let published = ChangeLog::decode(&self.log.encode()).expect("published as it is");
        assert_eq!(published.head(), self.log.head());
        assert_eq!(Head::decode(&published.head().encode()), Some(published.head()));
        let has_news = before != published.head();
        assert_eq!(self.follower.is_behind(published.head()), has_news, "news are noticed");
        match self.follower.read(&published) {
            News::Missed => assert!(publication.is_gap, "nothing was missed"),
            News::Changes(changes) => {
                assert!(!publication.is_gap, "a gap is noticed");
                let same =
                    changes.iter().zip(&publication.changes).all(|(read, sent)| is_same(read.1, sent.1));
                assert!(same && changes.len() == publication.changes.len(), "{changes:?}");
            }
        }
        assert!(!self.follower.is_behind(published.head()));
        self.after = Some(publication.cursor.clone());
        self.feed.published(publication.cursor);
    }

    fn record(&mut self, records: &[NodeRecord]) {
        let version = self.roster.version;
        let news = self.roster.record(records, &POLICY, self.now);
        assert_eq!(news, self.roster.version != version, "the version tells the news");
        assert!(!self.roster.record(records, &POLICY, self.now), "the same records again are no news");
        assert_eq!(Roster::decode(&self.roster.encode()).as_ref(), Some(&self.roster), "published as it is");
    }
}

/// What is applied is in the reply, and all that is there of sessions is applied.
fn check_changes(reply: &ChangesReply, changes: &[(berth_core::wire::SessionKey, Change)]) {
    let keys: BTreeSet<_> = reply.events.iter().filter_map(|event| event.key).collect();
    assert!(
        changes.iter().all(|(key, _)| keys.contains(key)),
        "a change of a session that the reply does not name"
    );
    let mut rest = changes.iter();
    for event in &reply.events {
        let Some(key) = event.key else { continue };
        let expected = match (event.kind, event.version) {
            (ChangeKind::Rehomed, Some(version)) => {
                let node = event.node.as_ref().map_or(0, |node| digest(node.as_str()));
                Change::Pinned { version, node }
            }
            (ChangeKind::Ended, _) => Change::Ended,
            (ChangeKind::Superseded, _) => Change::Superseded(event.session_version),
            _ => continue,
        };
        assert_eq!(rest.next(), Some(&(key, expected)), "in the order of the reply");
    }
    assert_eq!(rest.next(), None);
}

/// Versions beyond all that a store gives are cut in the log.
fn is_same(read: Change, sent: Change) -> bool {
    match (read, sent) {
        (Change::Pinned { version, node }, Change::Pinned { version: sent, node: to }) => {
            node == to && (version == sent || version < sent && version > u64::MAX - 4)
        }
        (read, sent) => read == sent,
    }
}
