//! `berth ring`: which node a session belongs to, worked out offline.
//!
//! It answers for a ring in which every member is healthy. Where pins are it asks only a state service that was named. A key
//! is bytes: whatever an argument or a line of standard input holds is hashed as it is. JSON has no bytes, so a
//! key that is not UTF-8 is shown there with replacement characters, and exactly in the extra field `key_hex`.
mod settings;

use std::{
    borrow::Cow,
    ffi::OsString,
    io::{self, BufRead, BufReader, BufWriter, Write},
    os::unix::ffi::OsStrExt,
    process::ExitCode,
};

use berth_core::ring::session_hash;
use berth_core::wire::{NodeId, SessionReply};
use serde::Serialize;

pub(crate) use settings::Arguments;
use settings::Settings;

use crate::format::Format;
use crate::operator::duration;

/// The command line was wrong, as clap says it too.
const BAD_INPUT: u8 = 2;
/// The key column when keys come one by one: wide enough for most ids, narrow enough for a terminal.
const STREAMED_KEY_WIDTH: usize = 24;
/// A longer key in the arguments shifts its own line only.
const MAXIMUM_KEY_WIDTH: usize = 48;

/// Runs the subcommand.
pub(crate) fn run(arguments: &Arguments) -> ExitCode {
    let settings = match Settings::new(arguments) {
        Ok(settings) => settings,
        Err(faults) => {
            let count = match faults.len() {
                1 => "1 fault".to_owned(),
                count => format!("{count} faults"),
            };
            let faults: String = faults.iter().map(|fault| format!("\n  {fault}")).collect();
            complain(&format!("{count} in the arguments{faults}"));
            return ExitCode::from(BAD_INPUT);
        }
    };
    match answer(&settings, &arguments.keys) {
        Ok(()) => ExitCode::SUCCESS,
        // The reader has read enough, for example `head`.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => {
            complain(&error.to_string());
            ExitCode::FAILURE
        }
    }
}

/// Unlike `eprintln!`, survives a closed standard error.
fn complain(message: &str) {
    let _ = writeln!(io::stderr(), "berth ring: {message}");
}

fn answer(settings: &Settings, keys: &[OsString]) -> io::Result<()> {
    let output = BufWriter::new(io::stdout().lock());
    if keys.is_empty() {
        let mut report = Report::new(settings, output, STREAMED_KEY_WIDTH)?;
        return each_line(BufReader::new(io::stdin().lock()), &mut report);
    }
    let longest = keys.iter().map(|key| readable(key.as_bytes()).chars().count()).max().unwrap_or(0);
    let mut report = Report::new(settings, output, longest.min(MAXIMUM_KEY_WIDTH))?;
    let ids: Vec<&[u8]> = keys.iter().map(|key| key.as_bytes()).collect();
    let pins = settings.pins.as_ref().map(|pins| pins.find(&ids));
    let found = pins.as_ref().and_then(|pins| pins.as_ref().ok());
    for (place, id) in ids.iter().enumerate() {
        report.line(id, found.map(|pins| pins.get(place).and_then(Option::as_ref)))?;
    }
    report.flush()?;
    if settings.format == Format::Text {
        say(settings, &ids, pins.as_ref(), &mut report)?;
    } else if let Some(Err(failure)) = &pins {
        complain(&format!("no pins are shown: {failure}"));
    }
    report.flush()
}

/// Says where pins are, and why that is not the ring's answer.
fn say(
    settings: &Settings,
    ids: &[&[u8]],
    pins: Option<&Result<Vec<Option<SessionReply>>, String>>,
    report: &mut Report<'_, impl Write>,
) -> io::Result<()> {
    let pins = match pins {
        Some(Ok(pins)) => pins,
        Some(Err(failure)) => {
            complain(&format!("no pins are shown: {failure}"));
            return Ok(());
        }
        None => {
            complain(
                "a pin may name another node: --server URL asks the state service, as `berth inspect` does",
            );
            return Ok(());
        }
    };
    let pool = settings.pins.as_ref().map(|pins| pins.pool().as_str()).unwrap_or_default();
    let mut differs = false;
    writeln!(report.output)?;
    for (id, pin) in ids.iter().zip(pins) {
        let owner = settings.owner(id).unwrap_or("-");
        let id = readable(id);
        let Some(pin) = pin else {
            writeln!(
                report.output,
                "{id}: no pin in pool {pool}; its next request begins with the ring's choice"
            )?;
            continue;
        };
        let (node, since) = (pin.node.to_string(), duration(pin.owned_ms));
        if node == owner {
            writeln!(report.output, "{id}: pinned to {node} for {since}, which is the ring's choice too")?;
        } else {
            differs = true;
            writeln!(report.output, "{id}: pinned to {node} for {since}; the ring would choose {owner}")?;
        }
    }
    if differs {
        writeln!(
            report.output,
            "A pin stays where the session began, or was moved to when its node failed; the ring is for sessions without one."
        )?;
    }
    Ok(())
}

