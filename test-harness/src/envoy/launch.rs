//! Which Envoy runs, and how: `BERTH_HARNESS=process`, `docker`, or `auto`, which is Docker where an engine answers.
//! `scripts/get-envoy` and `scripts/envoy-image` provide it, so that a shell and a test have the same one.

use std::fmt::Debug;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use super::docker::Docker;
use super::process::Process;

/// One way to run Envoy.
pub(super) trait Launch: Debug + Send + Sync {
    /// A command that runs Envoy in the foreground; its arguments follow.
    fn command(&self, name: &str, directory: &Path) -> Command;

    /// Ends the Envoy of this name. The child is waited for by the caller.
    fn kill(&self, name: &str, child: &mut Child);
}

/// The chosen way to run Envoy.
#[derive(Debug)]
pub(crate) struct Launcher(Box<dyn Launch>);

impl Launcher {
    /// Chooses by `BERTH_HARNESS`, and provides that version of Envoy or the default one.
    pub(crate) fn choose(version: Option<&str>) -> Result<Self, String> {
        let mode = std::env::var("BERTH_HARNESS").unwrap_or_else(|_| "auto".into());
        let launch: Box<dyn Launch> = match mode.as_str() {
            "process" => Box::new(Process::new(version)?),
            "docker" => {
                let hint =
                    |reason| format!("BERTH_HARNESS=docker: {reason}; start an engine, or use process");
                Box::new(Docker::new(version).map_err(hint)?)
            }
            "auto" => match Docker::new(version) {
                Ok(docker) => Box::new(docker),
                Err(reason) => {
                    eprintln!("harness: Envoy runs as a process, not in Docker: {reason}");
                    Box::new(Process::new(version)?)
                }
            },
            other => return Err(format!("BERTH_HARNESS={other}: must be process, docker or auto")),
        };
        Ok(Self(launch))
    }

    /// Starts Envoy with both outputs in a log file.
    pub(super) fn start(
        &self,
        name: &str,
        directory: &Path,
        arguments: &[String],
        log: &Path,
    ) -> Result<Child, String> {
        let log = File::options().create(true).append(true).open(log).unwrap();
        let mut command = self.0.command(name, directory);
        command.args(arguments).current_dir(root()).stdin(Stdio::null());
        command.stdout(log.try_clone().unwrap()).stderr(log);
        command.spawn().map_err(|error| format!("{}: {error}", command.get_program().display()))
    }

    pub(super) fn kill(&self, name: &str, child: &mut Child) {
        self.0.kill(name, child);
        child.wait().expect("a child that was killed ends");
    }

    /// Runs `envoy --mode validate` on a file, from the top of the tree.
    pub(crate) fn validate(&self, file: &Path) -> Result<(), String> {
        let directory = file.parent().unwrap_or(file);
        let mut command =
            self.0.command(&format!("berth-{}-{}", std::process::id(), unique()), &directory.join("_"));
        output(command.args(["--mode", "validate", "-c"]).arg(file).current_dir(root())).map(drop)
    }
}

/// The top of the tree.
pub(crate) fn root() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    root.canonicalize().expect("the tree this was built from")
}

/// What a script of the tree prints.
pub(super) fn script(name: &str, argument: Option<&str>) -> Result<String, String> {
    output(Command::new(root().join("scripts").join(name)).args(argument))
}

/// What a command prints; everything it said if it fails.
pub(super) fn output(command: &mut Command) -> Result<String, String> {
    let name = command.get_program().display().to_string();
    let output = command.output().map_err(|error| format!("{name}: {error}"))?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    if !output.status.success() {
        let said = if output.stderr.is_empty() { &output.stdout } else { &output.stderr };
        return Err(format!("{name} ({}): {}", output.status, text(said)));
    }
    Ok(text(&output.stdout))
}

/// A number that no other Envoy of this test process has.
pub(super) fn unique() -> u32 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}
