//! Images that `scripts/build-images` wrote, and containers of them: by Docker where the harness runs Envoy in Docker, else in
//! namespaces of Linux (`unshare`), with the image's files as the root. Either way a program finds nothing but the image, the
//! folders that are mounted, and this host's network.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::Value;
use tempfile::TempDir;

use crate::{envoy, leftovers};

/// An image, loaded or unpacked.
#[derive(Debug)]
pub struct Image {
    /// The layout of the archive.
    layout: TempDir,
    manifest: Value,
    name: String,
    /// The image's files, if there is no engine.
    root: Option<TempDir>,
}

impl Image {
    /// Unpacks an archive, and has the engine load it if there is one.
    ///
    /// # Errors
    /// What the archive lacks, or what the engine said.
    pub fn load(archive: &Path) -> Result<Self, String> {
        let layout = folder()?;
        run(Command::new("tar").arg("-xf").arg(archive).arg("-C").arg(layout.path()))?;
        let index = json(&layout.path().join("index.json"))?;
        let described = &index["manifests"][0];
        let manifest = json(&blob(layout.path(), described)?)?;
        let name = described["annotations"]["io.containerd.image.name"].as_str().ok_or("it has no name")?;
        let mut image = Self { manifest, name: name.to_owned(), layout, root: None };
        if envoy::in_docker()? {
            run(Command::new("docker").args(["load", "--quiet", "--input"]).arg(archive))?;
        } else {
            let root = folder()?;
            for layer in image.layers() {
                let layer = blob(image.layout.path(), layer)?;
                run(Command::new("tar").arg("-xzf").arg(layer).arg("-C").arg(root.path()))?;
            }
            // As an engine adds it.
            let etc = root.path().join("etc");
            let hosts = std::fs::create_dir_all(&etc)
                .and_then(|()| std::fs::write(etc.join("hosts"), "127.0.0.1 localhost\n"));
            hosts.map_err(|error| error.to_string())?;
            image.root = Some(root);
        }
        Ok(image)
    }

    /// What its configuration says of containers.
    ///
    /// # Errors
    /// If it has none.
    pub fn config(&self) -> Result<Value, String> {
        Ok(json(&blob(self.layout.path(), &self.manifest["config"])?)?["config"].take())
    }

    /// Its manifest.
    pub fn manifest(&self) -> &Value {
        &self.manifest
    }

    /// The layers, as the manifest describes them.
    pub fn layers(&self) -> &[Value] {
        self.manifest["layers"].as_array().map(Vec::as_slice).unwrap_or_default()
    }

    /// The file with what a manifest describes.
    ///
    /// # Errors
    /// If the archive does not have it.
    pub fn blob(&self, described: &Value) -> Result<PathBuf, String> {
        blob(self.layout.path(), described)
    }

