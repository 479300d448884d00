//! Redis Sentinel: servers beside a primary and its replicas that agree which one is the primary, and say so when asked.
//!
//! The URL names them and the service that they watch:
//! `redis+sentinel://user:password@sentinel-0:26379,sentinel-1:26379/mymaster/0?sentinel_password=…`, `rediss+sentinel://` with
//! TLS to all of them. User and password are the server's; each Sentinel has the same of its own, or none.

use std::collections::HashMap;
use std::time::Duration;

use futures_util::future::join_all;
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, IntoConnectionInfo as _, RedisError, TlsCertificates, Value};

use super::options::{Options, Secrets, escaped};
use crate::store::StoreError;

/// One that is gone must not hold up the others' word.
const ASKED_FOR: Duration = Duration::from_millis(800);
const PORT: u16 = 26379;
const SCHEMES: [(&str, &str); 2] = [("redis+sentinel://", "redis"), ("rediss+sentinel://", "rediss")];

/// Which Sentinels to ask for which service, as the URL says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SentinelUrl {
    /// `redis`, or `rediss` with TLS.
    scheme: &'static str,
    /// Of the server, with its `@`; as in the URL.
    user: String,
    sentinels: Vec<String>,
    service: String,
    database: String,
    sentinel_user: String,
    sentinel_password: String,
}

impl SentinelUrl {
    /// True if the text means Sentinels, in whichever way.
    pub(crate) fn is_meant(url: &str) -> bool {
        url.split("://").next().is_some_and(|scheme| scheme.contains("sentinel"))
    }

    /// # Errors
    /// What is wrong with it. Nothing of it is in the message, as there may be a password.
    pub(crate) fn parse(url: &str) -> Result<Self, String> {
        const FORM: &str =
            "must be redis+sentinel://HOST:PORT,HOST:PORT/SERVICE, or rediss+sentinel:// with TLS";
        let found = SCHEMES.iter().find_map(|(start, scheme)| Some((url.strip_prefix(start)?, *scheme)));
        let (rest, scheme) = found.ok_or(FORM)?;
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, path) = rest.split_once('/').ok_or_else(|| format!("has no service: {FORM}"))?;
        let (user, hosts) = match authority.rsplit_once('@') {
            Some((user, hosts)) => (format!("{user}@"), hosts),
            None => (String::new(), authority),
        };
        let with_port = |host: &str| match host.rsplit_once(':') {
            Some((_, port)) if port.parse::<u16>().is_ok() => Some(host.to_owned()),
            _ if host.is_empty() || host.contains(':') && !host.ends_with(']') => None,
            _ => Some(format!("{host}:{PORT}")),
        };
        let sentinels: Option<Vec<String>> = hosts.split(',').map(|host| with_port(host.trim())).collect();
        let sentinels = sentinels.ok_or_else(|| format!("has a host that is not one: {FORM}"))?;
        let (service, database) = path.split_once('/').unwrap_or((path, "0"));
        if service.is_empty() || database.parse::<u16>().is_err() {
            return Err(format!("has no service, or no number of a database behind it: {FORM}"));
        }
        let (mut sentinel_user, mut sentinel_password) = (String::new(), String::new());
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            match &*name {
                "sentinel_user" => sentinel_user = value.into_owned(),
                "sentinel_password" => sentinel_password = value.into_owned(),
                _ => {
                    return Err(
                        "takes sentinel_user and sentinel_password behind its ?, and nothing else".to_owned()
                    );
                }
            }
        }
        let url = Self {
            scheme,
            user,
            sentinels,
            service: service.to_owned(),
            database: database.to_owned(),
            sentinel_user,
            sentinel_password,
        };
        let urls = url.sentinels.iter().map(|sentinel| url.of_sentinel(sentinel));
        for url in urls.chain([url.of_server("localhost:1")]) {
            url.as_str().into_connection_info().map_err(|error| format!("cannot be used: {error}"))?;
        }
        Ok(url)
    }

    /// That of these options, if it is one.
    pub(super) fn of(options: &Options) -> Option<Self> {
        options.urls.first().and_then(|url| Self::parse(url).ok())
    }

    /// The options of a store on this server.
    pub(super) fn at(&self, options: &Options, address: &str) -> Options {
        Options { urls: vec![self.of_server(address)], ..options.clone() }
    }

    /// The address of each Sentinel, and its URL.
    pub(super) fn each_sentinel(&self) -> impl Iterator<Item = (&str, String)> {
        self.sentinels.iter().map(|sentinel| (sentinel.as_str(), self.of_sentinel(sentinel)))
    }

    fn of_server(&self, address: &str) -> String {
        format!("{}://{}{address}/{}", self.scheme, self.user, self.database)
    }

    fn of_sentinel(&self, sentinel: &str) -> String {
        let (user, password) = (escaped(&self.sentinel_user), escaped(&self.sentinel_password));
        let user = if password.is_empty() { String::new() } else { format!("{user}:{password}@") };
        format!("{}://{user}{sentinel}", self.scheme)
    }
}

/// Connections to the Sentinels of a service.
pub(super) struct Sentinels {
    service: String,
    all: Vec<Sentinel>,
}

struct Sentinel {
    address: String,
    url: String,
    /// The newest first, then those that it may still want.
    certificates: Vec<Option<TlsCertificates>>,
    connection: Option<MultiplexedConnection>,
}

impl Sentinels {
    /// They connect when they are first asked.
    pub(super) fn new(url: &SentinelUrl, secrets: &Secrets, former: Option<&Secrets>) -> Self {
        let one = |address: &String| Sentinel {
            address: address.clone(),
            url: url.of_sentinel(address),
            certificates: std::iter::once(secrets)
                .chain(former)
                .map(|secrets| secrets.certificates.clone())
                .collect(),
            connection: None,
        };
        Self { service: url.service.clone(), all: url.sentinels.iter().map(one).collect() }
    }

