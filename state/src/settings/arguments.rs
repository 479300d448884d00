//! The flags of `berth serve`, and what a file and the environment give in their place.

use std::net::SocketAddr;
use std::path::PathBuf;

use berth_core::time::Millis;
use clap::builder::OsStr;
use clap::parser::ValueSource;
use clap::{ArgMatches, Args, Command, Error, FromArgMatches, ValueEnum};

use super::file::File;
use super::jwt::JwtFlags;
use super::redis::RedisFlags;
use super::tls::TlsFlags;
use crate::given::{Fault, Given, Parser, choice, file, filled, number, time};

/// Below the options; the long help has a whole file too.
macro_rules! help {
    () => {
        "\
Examples:
  berth serve                                        pins in memory: for trying it out
  berth serve --redis redis://127.0.0.1:6379         start two of these behind one Envoy cluster
  berth serve --config berth.toml

Exit code: 0 a signal ended it; 1 it cannot listen or serve; 2 a setting is wrong"
    };
}
const HELP: &str = help!();

/// Run the state service: pins of sessions, over HTTP
///
/// Every setting may also come from the environment or from a TOML file (store-timeout = "40ms"); a flag wins over the
/// environment, and that over the file. Without --redis the pins are in memory and end with the process.
#[derive(Args)]
#[command(after_help = HELP)]
#[command(after_long_help = concat!(help!(), "\n\nA file with every setting:\n\n", include_str!("../../berth.toml")))]
pub(super) struct Arguments {
    /// TOML file with settings, by their flags' names
    #[arg(long, value_name = "FILE", value_parser = file())]
    config: Option<Given<PathBuf>>,
    /// Address to listen on [default: 127.0.0.1:8650]
    #[arg(long, value_name = "IP:PORT", value_parser = Parser::new(address))]
    pub(super) listen: Option<Given<SocketAddr>>,
    #[command(flatten)]
    pub(super) redis: RedisFlags,
    /// How long a session lives that is not used [default: 30m]
    #[arg(long, value_name = "TIME", value_parser = time(Millis(1000)..=Millis(7 * 86_400_000)))]
    pub(super) ttl: Option<Given<Millis>>,
    /// How long the store may take [default: 40ms]
    #[arg(long, value_name = "TIME", value_parser = time(Millis(1)..=Millis(10_000)))]
    pub(super) store_timeout: Option<Given<Millis>>,
    /// Changes kept at least, for each shard of a pool [default: 8192]
    #[arg(long, value_name = "N", value_parser = number(16..=1_000_000_usize))]
    pub(super) changes_kept: Option<Given<usize>>,
    /// Requests answered at once; more get 429 [default: 1024]
    #[arg(long, value_name = "N", value_parser = number(1..=65_536_usize))]
    pub(super) in_flight: Option<Given<usize>>,
    /// Change polls waiting at once; more get 429 [default: 1024]
    #[arg(long, value_name = "N", value_parser = number(1..=65_536_usize))]
    pub(super) polls: Option<Given<usize>>,
    /// Pools that proxies may write to; calls for more get 429. One that is idle for an hour makes room [default: 1024]
    #[arg(long, value_name = "N", value_parser = number(1..=65_536_usize))]
    pub(super) pools: Option<Given<usize>>,
    /// New sessions of each pool a second, for this instance; more are not pinned until it is less, and go by the ring
    /// [default: no limit]
    #[arg(long, value_name = "N", value_parser = number(1..=1_000_000_u32))]
    pub(super) new_sessions: Option<Given<u32>>,
    /// Connections at once; a quarter of them for those on which no request was authorised yet [default: 8192]
    #[arg(long, value_name = "N", value_parser = number(16..=1_000_000_usize))]
    pub(super) connections: Option<Given<usize>>,
    /// Bearer token that requests below /v1 must carry; with --jwks the proxies'. Better from the environment, where no
    /// process list shows it
    #[arg(long, value_name = "TOKEN", value_parser = filled())]
    pub(super) token: Option<Given<String>>,
    /// File with such tokens, one a line, read again when it changes; beside --token
    #[arg(long, value_name = "FILE", value_parser = file())]
    pub(super) token_file: Option<Given<PathBuf>>,
    #[command(flatten)]
    pub(super) jwt: JwtFlags,
    #[command(flatten)]
    pub(super) tls: TlsFlags,
    /// How long to go on after SIGTERM with /readyz at 503, so that proxies leave first; a second signal or Ctrl-C stops at
    /// once [default: 3s]
    #[arg(long, value_name = "TIME", value_parser = time(Millis(0)..=Millis(300_000)))]
    pub(super) stop_delay: Option<Given<Millis>>,
    /// JSON is one object a line [default: text]
    #[arg(long, value_name = "NAME", value_parser = choice::<LogFormat>())]
    pub(super) log_format: Option<Given<LogFormat>>,
    /// The least severe that is logged [default: info]
    #[arg(long, value_name = "NAME", value_parser = choice::<LogLevel>())]
    pub(super) log_level: Option<Given<LogLevel>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum LogFormat {
    Text,
    Json,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum LogLevel {
    Error,
    Warn,
    Info,
    Debug,
}

fn address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| format!("must be ip:port, is {text:?}"))
}

/// What the command line and the environment say; the file that they name is not read yet.
#[derive(Clone)]
pub struct CommandLine(ArgMatches);

impl CommandLine {
    /// All settings: what the file says are the defaults of flags.
    pub(super) fn with_file(&self, faults: &mut Vec<Fault>) -> Result<(Arguments, File), Error> {
        let path = self.0.get_one::<Given<PathBuf>>("config").cloned().and_then(|path| path.take(faults));
        let file = path.map_or_else(File::default, |path| File::read(&path, faults));
        let command = Arguments::augment_args(Command::new("serve").no_binary_name(true));
        let names = command.get_arguments().filter_map(|arg| arg.get_long());
        let names: Vec<&str> = names.filter(|name| *name != "config").collect();
        file.check(&names, |name| self.says(name), faults);
        let command = command.mut_args(|arg| match arg.get_long().and_then(|name| file.text(name)) {
            Some(text) => arg.default_value(OsStr::from(text.to_owned())),
            None => arg,
        });
        let matches = command.try_get_matches_from(std::iter::empty::<&str>())?;
        let mut arguments = Arguments::from_arg_matches(&matches)?;
        arguments.update_from_arg_matches(&self.0)?;
        Ok((arguments, file))
    }

    fn says(&self, name: &str) -> bool {
        let source = self.0.value_source(&name.replace('-', "_"));
        matches!(source, Some(ValueSource::CommandLine | ValueSource::EnvVariable))
    }

    /// As if this were typed, with no variable set.
    #[cfg(test)]
    pub(super) fn typed(flags: &[&str]) -> Self {
        let command = Arguments::augment_args(Command::new("serve").no_binary_name(true));
        Self(command.get_matches_from(flags))
    }
}

impl Args for CommandLine {
    /// Each flag has a variable of its name. Variables may be secrets, so help does not show what is in them.
    fn augment_args(command: Command) -> Command {
        Arguments::augment_args(command).mut_args(|arg| {
            let variable =
                arg.get_long().map(|name| format!("BERTH_{}", name.replace('-', "_").to_uppercase()));
            match variable {
                Some(variable) => arg.env(OsStr::from(variable)).hide_env_values(true),
                None => arg,
            }
        })
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for CommandLine {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, Error> {
        Ok(Self(matches.clone()))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), Error> {
        self.0 = matches.clone();
        Ok(())
    }
}
