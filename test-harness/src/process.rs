//! A server as a child process that a test may end, or stop as a machine that hangs does. It surely ends with its owner.
//!
//! Like `redis.rs`, which needs it, of the standard library alone: the state service's tests include both by their path.

use std::fs::File;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::leftovers;

/// Lines of log shown when something fails.
const TAIL: usize = 60;

/// A child process, or the place of one that was killed.
#[derive(Debug, Default)]
pub(crate) struct Server(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    child: Option<Child>,
    paused: bool,
}

impl Server {
    /// Starts it with both outputs appended to a log file.
    pub(crate) fn start(&self, command: &mut Command, log: &Path) -> Result<(), String> {
        self.kill();
        let log = File::options().create(true).append(true).open(log).map_err(|error| error.to_string())?;
        let errors = log.try_clone().map_err(|error| error.to_string())?;
        command.stdin(Stdio::null()).stdout(log).stderr(errors);
        let child = command.spawn();
        let child = child.map_err(|error| format!("{}: {error}", command.get_program().display()))?;
        let id = child.id();
        *self.state() = State { child: Some(child), paused: false };
        leftovers::note_process(id)
    }

    /// Whether it was started and neither killed nor paused since.
    pub(crate) fn runs(&self) -> bool {
        let state = self.state();
        state.child.is_some() && !state.paused
    }

    /// Its process id, unless it was killed.
    pub(crate) fn id(&self) -> Option<u32> {
        self.state().child.as_ref().map(Child::id)
    }

    /// The memory it has in use (RSS), in bytes, unless it was killed.
    pub(crate) fn resident_memory(&self) -> Option<u64> {
        resident_memory(self.id()?)
    }

    /// How it ended, if it did so by itself.
    pub(crate) fn ended(&self) -> Option<ExitStatus> {
        self.state().child.as_mut()?.try_wait().ok().flatten()
    }

    /// Ends it at once (SIGKILL), paused or not.
    pub(crate) fn kill(&self) {
        let mut state = self.state();
        state.paused = false;
        if let Some(mut child) = state.child.take() {
            // Each fails only if it has ended already.
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Stops it (SIGSTOP): its connections stay open and nothing is answered.
    ///
    /// # Panics
    /// If it does not run.
    pub(crate) fn pause(&self) {
        self.signal("-STOP");
        self.state().paused = true;
    }

    /// Lets it go on (SIGCONT).
    ///
    /// # Panics
    /// If it was killed.
    pub(crate) fn resume(&self) {
        self.signal("-CONT");
        self.state().paused = false;
    }

    fn signal(&self, name: &str) {
        signal(self.id().expect("a server that runs"), name);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A test that panicked elsewhere must still be able to end what it started.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Sends a process a signal, such as `-STOP`.
///
/// # Panics
/// If there is no such process.
pub(crate) fn signal(id: u32, name: &str) {
    let status = Command::new("kill").args([name, &id.to_string()]).status();
    assert!(status.is_ok_and(|status| status.success()), "kill {name} {id} failed");
}

/// The memory that a process has in use (RSS), in bytes, as /proc reports it.
pub(crate) fn resident_memory(id: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{id}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB"))?;
    Some(line.parse::<u64>().ok()? * 1024)
}

/// The last lines of a log file.
pub(crate) fn last_words(log: &Path) -> String {
    let log = String::from_utf8_lossy(&std::fs::read(log).unwrap_or_default()).into_owned();
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(TAIL)..].iter().map(|line| format!("{line}\n")).collect()
}
