//! What imitates clocks and disks: libfaketime, a library that delays fsync, a small file system of its own.

use std::path::{Path, PathBuf};
use std::process::Command;

/// Where Debian has it; `apt-get install faketime`.
const FAKETIME: &str = "faketime/libfaketimeMT.so.1";
const LIBRARIES: [&str; 4] =
    ["/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib", "/usr/local/lib"];
const SLOW_DISK: &str = include_str!("slow_disk.c");

/// A wall clock that can be set. Timers go on as they were, as they do when a machine's clock is set.
pub(crate) struct Clock {
    file: PathBuf,
    library: PathBuf,
}

impl Clock {
    /// A clock that is right so far.
    pub(crate) fn new(folder: &Path) -> Result<Self, String> {
        let paths = LIBRARIES.iter().map(|folder| Path::new(folder).join(FAKETIME));
        let library = paths.into_iter().find(|path| path.exists());
        let library = library.ok_or("libfaketime is missing (Debian: apt-get install faketime)")?;
        let clock = Self { file: folder.join("clock"), library };
        clock.set(0);
        Ok(clock)
    }

    /// So many seconds off from now on.
    pub(crate) fn set(&self, seconds: i32) {
        std::fs::write(&self.file, format!("{seconds:+}\n")).expect("a file in our folder");
    }

    /// What a process needs in its environment to go by it.
    pub(crate) fn environment(&self) -> Vec<(String, String)> {
        pairs(&[
            ("LD_PRELOAD", &self.library.to_string_lossy()),
            ("FAKETIME_TIMESTAMP_FILE", &self.file.to_string_lossy()),
            ("FAKETIME_NO_CACHE", "1"),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
        ])
    }
}

/// A disk that is slow to confirm.
pub(crate) struct SlowDisk {
    file: PathBuf,
    library: PathBuf,
}

impl SlowDisk {
    pub(crate) fn new(folder: &Path) -> Result<Self, String> {
        let [source, library] = ["slow_disk.c", "slow_disk.so"].map(|name| folder.join(name));
        std::fs::write(&source, SLOW_DISK).map_err(|error| error.to_string())?;
        run(Command::new("cc").args(["-shared", "-fPIC", "-O1", "-o"]).arg(&library).arg(&source))?;
        Ok(Self { file: folder.join("slow"), library })
    }

    pub(crate) fn slow(&self, milliseconds: u128) {
        std::fs::write(&self.file, milliseconds.to_string()).expect("a file in our folder");
    }

    pub(crate) fn well(&self) {
        let _ = std::fs::remove_file(&self.file);
    }

    pub(crate) fn environment(&self) -> Vec<(String, String)> {
        pairs(&[
            ("LD_PRELOAD", &self.library.to_string_lossy()),
            ("BERTH_SLOW_DISK", &self.file.to_string_lossy()),
        ])
    }
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

fn pairs(variables: &[(&str, &str)]) -> Vec<(String, String)> {
    variables.iter().map(|&(name, value)| (name.into(), value.into())).collect()
}
