//! The feed of a pool: which calls the leader makes and when, and what the answers mean to its workers.

use berth_core::changelog::{Change, ChangeLog, News, digest};
use berth_core::feed::{Feed, FeedCallKind, FeedReply, Publication};
use berth_core::time::Millis;

const NOW: Millis = Millis(1_000_000_000);
const CHANGES: &str = include_str!("../testdata/wire/changes-reply.json");
const RAISED: &str = include_str!("../testdata/wire/changes-raised-reply.json");
const RESYNC: &str = include_str!("../testdata/wire/changes-resync-reply.json");
const NODES: &str = include_str!("../testdata/wire/nodes-reply.json");
const CHANGES_TOKEN: u32 = 1;
const NODES_TOKEN: u32 = 2;
const COOLDOWN_TOKEN: u32 = 3;

fn at(millis: u64) -> Millis {
    NOW + Millis(millis)
}

/// All calls that are due, as method, path and body.
fn calls(feed: &mut Feed, now: Millis, cooldowns: &[(&str, u64)]) -> Vec<String> {
    let mut made = Vec::new();
    let cooldowns = || cooldowns.iter().map(|(node, until)| ((*node).to_owned(), at(*until))).collect();
    while let Some(call) = feed.poll_call(now, cooldowns) {
        let token = match call.kind {
            FeedCallKind::Changes => CHANGES_TOKEN,
            FeedCallKind::Nodes => NODES_TOKEN,
            FeedCallKind::Cooldown => COOLDOWN_TOKEN,
        };
        feed.call_started(call.kind, token);
        let (request, body) = (&call.request, String::from_utf8_lossy(&call.request.body));
        made.push(format!("{} {} {body}", request.method, request.path).trim().to_owned());
    }
    made
}

fn publication(reply: Option<FeedReply>) -> Publication {
    match reply {
        Some(FeedReply::Publish(publication)) => publication,
        other => panic!("{other:?}"),
    }
}

/// A feed that is up to date with a cursor.
fn read_on() -> Feed {
    let mut feed = Feed::new("nodes");
    calls(&mut feed, NOW, &[]);
    let first = publication(feed.handle_reply(CHANGES_TOKEN, Some(CHANGES.as_bytes()), NOW));
    feed.published(first.cursor);
    feed.handle_reply(NODES_TOKEN, Some(NODES.as_bytes()), NOW);
    feed
}

#[test]
fn a_leader_begins_where_the_log_is_and_reads_on_from_what_was_published() {
    let mut feed = Feed::new("nodes");
    assert_eq!(calls(&mut feed, NOW, &[]), ["GET /v1/changes?pool=nodes&wait=0", "GET /v1/nodes?pool=nodes"]);
    assert!(calls(&mut feed, at(60_000), &[]).is_empty(), "one of each kind is under way");

    let first = publication(feed.handle_reply(CHANGES_TOKEN, Some(CHANGES.as_bytes()), NOW));
    assert!(first.is_gap, "what was before is not known");
    let changes: Vec<Change> = first.changes.iter().map(|(_, change)| *change).collect();
    let node = digest("10.0.0.1:8080");
    assert_eq!(changes, [Change::Pinned { version: 2, node }, Change::Ended]);
    assert_eq!(first.records.len(), 1);

    assert_eq!(
        calls(&mut feed, NOW, &[]),
        ["GET /v1/changes?pool=nodes&wait=0"],
        "it could not be published: the same again"
    );
    let again = publication(feed.handle_reply(CHANGES_TOKEN, Some(RAISED.as_bytes()), NOW));
    let changes: Vec<Change> = again.changes.iter().map(|(_, change)| *change).collect();
    assert_eq!(changes, [Change::Superseded(Some(3)); 2]);
    feed.published(again.cursor);
    assert_eq!(calls(&mut feed, NOW, &[]), ["GET /v1/changes?pool=nodes&after=7~lq3x9k31-3&wait=5000"]);
    assert!(!publication(feed.handle_reply(CHANGES_TOKEN, Some(RAISED.as_bytes()), NOW)).is_gap);
}

