//! Finds out once a second which shards take writes, however often it is asked.
//!
//! A shard belongs to a pool, and a pool to the requests that name it, so the shards of the pools that were asked about lately
//! are looked at; before the first, those of a pool that no proxy has. Of the shards of one server one is written, a different one
//! each time: what keeps a server from writing keeps it from writing all. The others are read, since a Cluster, or a user's
//! key patterns, may take away some of them. So each server gets one write a second.
//!
//! A pin that is claimed or moved is as good as a probe.

use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant, SystemTime};

use berth_core::wire::PoolName;
use futures_util::future::join_all;
use tokio::sync::watch;

use super::call::{Group, Step};
use super::layout::{SHARDS, Shard};
use super::link::Link;
use super::scripts;
use crate::lock::lock;
use crate::store::StoreError;
use crate::store::readiness::{Away, Cause, Readiness};

const EVERY: Duration = Duration::from_secs(1);
/// A probe's answer is awaited this long, however short calls are: a busy moment is no outage, and connecting takes its time. With
/// the pause between two rounds it is less than 2 s.
const LIMIT: Duration = Duration::from_millis(700);
/// How long what a probe writes lives.
const LIFE_MS: &str = "1000";
/// Pools whose shards are looked at: those that were asked about last.
const POOLS: usize = 8;
/// The pool that is looked at before any other is known.
const NO_POOL: &str = "readiness";

pub(super) struct Prober {
    known: Mutex<Vec<Followed>>,
    /// Counts the rounds.
    rounds: watch::Sender<usize>,
}

/// The shards of one pool.
struct Followed {
    pool: PoolName,
    asked: Instant,
    places: [Place; SHARDS],
}

#[derive(Debug, Clone, Default)]
struct Place {
    state: State,
    wrote: Option<Instant>,
}

#[derive(Debug, Clone, Default)]
enum State {
    #[default]
    Unknown,
    Takes,
    Away {
        since: SystemTime,
        cause: Cause,
        detail: String,
    },
}

/// What one look found.
enum Found {
    Takes,
    /// It is read, and nothing was written on its server.
    Read,
    Failed(Cause, String),
}

impl Prober {
    pub(super) fn new() -> Arc<Self> {
        let places = std::array::from_fn(|_| Place::default());
        let known = match NO_POOL.parse() {
            Ok(pool) => vec![Followed { pool, asked: Instant::now(), places }],
            Err(_) => unreachable!("letters make a pool's name"),
        };
        Arc::new(Self { known: Mutex::new(known), rounds: watch::Sender::new(0) })
    }

    /// Looks until the store is gone.
    pub(super) async fn run(prober: Weak<Self>, link: Weak<Link>) {
        for turn in 0.. {
            let began = Instant::now();
            let (Some(prober), Some(link)) = (prober.upgrade(), link.upgrade()) else { return };
            prober.round(&link, turn).await;
            prober.rounds.send_modify(|rounds| *rounds += 1);
            drop((prober, link));
            tokio::time::sleep(EVERY.saturating_sub(began.elapsed())).await;
        }
    }

    /// A session of this pool was asked about. True if the pool is new.
    pub(super) fn asked(&self, pool: &PoolName) -> bool {
        let mut known = lock(&self.known);
        let now = Instant::now();
        if let Some(followed) = known.iter_mut().find(|followed| followed.pool == *pool) {
            followed.asked = now;
            return false;
        }
        let mut places = std::array::from_fn(|_| Place::default());
        if let [only] = &mut known[..]
            && only.pool.as_str() == NO_POOL
        {
            // No proxy has that one. What is known of its shards holds until there is something better.
            places = std::mem::replace(&mut only.places, places);
            known.clear();
        }
        if known.len() >= POOLS {
            let oldest = known.iter().enumerate().min_by_key(|(_, followed)| followed.asked);
            if let Some(oldest) = oldest.map(|(at, _)| at) {
                known.swap_remove(oldest);
            }
        }
        known.push(Followed { pool: pool.clone(), asked: now, places });
        true
    }

    /// The pools that were asked about lately.
    pub(super) fn pools(&self) -> Vec<PoolName> {
        self.followed().into_iter().filter(|pool| pool.as_str() != NO_POOL).collect()
    }