/// Answers line by line. Before it waits for input it shows what it has, so that a program can talk with it.
fn each_line(mut input: BufReader<impl io::Read>, report: &mut Report<'_, impl Write>) -> io::Result<()> {
    let mut line = Vec::new();
    loop {
        if input.buffer().is_empty() {
            report.flush()?;
        }
        line.clear();
        let length = input
            .read_until(b'\n', &mut line)
            .map_err(|error| io::Error::other(format!("cannot read keys from standard input: {error}")))?;
        if length == 0 {
            return report.flush();
        }
        let key = line.strip_suffix(b"\n").unwrap_or(&line);
        // A header cannot hold a carriage return, so this one ends a line.
        let key = key.strip_suffix(b"\r").unwrap_or(key);
        if !key.is_empty() {
            report.line(key, None)?;
        }
    }
}

#[derive(Serialize)]
struct Answer<'settings, 'key> {
    key: Cow<'key, str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key_hex: Option<String>,
    hash: u64,
    owner: Option<&'settings str>,
    successors: Vec<&'settings str>,
    /// `null` if a state service was asked and has none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pin: Option<Option<Pin<'key>>>,
}

#[derive(Serialize)]
struct Pin<'a> {
    node: &'a NodeId,
    version: u64,
    owned_ms: u64,
}

/// Writes answers in the format asked.
struct Report<'settings, Output> {
    settings: &'settings Settings,
    output: Output,
    key_width: usize,
    owner_width: usize,
}

impl<'settings, Output: Write> Report<'settings, Output> {
    fn new(settings: &'settings Settings, output: Output, key_width: usize) -> io::Result<Self> {
        let longest = settings.members.iter().map(|member| member.key.len()).max().unwrap_or(0);
        let mut report = Self {
            settings,
            output,
            key_width: key_width.max("KEY".len()),
            owner_width: longest.max("OWNER".len()),
        };
        if settings.format == Format::Text {
            report.columns("KEY", "HASH", "OWNER", "SUCCESSORS")?;
        }
        Ok(report)
    }

    /// The ring's answer, and the pin if it was asked for.
    fn line(&mut self, key: &[u8], pin: Option<Option<&SessionReply>>) -> io::Result<()> {
        let hash = session_hash(key);
        let mut nodes =
            self.settings.ring.candidates(hash).filter_map(|index| self.settings.members.get(index));
        let owner = nodes.next().map(|member| member.key.as_str());
        let successors: Vec<&str> = nodes.map(|member| member.key.as_str()).collect();
        match self.settings.format {
            Format::Text => {
                self.columns(&readable(key), &hash.to_string(), owner.unwrap_or("-"), &successors.join(" "))
            }
            Format::Json => {
                let text = String::from_utf8_lossy(key);
                let key_hex = matches!(text, Cow::Owned(_)).then(|| hex(key));
                let pin = pin.map(|pin| {
                    pin.map(|pin| Pin { node: &pin.node, version: pin.version, owned_ms: pin.owned_ms })
                });
                let answer = Answer { key: text, key_hex, hash, owner, successors, pin };
                serde_json::to_writer(&mut self.output, &answer)?;
                self.output.write_all(b"\n")
            }
        }
    }

    /// Successors come last: there may be hundreds.
    fn columns(&mut self, key: &str, hash: &str, owner: &str, successors: &str) -> io::Result<()> {
        let (key_width, owner_width) = (self.key_width, self.owner_width);
        let line = format!("{key:<key_width$}  {hash:>20}  {owner:<owner_width$}  {successors}");
        writeln!(self.output, "{}", line.trim_end())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.output.flush()
    }
}

/// A key for a terminal: other bytes than UTF-8, control characters and backslashes are escaped.
fn readable(key: &[u8]) -> String {
    let mut text = String::with_capacity(key.len());
    for chunk in key.utf8_chunks() {
        for character in chunk.valid().chars() {
            if character.is_control() || character == '\\' {
                text.extend(character.escape_default());
            } else {
                text.push(character);
            }
        }
        text.push_str(&chunk.invalid().escape_ascii().to_string());
    }
    text
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
