//! Envoy as a child process.

use std::path::{Path, PathBuf};
use std::process::{Child, Command};

use super::command::{Launch, script};

#[derive(Debug)]
pub(super) struct Process {
    binary: PathBuf,
}

impl Process {
    pub(super) fn new(version: Option<&str>) -> Result<Self, String> {
        Ok(Self { binary: script("get-envoy", version)?.into() })
    }
}

impl Launch for Process {
    fn command(&self, _name: &str, _directory: &Path) -> Result<Command, String> {
        Ok(Command::new(&self.binary))
    }

    fn kill(&self, _name: &str, child: &mut Child) {
        // Fails only if it has ended already.
        let _ = child.kill();
    }
}
