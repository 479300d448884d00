//! `berth import`: pins for sessions that something else placed before, such as another balancer. Each line names a session and
//! its node. A session that has a pin already keeps it, as the first claim counts among proxies, unless `--replace` is given.
//!
//! What comes slowly, as from `tail -f` of an access log, is sent a moment after it was read, whether or not more comes. A
//! service that goes away is tried again, and lines wait meanwhile: they are read once only.

mod lines;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::PathBuf;
use std::pin::pin;
use std::time::Duration;

use berth_core::time::Millis;
use berth_core::wire::{
    ApiRequest, MAX_SESSIONS, MAX_TTL, MIN_TTL, NodeId, Outcome, Pin, ResolveReply, ResolveRequest,
    SessionAsk, SessionKey,
};
use berth_state::given::{Given, time};
use clap::Args;
use serde::Serialize;
use tokio::sync::mpsc::Receiver;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use self::lines::Placed;
use super::arguments::Server;
use super::asked::Asked;
use super::client::Failure;
use super::itself::{ASK_AGAIN, warn};
use super::signals::stopped;

/// How long the oldest line waits for others.
const PAUSE: Duration = Duration::from_millis(200);
/// One call with its connection. A service that hangs is left, and a new connection may lead to another instance.
const CALL: Duration = Duration::from_secs(5);
/// A service that never answered is given up so long after the first call: it may be starting, or not be there at all.
const FIRST_ANSWER: Duration = Duration::from_secs(10);
/// What was read before a signal is sent in this time.
const LAST: Duration = Duration::from_secs(5);
/// So many wrong lines are described; further ones are only counted.
const DESCRIBED: u64 = 20;

#[derive(Args)]
pub(crate) struct Importing {
    /// The lines [default: standard input]
    #[arg(value_name = "FILE")]
    file: Option<PathBuf>,
    /// How long a pin lives unused: the ttl of this pool in the proxies' configuration [default: the service's, 30m unless set]
    #[arg(long, value_name = "TIME", value_parser = time(Millis(MIN_TTL)..=Millis(MAX_TTL)))]
    ttl: Option<Given<Millis>>,
    /// Move a session whose pin names another node than the line does, as the other balancer still decides
    #[arg(long)]
    replace: bool,
}

/// What became of the lines.
#[derive(Debug, Default, Serialize)]
struct Imported {
    /// Sessions that have a pin to this node now, and had no pin before.
    claimed: u64,
    /// Sessions that had that pin already.
    found: u64,
    /// Sessions whose pin was moved to this node.
    rehomed: u64,
    /// Sessions that have a pin to another node, which stays.
    elsewhere: u64,
    /// Lines without a session or without a node: `-` in an access log.
    skipped: u64,
    /// Lines that could not be understood.
    faulty: u64,
}

/// Reads the file, or the standard input without one, to its end or to a signal.
pub(super) async fn run(importing: &Importing, server: &Server) -> Result<(), Failure> {
    let mut faults = Vec::new();
    let asked = Asked::new(server, &mut faults);
    let ttl = importing.ttl.clone().map(|ttl| ttl.take(&mut faults));
    let Some(asked) = asked.filter(|_| faults.is_empty()) else { return Err(Failure::Usage(faults)) };
    let input: Box<dyn Read + Send> = match &importing.file {
        Some(file) => {
            Box::new(File::open(file).map_err(|error| refused(&format!("{}: {error}", file.display())))?)
        }
        None => Box::new(io::stdin()),
    };

    let mut import = Import {
        asked: &asked,
        ttl_ms: ttl.flatten().map(|ttl| ttl.0),
        replace: importing.replace,
        batch: BTreeMap::new(),
        oldest: None,
        began: None,
        was_answered: false,
        lines: 0,
        has_warned_of_blanks: false,
        imported: Imported::default(),
    };
    let outcome = import.follow(lines::lines(input)).await;
    if !import.batch.is_empty() {
        warn(&format!("{} sessions were read and are not imported", import.batch.len()));
    }
    let (imported, replace) = (import.imported, importing.replace);
    asked.print(&imported, |imported| text(imported, replace))?;
    outcome?;
    match imported.faulty {
        0 => Ok(()),
        count => Err(refused(&format!("{count} lines were left out"))),
    }
}

fn refused(reason: &str) -> Failure {
    Failure::Refused(reason.to_owned())
}

struct Import<'a> {
    asked: &'a Asked,
    ttl_ms: Option<u64>,
    replace: bool,
    /// What was read and not sent.
    batch: BTreeMap<SessionKey, NodeId>,
    /// When the first of the batch was read.
    oldest: Option<Instant>,
    /// When the service was first asked.
    began: Option<Instant>,
    was_answered: bool,
    lines: u64,
    has_warned_of_blanks: bool,
    imported: Imported,
}