    /// The same, or before the first the one that no proxy has.
    pub(super) fn followed(&self) -> Vec<PoolName> {
        lock(&self.known).iter().map(|followed| followed.pool.clone()).collect()
    }

    /// An ordinary call wrote in this shard.
    pub(super) fn wrote(&self, pool: &PoolName, shard: usize) {
        let mut known = lock(&self.known);
        let followed = known.iter_mut().find(|followed| followed.pool == *pool);
        if let Some(place) = followed.and_then(|followed| followed.places.get_mut(shard)) {
            place.wrote = Some(Instant::now());
        }
    }

    /// What is known now; after a start, once there is something.
    pub(super) async fn readiness(&self) -> Readiness {
        let mut rounds = self.rounds.subscribe();
        while *rounds.borrow_and_update() == 0 {
            if rounds.changed().await.is_err() {
                break;
            }
        }
        let known = lock(&self.known);
        let mut away: Vec<Away> = Vec::new();
        for shard in 0..SHARDS {
            let states = known.iter().filter_map(|followed| Some(&followed.places.get(shard)?.state));
            let failed = states.filter_map(|state| match state {
                State::Away { since, cause, detail } => {
                    Some(Away { shard, since: *since, cause: *cause, detail: detail.clone() })
                }
                State::Unknown | State::Takes => None,
            });
            away.extend(failed.min_by_key(|away| away.since));
        }
        let takes = known
            .iter()
            .flat_map(|followed| &followed.places)
            .any(|place| matches!(place.state, State::Takes));
        Readiness { shards: SHARDS, away, takes, unconfirmed: None }
    }

    async fn round(&self, link: &Link, turn: usize) {
        // One that is refused for a user's patterns says nothing of the server: then another is written.
        for attempt in 0..3 {
            if !self.look(link, turn + attempt).await {
                break;
            }
        }
    }

    /// True if there is a server on which nothing could be written, for a reason that may be that shard's alone.
    async fn look(&self, link: &Link, turn: usize) -> bool {
        let mut looked_at = self.servers(link);
        // No server is always the last to find a place.
        let first = turn % looked_at.len().max(1);
        looked_at.rotate_left(first);
        let found = join_all(looked_at.iter().map(|server| probe(link, server, turn))).await;
        let mut changes = Changes::default();
        let mut again = false;
        {
            let mut known = lock(&self.known);
            for (target, found) in looked_at.iter().flatten().zip(found.into_iter().flatten()) {
                let followed = known.iter_mut().find(|followed| followed.pool == target.pool);
                let Some(place) = followed.and_then(|followed| followed.places.get_mut(target.shard.index()))
                else {
                    continue;
                };
                again |= matches!(found, Found::Read);
                place.learn(found, target.shard.index(), &mut changes);
            }
        }
        changes.log();
        again
    }

    /// The shards to look at, by their servers.
    fn servers(&self, link: &Link) -> Vec<Vec<Target>> {
        let known = lock(&self.known);
        let mut servers: Vec<(Option<String>, Vec<Target>)> = Vec::new();
        for followed in known.iter() {
            for (shard, place) in Shard::all(&followed.pool).zip(&followed.places) {
                let name = link.server_of(&shard);
                let target = Target { pool: followed.pool.clone(), shard, state: place.state.clone() };
                // One whose server is not known is looked at by itself.
                match servers.iter_mut().find(|(other, _)| name.is_some() && *other == name) {
                    Some((_, targets)) => targets.push(target),
                    None => servers.push((name, vec![target])),
                }
            }
        }
        servers.into_iter().map(|(_, targets)| targets).collect()
    }
}

/// A shard to look at.
struct Target {
    pool: PoolName,
    shard: Shard,
    state: State,
}

impl Target {
    fn is_refused(&self) -> bool {
        matches!(self.state, State::Away { cause: Cause::NoPermission, .. })
    }
}

/// A write that says nothing.
pub(super) fn probe_step(shard: &Shard) -> Step {
    Step::script(&scripts::PROBE, &[shard.probe()]).arg(LIFE_MS)
}

