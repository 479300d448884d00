//! Which Envoy runs, and how: `BERTH_HARNESS=process`, `docker`, or `auto`, which is Docker where an engine answers.
//! `scripts/get-envoy` and `scripts/envoy-image` provide it, so that a shell and a test have the same one.

use std::fs::File;
use std::path::Path;
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use super::command::{Launch, output, root};
use super::docker::{Docker, shares_this_host};
use super::process::Process;
use crate::leftovers;

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
        environment: &[(String, String)],
        log: &Path,
    ) -> Result<Child, String> {
        let log = File::options().create(true).append(true).open(log).unwrap();
        let mut command = self.0.command(name, directory)?;
        command.envs(environment.iter().map(|(name, value)| (name, value)));
        command.args(arguments).current_dir(root()).stdin(Stdio::null());
        command.stdout(log.try_clone().unwrap()).stderr(log);
        let child = command.spawn();
        let mut child = child.map_err(|error| format!("{}: {error}", command.get_program().display()))?;
        if let Err(failure) = leftovers::note_process(child.id()) {
            self.kill(name, &mut child);
            return Err(failure);
        }
        Ok(child)
    }

    pub(super) fn kill(&self, name: &str, child: &mut Child) {
        self.0.kill(name, child);
        child.wait().expect("a child that was killed ends");
    }

    /// Runs `envoy --mode validate` on a file, from the top of the tree.
    pub(crate) fn validate(&self, file: &Path) -> Result<(), String> {
        let directory = file.parent().unwrap_or(file);
        let mut command = self.0.command(&unique_name(), &directory.join("_"))?;
        output(command.args(["--mode", "validate", "-c"]).arg(file).current_dir(root())).map(drop)
    }
}

/// Whether containers run in Docker, by `BERTH_HARNESS`.
pub(crate) fn in_docker() -> Result<bool, String> {
    match std::env::var("BERTH_HARNESS").unwrap_or_else(|_| "auto".into()).as_str() {
        "process" => Ok(false),
        "docker" => shares_this_host().map(|()| true),
        _ => Ok(shares_this_host().is_ok()),
    }
}

/// A name that no other Envoy or container of this machine has.
pub(crate) fn unique_name() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("berth-{}-{}", leftovers::owner(), NEXT.fetch_add(1, Ordering::Relaxed))
}
