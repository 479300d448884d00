//! What the workers of one Envoy share: the members and their health, the log of changes, who leads, and what requests said of
//! nodes. And what is to leave the Envoy: calls and decisions, which the run takes.

use std::collections::BTreeMap;

use berth_core::changelog::ChangeLog;
use berth_core::cluster::Clusters;
use berth_core::health::{HealthPolicy, State};
use berth_core::membership::Observation;
use berth_core::passive::Ledger;
use berth_core::roster::Roster;
use berth_core::time::Millis;
use berth_core::wire::{ApiRequest, Cursor, SessionKey};

use super::{BLIND_AFTER, Out, POLL_INTERVAL};
use crate::mutants::Mutant;

/// When a member was seen unhealthy.
#[derive(Debug, Default, Clone, Copy)]
pub struct BadLooks {
    /// The last time.
    pub last: Millis,
    /// How often it failed.
    pub failures: u32,
    is_bad: bool,
}

impl BadLooks {
    fn look(&mut self, is_bad: bool, now: Millis) {
        if is_bad {
            self.failures += u32::from(!self.is_bad);
            self.last = now;
        }
        self.is_bad = is_bad;
    }

    pub(super) fn failed(&mut self, now: Millis) {
        self.failures += 1;
        self.last = now;
    }
}

/// What one Envoy's workers share.
pub struct Shared {
    pub(super) roster: Roster,
    pub(super) log: ChangeLog,
    pub(super) cursor: Option<Cursor>,
    pub(super) ledger: Ledger,
    /// When Envoy last named its hosts.
    pub(super) seen: Millis,
    pub(super) clusters: Clusters,
    /// Which worker leads, and until when.
    lease: Option<(u32, Millis)>,
    pub(super) mutant: Option<Mutant>,
    next_token: u32,
    /// Calls to make.
    pub out: Vec<Out>,
    /// Requests that were decided just now.
    pub decided: Vec<u32>,
    /// Hits that went to a node though it was learned that the session ended, or that another has it.
    pub outdated: Vec<(SessionKey, String)>,
    /// What must never be, and was.
    pub wrong: Vec<String>,
    /// What looks and requests said of members, by name.
    pub bad_looks: BTreeMap<String, BadLooks>,
}

/// What a look at the lease showed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Leadership {
    Other,
    Held,
    Taken,
}

impl Shared {
    pub(super) fn new(clusters: Clusters, mutant: Option<Mutant>) -> Self {
        Self {
            roster: Roster::default(),
            log: ChangeLog::default(),
            cursor: None,
            ledger: Ledger::default(),
            seen: Millis(0),
            clusters,
            lease: None,
            mutant,
            next_token: 1,
            out: Vec::new(),
            decided: Vec::new(),
            outdated: Vec::new(),
            wrong: Vec::new(),
            bad_looks: BTreeMap::new(),
        }
    }

    /// As `filter/src/shared.rs` has it.
    pub(super) fn claim_lease(&mut self, worker: u32, now: Millis) -> Leadership {
        let length = POLL_INTERVAL + Millis(POLL_INTERVAL.0 / 2);
        let leadership = match self.lease {
            Some((holder, expires)) if holder == worker => {
                if expires <= now {
                    Leadership::Taken
                } else {
                    Leadership::Held
                }
            }
            Some((_, expires)) if now < expires && expires.since(now) <= length => return Leadership::Other,
            _ => Leadership::Taken,
        };
        self.lease = Some((worker, now + length));
        leadership
    }

    pub(super) fn token(&mut self) -> u32 {
        self.next_token += 1;
        self.next_token - 1
    }

    /// Folds a look into the roster. True if that changed it.
    pub(super) fn observe(
        &mut self,
        observed: Option<Vec<Observation>>,
        policy: &HealthPolicy,
        now: Millis,
    ) -> bool {
        if let Some(hosts) = &observed {
            let absent = |name: &String| hosts.iter().all(|host| host.name() != name);
            let gone = self.bad_looks.iter_mut().filter(|(name, _)| absent(name));
            gone.for_each(|(_, looks)| looks.look(false, now));
        }
        for host in observed.iter().flatten() {
            self.bad_looks.entry(host.name().to_owned()).or_default().look(host.flags.unhealthy, now);
        }
        let is_blind = now.since(self.seen) > BLIND_AFTER;
        let is_lost = is_blind && self.roster.lose_sight(self.seen, policy, now);
        let facts = self.clusters.get("nodes");
        let is_other = observed.is_some() && self.roster.learn(facts, true);
        let is_seen = observed.is_some();
        let is_changed = match observed {
            Some(hosts) => self.roster.observe_after((self.seen, POLL_INTERVAL), hosts, policy, now),
            None => self.roster.reassess(policy, now),
        };
        if is_seen {
            self.seen = now;
        }
        is_lost || is_other || is_changed
    }

    /// Has a call sent. What it asks is altered by some mutants.
    pub(super) fn send(
        &mut self,
        mut request: ApiRequest,
        timeout: Millis,
        states: Option<&BTreeMap<String, State>>,
    ) -> u32 {
        if self.mutant == Some(Mutant::LostEnd) && request.method == "DELETE" {
            // Another session's.
            request.path = format!("/v1/sessions/{}?pool=nodes", "0".repeat(32));
        }
        if let Some(states) = states
            && self.mutant == Some(Mutant::PanicRewritesPins)
            && request.path == "/v1/resolve"
        {
            distrust(&mut request, states);
        }
        let token = self.token();
        self.out.push(Out { token, request, timeout: timeout.0, in_panic: states.is_some() });
        token
    }
}

/// What a proxy would ask that believes what health says in panic.
fn distrust(request: &mut ApiRequest, states: &BTreeMap<String, State>) {
    let Ok(mut body) = serde_json::from_slice::<serde_json::Value>(&request.body) else { return };
    let out = states.iter().filter(|(_, state)| **state == State::Cooldown);
    let out: Vec<String> = out.map(|(name, _)| name.clone()).collect();
    body["panic"] = false.into();
    for session in body["sessions"].as_array_mut().into_iter().flatten() {
        session["unusable"] = out.clone().into();
    }
    request.body = serde_json::to_vec(&body).unwrap_or_default();
}
