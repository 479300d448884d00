//! The leader's looks at Envoy: which hosts there are, and what the configuration says of their clusters.
//!
//! Hosts are looked at in each interval. The configuration costs Envoy six times as much for each host, so it is asked for
//! only when it can have changed: when other hosts are there than those that it is known for, and every 30 s besides,
//! because a change of weights alone shows nowhere else. A look whose hosts need it waits for it, so that no node is taken
//! for another one; but not for long, and without an answer what was known before goes on.
//!
//! A cluster that Envoy does not name for a while is reported once, with the names of those that it has.

use std::collections::{BTreeMap, VecDeque};

use crate::call::CallFailure;
use crate::cluster::{CLUSTERS_QUERY, Clusters, ENDPOINTS_QUERY};
use crate::membership::{Hosts, cluster_names, fingerprint, parse_clusters};
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
/// Before 1.38 Envoy shows the hosts of all clusters, whichever are asked for: 4 to 6 ns a byte of its main thread; at 2 % of its time
/// that is 300 ns a byte.
const NANOS_PER_BYTE: u64 = 300;

/// For how long a cluster must be missing to be reported: while Envoy starts, some come later than the first looks.
const UNKNOWN_AFTER: Millis = Millis(2000);
/// How many bytes of names a report of it has at most.
const NAMES: usize = 500;

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
    /// Which clusters there are.
    Names,
}

/// A cluster that is looked at.
#[derive(Debug)]
struct Watched {
    name: String,
    /// The pools whose members it has, for the log.
    pools: String,
    /// Since when looks have not shown it.
    missing: Option<Millis>,
    outage: Outage,
    /// It is to be reported together with the names of the others.
    is_to_report: bool,
}

