//! `berth install`: the binary copies itself into a directory, so that containers which hold only their program can run
//! its other commands. The directory is a volume that a pod's containers share.

use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Copy this program into a directory, as DIR/berth
///
/// For an init container: the program's own container, which has no berth, then runs DIR/berth as a hook.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  berth install /berth

Exit code: 0 it is there, complete; 1 it could not be written; 2 the command line is wrong")]
pub(crate) struct Arguments {
    /// A directory that exists
    #[arg(value_name = "DIR")]
    directory: PathBuf,
}

/// Copies the program.
pub(crate) fn run(arguments: &Arguments) -> ExitCode {
    let directory = &arguments.directory;
    let installed = directory.join("berth");
    match std::env::current_exe().and_then(|own| install(&own, directory, &installed)) {
        Ok(()) => {
            println!("installed {}", installed.display());
            ExitCode::SUCCESS
        }
        Err(error) => {
            let advice = match error.kind() {
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => ": is it a directory that exists?",
                io::ErrorKind::ReadOnlyFilesystem => ": mount it writable here",
                io::ErrorKind::PermissionDenied => ": who runs this must be able to write there",
                _ => "",
            };
            eprintln!("berth: cannot install into {}: {error}{advice}", directory.display());
            ExitCode::FAILURE
        }
    }
}

/// Written beside its place and then renamed: no container ever runs half of it, or finds it busy.
fn install(own: &Path, directory: &Path, installed: &Path) -> io::Result<()> {
    let partial = directory.join(format!(".berth.{}", std::process::id()));
    let copied = copy(own, &partial).and_then(|()| fs::rename(&partial, installed));
    if copied.is_err() {
        let _ = fs::remove_file(&partial);
    }
    copied
}

fn copy(own: &Path, partial: &Path) -> io::Result<()> {
    let mut file = File::create(partial)?;
    io::copy(&mut File::open(own)?, &mut file)?;
    // Whatever the umask: the other container's user must be able to run it.
    file.set_permissions(Permissions::from_mode(0o755))?;
    file.sync_all()
}
