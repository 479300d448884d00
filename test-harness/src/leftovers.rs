//! What a process of the harness starts ends with it, however it ends: also by SIGKILL, which no handler sees.
//!
//! Each process keeps a record of its servers, containers and folders, and has a guardian: a shell that waits for the end
//! of its owner and then ends what is left of the record (`leftovers.sh`). If the guardian was killed too, the next
//! process of the harness does its work ([`sweep`]). A record is locked while its owner lives, so a record that can be
//! locked is that of a dead one. A server is known by its process id and its start, so no other process is ever ended.
//!
//! A parent-death signal (`PR_SET_PDEATHSIG`) would not do: it ends no container, and it comes with the end of the thread
//! that started the server.
//!
//! Of the standard library alone, like `process.rs`, which needs it.

use std::fs::{self, DirBuilder, File};
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;

const SCRIPT: &str = include_str!("leftovers.sh");
/// Of a record whose owner has locked it.
const EXTENSION: &str = "record";

static GUARDIAN: OnceLock<Result<Guardian, String>> = OnceLock::new();

/// The record of this process, and who reads it afterwards.
#[derive(Debug)]
struct Guardian {
    record: File,
    /// Holds the pipe that closes with this process.
    _shell: Child,
}

/// Notes a server that was just started.
pub(crate) fn note_process(id: u32) -> Result<(), String> {
    // One that has ended already, and was not waited for, is shown as well.
    let start = started(id).ok_or_else(|| format!("/proc tells nothing of process {id}"))?;
    note(&format!("process {id} {start}"))
}

/// Notes a container that is about to be started.
pub(crate) fn note_container(name: &str) -> Result<(), String> {
    note(&format!("container {name}"))
}

/// Notes that there is no such container any more.
pub(crate) fn container_is_gone(name: &str) {
    // If it cannot be noted, the guardian looks for the container and finds none.
    let _ = note(&format!("gone {name}"));
}

/// Notes a temporary folder, whose name must begin with `berth-`.
pub(crate) fn note_folder(path: &Path) -> Result<(), String> {
    note(&format!("folder {}", path.display()))
}

/// What no other process has as its name, on this machine since it was started.
pub(crate) fn owner() -> String {
    let id = std::process::id();
    format!("{id}-{}", started(id).unwrap_or_default())
}

/// Ends what processes of this user left behind that are dead. Returns when it has ended.
pub(crate) fn sweep() -> Result<(), String> {
    let folder = folder()?;
    for entry in fs::read_dir(folder).map_err(|error| error.to_string())?.flatten() {
        let path = entry.path();
        if path.extension().is_none_or(|extension| extension != EXTENSION) {
            continue;
        }
        // One that cannot be opened has just been removed by its guardian.
        let Ok(record) = File::options().append(true).open(&path) else { continue };
        if record.try_lock().is_ok() {
            let ended = script(&path).stdin(Stdio::null()).status();
            ended.map_err(|error| format!("sh: {error}"))?;
        }
    }
    Ok(())
}

fn note(line: &str) -> Result<(), String> {
    let guardian = GUARDIAN.get_or_init(Guardian::start).as_ref().map_err(Clone::clone)?;
    // One write, so that lines of several threads do not mix.
    (&guardian.record).write_all(format!("{line}\n").as_bytes()).map_err(|error| error.to_string())
}

impl Guardian {
    fn start() -> Result<Self, String> {
        sweep()?;
        let unlocked = folder()?.join(owner());
        let path = unlocked.with_extension(EXTENSION);
        let about = |error: std::io::Error| format!("{}: {error}", path.display());
        let mut record = File::options().create_new(true).append(true).open(&unlocked).map_err(about)?;
        record.lock().map_err(about)?;
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").map_err(about)?;
        record.write_all(format!("boot {}\n", boot.trim()).as_bytes()).map_err(about)?;
        fs::rename(&unlocked, &path).map_err(about)?;
        // In a process group of its own, to survive what a terminal sends to that of its owner.
        let shell = script(&path).stdin(Stdio::piped()).process_group(0).current_dir("/").spawn();
        Ok(Self { record, _shell: shell.map_err(|error| format!("sh: {error}"))? })
    }
}

fn script(record: &Path) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", SCRIPT, "berth-harness-guardian"]).arg(record);
    command.stdout(Stdio::null()).stderr(Stdio::null());
    command
}

/// Where the records of this user are.
fn folder() -> Result<PathBuf, String> {
    let user = fs::metadata("/proc/self").map_err(|error| format!("/proc/self: {error}"))?.uid();
    let folder = std::env::temp_dir().join(format!("berth-harness-{user}"));
    let about = |error: std::io::Error| format!("{}: {error}", folder.display());
    DirBuilder::new().recursive(true).mode(0o700).create(&folder).map_err(about)?;
    // A record says what to kill: no other user may write one.
    let found = fs::symlink_metadata(&folder).map_err(about)?;
    if found.is_dir() && found.uid() == user && found.mode() & 0o022 == 0 {
        return Ok(folder);
    }
    Err(format!("{} is not a folder that only user {user} can write to: remove it", folder.display()))
}

/// When a process started, in ticks since the start of the machine.
fn started(id: u32) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
    // The second field is the program's name in parentheses, which may hold blanks. This is the 22nd.
    stat.rsplit(')').next()?.split_whitespace().nth(19).map(str::to_owned)
}
