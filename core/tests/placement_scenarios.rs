//! Plays the transcripts of `testdata/placement`: what a pool observes, and where its sessions then are. The README there
//! says how to read and write one.

mod support;

use std::collections::BTreeMap;
use std::fmt::Write as _;

use berth_core::event::Outcome;
use berth_core::health::{HealthPolicy, State};
use berth_core::membership::Observation;
use berth_core::placement::{NoPlacement, Placement, for_new, pinned};
use berth_core::ring::{Algorithm, session_hash};
use berth_core::roster::Roster;
use berth_core::snapshot::Snapshot;
use berth_core::time::Millis;
use berth_core::wire::{MAX_CANDIDATES, NodeRecord, NodeState};

use support::transcripts::play_all;

/// Sessions that `owners` and `moves` look at.
const SESSIONS: usize = 1000;
/// Transcripts count time from here: far from zero, as real clocks are.
const START: Millis = Millis(1_000_000_000);

#[test]
fn every_transcript_tells_what_happens() {
    play_all("placement", play);
}

/// The transcript with what happens after each `->`.
fn play(transcript: &str, name: &str) -> String {
    let mut pool = Pool::default();
    let mut happened = String::new();
    for (index, line) in transcript.lines().enumerate() {
        let (statement, is_question) =
            line.split_once("->").map_or((line, false), |(question, _)| (question.trim_end(), true));
        let answer =
            pool.perform(statement).unwrap_or_else(|problem| panic!("{name}:{}: {problem}", index + 1));
        assert_eq!(answer.is_some(), is_question, "{name}:{}: questions have ->, others not", index + 1);
        happened.push_str(statement);
        if let Some(answer) = answer {
            write!(happened, " -> {answer}").unwrap();
        }
        happened.push('\n');
    }
    happened
}

#[derive(Default)]
struct Pool {
    policy: Option<HealthPolicy>,
    now: Millis,
    roster: Roster,
    snapshot: Option<Snapshot>,
    /// Records so far.
    records: u64,
    /// The owner of each of [`SESSIONS`] when last asked.
    owners: Vec<String>,
}

impl Pool {
    /// Performs one line; its answer if it is a question.
    fn perform(&mut self, statement: &str) -> Result<Option<String>, String> {
        let statement = statement.trim();
        if statement.is_empty() || statement.starts_with('#') {
            return Ok(None);
        }
        let (verb, rest) = statement.split_once(' ').unwrap_or((statement, ""));
        let words = || rest.split_whitespace();
        if verb == "policy" {
            self.policy = Some(policy(words())?);
            return Ok(None);
        }
        let policy = self.policy.clone().ok_or("say the policy first")?;
        match verb {
            "at" => {
                self.now = START + duration(rest)?;
                // What a tick without news does.
                self.roster.reassess(&policy, self.now);
            }
            "see" => {
                let hosts = words().map(host).collect::<Result<_, _>>()?;
                self.roster.observe(hosts, &policy, self.now);
            }
            "report" => {
                self.roster.report_failure(rest, &policy, self.now);
            }
            "record" => {
                self.records += 1;
                self.roster.record(&[record(rest, self.records)?], &policy, self.now);
            }
            "states" => return Ok(Some(self.look(&policy)?.states())),
            "panic" => return Ok(Some(self.panic())),
            "place" => return Ok(Some(self.look(&policy)?.place(rest))),
            "pinned" => {
                let (session, owner) = rest.split_once(' ').ok_or("pinned needs a session and a node")?;
                return self.look(&policy)?.pinned(session, owner).map(Some);
            }
            "new" => return Ok(Some(self.look(&policy)?.for_new(rest))),
            "owners" => {
                self.owners = self.look(&policy)?.owners();
                let counted = count(&self.owners);
                let shares: Vec<String> =
                    counted.iter().map(|(owner, count)| format!("{owner}={count}")).collect();
                return Ok(Some(shares.join(" ")));
            }
            "moves" => {
                let owners = self.look(&policy)?.owners();
                let before = std::mem::replace(&mut self.owners, owners);
                let pairs = before.iter().zip(&self.owners).filter(|(before, now)| before != now);
                let moves: Vec<String> = pairs.map(|(before, now)| format!("{before}>{now}")).collect();
                let counted = count(&moves);
                let moves: Vec<String> =
                    counted.iter().map(|(pair, count)| format!("{pair} {count}")).collect();
                return Ok(Some(if moves.is_empty() { "none".to_owned() } else { moves.join(", ") }));
            }
            other => return Err(format!("{other:?} is no statement")),
        }
        Ok(None)
    }