impl Import<'_> {
    async fn follow(&mut self, mut lines: Receiver<io::Result<Vec<u8>>>) -> Result<(), Failure> {
        let mut stop = pin!(stopped());
        let signal = loop {
            let due = self.oldest.map(|oldest| oldest + PAUSE);
            let is_due = async {
                match due {
                    Some(due) => sleep_until(due).await,
                    None => std::future::pending().await,
                }
            };
            let line = tokio::select! {
                biased;
                signal = &mut stop => break signal,
                () = is_due => None,
                line = lines.recv() => Some(line),
            };
            let is_end = matches!(line, Some(None));
            let is_waiting = line.is_none();
            let read = match line.flatten() {
                Some(line) => self.take(line),
                None => Ok(()),
            };
            if is_end || is_waiting || read.is_err() || self.batch.len() >= MAX_SESSIONS {
                // What was read goes first, also before a failure of the input.
                tokio::select! {
                    biased;
                    signal = &mut stop => break signal,
                    sent = self.send() => sent?,
                }
            }
            read?;
            if is_end {
                return Ok(());
            }
        };
        self.finish(lines, signal).await
    }

    /// Sends what was read before a signal.
    async fn finish(
        &mut self,
        mut lines: Receiver<io::Result<Vec<u8>>>,
        (number, name): (u8, &str),
    ) -> Result<(), Failure> {
        lines.close();
        let rest = async {
            while let Some(line) = lines.recv().await {
                self.take(line)?;
                if self.batch.len() >= MAX_SESSIONS {
                    self.send().await?;
                }
            }
            self.send().await
        };
        let sent = timeout(LAST, rest).await.unwrap_or(Ok(()));
        // What is still here is not imported, and is counted.
        while let Ok(line) = lines.try_recv() {
            self.take(line)?;
        }
        sent?;
        Err(Failure::Stopped(number, format!("{name}: stopped reading lines")))
    }

    /// Puts a line into the batch.
    fn take(&mut self, line: io::Result<Vec<u8>>) -> Result<(), Failure> {
        let line = line.map_err(|error| refused(&format!("cannot read on: {error}")))?;
        self.lines += 1;
        let number = self.lines;
        match lines::read(&line) {
            Ok(Some(Placed { session, node, has_blanks })) => {
                if has_blanks && !self.has_warned_of_blanks {
                    self.has_warned_of_blanks = true;
                    warn(&format!(
                        "line {number}: its id has blanks inside. It is imported as it is: is all of it the id?"
                    ));
                }
                // Of two lines the later one is right.
                self.batch.insert(SessionKey::new(self.asked.pool(), session.as_bytes()), node);
                self.oldest.get_or_insert_with(Instant::now);
            }
            Ok(None) => self.imported.skipped += 1,
            Err(fault) => {
                self.imported.faulty += 1;
                match self.imported.faulty {
                    count if count <= DESCRIBED => warn(&format!("line {number}: {fault}")),
                    count if count == DESCRIBED + 1 => warn("further wrong lines are only counted"),
                    _ => {}
                }
            }
        }
        Ok(())
    }

    /// Sends the batch. May be given up and done again: what was sent is no longer in the batch.
    async fn send(&mut self) -> Result<(), Failure> {
        loop {
            let mut owners = BTreeMap::new();
            for pin in self.resolve(&owners).await? {
                let is_here = self.batch.get(&pin.key) == Some(&pin.node);
                if !is_here && self.replace {
                    owners.insert(pin.key, pin.node);
                    continue;
                }
                self.count(&pin, is_here);
            }
            // The pin moves only if it is still on the node that it was found on.
            if !owners.is_empty() {
                for pin in self.resolve(&owners).await? {
                    let is_here = self.batch.get(&pin.key) == Some(&pin.node);
                    self.count(&pin, is_here);
                }
            }
            if self.batch.is_empty() {
                self.oldest = None;
                return Ok(());
            }
            // Part of the store is away.
            sleep(ASK_AGAIN).await;
        }
    }

    fn count(&mut self, pin: &Pin, is_here: bool) {
        self.batch.remove(&pin.key);
        let Imported { claimed, found, rehomed, elsewhere, .. } = &mut self.imported;
        *match (is_here, pin.outcome) {
            (true, Outcome::Claimed) => claimed,
            (true, Outcome::Found) => found,
            (true, Outcome::Rehomed) => rehomed,
            (false, _) => elsewhere,
        } += 1;
    }

    /// Asks for the batch's sessions as a proxy does that finds these owners unusable. Tries again each second.
    async fn resolve(&mut self, owners: &BTreeMap<SessionKey, NodeId>) -> Result<Vec<Pin>, Failure> {
        if self.batch.is_empty() {
            return Ok(Vec::new());
        }
        let ask = |(key, node): (&SessionKey, &NodeId)| SessionAsk {
            ttl_ms: self.ttl_ms,
            ..SessionAsk::new(*key, vec![node.clone()], owners.get(key).into_iter().cloned().collect())
        };
        let request = ResolveRequest {
            pool: self.asked.pool.clone(),
            region: None,
            panic: false,
            correlation_id: None,
            sessions: self.batch.iter().map(ask).collect(),
        };
        let request = ApiRequest::resolve(&request);
        let began = *self.began.get_or_insert_with(Instant::now);
        let mut is_away = false;
        loop {
            match self.asked.send_within::<ResolveReply>(CALL, &request).await {
                Ok(reply) => {
                    if is_away {
                        warn("the service answers again");
                    }
                    self.was_answered = true;
                    return Ok(reply.pins);
                }
                Err(failure) if !failure.may_pass() => return Err(failure),
                Err(failure) if !self.was_answered && began.elapsed() >= FIRST_ANSWER => {
                    return Err(failure);
                }
                Err(failure) => {
                    if !is_away {
                        warn(&format!("{failure}; trying again each second"));
                    }
                    is_away = true;
                    sleep(ASK_AGAIN).await;
                }
            }
        }
    }
}

fn text(imported: &Imported, replace: bool) -> String {
    let Imported { claimed, found, rehomed, elsewhere, skipped, .. } = imported;
    let moved = if replace { format!("{rehomed} rehomed, ") } else { String::new() };
    format!(
        "{claimed} claimed, {found} had this pin already, {moved}{elsewhere} have a pin to another node, {skipped} lines name none\n"
    )
}
