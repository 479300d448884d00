//! What imitates clocks and disks: a library that is loaded into a part, and a small file system.

use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

const PRELOAD: &str = include_str!("preload.c");

/// A wall clock that can be set.
pub(crate) struct Clock {
    file: PathBuf,
    library: PathBuf,
}

impl Clock {
    /// A clock that is right so far.
    pub(crate) fn new(folder: &Path) -> Result<Self, String> {
        let clock = Self { file: folder.join("clock"), library: preload(folder)? };
        std::fs::write(&clock.file, [0; 8]).map_err(|error| error.to_string())?;
        Ok(clock)
    }

    /// So many seconds off from now on.
    pub(crate) fn set(&self, seconds: i32) {
        // In place: the file is mapped.
        let file = std::fs::File::options().write(true).open(&self.file).expect("a file in our folder");
        file.write_all_at(&i64::from(seconds).to_ne_bytes(), 0).expect("eight bytes");
    }

    /// What a process needs in its environment to go by it.
    pub(crate) fn environment(&self) -> Vec<(String, String)> {
        environment(&self.library, "BERTH_CLOCK", &self.file)
    }
}

/// A disk that is slow to confirm.
pub(crate) struct SlowDisk {
    file: PathBuf,
    library: PathBuf,
}

impl SlowDisk {
    pub(crate) fn new(folder: &Path) -> Result<Self, String> {
        Ok(Self { file: folder.join("slow"), library: preload(folder)? })
    }

    pub(crate) fn slow(&self, milliseconds: u128) {
        std::fs::write(&self.file, milliseconds.to_string()).expect("a file in our folder");
    }

    pub(crate) fn well(&self) {
        let _ = std::fs::remove_file(&self.file);
    }

    pub(crate) fn environment(&self) -> Vec<(String, String)> {
        environment(&self.library, "BERTH_SLOW_DISK", &self.file)
    }
}

/// Compiles the library that is loaded into a part.
fn preload(folder: &Path) -> Result<PathBuf, String> {
    let [source, library] = ["preload.c", "preload.so"].map(|name| folder.join(name));
    std::fs::write(&source, PRELOAD).map_err(|error| error.to_string())?;
    run(Command::new("cc").args(["-shared", "-fPIC", "-O1", "-o"]).arg(&library).arg(&source))?;
    Ok(library)
}

fn environment(library: &Path, name: &str, file: &Path) -> Vec<(String, String)> {
    let variables = [("LD_PRELOAD", library), (name, file)];
    variables.map(|(name, path)| (name.to_owned(), path.to_string_lossy().into_owned())).into()
}

/// A file system of a few megabytes, in memory, that can be filled. Needs the right to mount.
pub(crate) struct SmallDisk {
    pub(crate) folder: PathBuf,
}

impl SmallDisk {
    pub(crate) fn new(folder: &Path) -> Result<Self, String> {
        let disk = Self { folder: folder.join("disk") };
        std::fs::create_dir(&disk.folder).map_err(|error| error.to_string())?;
        run(Command::new("mount").args(["-t", "tmpfs", "-o", "size=4m", "berth-chaos"]).arg(&disk.folder))?;
        Ok(disk)
    }

    pub(crate) fn fill(&self) {
        // Fails, as it must, when there is no room left.
        let _ = std::fs::write(self.folder.join("filler"), vec![0; 8 << 20]);
    }

    pub(crate) fn clear(&self) {
        let _ = std::fs::remove_file(self.folder.join("filler"));
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // What still writes into it ends with the world; lazily, the rest is the kernel's.
        let _ = run(Command::new("umount").arg("-l").arg(&self.folder));
    }
}

fn run(command: &mut Command) -> Result<(), String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command.output().map_err(|error| format!("{name}: {error}"))?;
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    if output.status.success() { Ok(()) } else { Err(format!("{name}: {said}")) }
}