    fn panic(&self) -> String {
        let priorities: Vec<u32> = self
            .roster
            .nodes
            .chunk_by(|a, b| a.priority == b.priority)
            .map(|nodes| nodes[0].priority)
            .collect();
        let panicking = priorities.iter().filter(|priority| {
            self.roster.nodes.iter().any(|node| node.priority == **priority && node.health.is_in_panic())
        });
        let panicking: Vec<String> = panicking.map(u32::to_string).collect();
        match panicking.len() {
            0 => "off".to_owned(),
            some if some == priorities.len() => "on".to_owned(),
            _ => format!("priority {}", panicking.join(",")),
        }
    }

    fn look(&mut self, policy: &HealthPolicy) -> Result<&Snapshot, String> {
        let build =
            |previous| Snapshot::build(&self.roster, Algorithm::default(), policy, self.now, previous);
        let snapshot = build(self.snapshot.as_ref()).map_err(|error| error.to_string())?;
        Ok(self.snapshot.insert(snapshot))
    }
}

/// How transcripts show a snapshot.
trait Show {
    fn states(&self) -> String;
    fn place(&self, session: &str) -> String;
    fn pinned(&self, session: &str, owner: &str) -> Result<String, String>;
    fn for_new(&self, session: &str) -> String;
    fn owners(&self) -> Vec<String>;
}

impl Show for Snapshot {
    fn states(&self) -> String {
        let show = |state| match state {
            State::Warming(share) => {
                format!("warming({:.0}%)", f64::from(share) * 100.0 / f64::from(State::WHOLE))
            }
            other => State::NAMES[other.index()].to_owned(),
        };
        let states: Vec<String> =
            self.nodes.iter().map(|node| format!("{}={}", node.address, show(node.state))).collect();
        states.join(" ")
    }

    fn place(&self, session: &str) -> String {
        match Placement::of(self, session_hash(session.as_bytes())) {
            Ok(placement) => show(&placement, self),
            Err(NoPlacement::NoMembers) => "no-node: no members".to_owned(),
            Err(NoPlacement::NoUsableNode) => "no-node: no usable node".to_owned(),
            Err(NoPlacement::Superseded) => "no-node: superseded".to_owned(),
            Err(NoPlacement::Withheld(reason)) => format!("no-node: {}", reason.name()),
        }
    }

    fn pinned(&self, session: &str, owner: &str) -> Result<String, String> {
        let owner = self.nodes.iter().position(|node| node.address == owner).ok_or("no such node")?;
        Ok(show(&pinned(self, session_hash(session.as_bytes()), owner, Outcome::Hit), self))
    }

    fn for_new(&self, session: &str) -> String {
        let candidates = for_new(self, session_hash(session.as_bytes()), MAX_CANDIDATES);
        let nodes: Vec<&str> = candidates.iter().map(|index| self.nodes[*index].address.as_str()).collect();
        if nodes.is_empty() { "no-node".to_owned() } else { nodes.join(",") }
    }

    fn owners(&self) -> Vec<String> {
        let owner = |index: usize| {
            let hash = session_hash(format!("user-{index}").as_bytes());
            let placement = Placement::of(self, hash).ok();
            placement.and_then(|placement| placement.nodes(self).next().map(|node| node.address.clone()))
        };
        (0..SESSIONS).map(|index| owner(index).unwrap_or_else(|| "no-node".to_owned())).collect()
    }
}

