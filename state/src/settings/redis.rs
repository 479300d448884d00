//! Where the shared store is, and how it is asked.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};
use redis::IntoConnectionInfo as _;

use super::checks::Checks;
use crate::given::{Given, boolean, choice, file, filled};
use crate::store::Keeping;
use crate::store::redis::{Options, SentinelUrl, Tls};

#[derive(Args)]
pub(super) struct RedisFlags {
    /// redis:// or rediss:// with user, password and database if need be; for a cluster several, with commas;
    /// redis+sentinel://HOST:PORT,HOST:PORT/SERVICE for Sentinel
    #[arg(long, value_name = "URL", value_parser = filled())]
    redis: Option<Given<String>>,
    /// true if the servers form a Redis Cluster [default: false]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", value_parser = boolean())]
    redis_cluster: Option<Given<bool>>,
    /// PEM file with the authorities that may have signed the servers' certificates [default: the system's]
    #[arg(long, value_name = "FILE", value_parser = file())]
    redis_ca: Option<Given<PathBuf>>,
    /// PEM file with the service's own certificate for the servers, with --redis-key
    #[arg(long, value_name = "FILE", value_parser = file())]
    redis_cert: Option<Given<PathBuf>>,
    /// PEM file with its private key
    #[arg(long, value_name = "FILE", value_parser = file())]
    redis_key: Option<Given<PathBuf>>,
    /// File whose first line is the password, in place of the URL's; like the other files it is read again when it changes
    #[arg(long, value_name = "FILE", value_parser = file())]
    redis_password_file: Option<Given<PathBuf>>,
    /// With quorum a replica confirms each change, and the answer says whether it did [default: none]
    #[arg(long, value_name = "NAME", value_parser = choice::<Durability>())]
    durability: Option<Given<Durability>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Durability {
    None,
    Quorum,
}

impl RedisFlags {
    /// The options of the store; `None` for one in memory, or if something is wrong.
    pub(super) fn check(self, timeout: Duration, keeping: Keeping, checks: &mut Checks) -> Option<Options> {
        let urls = checks.take(self.redis);
        let cluster = checks.take(self.redis_cluster).unwrap_or(false);
        let ca = checks.take(self.redis_ca);
        let (cert, key) = (checks.take(self.redis_cert), checks.take(self.redis_key));
        if cert.is_some() != key.is_some() {
            checks.fault("redis-cert, redis-key", "a certificate needs both");
        }
        let password_file = checks.take(self.redis_password_file);
        let tls = Tls { ca, client: cert.zip(key), password_file };
        let quorum = checks.take(self.durability) == Some(Durability::Quorum);
        let Some(urls) = urls else {
            if cluster || quorum || tls.ca.is_some() || tls.client.is_some() || tls.password_file.is_some() {
                let message = "redis-cluster, TLS and a password for it, and durability quorum need it, and it is missing";
                checks.fault("redis", message);
            }
            return None;
        };
        let urls: Vec<String> = match SentinelUrl::is_meant(&urls) {
            true => vec![urls],
            false => urls.split(',').map(|url| url.trim().to_owned()).collect(),
        };
        if urls.len() > 1 && !cluster {
            checks.fault("redis", "several servers are for --redis-cluster");
        }
        for (position, url) in (1..).zip(&urls) {
            // Not repeated in the message: there may be a password in it.
            if SentinelUrl::is_meant(url) {
                if let Err(message) = SentinelUrl::parse(url) {
                    checks.fault("redis", format!("the URL of Sentinels {message}"));
                } else if cluster {
                    checks.fault("redis, redis-cluster", "a Cluster has no Sentinels: name its servers");
                }
            } else if let Err(error) = url.as_str().into_connection_info() {
                checks.fault("redis", format!("URL {position} cannot be used: {error}"));
            }
        }
        if !urls.iter().any(|url| url.starts_with("rediss")) {
            for (name, given) in [("redis-ca", tls.ca.is_some()), ("redis-cert", tls.client.is_some())] {
                if given {
                    checks.fault(name, "is for TLS, and the URL in redis is not rediss://");
                }
            }
        }
        Some(Options { urls, cluster, quorum, tls, timeout, keeping })
    }
}
