//! The demo ends with everything that it started, whatever ends it, and another one can start at once.

use std::fs::{self, File};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use berth_harness::eventually;
use tempfile::TempDir;

const SOON: Duration = Duration::from_secs(20);
/// Envoy, Redis, the service and six nodes on a busy machine.
const START: Duration = Duration::from_secs(90);
/// As many as the demo has for its nodes.
const NODE_PORTS: u16 = 10;

/// Where demos run, one after the other on the same ports.
struct Place {
    /// Also that of temporary files, so that what is left there is a demo's.
    folder: TempDir,
    first_port: u16,
    /// Locked as long as these ports are this place's.
    _claim: File,
    harness: &'static str,
}

impl Place {
    fn new(harness: &'static str) -> Self {
        let (first_port, claim) = free_ports();
        Self { folder: TempDir::with_prefix("berth-test-").unwrap(), first_port, _claim: claim, harness }
    }

    /// Starts this program, which is or starts a demo, and returns when the story has begun.
    async fn start(&self, mut command: Command) -> Demo<'_> {
        let log = self.folder.path().join("log");
        let output = File::create(&log).unwrap();
        let ports = [("PORT", 0), ("ADMIN_PORT", 1), ("STATE_PORT", 2), ("NODE_PORT", 3)];
        for (name, offset) in ports {
            command.env(format!("BERTH_DEMO_{name}"), (self.first_port + offset).to_string());
        }
        command.env("TMPDIR", self.folder.path()).env("BERTH_HARNESS", self.harness);
        command.stdin(Stdio::null()).stdout(output.try_clone().unwrap()).stderr(output);
        let child = command.spawn().unwrap();
        let mut demo = Demo { place: self, child, record: PathBuf::new() };
        let began = async || {
            let said = fs::read_to_string(&log).unwrap();
            if let Some(status) = demo.child.try_wait().unwrap() {
                panic!("the demo ended with {status}:\n{said}");
            }
            if said.contains("sessions come to") { Ok(()) } else { Err(said) }
        };
        eventually(began, START).await;
        let [record] = &self.records()[..] else { panic!("{:?}", self.records()) };
        demo.record = record.clone();
        assert!(demo.processes().len() >= 3 && demo.processes().iter().all(lives), "{:?}", demo.processes());
        demo
    }

    fn records(&self) -> Vec<PathBuf> {
        let folder = files(self.folder.path()).into_iter().find(|path| is_records(path));
        folder.map(|folder| files(&folder)).unwrap_or_default()
    }
}

fn files(folder: &Path) -> Vec<PathBuf> {
    fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect()
}

/// A demo that plays its story, or the program that started it.
struct Demo<'p> {
    place: &'p Place,
    child: Child,
    record: PathBuf,
}

impl Demo<'_> {
    /// Id and start of what it runs.
    fn processes(&self) -> Vec<(String, String)> {
        let record = fs::read_to_string(&self.record).unwrap_or_default();
        let lines = record.lines().filter_map(|line| line.strip_prefix("process ")?.split_once(' '));
        lines.map(|(id, start)| (id.to_owned(), start.to_owned())).collect()
    }

    fn containers(&self) -> Vec<String> {
        let record = fs::read_to_string(&self.record).unwrap_or_default();
        record.lines().filter_map(|line| line.strip_prefix("container ")).map(str::to_owned).collect()
    }

    fn signal(&self, name: &str) {
        kill(name, &self.child.id().to_string());
    }

    /// Waits until it has ended, and nothing of it is left.
    async fn ends(mut self) -> ExitStatus {
        let (processes, containers) = (self.processes(), self.containers());
        let status = eventually(async || self.child.try_wait().unwrap(), SOON).await;
        let is_gone = async || {
            let left: Vec<_> = processes.iter().filter(|process| lives(process)).collect();
            let records = self.place.records();
            let folders = files(self.place.folder.path());
            let folders: Vec<_> = folders.iter().filter(|path| path.is_dir() && !is_records(path)).collect();
            let running: Vec<_> = containers.iter().filter(|name| is_there(name)).collect();
            if left.is_empty() && records.is_empty() && folders.is_empty() && running.is_empty() {
                Ok(())
            } else {
                Err(format!("left are {left:?}, {records:?}, {folders:?}, {running:?}"))
            }
        };
        eventually(is_gone, SOON).await;
        status
    }
}

impl Drop for Demo<'_> {
    fn drop(&mut self) {
        // A demo that make runs has its id in the name of its record. Its guardian ends what it started.
        let name = self.record.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        if let Some(owner) = name.split_once('-').map(|(id, start)| (id.to_owned(), start.to_owned()))
            && lives(&owner)
        {
            let _ = Command::new("kill").args(["-KILL", &owner.0]).status();
        }
        // Fails only if it has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn is_records(path: &Path) -> bool {
    path.to_string_lossy().contains("/berth-harness-")
}