#[test]
fn a_new_leader_reads_on_from_where_the_last_one_was() {
    let mut feed = Feed::new("nodes");

    feed.lead_from(Some("7~1-1".parse().unwrap()));

    assert_eq!(calls(&mut feed, NOW, &[])[0], "GET /v1/changes?pool=nodes&after=7~1-1&wait=5000");
}

#[test]
fn a_poll_that_fails_is_made_again_soon() {
    let mut feed = read_on();
    for body in [None, Some(&b"{}"[..])] {
        assert_eq!(calls(&mut feed, NOW, &[]).len(), 1);
        assert!(matches!(feed.handle_reply(CHANGES_TOKEN, body, NOW), Some(FeedReply::Nothing)));
        assert!(calls(&mut feed, at(199), &[]).is_empty());
        assert_eq!(calls(&mut feed, at(200), &[]).len(), 1);
        feed.handle_reply(CHANGES_TOKEN, Some(CHANGES.as_bytes()), NOW);
    }

    let call = feed.poll_call(NOW, Vec::new).unwrap();
    feed.call_refused(call.kind, NOW);
    assert!(calls(&mut feed, at(999), &[]).is_empty());
    assert_eq!(calls(&mut feed, at(1_000), &[]).len(), 1);
}

#[test]
fn a_log_that_always_says_resync_is_not_asked_all_the_time() {
    let mut feed = read_on();
    calls(&mut feed, NOW, &[]);
    assert!(publication(feed.handle_reply(CHANGES_TOKEN, Some(RESYNC.as_bytes()), NOW)).is_gap);
    assert_eq!(calls(&mut feed, NOW, &[]).len(), 1, "the first is followed at once");
    feed.handle_reply(CHANGES_TOKEN, Some(RESYNC.as_bytes()), NOW);

    assert!(calls(&mut feed, at(999), &[]).is_empty());
    assert_eq!(calls(&mut feed, at(1_000), &[]).len(), 1);
    feed.handle_reply(CHANGES_TOKEN, Some(CHANGES.as_bytes()), at(1_000));
    assert_eq!(calls(&mut feed, at(1_000), &[]).len(), 1);
}

#[test]
fn all_records_are_read_now_and_then() {
    let mut feed = Feed::new("nodes");
    calls(&mut feed, NOW, &[]);
    let Some(FeedReply::Records(records)) = feed.handle_reply(NODES_TOKEN, Some(NODES.as_bytes()), NOW)
    else {
        panic!("no records")
    };
    assert_eq!(records.len(), 3);
    assert!(calls(&mut feed, at(9_999), &[]).is_empty());
    assert_eq!(calls(&mut feed, at(10_000), &[]), ["GET /v1/nodes?pool=nodes"]);

    feed.handle_reply(NODES_TOKEN, None, at(10_000));
    assert!(calls(&mut feed, at(10_999), &[]).is_empty());
    assert_eq!(calls(&mut feed, at(11_000), &[]).len(), 1);
}

#[test]
fn what_is_on_record_of_newcomers_is_asked_for_within_a_second() {
    let mut feed = read_on();
    let nodes = ["GET /v1/nodes?pool=nodes"];
    feed.handle_reply(CHANGES_TOKEN, None, NOW);
    let is_asked = |feed: &mut Feed, now| calls(feed, now, &[]).contains(&nodes[0].to_owned());
    assert!(!is_asked(&mut feed, at(3_000)));

    feed.handle_newcomers(at(3_000));
    feed.handle_newcomers(at(3_900));
    assert!(!is_asked(&mut feed, at(3_999)), "for all that come within a second at once");
    assert!(is_asked(&mut feed, at(4_000)));
    feed.handle_reply(NODES_TOKEN, Some(NODES.as_bytes()), at(4_000));
    assert!(!is_asked(&mut feed, at(13_999)));
    assert!(is_asked(&mut feed, at(14_000)));
}