fn show(placement: &Placement, snapshot: &Snapshot) -> String {
    let nodes: Vec<&str> = placement.nodes(snapshot).map(|node| node.address.as_str()).collect();
    format!("{} {} {}", nodes.join(","), placement.outcome.name(), placement.reason.name())
}

fn count(texts: &[String]) -> BTreeMap<&str, usize> {
    texts.iter().fold(BTreeMap::new(), |mut counts, text| {
        *counts.entry(text.as_str()).or_default() += 1;
        counts
    })
}

/// `a`, `b(weight=2)`, `c(unhealthy,priority=1)`.
fn host(word: &str) -> Result<Observation, String> {
    let (address, facts) = match word.split_once('(') {
        Some((address, facts)) => (address, facts.strip_suffix(')').ok_or("close the (")?),
        None => (word, ""),
    };
    let mut host = Observation { address: address.to_owned(), weight: 1, ..Observation::default() };
    for fact in facts.split(',').filter(|fact| !fact.is_empty()) {
        let number =
            || fact.split_once('=').and_then(|(_, number)| number.parse().ok()).ok_or("give a number");
        match fact.split('=').next().unwrap_or_default() {
            "weight" => host.weight = number()?,
            "priority" => host.priority = number()?,
            "unhealthy" => host.flags.unhealthy = true,
            "ejected" => host.flags.ejected = true,
            "pending" => host.flags.pending = true,
            "degraded" => host.flags.degraded = true,
            "draining" => host.flags.draining = true,
            _ => return Err(format!("{fact:?} is no fact of a host")),
        }
    }
    Ok(host)
}

/// `10.0.0.2:80 standby until=60s version=3`.
fn record(text: &str, next_version: u64) -> Result<NodeRecord, String> {
    let mut words = text.split_whitespace();
    let (node, state) = words.next().zip(words.next()).ok_or("record needs a node and a state")?;
    let node = node.parse().map_err(|error| format!("{node}: {error}"))?;
    let state = NodeState::from_name(state).ok_or_else(|| format!("{state:?} is no state"))?;
    let mut record = NodeRecord { state, version: next_version, ..NodeRecord::unknown(node) };
    for word in words {
        match word.split_once('=').ok_or("facts of a record are name=value")? {
            ("until", time) => record.cooldown_until_ms = Some((START + duration(time)?).0),
            ("version", version) => record.version = version.parse().map_err(|_| "give a number")?,
            (name, _) => return Err(format!("{name:?} is no fact of a record")),
        }
    }
    Ok(record)
}

/// The defaults, but for what is said.
fn policy<'w>(words: impl Iterator<Item = &'w str>) -> Result<HealthPolicy, String> {
    let mut policy = HealthPolicy::default();
    for word in words {
        let (name, value) = word.split_once('=').ok_or("policy is name=value …")?;
        let number = || value.parse().map_err(|_| format!("{value:?} is no number"));
        match name {
            "cooldown" => policy.cooldown = duration(value)?,
            "max_cooldown" => policy.max_cooldown = duration(value)?,
            "warm_up" => policy.warm_up = duration(value)?,
            "warm_up_from_percent" => policy.warm_up_from_percent = number()?,
            "panic_threshold" => policy.panic_threshold = number()?,
            "panic_hold" => policy.panic_hold = duration(value)?,
            _ => return Err(format!("{name:?} is no part of a policy")),
        }
    }
    Ok(policy)
}

/// Whole seconds, such as `30s`.
fn duration(text: &str) -> Result<Millis, String> {
    let seconds = text.strip_suffix('s').and_then(|seconds| seconds.parse::<u64>().ok());
    seconds.map(|seconds| Millis(seconds * 1000)).ok_or_else(|| format!("{text:?} is no time such as 30s"))
}