/// Whether a process is the one that started then, and one of its threads runs.
fn lives((id, start): &(String, String)) -> bool {
    let stat = fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let runs = |state: &&str| *state != "Z" || fields.get(17).is_some_and(|threads| *threads != "1");
    fields.first().is_some_and(runs) && fields.get(19) == Some(&start.as_str())
}

fn is_there(container: &str) -> bool {
    let filter = format!("name=^/?{container}$");
    let list = Command::new("docker").args(["ps", "--all", "--quiet", "--filter", &filter]).output().unwrap();
    assert!(list.status.success(), "{list:?}");
    !list.stdout.is_empty()
}

fn kill(signal: &str, id: &str) {
    assert!(Command::new("kill").args([signal, id]).status().unwrap().success());
}

/// The first of enough ports in a row that are free, and the claim to them: looking whether a port is free takes it for a
/// moment, so tests that run at the same time must not look at the same ones.
fn free_ports() -> (u16, File) {
    let is_free = |port: u16| TcpListener::bind(("127.0.0.1", port)).is_ok();
    let start = std::process::id();
    let mut blocks = (start..start + 1000).map(|block| 10_000 + u16::try_from(block % 1000).unwrap() * 20);
    let claimed = blocks.find_map(|first| {
        let claim = File::create(format!("{}/ports-{first}", env!("CARGO_TARGET_TMPDIR"))).unwrap();
        let all_free = || (first..first + NODE_PORTS + 3).all(is_free);
        (claim.try_lock().is_ok() && all_free()).then_some((first, claim))
    });
    claimed.expect("free ports")
}

fn demo() -> Command {
    Command::new(env!("CARGO_BIN_EXE_demo"))
}

/// The ways to run Envoy that there are here.
fn harnesses() -> Vec<&'static str> {
    let has_docker = Command::new("docker").arg("info").output().is_ok_and(|info| info.status.success());
    match std::env::var("BERTH_HARNESS").as_deref() {
        Ok("docker") => vec!["process", "docker"],
        Ok("process") => vec!["process"],
        _ if has_docker => vec!["process", "docker"],
        _ => vec!["process"],
    }
}

#[tokio::test]
async fn a_signal_ends_all_that_a_demo_started_and_the_next_one_starts() {
    for harness in harnesses() {
        let place = Place::new(harness);
        for (signal, code) in
            [("-TERM", Some(143)), ("-HUP", Some(129)), ("-INT", Some(130)), ("-KILL", None)]
        {
            let demo = place.start(demo()).await;
            assert_eq!(demo.containers().is_empty(), harness == "process");

            demo.signal(signal);

            assert_eq!(demo.ends().await.code(), code, "{harness}, {signal}");
        }
    }
}

#[tokio::test]
async fn what_was_killed_together_with_its_guardian_is_swept_by_the_next_demo() {
    for harness in harnesses() {
        let place = Place::new(harness);
        let killed = place.start(demo()).await;
        let (processes, containers) = (killed.processes(), killed.containers());
        let guardian = guardian_of(&killed.record);
        kill("-KILL", &guardian);
        killed.signal("-KILL");
        drop(killed);
        assert!(processes.iter().all(lives), "nothing watches over them any more");

        let next = place.start(demo()).await;

        assert!(!processes.iter().any(lives) && !containers.iter().any(|name| is_there(name)));
        next.signal("-TERM");
        next.ends().await;
    }
}

/// The process that has this record as its argument.
fn guardian_of(record: &Path) -> String {
    let mut processes = fs::read_dir("/proc").unwrap().flatten();
    let found = processes.find(|process| {
        let arguments = fs::read(process.path().join("cmdline")).unwrap_or_default();
        arguments.split(|byte| *byte == 0).any(|argument| argument == record.as_os_str().as_encoded_bytes())
    });
    found.expect("a guardian").file_name().to_string_lossy().into_owned()
}

#[tokio::test]
async fn a_demo_ends_with_the_make_that_runs_it() {
    let place = Place::new("process");
    let makefile = place.folder.path().join("log.mk");
    fs::write(&makefile, format!("demo:\n\t@{} --with-make\n", env!("CARGO_BIN_EXE_demo"))).unwrap();
    for signal in ["-TERM", "-HUP", "-INT", "-KILL"] {
        let mut make = Command::new("make");
        make.arg("-f").arg(&makefile).arg("demo");
        let make = place.start(make).await;

        make.signal(signal);

        make.ends().await;
    }
}