#[test]
fn a_cooldown_is_reported_once_and_again_if_it_lasts_notably_longer() {
    let mut feed = read_on();
    calls(&mut feed, NOW, &[]);
    let made = calls(&mut feed, NOW, &[("10.0.0.1:80", 30_000)]);
    assert_eq!(made, [r#"PUT /v1/nodes/10.0.0.1:80?pool=nodes {"cooldown_ms":30000}"#]);
    assert!(matches!(feed.handle_reply(COOLDOWN_TOKEN, Some(b"{}"), NOW), Some(FeedReply::Nothing)));

    assert!(calls(&mut feed, at(1_000), &[("10.0.0.1:80", 31_000)]).is_empty());
    assert_eq!(calls(&mut feed, at(8_000), &[("10.0.0.1:80", 38_000)]).len(), 1);
    feed.handle_reply(COOLDOWN_TOKEN, None, at(8_000));
    assert!(calls(&mut feed, at(8_999), &[("10.0.0.1:80", 38_000)]).is_empty());
    assert_eq!(calls(&mut feed, at(9_000), &[("10.0.0.1:80", 38_000)]).len(), 1, "the call failed");
}

/// The clocks of two proxies differ; that of the store is the one that counts.
#[test]
fn a_clock_that_was_set_back_keeps_no_cooldown_from_being_shared() {
    let mut feed = read_on();
    let puts = |feed: &mut Feed, now, until| {
        let made = calls(feed, now, &[("10.0.0.1:8080", until)]);
        feed.handle_reply(COOLDOWN_TOKEN, Some(b"{}"), now);
        made.iter().filter(|call| call.starts_with("PUT")).count()
    };
    assert_eq!(puts(&mut feed, at(3_600_000), 3_608_000), 1);
    assert_eq!(puts(&mut feed, at(3_600_500), 3_608_000), 0, "it was reported");
    for back in [2_000, 3_600_000] {
        let now = 3_600_000 - back;
        assert_eq!(puts(&mut feed, at(now), now + 8_000), 1, "{back} ms back");
    }
}

#[test]
fn a_shared_cooldown_ends_by_the_readers_own_clock() {
    const LEFT: u64 = 8_000;
    let record = |until: u64| format!(r#"{{"node":"a","version":1,"cooldown_until_ms":{until}}}"#);
    for (ahead, is_said, left) in [
        (19_000_i64, true, LEFT),
        (-19_000, true, LEFT),
        (0, true, LEFT),
        // A service of before does not say what its clock shows.
        (1_000, false, LEFT - 1_000),
    ] {
        let store = NOW.0.saturating_add_signed(-ahead);
        let clock = if is_said { format!(r#","now_ms":{store}"#) } else { String::new() };
        let record = record(store + LEFT);
        let nodes = format!(r#"{{"nodes":[{record}]{clock}}}"#);
        let event =
            format!(r#"{{"cursor":"a","kind":"node","reason":"updated","time_ms":0,"record":{record}}}"#);
        let changes = format!(r#"{{"cursor":"b","events":[{event}]{clock}}}"#);
        let mut feed = Feed::new("nodes");
        calls(&mut feed, NOW, &[]);

        let listed = feed.handle_reply(NODES_TOKEN, Some(nodes.as_bytes()), NOW);
        let news = publication(feed.handle_reply(CHANGES_TOKEN, Some(changes.as_bytes()), NOW));

        let Some(FeedReply::Records(records)) = listed else { panic!("{listed:?}") };
        for record in [&records[0], &news.records[0]] {
            assert_eq!(record.cooldown_until_ms, Some(NOW.0 + left), "ahead by {ahead} ms");
        }
    }
}

#[test]
fn workers_read_what_was_published_and_miss_what_fell_off() {
    let (mut log, mut feed) = (ChangeLog::default(), Feed::new("nodes"));
    let mut leader = read_on();
    calls(&mut leader, NOW, &[]);
    let news = publication(leader.handle_reply(CHANGES_TOKEN, Some(RAISED.as_bytes()), NOW));
    feed.read(&log);
    log.append(news.changes.clone());

    assert!(feed.is_behind(log.head()));
    assert_eq!(feed.read(&log), News::Changes(news.changes));
    assert!(!feed.is_behind(log.head()));

    log.note_gap();
    let mut successor = Feed::new("nodes");
    successor.succeed(&feed);
    assert_eq!(successor.read(&log), News::Missed);
    assert_eq!(successor.read(&log), News::Changes(Vec::new()));
}
