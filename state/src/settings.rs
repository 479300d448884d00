//! What `berth serve` was told: by flag, else by environment, else by file, else the default.
//!
//! Settings that exist are right. Every fault is told at once, with the place it comes from.

mod jwt;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use berth_core::time::Millis;
use clap::Args;
use toml::{Spanned, Value};

pub use self::jwt::Jwt;
use crate::store::Keeping;
use crate::store::redis::{self, Options};
use crate::tls::ListenerFiles;

/// Run the state service: pins of sessions, over HTTP
///
/// Every setting may also come from the environment (--store-timeout is BERTH_STORE_TIMEOUT) or from a TOML file
/// (store-timeout = "40ms"); a flag wins over the environment, and that over the file. Without --redis the pins are in
/// memory and end with the process.
#[derive(Args, Debug, Default)]
#[command(after_long_help = concat!("A file with every setting:\n\n", include_str!("../berth.toml")))]
pub struct Arguments {
    /// TOML file with settings, by their flags' names
    #[arg(long, value_name = "FILE")]
    pub config: Option<String>,
    /// Address to listen on [default: 127.0.0.1:8650]
    #[arg(long, value_name = "IP:PORT")]
    pub listen: Option<String>,
    /// redis:// or rediss:// with user, password and database if need be; for a cluster several, with commas
    #[arg(long, value_name = "URL")]
    pub redis: Option<String>,
    /// true if the servers form a Redis Cluster [default: false]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true")]
    pub redis_cluster: Option<String>,
    /// PEM file with the authorities that may have signed the servers' certificates [default: the system's]
    #[arg(long, value_name = "FILE")]
    pub redis_ca: Option<String>,
    /// PEM file with the service's own certificate for the servers, with --redis-key
    #[arg(long, value_name = "FILE")]
    pub redis_cert: Option<String>,
    /// PEM file with its private key
    #[arg(long, value_name = "FILE")]
    pub redis_key: Option<String>,
    /// none, or quorum: a replica confirms each resolve, and the answer says whether it did [default: none]
    #[arg(long, value_name = "NAME")]
    pub durability: Option<String>,
    /// How long a session lives that is not used [default: 30m]
    #[arg(long, value_name = "TIME")]
    pub ttl: Option<String>,
    /// How long the store may take [default: 40ms]
    #[arg(long, value_name = "TIME")]
    pub store_timeout: Option<String>,
    /// Changes kept at least, for each shard of a pool [default: 8192]
    #[arg(long, value_name = "N")]
    pub changes_kept: Option<String>,
    /// Requests answered at once; more get 429 [default: 1024]
    #[arg(long, value_name = "N")]
    pub in_flight: Option<String>,
    /// Change polls waiting at once; more get 429 [default: 1024]
    #[arg(long, value_name = "N")]
    pub polls: Option<String>,
    /// Bearer token that requests below /v1 must carry; with --jwks the proxies'. Better from the environment, where no
    /// process list shows it
    #[arg(long, value_name = "TOKEN")]
    pub token: Option<String>,
    /// File with a JSON Web Key Set, read again when it changes: operators then need a JWT by one of its keys, with the scope
    /// berth.read or berth.operate
    #[arg(long, value_name = "FILE")]
    pub jwks: Option<String>,
    /// What JWTs may be signed by, with commas; needed with --jwks
    #[arg(long, value_name = "NAMES")]
    pub jwt_algorithms: Option<String>,
    /// What a JWT's iss must be [default: anything]
    #[arg(long, value_name = "NAME")]
    pub jwt_issuer: Option<String>,
    /// What a JWT's aud must have one of, with commas [default: anything]
    #[arg(long, value_name = "NAMES")]
    pub jwt_audience: Option<String>,
    /// PEM file with the listener's certificates, its own first; serves TLS
    #[arg(long, value_name = "FILE")]
    pub tls_cert: Option<String>,
    /// PEM file with the listener's private key
    #[arg(long, value_name = "FILE")]
    pub tls_key: Option<String>,
    /// PEM file with the authorities of client certificates, which are then required
    #[arg(long, value_name = "FILE")]
    pub tls_client_ca: Option<String>,
    /// How long to go on after SIGTERM with /readyz at 503, so that proxies leave first; a second signal or Ctrl-C stops at
    /// once [default: 3s]
    #[arg(long, value_name = "TIME")]
    pub stop_delay: Option<String>,
    /// text or json [default: text]
    #[arg(long, value_name = "NAME")]
    pub log_format: Option<String>,
    /// error, warn, info or debug [default: info]
    #[arg(long, value_name = "NAME")]
    pub log_level: Option<String>,
}

