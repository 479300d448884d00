//! The leader's looks at Envoy: which hosts there are, and what the configuration says of their clusters.
//!
//! Hosts are looked at in each interval. The configuration costs Envoy six times as much for each host, so it is asked for
//! only when it can have changed: when other hosts are there than those that it is known for, and every 30 s besides,
//! because a change of weights alone shows nowhere else. A look whose hosts need it waits for it, so that no node is taken
//! for another one; but not for long, and without an answer what was known before goes on.

use std::collections::VecDeque;

use crate::call::CallFailure;
use crate::cluster::{CLUSTERS_QUERY, Clusters, ENDPOINTS_QUERY};
use crate::membership::{Hosts, fingerprint, parse_clusters};
use crate::outage::Outage;
use crate::time::Millis;

/// An admin that has not answered by then is stuck; the next interval asks again.
const POLL_TIMEOUT: Millis = Millis(5000);
/// How long a look waits for the configuration: for an answer, plus 300 µs a host (five times what it takes).
const FACTS_TIMEOUT: Millis = Millis(200);
/// How often the configuration is asked for when nothing else says that it changed.
const FACTS_INTERVAL: Millis = Millis(30_000);
/// How soon it is asked for again if there was no answer.
const FACTS_RETRY: Millis = Millis(5000);
/// The configuration takes Envoy's main thread 57 µs a host; at 2 % of its time that is 2.85 ms a host.
const FACTS_MICROS_PER_HOST: u64 = 2850;

/// What an answer led to.
#[derive(Debug)]
pub enum Sight {
    /// There is nothing to be seen yet; there may be another call to make.
    Nothing,
    /// A look is over, and showed nothing if it failed.
    Look(Option<Hosts>),
}

/// A GET to make of Envoy's admin interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WatchCall {
    /// The path with its query.
    pub path: String,
    /// How long to wait for the answer.
    pub timeout: Millis,
}

#[derive(Debug, Clone, Copy)]
enum Call {
    Hosts,
    Clusters,
    Endpoints,
}

/// The looks of one worker.
///
/// [`Self::look`] begins one. Make each call of [`Self::poll_call`], report it with [`Self::call_started`] or
/// [`Self::call_refused`], and hand in its answer with [`Self::handle_reply`].
#[derive(Debug)]
pub struct Watch {
    admin_cluster: String,
    /// The clusters that are looked at.
    clusters: Vec<String>,
    hosts_path: String,
    next: Option<(Call, WatchCall)>,
    under_way: Option<(Option<u32>, Call)>,
    events: VecDeque<String>,
    outage: Outage,
    /// The look that waits for the configuration.
    seen: Hosts,
    print: u64,
    /// The configuration as far as it has been read.
    half: Clusters,
    facts: Option<Clusters>,
    /// Of which hosts the facts are.
    facts_print: u64,
    facts_asked: Millis,
    facts_failed: bool,
    facts_outage: Outage,
}

impl Watch {
    /// Looks at these clusters through the cluster of the admin interface.
    #[must_use]
    pub fn new(admin_cluster: &str, clusters: Vec<String>) -> Self {
        let hosts_path = format!("/clusters?filter={}", any_of(clusters.iter().map(String::as_str)));
        Self {
            admin_cluster: admin_cluster.to_owned(),
            clusters,
            hosts_path,
            next: None,
            under_way: None,
            events: VecDeque::new(),
            outage: Outage::default(),
            seen: Vec::new(),
            print: 0,
            half: Clusters::default(),
            facts: None,
            facts_print: 0,
            facts_asked: Millis(0),
            facts_failed: false,
            facts_outage: Outage::default(),
        }
    }

    /// Other looks differ in this.
    #[must_use]
    pub fn source(&self) -> String {
        format!("{}/{}", self.admin_cluster, self.hosts_path)
    }

    #[must_use]
    /// True while a look is not over.
    pub fn is_under_way(&self) -> bool {
        self.under_way.is_some() || self.next.is_some()
    }

    /// The place of a cluster in what a look shows.
    #[must_use]
    pub fn place(&self, cluster: &str) -> Option<usize> {
        self.clusters.iter().position(|name| name == cluster)
    }

    /// What is known of the configuration, if anything.
    #[must_use]
    pub fn facts(&self) -> Option<&Clusters> {
        self.facts.as_ref()
    }

    /// True if what is known of the configuration is of the hosts of the latest look, or says nothing of single hosts.
    #[must_use]
    pub fn is_current(&self) -> bool {
        self.print == self.facts_print || self.facts.as_ref().is_some_and(|facts| !facts.matter())
    }

    /// Begins a look.
    pub fn look(&mut self) {
        self.ask(Call::Hosts, self.hosts_path.clone(), POLL_TIMEOUT);
    }

    /// The next call to make.
    pub fn poll_call(&mut self) -> Option<WatchCall> {
        let (call, request) = self.next.take()?;
        self.under_way = Some((None, call));
        Some(request)
    }

    /// The call was made; its answer will bear `token`.
    pub fn call_started(&mut self, token: u32) {
        if let Some((under_way, _)) = &mut self.under_way {
            *under_way = Some(token);
        }
    }

    /// The call could not be made.
    pub fn call_refused(&mut self, failure: &CallFailure, now: Millis) -> Sight {
        self.end_call(Err(failure), now)
    }

