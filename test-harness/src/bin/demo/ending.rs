//! When the demo ends before somebody types `quit`: on a signal, or with the make that runs it.
//!
//! make passes SIGTERM on to its recipe. On SIGINT and SIGHUP it only waits for the recipe to end, because a terminal sends
//! those to both; and when make is killed, the recipe learns nothing. So the demo watches make.

use std::fs;
use std::io;
use std::os::unix::process::parent_id;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// A short wait for a person, and reading two lines of /proc costs nothing.
const LOOK_AT_MAKE: Duration = Duration::from_millis(250);
const HANGUP: SignalKind = SignalKind::hangup();
/// What makes make end once its recipe has.
const ENDS_MAKE: [SignalKind; 4] =
    [HANGUP, SignalKind::interrupt(), SignalKind::quit(), SignalKind::terminate()];

pub(crate) struct Ending {
    signals: Vec<(Signal, SignalKind)>,
    make: Option<Make>,
}

impl Ending {
    /// From now on no signal ends the process at once.
    pub(crate) fn new(with_make: bool) -> io::Result<Self> {
        let mut signals = Vec::new();
        for kind in [HANGUP, SignalKind::interrupt(), SignalKind::terminate()] {
            // Under nohup it is to survive this one.
            if kind != HANGUP || !has_signal("/proc/self/status", "SigIgn", kind) {
                signals.push((signal(kind)?, kind));
            }
        }
        Ok(Self { signals, make: with_make.then(Make::new) })
    }

    /// Returns when it is time to end, with the exit code.
    pub(crate) async fn comes(&mut self) -> u8 {
        let Self { signals, make } = self;
        let signals = signals.iter_mut().map(|(signal, kind)| {
            Box::pin(async move {
                signal.recv().await;
                code(*kind)
            })
        });
        tokio::select! {
            (code, ..) = futures_util::future::select_all(signals) => code,
            () = wait_for(make.as_ref()) => code(HANGUP),
        }
    }
}

/// As a shell has it.
fn code(signal: SignalKind) -> u8 {
    128 + u8::try_from(signal.as_raw_value()).expect("a small number")
}

async fn wait_for(make: Option<&Make>) {
    let Some(make) = make else { return std::future::pending().await };
    while make.goes_on() {
        tokio::time::sleep(LOOK_AT_MAKE).await;
    }
}

/// The parent process.
struct Make {
    id: u32,
    /// What it caught at first.
    catches: Vec<SignalKind>,
}

impl Make {
    fn new() -> Self {
        let id = parent_id();
        let catches = ENDS_MAKE.into_iter().filter(|kind| catches(id, *kind)).collect();
        Self { id, catches }
    }

    /// False once it has ended, or ends: when make has caught one of these signals it restores the signal's default, to end
    /// by it after its recipe.
    fn goes_on(&self) -> bool {
        parent_id() == self.id && self.catches.iter().all(|kind| catches(self.id, *kind))
    }
}

fn catches(process: u32, kind: SignalKind) -> bool {
    has_signal(&format!("/proc/{process}/status"), "SigCgt", kind)
}

/// Whether a mask of signals in such a file has this one.
fn has_signal(status: &str, mask: &str, kind: SignalKind) -> bool {
    let status = fs::read_to_string(status).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(mask)?.strip_prefix(':'));
    let bits = line.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0);
    bits >> (kind.as_raw_value() - 1) & 1 == 1
}
