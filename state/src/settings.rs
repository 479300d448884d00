//! The settings of `berth serve`: from a flag, else from the environment, else from the file, else the default.
//!
//! Settings that exist are right. Every fault is reported at once, with the place it comes from. Each group of flags is
//! checked where it is declared; here is what remains, and the defaults.

mod arguments;
mod checks;
mod file;
mod jwt;
mod redis;
mod tls;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use berth_core::time::Millis;

pub use self::arguments::CommandLine;
use self::arguments::{LogFormat, LogLevel};
use self::checks::Checks;
pub use self::jwt::Jwt;
use crate::given::Fault;
use crate::store::Keeping;
use crate::store::redis::Options;
use crate::tls::ListenerFiles;

const LISTEN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8650);
/// A little below the filter's own timeout of 50 ms.
const STORE_TIMEOUT: Millis = Millis(40);
/// Requests at once, polls, and pools.
const AT_ONCE: usize = 1024;
/// Connections at once.
const CONNECTIONS: usize = 8192;
const STOP_DELAY: Millis = Millis(3000);

/// Settings that are right.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where to listen.
    pub listen: SocketAddr,
    /// The shared store; absent is memory.
    pub redis: Option<Options>,
    /// How long and how much to keep.
    pub keeping: Keeping,
    /// Requests at once.
    pub in_flight: usize,
    /// Polls at once.
    pub polls: usize,
    /// Pools that are written to.
    pub pools: usize,
    /// New sessions of a pool a second.
    pub new_sessions: Option<u32>,
    /// Connections at once.
    pub connections: usize,
    /// What requests must carry.
    pub token: Option<String>,
    /// A file with more of the same.
    pub token_file: Option<PathBuf>,
    /// Whose JWTs are believed.
    pub jwt: Option<Jwt>,
    /// TLS of the listener.
    pub tls: Option<ListenerFiles>,
    /// Time between the stop signal and stopping.
    pub stop_delay: Duration,
    /// Logs as JSON objects.
    pub log_json: bool,
    /// The least that is logged.
    pub log_level: tracing::Level,
}

impl Settings {
    /// Gathers the settings, and reads their file if there is one.
    ///
    /// # Errors
    /// Every fault, each with where it is.
    pub fn read(command_line: &CommandLine) -> Result<Self, Vec<Fault>> {
        let mut faults = Vec::new();
        let (arguments, file) = match command_line.with_file(&mut faults) {
            Ok(all) => all,
            Err(error) => return Err(vec![Fault::new("config", error.to_string())]),
        };
        let mut checks = Checks::new(file, faults);
        let defaults = Keeping::default();
        let keeping = Keeping {
            ttl: checks.take(arguments.ttl).unwrap_or(defaults.ttl),
            changes: checks.take(arguments.changes_kept).unwrap_or(defaults.changes),
            ..defaults
        };
        let store_timeout = checks.take(arguments.store_timeout).unwrap_or(STORE_TIMEOUT);
        let token = checks.take(arguments.token);
        let token_file = checks.take(arguments.token_file);
        let is_fenced = token_file.is_some() || token.is_some() || arguments.tls.asks_for_certificates();
        let settings = Self {
            listen: checks.take(arguments.listen).unwrap_or(LISTEN),
            redis: arguments.redis.check(Duration::from_millis(store_timeout.0), keeping, &mut checks),
            keeping,
            in_flight: checks.take(arguments.in_flight).unwrap_or(AT_ONCE),
            polls: checks.take(arguments.polls).unwrap_or(AT_ONCE),
            pools: checks.take(arguments.pools).unwrap_or(AT_ONCE),
            new_sessions: checks.take(arguments.new_sessions),
            connections: checks.take(arguments.connections).unwrap_or(CONNECTIONS),
            token,
            token_file,
            jwt: arguments.jwt.check(is_fenced, &mut checks),
            tls: arguments.tls.check(&mut checks),
            stop_delay: Duration::from_millis(checks.take(arguments.stop_delay).unwrap_or(STOP_DELAY).0),
            log_json: checks.take(arguments.log_format) == Some(LogFormat::Json),
            log_level: match checks.take(arguments.log_level) {
                Some(LogLevel::Error) => tracing::Level::ERROR,
                Some(LogLevel::Warn) => tracing::Level::WARN,
                Some(LogLevel::Info) | None => tracing::Level::INFO,
                Some(LogLevel::Debug) => tracing::Level::DEBUG,
            },
        };
        checks.finish(settings)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use clap::Args as _;

    use super::*;

    /// Flags, and a file of this text.
    fn read(flags: &[&str], file: &str) -> Result<Settings, Vec<Fault>> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("berth.toml");
        std::fs::write(&path, file).unwrap();
        let config = format!("--config={}", path.display());
        Settings::read(&CommandLine::typed(&[&[config.as_str()], flags].concat()))
    }