/// The looks of one worker.
///
/// [`Self::look`] begins one. Make each call of [`Self::poll_call`], report it with [`Self::call_started`] or
/// [`Self::call_refused`], and hand in its answer with [`Self::handle_reply`].
#[derive(Debug)]
pub struct Watch {
    admin_cluster: String,
    clusters: Vec<Watched>,
    hosts_path: String,
    next: Option<(Call, WatchCall)>,
    under_way: Option<(Option<u32>, Call)>,
    events: VecDeque<String>,
    outage: Outage,
    /// The look that waits for the configuration.
    seen: Hosts,
    print: u64,
    /// How long the latest answer about hosts was.
    bytes: u64,
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
    /// Looks through the cluster of the admin interface at the clusters of these pools, given as cluster and pool.
    #[must_use]
    pub fn new(admin_cluster: &str, pools: &[(&str, &str)]) -> Self {
        let mut clusters: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for (cluster, pool) in pools {
            clusters.entry(cluster).or_default().push(pool);
        }
        let hosts_path = format!("/clusters?filter={}", any_of(clusters.keys().copied()));
        let watched = |(name, pools): (&str, Vec<&str>)| Watched {
            name: name.to_owned(),
            pools: format!("pool{} {}", if pools.len() > 1 { "s" } else { "" }, pools.join(", ")),
            missing: None,
            outage: Outage::default(),
            is_to_report: false,
        };
        Self {
            admin_cluster: admin_cluster.to_owned(),
            clusters: clusters.into_iter().map(watched).collect(),
            hosts_path,
            next: None,
            under_way: None,
            events: VecDeque::new(),
            outage: Outage::default(),
            seen: Vec::new(),
            print: 0,
            bytes: 0,
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
        self.clusters.iter().position(|watched| watched.name == cluster)
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

    /// The least time between two looks, by the size of the latest answer: so polling takes at most 2 % of Envoy's main thread.
    #[must_use]
    pub fn least_interval(&self) -> Millis {
        Millis(self.bytes.saturating_mul(NANOS_PER_BYTE) / 1_000_000)
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
            // An answer that is too large to be read costs Envoy as much as any other, and one that failed says nothing of a smaller cost.
            self.bytes =
                body.map_or_else(|failure| self.bytes.max(failure.size as u64), |body| body.len() as u64);
        }
        if matches!(call, Call::Names) {
            self.report_unknown(&cluster_names(body.unwrap_or_default()));
            return Sight::Nothing;
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
        let names: Vec<String> = self.clusters.iter().map(|watched| watched.name.clone()).collect();
        self.seen = parse_clusters(body, &names);
        self.print = fingerprint(&self.seen);
        self.note_missing(now);

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
            let path = format!("{CLUSTERS_QUERY}{}", any_of(names.iter().map(String::as_str)));
            self.ask(Call::Clusters, path, self.patience());
            return Sight::Nothing;
        }
        // Skip a look rather than name nodes wrongly, as long as the names can be known soon.
        if !is_known && !self.facts_failed && self.facts.as_ref().is_some_and(Clusters::matter) {
            return Sight::Nothing;
        }
        self.end_look()
    }

    /// Takes note of clusters that are missing, and of those that are there again.
    fn note_missing(&mut self, now: Millis) {
        for (watched, hosts) in self.clusters.iter_mut().zip(&self.seen) {
            watched.missing = hosts.is_none().then(|| watched.missing.unwrap_or(now));
            let is_unknown = watched.missing.is_some_and(|since| UNKNOWN_AFTER.is_over(since, now));
            if watched.outage.note(is_unknown) {
                watched.is_to_report = is_unknown;
                if !is_unknown {
                    self.events
                        .push_back(format!("{}: Envoy has cluster {} now", watched.pools, watched.name));
                }
            }
        }
    }

    /// Hands the look over; its successor may be a question for the names of clusters.
    fn end_look(&mut self) -> Sight {
        if self.clusters.iter().any(|watched| watched.is_to_report) {
            self.ask(Call::Names, "/clusters".to_owned(), POLL_TIMEOUT);
        }
        Sight::Look(Some(std::mem::take(&mut self.seen)))
    }

    fn report_unknown(&mut self, names: &[&str]) {
        let has = match list(names) {
            names if names.is_empty() => String::new(),
            names => format!("; those that it has: {names}"),
        };
        for watched in self.clusters.iter_mut().filter(|watched| watched.is_to_report) {
            watched.is_to_report = false;
            let Watched { pools, name, .. } = watched;
            self.events.push_back(format!(
                "{pools}: Envoy has no cluster {name}, or it is still warming; its sessions go where Envoy sends them{has}"
            ));
        }
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
        self.end_look()
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

/// As many of these names as a line of log has room for.
fn list(names: &[&str]) -> String {
    let mut text = String::new();
    for (shown, name) in names.iter().enumerate() {
        if text.len() + name.len() > NAMES {
            return format!("{text} and {} more", names.len() - shown).trim_start().to_owned();
        }
        if shown > 0 {
            text.push_str(", ");
        }
        text.push_str(name);
    }
    text
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

#[cfg(test)]
mod tests {
    use super::*;

    const KNOWN: &[u8] = b"nodes::observability_name::nodes\nadmin::observability_name::admin\n";

    /// The looks of a leader at the clusters of three pools, a second apart: what Envoy answers, and what is then logged.
    struct Looks {
        watch: Watch,
        now: Millis,
    }

    impl Looks {
        fn new() -> Self {
            let pools = [("nodes", "web"), ("gone", "games"), ("gone", "chat")];
            Self { watch: Watch::new("admin", &pools), now: Millis(0) }
        }

        /// One look, of which every call is answered with the same.
        fn look(&mut self, answer: Result<&[u8], &CallFailure>) -> Vec<String> {
            self.now = self.now + Millis(1000);
            self.watch.look();
            let mut token = 0;
            while let Some(call) = self.watch.poll_call() {
                token += 1;
                self.watch.call_started(token);
                let answer = if call.path.contains("config_dump") { Ok(&b"{}"[..]) } else { answer };
                assert!(self.watch.handle_reply(token, answer, self.now).is_some());
            }
            assert!(!self.watch.is_under_way());
            std::iter::from_fn(|| self.watch.poll_event()).collect()
        }
    }

    #[test]
    fn looks_are_the_rarer_the_more_envoy_shows_of_other_clusters() {
        let mut looks = Looks::new();
        looks.look(Ok(KNOWN));
        assert_eq!(looks.watch.least_interval(), Millis(0));

        let foreign = "outbound|80||a.b.svc.cluster.local::10.0.0.1:80::cx_active::0\n".repeat(100_000);
        looks.look(Ok(foreign.as_bytes()));
        assert_eq!(looks.watch.least_interval(), Millis(foreign.len() as u64 * 3 / 10_000));

        // One that the filter does not take costs Envoy no less.
        let failure = CallFailure { size: 20 << 20, ..CallFailure::new("200 ") };
        looks.look(Err(&failure));
        assert_eq!(looks.watch.least_interval(), Millis((20 << 20) * 3 / 10_000));
        let late = CallFailure { size: 24, ..CallFailure::new("504 upstream request timeout") };
        looks.look(Err(&late));
        assert_eq!(
            looks.watch.least_interval(),
            Millis((20 << 20) * 3 / 10_000),
            "no reason to look more often"
        );

        looks.look(Ok(KNOWN));
        assert_eq!(looks.watch.least_interval(), Millis(0), "Envoy was upgraded, or the mesh shrank");
    }

    #[test]
    fn a_cluster_that_envoy_does_not_know_is_reported_once_with_those_that_it_has() {
        let mut looks = Looks::new();
        assert_eq!(looks.look(Ok(KNOWN)), [""; 0], "it may come with the next look");
        assert_eq!(looks.look(Ok(KNOWN)), [""; 0]);

        let reports = looks.look(Ok(KNOWN));

        let report = "pools games, chat: Envoy has no cluster gone, or it is still warming; its sessions go where \
                      Envoy sends them; those that it has: nodes, admin";
        assert_eq!(reports, [report]);
        for _ in 0..10 {
            assert_eq!(looks.look(Ok(KNOWN)), [""; 0]);
        }
        let all = [KNOWN, b"gone::observability_name::gone\n"].concat();
        assert_eq!(looks.look(Ok(&all)), [""; 0], "one look is no return yet");
        assert_eq!(looks.look(Ok(&all)), ["pools games, chat: Envoy has cluster gone now"]);
        assert_eq!(looks.look(Ok(&all)), [""; 0]);
    }

    #[test]
    fn an_admin_that_does_not_answer_says_nothing_of_clusters() {
        let failure = CallFailure::new("503");
        let mut looks = Looks::new();

        let reports: Vec<String> = (0..10).flat_map(|_| looks.look(Err(&failure))).collect();

        assert_eq!(reports, ["looks at the members through the cluster admin: 503"]);
    }

    #[test]
    fn a_list_of_names_has_an_end() {
        let names: Vec<String> = (0..1000).map(|number| format!("cluster-{number}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();

        let text = list(&names);

        assert!(text.starts_with("cluster-0, cluster-1, ") && text.len() < NAMES + 150, "{text}");
        assert!(text.ends_with(" more"), "{text}");
        assert_eq!(list(&["x".repeat(1000).as_str()]), "and 1 more");
        assert_eq!(list(&[]), "");
    }
}
