//! What all of the operator's commands are given: the service, how to reach it, nodes and sessions.

use std::ffi::OsString;
use std::net::{Ipv6Addr, SocketAddr};
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;

use berth_core::wire::{NodeId, NodeState, PoolName, SessionKey};
use berth_state::given::{Fault, Given, Parser, Place, choice, file};
use clap::Args;
use hyper::header::HeaderValue;

use super::client::{Client, Pem, Tls};
use super::origin::Origin;
use super::token::Token;
use crate::format::Format;

/// How to reach the state service, and what to show it.
#[derive(Args)]
pub(crate) struct Service {
    /// The state service, http:// or https://
    #[arg(
        long,
        alias = "url",
        value_name = "URL",
        env = "BERTH_SERVER",
        default_value = "http://127.0.0.1:8650",
        value_parser = Parser::new(Origin::parse)
    )]
    server: Given<Origin>,
    /// PEM file with the authorities that may have signed the service's certificate [default: the system's]
    #[arg(long, value_name = "FILE", env = "BERTH_CA", value_parser = file())]
    ca: Option<Given<PathBuf>>,
    /// PEM file with a certificate for a service that asks for one
    #[arg(long, value_name = "FILE", env = "BERTH_CLIENT_CERT", value_parser = file())]
    client_cert: Option<Given<PathBuf>>,
    /// PEM file with its private key
    #[arg(long, value_name = "FILE", env = "BERTH_CLIENT_KEY", value_parser = file())]
    client_key: Option<Given<PathBuf>>,
    /// Bearer token: the service's own, or, if it has --jwks, a JWT with the scope berth.read or berth.operate. Better from
    /// the environment, where no process list shows it
    #[arg(
        long,
        value_name = "TOKEN",
        env = "BERTH_TOKEN",
        hide_env_values = true,
        value_parser = Parser::new(bearer)
    )]
    token: Option<Given<HeaderValue>>,
    /// File with such a token, which is read again for each call: it may be renewed meanwhile
    #[arg(long, value_name = "FILE", env = "BERTH_TOKEN_FILE", value_parser = file())]
    token_file: Option<Given<PathBuf>>,
}

#[derive(Args)]
pub(crate) struct Server {
    #[command(flatten)]
    service: Service,
    /// The pool
    #[arg(
        long,
        value_name = "NAME",
        env = "BERTH_POOL",
        default_value = "nodes",
        value_parser = Parser::new(pool)
    )]
    pub(super) pool: Given<PoolName>,
    /// JSON is one object a line
    #[arg(long, value_name = "NAME", default_value = "text", value_parser = choice::<Format>())]
    format: Given<Format>,
}

#[derive(Args)]
#[group(required = true, multiple = false)]
pub(crate) struct Session {
    /// The session id, as clients send it
    session: Option<OsString>,
    /// The session's key instead: 32 hex digits, as logs and events have (the start of) it
    #[arg(long, value_name = "KEY", value_parser = Parser::new(key))]
    key: Option<Given<SessionKey>>,
}

impl Service {
    /// How to reach the service; reads the files of TLS.
    pub(super) fn client(&self, faults: &mut Vec<Fault>) -> Option<Client> {
        let origin = self.server.clone().take(faults);
        let token = Token::of(self.token.clone(), self.token_file.clone(), faults);
        let mut pem = |given: &Option<Given<PathBuf>>| {
            let given = given.clone()?;
            let place = given.place.to_string();
            let is_flag = matches!(given.place, Place::Flag(_));
            Some(given.take(faults).map(|file| Pem { place, is_flag, file }))
        };
        let (ca, cert, key) = (pem(&self.ca), pem(&self.client_cert), pem(&self.client_key));
        if cert.is_some() != key.is_some() {
            faults.push(Fault::new("--client-cert, --client-key", "a certificate needs both"));
            return None;
        }
        let (ca, own) = (given_right(ca), given_right(cert.zip(key).map(|(cert, key)| cert.zip(key))));
        let (origin, ca, own) = (origin?, ca?, own?);
        let tls = Tls::read(&origin, ca.as_ref(), own.as_ref()).map_err(|all| faults.extend(all)).ok();
        Some(Client::new(&origin, token?, tls?))
    }
}

impl Server {
    /// How to reach the service; reads the files of TLS.
    pub(super) fn client(&self, faults: &mut Vec<Fault>) -> Option<Client> {
        self.service.client(faults)
    }

    pub(super) fn pool(&self, faults: &mut Vec<Fault>) -> Option<PoolName> {
        self.pool.clone().take(faults)
    }