    /// The address of the primary, as most of those who answer have it. The primary that is in use, if there is one, is left only
    /// when most of all Sentinels name another: those on the side of an old primary may be the only ones that answer.
    ///
    /// # Errors
    /// Why none has one.
    pub(super) async fn primary(&mut self, used: Option<&str>) -> Result<String, String> {
        let service = &self.service;
        let answers = join_all(self.all.iter_mut().map(|sentinel| async move {
            let answer = tokio::time::timeout(ASKED_FOR, sentinel.ask(service)).await;
            let failed = match answer {
                Ok(Ok(address)) => return Ok(address),
                Ok(Err(error)) => error.to_string(),
                Err(_) => "no answer".to_owned(),
            };
            sentinel.connection = None;
            Err(format!("Sentinel {}: {failed}", sentinel.address))
        }))
        .await;
        let mut votes: HashMap<&str, usize> = HashMap::new();
        for address in answers.iter().filter_map(|answer| answer.as_ref().ok()?.as_deref()) {
            *votes.entry(address).or_default() += 1;
        }
        if let Some((address, count)) = votes.into_iter().max_by_key(|(address, count)| (*count, *address)) {
            let is_majority = count * 2 > self.all.len();
            return Ok(used.filter(|_| !is_majority).unwrap_or(address).to_owned());
        }
        if answers.iter().any(Result::is_ok) {
            return Err(format!(
                "no Sentinel knows a service {service}: compare the URL with its `sentinel monitor`"
            ));
        }
        let failures: Vec<String> = answers.into_iter().filter_map(Result::err).collect();
        Err(format!("no Sentinel answers: {}", failures.join("; ")))
    }
}

impl Sentinel {
    async fn ask(&mut self, service: &str) -> Result<Option<String>, RedisError> {
        let connection = match &mut self.connection {
            Some(connection) => connection,
            none => none.insert(connect(&self.url, &self.certificates).await?),
        };
        let mut ask = redis::cmd("SENTINEL");
        ask.arg("get-master-addr-by-name").arg(service);
        primary(ask.query_async(connection).await?)
    }
}

/// The address of a service's primary, as a Sentinel says it: host and port. `None` if it knows no such service.
pub(super) fn primary(answer: Value) -> Result<Option<String>, RedisError> {
    let address: Option<(String, u16)> = redis::from_redis_value(answer)?;
    Ok(address.map(|(host, port)| match host.contains(':') {
        true => format!("[{host}]:{port}"),
        false => format!("{host}:{port}"),
    }))
}

/// With the first of these certificates that the server accepts.
async fn connect(url: &str, all: &[Option<TlsCertificates>]) -> Result<MultiplexedConnection, RedisError> {
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(ASKED_FOR))
        .set_response_timeout(Some(ASKED_FOR));
    let connect = async |certificates: &Option<TlsCertificates>| {
        let client = match certificates {
            Some(certificates) => Client::build_with_tls(url, certificates.clone())?,
            None => Client::open(url)?,
        };
        client.get_multiplexed_async_connection_with_config(&config).await
    };
    let (first, former) = all.split_first().map_or((&None, &[][..]), |(first, former)| (first, former));
    let mut connected = connect(first).await;
    for certificates in former {
        if connected.is_err() {
            connected = connect(certificates).await;
        }
    }
    connected
}

/// A Sentinel knows none of a server's commands, and does not say what it is.
pub(super) fn explained(error: StoreError) -> StoreError {
    match error {
        StoreError::Refused(message) if message.to_lowercase().contains("unknown command") => {
            StoreError::Refused(format!(
                "{message}: is it a Sentinel? Then the URL is redis+sentinel://HOST:PORT/SERVICE"
            ))
        }
        error => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_names_sentinels_service_and_secrets() {
        let url = "rediss+sentinel://u:p%40@a,b:1,[::1]:2,[::2]/m/3?sentinel_password=s%40&sentinel_user=w";
        let url = SentinelUrl::parse(url).unwrap();
        assert_eq!(url.sentinels, ["a:26379", "b:1", "[::1]:2", "[::2]:26379"]);
        assert_eq!(url.of_server("c:6379"), "rediss://u:p%40@c:6379/3");
        assert_eq!(url.of_sentinel("a:26379"), "rediss://w:s%40@a:26379");
        let plain = SentinelUrl::parse("redis+sentinel://a/m").unwrap();
        assert_eq!(
            (plain.of_server("c:1"), plain.of_sentinel("a:2")),
            ("redis://c:1/0".into(), "redis://a:2".into())
        );
    }

    #[test]
    fn what_is_wrong_with_a_url_is_said_without_its_password() {
        for url in [
            "sentinel://u:secret@a/m",
            "redis-sentinel://u:secret@a/m",
            "redis+sentinel://u:secret@a",
            "redis+sentinel://u:secret@a/",
            "redis+sentinel://u:secret@/m",
            "redis+sentinel://u:secret@a,,b/m",
            "redis+sentinel://u:secret@a:x/m",
            "redis+sentinel://u:secret@a/m/x",
            "redis+sentinel://u:secret@a/m?password=secret",
        ] {
            assert!(SentinelUrl::is_meant(url), "{url}");
            let message = SentinelUrl::parse(url).unwrap_err();
            assert!(!message.contains("secret"), "{url}: {message}");
        }
        assert!(!SentinelUrl::is_meant("redis://sentinel:1"));
    }
}