    /// A call came to its end. `None` if it is not the one that is under way.
    pub fn handle_reply(
        &mut self,
        token: u32,
        body: Result<&[u8], &CallFailure>,
        now: Millis,
    ) -> Option<Sight> {
        self.is_asking(token).then(|| self.end_call(body, now))
    }

    /// What the log is to say next.
    pub fn poll_event(&mut self) -> Option<String> {
        self.events.pop_front()
    }

    /// True if it waits for the answer to this call.
    #[must_use]
    pub fn is_asking(&self, token: u32) -> bool {
        self.under_way.is_some_and(|(under_way, _)| under_way == Some(token))
    }

    fn note(&mut self, failure: Option<&CallFailure>) {
        if self.outage.note(failure.is_some()) {
            let outcome = failure.map_or("they work again", |failure| &failure.detail);
            let cluster = &self.admin_cluster;
            self.events.push_back(format!("looks at the members through the cluster {cluster}: {outcome}"));
        }
    }

    fn end_call(&mut self, body: Result<&[u8], &CallFailure>, now: Millis) -> Sight {
        let Some((_, call)) = self.under_way.take() else { return Sight::Nothing };
        if matches!(call, Call::Hosts) {
            self.note(body.err());
        }
        let failure = body.err().map_or("its answer cannot be read", |failure| &failure.detail);
        match (call, body.ok()) {
            (Call::Hosts, None) => Sight::Look(None),
            (Call::Hosts, Some(body)) => self.see(body, now),
            (Call::Clusters, Some(body)) if let Some(half) = Clusters::read(body) => {
                self.half = half;
                if self.half.services().next().is_none() {
                    return self.conclude(None);
                }
                let path = format!("{ENDPOINTS_QUERY}{}", any_of(self.half.services()));
                self.ask(Call::Endpoints, path, self.patience());
                Sight::Nothing
            }
            (Call::Endpoints, Some(body)) => {
                let is_read = self.half.read_endpoints(body);
                self.conclude((!is_read).then_some(failure))
            }
            _ => self.conclude(Some(failure)),
        }
    }

    fn see(&mut self, body: &[u8], now: Millis) -> Sight {
        self.seen = parse_clusters(body, &self.clusters);
        self.print = fingerprint(&self.seen);

        let is_known = self.print == self.facts_print && self.facts.is_some();
        let since = now.since(self.facts_asked);
        let budget = Millis(self.host_count() * FACTS_MICROS_PER_HOST / 1000);
        // Until it has been read once no node's name is known: that is worth a question with each look.
        let is_patient = self.facts_failed && self.facts.is_some();
        let least = if is_patient { budget.max(FACTS_RETRY) } else { budget };
        // A clock that was set back must not keep it from being asked for.
        let may_ask = since >= least || now < self.facts_asked;
        if may_ask && (!is_known || since >= FACTS_INTERVAL || now < self.facts_asked) {
            self.facts_asked = now;
            let path = format!("{CLUSTERS_QUERY}{}", any_of(self.clusters.iter().map(String::as_str)));
            self.ask(Call::Clusters, path, self.patience());
            return Sight::Nothing;
        }
        // Skip a look rather than name nodes wrongly, as long as the names can be known soon.
        if !is_known && !self.facts_failed && self.facts.as_ref().is_some_and(Clusters::matter) {
            return Sight::Nothing;
        }
        Sight::Look(Some(std::mem::take(&mut self.seen)))
    }

    /// Ends the look that waited for the configuration.
    fn conclude(&mut self, failure: Option<&str>) -> Sight {
        self.facts_failed = failure.is_some();
        if self.facts_outage.note(self.facts_failed) {
            let outcome = failure.unwrap_or("it works again");
            let cluster = &self.admin_cluster;
            self.events
                .push_back(format!("{cluster}: /config_dump, which has the names of nodes: {outcome}"));
        }
        if failure.is_none() {
            self.facts = Some(std::mem::take(&mut self.half));
            self.facts_print = self.print;
        }
        Sight::Look(Some(std::mem::take(&mut self.seen)))
    }

    fn ask(&mut self, call: Call, path: String, timeout: Millis) {
        self.next = Some((call, WatchCall { path, timeout }));
    }

    fn host_count(&self) -> u64 {
        self.seen.iter().flatten().map(|hosts| hosts.len() as u64).sum()
    }

    fn patience(&self) -> Millis {
        FACTS_TIMEOUT + Millis(self.host_count() * 3 / 10)
    }
}

/// A regular expression in a query that matches these names.
fn any_of<'n>(names: impl Iterator<Item = &'n str>) -> String {
    let names: Vec<String> = names.map(escape).collect();
    format!("%5E({})%24", names.join("%7C"))
}

/// A cluster's name as a regular expression in a query: every byte that could mean something in either is escaped.
fn escape(name: &str) -> String {
    let mut escaped = String::new();
    for byte in name.bytes() {
        if byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-' {
            escaped.push(char::from(byte));
        } else if byte.is_ascii() {
            escaped.push_str(&format!("%5C%{byte:02X}"));
        } else {
            escaped.push_str(&format!("%{byte:02X}"));
        }
    }
    escaped
}