    /// Whether a flag or a variable names the service.
    pub(crate) fn is_named(&self) -> bool {
        !matches!(self.service.server.place, Place::Default(_))
    }

    pub(super) fn names_pool(&self) -> bool {
        !matches!(self.pool.place, Place::Default(_))
    }

    pub(crate) fn format(&self, faults: &mut Vec<Fault>) -> Option<Format> {
        self.format.clone().take(faults)
    }
}

/// What a list of nodes is to have beside what is on record.
#[derive(Args)]
pub(crate) struct Listing {
    /// List every node that a proxy has: ask the admin interface of its Envoy, http:// or https://
    #[arg(long, value_name = "URL", env = "BERTH_ADMIN", value_parser = Parser::new(Origin::parse))]
    admin: Option<Given<Origin>>,
    /// The Envoy cluster that has the pool's nodes [default: as the pool]
    #[arg(long, value_name = "NAME", requires = "admin")]
    cluster: Option<String>,
    /// Say how many sessions each node has. The service looks through up to ten million keys of its store for it: of more the
    /// numbers are of a sample
    #[arg(long)]
    pub(super) count: bool,
}

impl Listing {
    /// The admin interface to ask, if one is given, and for which cluster.
    pub(super) fn client(&self, pool: &Given<PoolName>, faults: &mut Vec<Fault>) -> Option<(Client, String)> {
        let origin = self.admin.clone()?.take(faults)?;
        let tls = Tls::read(&origin, None, None).map_err(|all| faults.extend(all)).ok()?;
        let cluster = self.cluster.clone();
        let cluster = cluster.or_else(|| Some(pool.value.as_ref().ok()?.to_string()))?;
        Some((Client::new(&origin, None, tls), cluster))
    }
}

/// What was not given is right as well.
fn given_right<T>(given: Option<Option<T>>) -> Option<Option<T>> {
    given.map_or(Some(None), |value| value.map(Some))
}

impl Session {
    pub(super) fn key(&self, server: &Server, faults: &mut Vec<Fault>) -> Option<SessionKey> {
        if let Some(key) = &self.key {
            return key.clone().take(faults);
        }
        let id = self.session.as_ref()?;
        if id.is_empty() {
            faults.push(Fault::new("SESSION", "is empty: no session has an empty id"));
            return None;
        }
        // A fault of the pool is reported with the server's.
        let pool = server.pool.value.as_ref().ok()?;
        Some(SessionKey::new(pool.as_str(), id.as_bytes()))
    }
}

pub(super) fn pool(text: &str) -> Result<PoolName, String> {
    text.parse().map_err(|error| format!("{error}, is {text:?}"))
}

fn key(text: &str) -> Result<SessionKey, String> {
    text.parse().map_err(|error| format!("{error}, is {text:?}"))
}

/// The value of `Authorization`. The token is not repeated in a fault.
pub(super) fn bearer(token: &str) -> Result<HeaderValue, String> {
    let mut value = HeaderValue::try_from(format!("Bearer {token}"))
        .map_err(|_| "has control characters: a token has none".to_owned())?;
    value.set_sensitive(true);
    Ok(value)
}

/// A node's name. Any name is a node's, and the service records what it is sent about one that does not exist. So what was
/// meant to be an address must be one.
pub(super) fn node(text: &str) -> Result<NodeId, String> {
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    let is_like_ipv4 = text.contains('.') && digits(text.rsplit_once(':').map_or(text, |(host, _)| host));
    let is_like_ipv6 = text.starts_with('[')
        || text.matches(':').count() > 1
            && text.bytes().all(|byte| byte.is_ascii_hexdigit() || b".:".contains(&byte));
    if (is_like_ipv4 || is_like_ipv6) && text.parse::<SocketAddr>().is_err() {
        let advice = bracketed(text).map_or_else(String::new, |name| {
            format!(": an IPv6 address with a port needs brackets, as in {name}")
        });
        return Err(format!("must be ip:port or [ipv6]:port, is {text:?}{advice}"));
    }
    text.parse().map_err(|error| format!("{error}, is {text:?}"))
}

/// An IPv6 address and a port, as `ADDRESS:PORT` was probably meant.
fn bracketed(text: &str) -> Option<SocketAddr> {
    let (address, port) = text.rsplit_once(':')?;
    Some(SocketAddr::new(address.parse::<Ipv6Addr>().ok()?.into(), port.parse().ok()?))
}

pub(super) fn state(text: &str) -> Result<NodeState, String> {
    NodeState::from_name(text).ok_or_else(|| {
        let names = NodeState::ALL.map(|(name, _)| name).join(", ");
        format!("must be one of {names}, is {text:?}")
    })
}