/// Looks at the shards of one server.
async fn probe(link: &Link, targets: &[Target], turn: usize) -> Vec<Found> {
    let written = chosen(targets, turn);
    let writes = |at: usize, target: &Target| Some(at) == written || target.is_refused();
    let groups = targets.iter().enumerate().map(|(at, target)| {
        let step = if writes(at, target) {
            probe_step(&target.shard)
        } else {
            Step::command("EXISTS").arg(target.shard.probe())
        };
        Group { shard: target.shard.clone(), steps: vec![step] }
    });
    let outcomes = link.probe(LIMIT, groups.collect()).await;
    let failure = |at: usize| {
        let error = outcomes.get(at)?.as_ref().err()?;
        Some((Cause::of(error), detail(error)))
    };
    let wrote = (0..).zip(targets).any(|(at, target)| writes(at, target) && failure(at).is_none());
    let of_server = written.and_then(failure).filter(|(cause, detail)| !is_of_keys(*cause, detail));
    (0..targets.len())
        .map(|at| match (failure(at), &of_server) {
            (Some((cause, detail)), _) => Found::Failed(cause, detail),
            (None, Some((cause, detail))) => Found::Failed(*cause, detail.clone()),
            (None, None) if wrote => Found::Takes,
            (None, None) => Found::Read,
        })
        .collect()
}

/// The shard that is written: another one each time, and if possible one that is not known to be refused.
fn chosen(targets: &[Target], turn: usize) -> Option<usize> {
    let good: Vec<usize> =
        (0..).zip(targets).filter(|(_, target)| !target.is_refused()).map(|(at, _)| at).collect();
    good.get(turn % good.len().max(1)).copied()
}

fn detail(error: &StoreError) -> String {
    match error {
        StoreError::Unreachable(text) | StoreError::Refused(text) => text.trim().to_owned(),
        StoreError::Timeout | StoreError::Suspended => error.to_string(),
    }
}

/// True if the server may refuse this shard alone.
fn is_of_keys(cause: Cause, detail: &str) -> bool {
    cause == Cause::ClusterDown || cause == Cause::NoPermission && detail.contains("key")
}

impl Place {
    fn learn(&mut self, found: Found, shard: usize, changes: &mut Changes) {
        let wrote = self.wrote.is_some_and(|wrote| wrote.elapsed() < EVERY);
        let next = match found {
            Found::Failed(Cause::Timeout, _) if wrote => State::Takes,
            Found::Takes => State::Takes,
            Found::Read => return,
            Found::Failed(cause, detail) => match &self.state {
                State::Away { since, cause: known, .. } => {
                    if *known != cause {
                        changes.away(shard, cause, &detail);
                    }
                    State::Away { since: *since, cause, detail }
                }
                State::Unknown | State::Takes => {
                    changes.away(shard, cause, &detail);
                    State::Away { since: SystemTime::now(), cause, detail }
                }
            },
        };
        if matches!((&self.state, &next), (State::Away { .. }, State::Takes)) {
            changes.back.push(shard);
        }
        self.state = next;
    }
}

/// What a round changed, for the log: a line for each cause.
#[derive(Default)]
struct Changes {
    away: Vec<(Cause, String, Vec<usize>)>,
    back: Vec<usize>,
}

impl Changes {
    fn away(&mut self, shard: usize, cause: Cause, detail: &str) {
        match self.away.iter_mut().find(|(other, ..)| *other == cause) {
            Some((_, _, shards)) => shards.push(shard),
            None => self.away.push((cause, detail.to_owned(), vec![shard])),
        }
    }

    fn log(&self) {
        for (cause, detail, shards) in &self.away {
            let (cause, shards) = (cause.name(), digits(shards));
            tracing::warn!(shards, cause, detail, "shards of the store take no writes");
        }
        if !self.back.is_empty() {
            tracing::info!(shards = digits(&self.back), "shards of the store take writes again");
        }
    }
}

pub(super) fn digits(shards: &[usize]) -> String {
    let mut shards = shards.to_vec();
    shards.sort_unstable();
    shards.dedup();
    shards.iter().map(|shard| format!("{shard:x}")).collect::<Vec<_>>().join(" ")
}