    /// A container with these arguments that has not been started yet. Its own files are read-only.
    ///
    /// # Errors
    /// What is missing.
    pub fn container(
        &self,
        mounts: &[(&Path, &str)],
        variables: &[(&str, String)],
        arguments: &[&str],
    ) -> Result<Container, String> {
        let name = envoy::unique_name();
        let Some(root) = &self.root else {
            let mut command = Command::new("docker");
            command.args([
                "run",
                "--rm",
                "--read-only",
                "--cap-drop=ALL",
                "--security-opt=no-new-privileges",
                "--network=host",
                "--label=berth-harness",
            ]);
            command.arg(format!("--name={name}"));
            command.args(mounts.iter().map(|(from, to)| format!("--volume={}:{to}", from.display())));
            command.args(variables.iter().map(|(name, value)| format!("--env={name}={value}")));
            command.arg(&self.name).args(arguments);
            leftovers::note_container(&name)?;
            return Ok(Container { docker: Some(name), command, enter: None, child: None });
        };
        let config = self.config()?;
        let entry = config["Entrypoint"][0].as_str().ok_or("no entrypoint")?;
        let root = root.path();
        let mut enter =
            vec!["--user".into(), "--map-root-user".into(), "--mount".into(), "sh".into(), "-ec".into()];
        let proc = root.join("proc");
        std::fs::create_dir_all(&proc).map_err(|error| error.to_string())?;
        let mut script = format!("mount --rbind /proc '{}'; ", proc.display());
        for (from, to) in mounts {
            let inside = root.join(to.trim_start_matches('/'));
            std::fs::create_dir_all(&inside).map_err(|error| error.to_string())?;
            script += &format!("mount --bind '{}' '{}'; ", from.display(), inside.display());
        }
        script += &format!("exec chroot '{}' \"$@\"", root.display());
        enter.extend([script, "sh".to_owned()]);
        let given = config["Env"].as_array().into_iter().flatten().filter_map(Value::as_str);
        let set = |command: &mut Command| {
            command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
            command.envs(given.clone().filter_map(|pair| pair.split_once('=')));
            command.envs(variables.iter().map(|(name, value)| (*name, value)));
        };
        let mut command = Command::new("unshare");
        command.args(&enter).arg(entry).args(arguments);
        set(&mut command);
        let variables = command.get_envs().filter_map(|(name, value)| {
            Some((name.to_string_lossy().into_owned(), value?.to_string_lossy().into_owned()))
        });
        let enter = Enter { arguments: enter, variables: variables.collect() };
        Ok(Container { docker: None, command, enter: Some(enter), child: None })
    }
}

/// How a further program gets into a container that is no engine's.
#[derive(Debug)]
struct Enter {
    arguments: Vec<String>,
    variables: Vec<(String, String)>,
}

/// A container; ends when dropped.
#[derive(Debug)]
pub struct Container {
    docker: Option<String>,
    command: Command,
    enter: Option<Enter>,
    child: Option<Child>,
}

impl Container {
    /// The command that runs it in the foreground.
    pub fn command(&mut self) -> &mut Command {
        &mut self.command
    }

    /// Starts it in the background.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn start(&mut self) -> Result<(), String> {
        let child = self.command.stdin(Stdio::null()).stdout(Stdio::null()).spawn();
        let child = child.map_err(|error| error.to_string())?;
        leftovers::note_process(child.id())?;
        self.child = Some(child);
        Ok(())
    }

    /// A further command in it, as a hook is one, with the variables of the container.
    #[must_use]
    pub fn exec(&self, arguments: &[&str]) -> Command {
        let Some(name) = &self.docker else {
            let mut command = Command::new("unshare");
            if let Some(Enter { arguments, variables }) = &self.enter {
                command.env_clear().envs(variables.iter().cloned()).args(arguments);
            }
            command.args(arguments);
            return command;
        };
        let mut command = Command::new("docker");
        command.args(["exec", name]).args(arguments);
        command
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        if let Some(name) = &self.docker {
            // One that has ended is gone already.
            let _ = Command::new("docker").args(["rm", "--force", name]).output();
            leftovers::container_is_gone(name);
        }
    }
}

fn folder() -> Result<TempDir, String> {
    tempfile::tempdir().map_err(|error| error.to_string())
}

fn json(file: &Path) -> Result<Value, String> {
    let about = |error: String| format!("{}: {error}", file.display());
    let text = std::fs::read(file).map_err(|error| about(error.to_string()))?;
    serde_json::from_slice(&text).map_err(|error| about(error.to_string()))
}

fn blob(layout: &Path, described: &Value) -> Result<PathBuf, String> {
    let digest = described["digest"].as_str().ok_or("a part has no digest")?;
    Ok(layout.join("blobs").join(digest.replace(':', "/")))
}

fn run(command: &mut Command) -> Result<(), String> {
    let output = command.output().map_err(|error| format!("{command:?}: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("{command:?}: {}", String::from_utf8_lossy(&output.stderr)))
}
