//! `berth ring`: which node a session belongs to, worked out offline.
//!
//! It answers for a ring in which every member is healthy; pins and health are the state service's to know. A key
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
use serde::Serialize;

pub(crate) use settings::Arguments;
use settings::Settings;

use crate::format::Format;

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
    for key in keys {
        report.line(key.as_bytes())?;
    }
    report.flush()
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
            report.line(key)?;
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

    fn line(&mut self, key: &[u8]) -> io::Result<()> {
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
                let answer = Answer { key: text, key_hex, hash, owner, successors };
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
