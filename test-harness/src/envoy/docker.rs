//! Envoy in a container with the host's network, so that the nodes inside the test and the sockets in the temporary
//! directory are where the configuration says. `docker run` stays in the foreground: its output is Envoy's log, and a
//! signal to the test's process group reaches Envoy through it.

use std::path::Path;
use std::process::{Child, Command};

use super::command::{Launch, output, root, script};
use crate::leftovers;

#[derive(Debug)]
pub(super) struct Docker {
    image: String,
    /// The caller's `uid:gid`: Envoy's socket and files must be the test's own.
    user: String,
}

impl Docker {
    /// An image around the Envoy that the process mode would run, or else the one that `ENVOY_IMAGE` names.
    pub(super) fn new(version: Option<&str>) -> Result<Self, String> {
        shares_this_host()?;
        let named = std::env::var("ENVOY_IMAGE").ok().filter(|_| version.is_none() && !has_own_binary());
        let image = match named {
            Some(image) => image,
            None => script("envoy-image", Some(&script("get-envoy", version)?))?,
        };
        let [user, group] = ["-u", "-g"].map(|which| output(Command::new("id").arg(which)));
        Ok(Self { image, user: format!("{}:{}", user?, group?) })
    }
}

impl Launch for Docker {
    fn command(&self, name: &str, directory: &Path) -> Result<Command, String> {
        leftovers::note_container(name)?;
        let mount = |path: &Path, mode: &str| format!("--volume={0}:{0}:{mode}", path.display());
        // The world's directory, one up: the nodes' file is there, for all Envoys of the world.
        let world = directory.parent().unwrap_or(directory);
        let mut command = Command::new("docker");
        command
            .args(["run", "--rm", "--network=host", "--label=berth-harness"])
            // Keeps the entrypoint of Envoy's official images from changing to a user of its own.
            .arg("--env=ENVOY_UID=0")
            .args([format!("--name={name}"), format!("--user={}", self.user)])
            .args([mount(world, "rw"), mount(&root(), "ro"), format!("--workdir={}", root().display())])
            .arg(&self.image);
        Ok(command)
    }

    fn kill(&self, name: &str, child: &mut Child) {
        // First the client, so that it cannot start what is created but does not run yet. Each fails only if there is
        // nothing left to end.
        let _ = child.kill();
        if output(Command::new("docker").args(["rm", "--force", name])).is_ok() {
            leftovers::container_is_gone(name);
        }
    }
}

fn has_own_binary() -> bool {
    std::env::var_os("ENVOY_BIN").is_some()
        || output(Command::new("sh").args(["-c", "command -v envoy"])).is_ok()
}

/// Whether an engine answers, and runs containers on this very host: with Docker Desktop, a remote engine or a rootless
/// one, `--network=host` is some other network, and nothing would find the nodes.
pub(super) fn shares_this_host() -> Result<(), String> {
    let format = "{{.KernelVersion}}\n{{.Name}}\n{{.SecurityOptions}}";
    let info = output(Command::new("docker").args(["info", "--format", format]))?;
    let [kernel, name, security] = info.splitn(3, '\n').collect::<Vec<_>>()[..] else {
        return Err(format!("docker info says {info:?}"));
    };
    let ours = [output(Command::new("uname").arg("-r"))?, output(Command::new("uname").arg("-n"))?];
    if [kernel, name] != ours {
        return Err(format!("the engine runs on another host or in a virtual machine ({name}, {kernel})"));
    }
    if security.contains("rootless") {
        return Err("the engine is rootless: its host network is not this host's".into());
    }
    Ok(())
}