/// Settings that are right.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where to listen.
    pub listen: String,
    /// The shared store; absent is memory.
    pub redis: Option<Options>,
    /// How long and how much to keep.
    pub keeping: Keeping,
    /// Requests at once.
    pub in_flight: usize,
    /// Polls at once.
    pub polls: usize,
    /// What requests must carry.
    pub token: Option<String>,
    /// Whose JWTs are believed.
    pub jwt: Option<Jwt>,
    /// TLS of the listener.
    pub tls: Option<ListenerFiles>,
    /// Time between being told to stop and stopping.
    pub stop_delay: Duration,
    /// Logs as JSON objects.
    pub log_json: bool,
    /// The least that is logged.
    pub log_level: tracing::Level,
}

impl Settings {
    /// Gathers the settings; `environment` looks a variable up.
    ///
    /// # Errors
    /// Every fault, each with where it is.
    pub fn new(
        arguments: &Arguments,
        environment: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Self, Vec<String>> {
        let mut sources =
            Sources { path: String::new(), file: BTreeMap::new(), environment, faults: Vec::new() };
        sources.read_file(arguments.config.as_deref());
        let a = arguments;

        let listen = sources.address("listen", &a.listen);
        let urls = sources.text("redis", &a.redis);
        let cluster = sources.choice("redis-cluster", &a.redis_cluster, &[("false", false), ("true", true)]);
        let redis_tls = sources.redis_tls(a);
        let quorum = sources.choice("durability", &a.durability, &[("none", false), ("quorum", true)]);
        let ttl = sources.time("ttl", &a.ttl, Millis(1000)..=Millis(7 * 86_400_000));
        let timeout = sources.time("store-timeout", &a.store_timeout, Millis(1)..=Millis(10_000));
        let changes = sources.number("changes-kept", &a.changes_kept, 16..=1_000_000);
        let in_flight = sources.number("in-flight", &a.in_flight, 1..=65_536);
        let polls = sources.number("polls", &a.polls, 1..=65_536);
        let token = sources.text("token", &a.token);
        let client_ca = sources.text("tls-client-ca", &a.tls_client_ca);
        let jwt = sources.jwt(a, token.is_some() || client_ca.is_some());
        let tls = sources.tls(a, client_ca);
        let stop_delay = sources.time("stop-delay", &a.stop_delay, Millis(0)..=Millis(300_000));
        let log_json = sources.choice("log-format", &a.log_format, &[("text", false), ("json", true)]);
        let levels = [
            ("error", tracing::Level::ERROR),
            ("warn", tracing::Level::WARN),
            ("info", tracing::Level::INFO),
            ("debug", tracing::Level::DEBUG),
        ];
        let log_level = sources.choice("log-level", &a.log_level, &levels);

        let defaults = Keeping::default();
        let keeping = Keeping {
            ttl: ttl.unwrap_or(defaults.ttl),
            changes: changes.unwrap_or(defaults.changes),
            ..defaults
        };
        let timeout = Duration::from_millis(timeout.unwrap_or(Millis(40)).0);
        let redis = sources.redis(
            urls,
            redis_tls,
            cluster.unwrap_or(false),
            quorum.unwrap_or(false),
            timeout,
            keeping,
        );
        let listen = listen.unwrap_or_else(|| "127.0.0.1:8650".to_owned());
        sources.unknown();
        if !sources.faults.is_empty() {
            return Err(sources.faults);
        }
        Ok(Self {
            listen,
            redis,
            keeping,
            in_flight: in_flight.unwrap_or(1024),
            polls: polls.unwrap_or(1024),
            token,
            jwt,
            tls,
            stop_delay: Duration::from_millis(stop_delay.unwrap_or(Millis(3000)).0),
            log_json: log_json.unwrap_or(false),
            log_level: log_level.unwrap_or(tracing::Level::INFO),
        })
    }
}

struct Sources<'e> {
    path: String,
    /// What the file says, each with its line.
    file: BTreeMap<String, (usize, Value)>,
    environment: &'e dyn Fn(&str) -> Option<String>,
    faults: Vec<String>,
}

