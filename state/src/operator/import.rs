//! `berth import`: pins for sessions that something else placed before, such as another balancer. Each line names a session and
//! its node. A session that has a pin already keeps it: the first claim counts, as it does among proxies.
//!
//! What comes slowly, as from `tail -f` of an access log, is sent as soon as nothing more comes for a moment.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::path::Path;
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::Duration;

use berth_core::wire::{
    ApiRequest, MAX_SESSIONS, NodeId, Outcome, ResolveReply, ResolveRequest, SessionAsk, SessionKey,
};
use serde::Serialize;

use super::arguments;
use super::asked::Asked;
use super::client::Failure;

/// How long a line waits for the next ones.
const PAUSE: Duration = Duration::from_millis(200);
/// Lines that were read and not sent yet.
const AHEAD: usize = 4 * MAX_SESSIONS;

/// What became of the lines.
#[derive(Debug, Default, Serialize)]
struct Imported {
    /// Sessions that have a pin to this node now, and had no pin before.
    claimed: u64,
    /// Sessions that had that pin already.
    found: u64,
    /// Sessions that have a pin to another node, which stays.
    elsewhere: u64,
    /// Lines without a session or without a node: `-` in an access log.
    skipped: u64,
    /// Lines that could not be understood.
    faulty: u64,
}

/// Reads the file, or the standard input without one, to its end.
pub(super) async fn run(asked: &Asked, file: Option<&Path>) -> Result<(), Failure> {
    let input: Box<dyn Read + Send> = match file {
        Some(file) => {
            Box::new(File::open(file).map_err(|error| refused(&format!("{}: {error}", file.display())))?)
        }
        None => Box::new(io::stdin()),
    };
    let mut imported = Imported::default();
    let mut batch = BTreeMap::new();
    let lines = lines(input);
    let mut number = 0_u64;
    loop {
        let line = lines.recv_timeout(PAUSE);
        if batch.len() >= MAX_SESSIONS || line.is_err() {
            claim(asked, std::mem::take(&mut batch), &mut imported).await?;
        }
        match line {
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => break,
            Ok(line) => {
                number += 1;
                match read(&line.map_err(|error| refused(&error.to_string()))?) {
                    Ok(Some((session, node))) => {
                        // Of two lines the later one is right.
                        batch.insert(SessionKey::new(asked.pool(), &session), node);
                    }
                    Ok(None) => imported.skipped += 1,
                    Err(fault) => {
                        imported.faulty += 1;
                        let _ = writeln!(io::stderr(), "berth: line {number}: {fault}");
                    }
                }
            }
        }
    }
    asked.print(&imported, text)?;
    match imported.faulty {
        0 => Ok(()),
        count => Err(refused(&format!("{count} lines were left out"))),
    }
}

fn refused(reason: &str) -> Failure {
    Failure::Refused(reason.to_owned())
}

/// The lines of this input, read beside what is done with them.
fn lines(input: Box<dyn Read + Send>) -> Receiver<io::Result<Vec<u8>>> {
    let (sender, receiver) = sync_channel(AHEAD);
    std::thread::spawn(move || {
        for line in BufReader::new(input).split(b'\n') {
            // The receiver is gone if the service was.
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    receiver
}

/// Session and node of a line: the node is what follows the last blank or tab. `None` if one of them is not known.
fn read(line: &[u8]) -> Result<Option<(Vec<u8>, NodeId)>, String> {
    let line = line.trim_ascii_end();
    if line.is_empty() {
        return Ok(None);
    }
    let blank = line.iter().rposition(u8::is_ascii_whitespace).ok_or("must be SESSION NODE")?;
    let (session, node) = line.split_at(blank);
    let (session, node) = (session.trim_ascii(), node.trim_ascii());
    if session.is_empty() || session == b"-" || node == b"-" {
        return Ok(None);
    }
    let node = std::str::from_utf8(node).map_err(|_| "its node is not text".to_owned())?;
    Ok(Some((session.to_owned(), arguments::node(node)?)))
}

async fn claim(
    asked: &Asked,
    batch: BTreeMap<SessionKey, NodeId>,
    imported: &mut Imported,
) -> Result<(), Failure> {
    if batch.is_empty() {
        return Ok(());
    }
    let ask = |(key, node): (&SessionKey, &NodeId)| SessionAsk::new(*key, vec![node.clone()], Vec::new());
    let request = ResolveRequest {
        pool: asked.pool.clone(),
        region: None,
        panic: false,
        correlation_id: None,
        sessions: batch.iter().map(ask).collect(),
    };
    let reply: ResolveReply = asked.send(&ApiRequest::resolve(&request)).await?;
    for pin in reply.pins {
        let counter = match (batch.get(&pin.key) == Some(&pin.node), pin.outcome) {
            (true, Outcome::Found) => &mut imported.found,
            (true, _) => &mut imported.claimed,
            (false, _) => &mut imported.elsewhere,
        };
        *counter += 1;
    }
    Ok(())
}

fn text(imported: &Imported) -> String {
    let Imported { claimed, found, elsewhere, skipped, .. } = imported;
    format!(
        "{claimed} claimed, {found} had this pin already, {elsewhere} have a pin to another node, {skipped} lines name none\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_logs_and_tables_have() {
        let read = |line: &str| {
            read(line.as_bytes())
                .map(|pair| pair.map(|(id, node)| format!("{}|{node}", String::from_utf8_lossy(&id))))
        };

        for (line, expected) in [
            ("ada 10.0.0.1:80", Ok(Some("ada|10.0.0.1:80"))),
            ("with blank\t10.0.0.1:80\r", Ok(Some("with blank|10.0.0.1:80"))),
            ("  ada   10.0.0.1:80  ", Ok(Some("ada|10.0.0.1:80"))),
            ("- 10.0.0.1:80", Ok(None)),
            ("ada -", Ok(None)),
            ("", Ok(None)),
            (" 10.0.0.1:80", Ok(None)),
        ] {
            let expected: Result<Option<&str>, String> = expected;
            assert_eq!(read(line), expected.map(|pair| pair.map(str::to_owned)), "{line:?}");
        }
        for line in ["10.0.0.1:80", "ada 10.0.0.1", "ada 10.0.0.1:80,10.0.0.2:80"] {
            assert!(read(line).is_err(), "{line:?}");
        }
    }
}
