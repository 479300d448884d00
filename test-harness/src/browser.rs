//! A headless Chromium that looks at one page, with a profile of its own.

use std::path::PathBuf;
use std::process::Command;

use tempfile::TempDir;

use crate::leftovers;
use crate::process::{Server, last_words};

/// A browser, which ends with its owner.
#[derive(Debug)]
pub struct Browser {
    server: Server,
    profile: TempDir,
}

impl Browser {
    /// Opens a page. Cookies of other sites are taken. Certificates are not verified, and all hosts of `.example` are this machine.
    ///
    /// # Panics
    /// If there is no Chromium on the PATH, and `CHROMIUM` names none.
    pub fn open(url: &str) -> Self {
        let profile = tempfile::Builder::new().prefix("berth-").tempdir().expect("a directory");
        leftovers::note_folder(profile.path()).expect("a record");
        let server = Server::default();
        // Some distributions block them.
        std::fs::create_dir(profile.path().join("Default")).expect("a folder");
        let preferences = r#"{"profile": {"block_third_party_cookies": false, "cookie_controls_mode": 0}}"#;
        std::fs::write(profile.path().join("Default/Preferences"), preferences).expect("a file");
        let mut command = Command::new(chromium());
        command.args(["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]);
        command.args(["--ignore-certificate-errors", "--no-first-run", "--disable-background-networking"]);
        command.arg("--host-resolver-rules=MAP *.example 127.0.0.1");
        // Otherwise it ends once the page is loaded.
        command.args(["--remote-debugging-port=0"]);
        command.env("TMPDIR", profile.path());
        command.arg(format!("--user-data-dir={}", profile.path().display())).arg(url);
        server.start(&mut command, &profile.path().join("log")).expect("Chromium starts");
        Self { server, profile }
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        self.server.kill();
        if std::thread::panicking() {
            eprintln!("--- Chromium\n{}---", last_words(&self.profile.path().join("log")));
        }
    }
}

fn chromium() -> PathBuf {
    if let Some(named) = std::env::var_os("CHROMIUM") {
        return named.into();
    }
    let folders: Vec<PathBuf> =
        std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()).collect();
    let names = ["chromium", "chromium-browser", "google-chrome"];
    let places = names.iter().flat_map(|name| folders.iter().map(move |folder| folder.join(name)));
    places.into_iter().find(|place| place.is_file()).unwrap_or_else(|| {
        panic!("no Chromium: install it (Debian: apt-get install chromium), or set CHROMIUM to its path")
    })
}