    fn lines(faults: &[Fault]) -> String {
        faults.iter().map(|fault| format!("{fault}\n")).collect()
    }

    #[test]
    fn defaults_are_memory_on_loopback() {
        let settings = Settings::read(&CommandLine::typed(&[])).unwrap();
        assert_eq!(settings.listen.to_string(), "127.0.0.1:8650");
        assert!(settings.redis.is_none() && settings.token.is_none() && settings.tls.is_none());
    }

    #[test]
    fn a_flag_wins_over_the_file() {
        let text =
            "ttl = '1m'\nin-flight = 7\npolls = 8\nredis = 'redis://a'\nredis-cluster = true\nlog-level = []";

        let settings = read(&["--polls=10", "--log-level=warn"], text).unwrap();

        assert_eq!((settings.keeping.ttl, settings.in_flight, settings.polls), (Millis(60_000), 7, 10));
        assert!(settings.redis.unwrap().cluster);
        assert_eq!(settings.log_level, tracing::Level::WARN);
    }

    #[test]
    fn every_fault_is_told_at_once_and_no_password_with_it() {
        let flags = [
            "--listen=localhost",
            "--redis=redis://u:secret@a, http://u:secret@b",
            "--redis-ca=ca.pem",
            "--durability=full",
            "--ttl=30",
            "--in-flight=0",
            "--tls-key=key.pem",
            "--log-level=loud",
        ];

        let faults = read(&flags, "tlt = 1\n\npolls = []\nchanges-kept = 1").unwrap_err();

        assert_eq!(faults.len(), 12, "{faults:#?}");
        let report = lines(&faults);
        for says in [
            "berth.toml:1: tlt: there is no",
            "berth.toml:3: polls: must be",
            "berth.toml:4: changes-kept: must",
            "--durability: must be none or quorum, is \"full\"",
        ] {
            assert!(report.contains(says), "{says} is not in {report}");
        }
        assert!(!report.contains("secret"), "{report}");
    }

    #[test]
    fn what_is_not_toml_is_told_with_its_line_and_no_password() {
        let faults = read(&["--polls=0"], "ttl = '1m'\nredis = 'redis://u:secret@a\n").unwrap_err();

        assert_eq!(faults.len(), 2, "{faults:#?}");
        assert!(faults[0].to_string().contains("berth.toml:2: is not TOML"), "{faults:#?}");
        assert!(!lines(&faults).contains("secret"), "{faults:#?}");
    }

    /// `berth.toml` beside this crate: as it is, and with every line that it shows as a comment.
    #[test]
    fn the_example_has_every_setting_and_the_defaults() {
        let example = include_str!("../berth.toml");
        let named = |text: &str| {
            let names =
                text.lines().filter_map(|line| line.split_once(" = ")).map(|(name, _)| name.to_owned());
            names.collect::<BTreeSet<_>>()
        };
        let shown = |line: &str| match line.strip_prefix('#') {
            Some(setting) if !setting.starts_with(' ') => format!("{setting}\n"),
            _ => format!("{line}\n"),
        };
        let all: String = example.lines().map(shown).collect();
        let command = CommandLine::augment_args(clap::Command::new("serve"));
        let flags = command.get_arguments().filter_map(|flag| flag.get_long()).map(str::to_owned);
        assert_eq!(named(&all), flags.filter(|flag| flag != "config").collect());

        let defaults = Settings::read(&CommandLine::typed(&[])).unwrap();
        assert_eq!(format!("{:?}", read(&[], example).unwrap()), format!("{defaults:?}"));
        let full = read(&[], &all).unwrap();
        assert!(full.jwt.is_some_and(|jwt| jwt.policy.issuer.is_some() && !jwt.policy.audiences.is_empty()));
        assert!(full.redis.is_some_and(|redis| redis.tls.ca.is_some()) && full.tls.is_some());
    }
}