impl Sources<'_> {
    fn read_file(&mut self, flag: Option<&str>) {
        let Some(path) = flag.map(str::to_owned).or_else(|| (self.environment)("BERTH_CONFIG")) else {
            return;
        };
        self.path = path;
        let text = match std::fs::read_to_string(&self.path) {
            Ok(text) => text,
            Err(error) => return self.faults.push(format!("config: cannot read {}: {error}", self.path)),
        };
        let line = |at: usize| 1 + text.bytes().take(at).filter(|byte| *byte == b'\n').count();
        match toml::from_str::<BTreeMap<Spanned<String>, Value>>(&text) {
            Ok(file) => {
                let settings = file.into_iter().map(|(name, value)| {
                    let line = line(name.span().start);
                    (name.into_inner(), (line, value))
                });
                self.file = settings.collect();
            }
            // Its own text would show the line, and there may be a password in it.
            Err(error) => {
                let line = line(error.span().map_or(0, |span| span.start));
                self.faults.push(format!("{}:{line}: is not TOML: {}", self.path, error.message()));
            }
        }
    }

    /// The value and where it comes from.
    fn find(&mut self, name: &str, flag: &Option<String>) -> Option<(String, String)> {
        let in_file = self.file.remove(name);
        if let Some(value) = flag {
            return Some((format!("--{name}"), value.clone()));
        }
        let variable = format!("BERTH_{}", name.replace('-', "_").to_uppercase());
        if let Some(value) = (self.environment)(&variable) {
            return Some((variable, value));
        }
        let (line, value) = in_file?;
        let place = format!("{}:{line}: {name}", self.path);
        match value {
            Value::String(text) => Some((place, text)),
            Value::Integer(number) => Some((place, number.to_string())),
            Value::Boolean(flag) => Some((place, flag.to_string())),
            _ => {
                self.faults.push(format!("{place}: must be a text in quotes, a whole number, true or false"));
                None
            }
        }
    }

    fn address(&mut self, name: &str, flag: &Option<String>) -> Option<String> {
        let (place, text) = self.find(name, flag)?;
        if text.parse::<std::net::SocketAddr>().is_err() {
            self.faults.push(format!("{place}: must be ip:port, is {text:?}"));
        }
        Some(text)
    }

    fn text(&mut self, name: &str, flag: &Option<String>) -> Option<String> {
        let (place, text) = self.find(name, flag)?;
        if text.is_empty() {
            self.faults.push(format!("{place}: is empty, leave it out or say something"));
            return None;
        }
        Some(text)
    }

    fn choice<T: Copy>(&mut self, name: &str, flag: &Option<String>, choices: &[(&str, T)]) -> Option<T> {
        let (place, text) = self.find(name, flag)?;
        let value = choices.iter().find(|(known, _)| *known == text).map(|(_, value)| *value);
        if value.is_none() {
            let names: Vec<&str> = choices.iter().map(|(known, _)| *known).collect();
            self.faults.push(format!("{place}: must be {}, is {text:?}", names.join(" or ")));
        }
        value
    }

    fn number(
        &mut self,
        name: &str,
        flag: &Option<String>,
        range: std::ops::RangeInclusive<usize>,
    ) -> Option<usize> {
        let (place, text) = self.find(name, flag)?;
        let number = text.parse().ok().filter(|number| range.contains(number));
        if number.is_none() {
            let (from, to) = range.into_inner();
            self.faults.push(format!("{place}: must be a whole number from {from} to {to}, is {text:?}"));
        }
        number
    }

    fn time(
        &mut self,
        name: &str,
        flag: &Option<String>,
        range: std::ops::RangeInclusive<Millis>,
    ) -> Option<Millis> {
        let (place, text) = self.find(name, flag)?;
        let time = Millis::parse(&text).filter(|time| range.contains(time));
        if time.is_none() {
            let (from, to) = range.into_inner();
            self.faults.push(format!(
                "{place}: must be a time with its unit (ms, s, m, h) from {}ms to {}s, is {text:?}",
                from.0,
                to.0 / 1000
            ));
        }
        time
    }

    fn tls(&mut self, a: &Arguments, client_ca: Option<String>) -> Option<ListenerFiles> {
        let cert = self.text("tls-cert", &a.tls_cert);
        let key = self.text("tls-key", &a.tls_key);
        let client_ca = client_ca.map(PathBuf::from);
        match (cert, key) {
            (Some(cert), Some(key)) => Some(ListenerFiles { cert: cert.into(), key: key.into(), client_ca }),
            (None, None) if client_ca.is_none() => None,
            _ => {
                self.faults
                    .push("tls-cert, tls-key: TLS needs both; tls-client-ca only goes with them".to_owned());
                None
            }
        }
    }

    fn redis_tls(&mut self, a: &Arguments) -> redis::Tls {
        let ca = self.text("redis-ca", &a.redis_ca).map(PathBuf::from);
        let cert = self.text("redis-cert", &a.redis_cert).map(PathBuf::from);
        let key = self.text("redis-key", &a.redis_key).map(PathBuf::from);
        if cert.is_some() != key.is_some() {
            self.faults.push("redis-cert, redis-key: a certificate needs both".to_owned());
        }
        redis::Tls { ca, client: cert.zip(key) }
    }

    fn redis(
        &mut self,
        urls: Option<String>,
        tls: redis::Tls,
        cluster: bool,
        quorum: bool,
        timeout: Duration,
        keeping: Keeping,
    ) -> Option<Options> {
        let Some(urls) = urls else {
            if cluster || quorum || tls.ca.is_some() || tls.client.is_some() {
                self.faults.push(
                    "redis: redis-cluster, TLS for it and durability quorum need it, and it is missing"
                        .to_owned(),
                );
            }
            return None;
        };
        let urls: Vec<String> = urls.split(',').map(|url| url.trim().to_owned()).collect();
        if urls.len() > 1 && !cluster {
            self.faults.push("redis: several servers are for --redis-cluster".to_owned());
        }
        for (position, url) in (1..).zip(&urls) {
            // Not repeated in the message: there may be a password in it.
            if let Err(error) = ::redis::IntoConnectionInfo::into_connection_info(url.as_str()) {
                self.faults.push(format!("redis: URL {position} is not one: {error}"));
            }
        }
        let files = [("redis-ca", tls.ca.is_some()), ("redis-cert", tls.client.is_some())];
        if !urls.iter().any(|url| url.starts_with("rediss:")) {
            for (name, _) in files.iter().filter(|(_, given)| *given) {
                self.faults.push(format!("{name}: is for TLS, and the URL in redis is not rediss://"));
            }
        }
        Some(Options { urls, cluster, quorum, tls, timeout, keeping })
    }

    /// What in the file nobody asked for.
    fn unknown(&mut self) {
        for (name, (line, _)) in std::mem::take(&mut self.file) {
            self.faults.push(format!("{}:{line}: {name}: there is no such setting", self.path));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn none(_: &str) -> Option<String> {
        None
    }

    #[test]
    fn defaults_are_memory_on_loopback() {
        let settings = Settings::new(&Arguments::default(), &none).unwrap();
        assert_eq!(settings.listen, "127.0.0.1:8650");
        assert!(settings.redis.is_none() && settings.token.is_none() && settings.tls.is_none());
    }

    #[test]
    fn a_flag_wins_over_the_environment_and_that_over_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("berth.toml");
        let text = "ttl = '1m'\nin-flight = 7\npolls = 8\nredis = 'redis://a'\nredis-cluster = true";
        std::fs::write(&file, text).unwrap();
        let arguments = Arguments {
            config: Some(file.to_str().unwrap().to_owned()),
            polls: Some("10".to_owned()),
            ..Arguments::default()
        };
        let environment =
            |name: &str| matches!(name, "BERTH_IN_FLIGHT" | "BERTH_POLLS").then(|| "9".to_owned());

        let settings = Settings::new(&arguments, &environment).unwrap();

        assert_eq!((settings.keeping.ttl, settings.in_flight, settings.polls), (Millis(60_000), 9, 10));
        assert!(settings.redis.unwrap().cluster);
    }

    #[test]
    fn every_fault_is_told_at_once_and_no_password_with_it() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("berth.toml");
        std::fs::write(&file, "tlt = 1\n\npolls = []\nchanges-kept = 1").unwrap();
        let arguments = Arguments {
            config: Some(file.to_str().unwrap().to_owned()),
            listen: Some("localhost".to_owned()),
            redis: Some("redis://u:secret@a, http://u:secret@b".to_owned()),
            redis_ca: Some("ca.pem".to_owned()),
            durability: Some("full".to_owned()),
            ttl: Some("30".to_owned()),
            in_flight: Some("0".to_owned()),
            tls_key: Some("key.pem".to_owned()),
            log_level: Some("loud".to_owned()),
            ..Arguments::default()
        };

        let faults = Settings::new(&arguments, &none).unwrap_err();

        assert_eq!(faults.len(), 12, "{faults:#?}");
        for says in [
            "berth.toml:1: tlt: there is no",
            "berth.toml:3: polls: must be",
            "berth.toml:4: changes-kept: must",
        ] {
            assert!(faults.iter().any(|fault| fault.contains(says)), "{says} is not in {faults:#?}");
        }
        assert!(!faults.join("\n").contains("secret"), "{faults:#?}");
    }

    #[test]
    fn what_is_not_toml_is_told_with_its_line_and_no_password() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("berth.toml");
        std::fs::write(&file, "ttl = '1m'\nredis = 'redis://u:secret@a\n").unwrap();
        let arguments = Arguments {
            config: Some(file.to_str().unwrap().to_owned()),
            polls: Some("0".to_owned()),
            ..Arguments::default()
        };

        let faults = Settings::new(&arguments, &none).unwrap_err();

        assert_eq!(faults.len(), 2, "{faults:#?}");
        assert!(faults[0].contains("berth.toml:2: is not TOML"), "{faults:#?}");
        assert!(!faults.join("\n").contains("secret"), "{faults:#?}");
    }

    /// `berth.toml` beside this crate: as it is, and with every line that it shows as a comment.
    #[test]
    fn the_example_has_every_setting_and_the_defaults() {
        let example = include_str!("../berth.toml");
        let named = |text: &str| {
            let names =
                text.lines().filter_map(|line| line.split_once(" = ")).map(|(name, _)| name.to_owned());
            names.collect::<std::collections::BTreeSet<_>>()
        };
        let shown = |line: &str| match line.strip_prefix('#') {
            Some(setting) if !setting.starts_with(' ') => format!("{setting}\n"),
            _ => format!("{line}\n"),
        };
        let all: String = example.lines().map(shown).collect();
        let arguments = |name: &str| {
            let command = Arguments::augment_args(clap::Command::new("serve"));
            let flags = command.get_arguments().filter_map(|flag| flag.get_long()).map(str::to_owned);
            flags.filter(|flag| flag != name).collect::<std::collections::BTreeSet<_>>()
        };
        assert_eq!(named(&all), arguments("config"));

        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("berth.toml");
        let from_file = |text: &str| {
            std::fs::write(&file, text).unwrap();
            let config = Some(file.to_str().unwrap().to_owned());
            Settings::new(&Arguments { config, ..Arguments::default() }, &none).unwrap()
        };
        let defaults = Settings::new(&Arguments::default(), &none).unwrap();
        assert_eq!(format!("{:?}", from_file(example)), format!("{defaults:?}"));
        let full = from_file(&all);
        assert!(full.jwt.is_some_and(|jwt| jwt.policy.issuer.is_some() && !jwt.policy.audiences.is_empty()));
        assert!(full.redis.is_some_and(|redis| redis.tls.ca.is_some()) && full.tls.is_some());
    }
}
