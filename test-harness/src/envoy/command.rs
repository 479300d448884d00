//! What a way to run Envoy has to do, and commands of the tree.

use std::fmt::Debug;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};

/// One way to run Envoy.
pub(super) trait Launch: Debug + Send + Sync {
    /// A command that runs Envoy in the foreground; its arguments follow.
    fn command(&self, name: &str, directory: &Path) -> Result<Command, String>;

    /// Ends the Envoy of this name. The child is waited for by the caller.
    fn kill(&self, name: &str, child: &mut Child);
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
