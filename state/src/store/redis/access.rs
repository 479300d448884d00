//! The credentials that one server is reached with: the newest, or the former ones while it still wants those.
//!
//! A password or a certificate is replaced server by server, and in this service's files at some other time. So each server
//! has its own choice: new connections use what it accepted last, the newest are tried each second until it accepts them
//! (`renewal`), and where it refuses a connection, the other ones are tried at once. Redis asks for a password once, so an open
//! connection is left only for one that works.

use std::sync::Mutex;

use redis::{
    AsyncConnectionConfig, Client, ConnectionAddr, ConnectionInfo, IntoConnectionInfo as _, RedisError,
    TlsCertificates, Value,
};

use super::bounds::{CONNECT_TIMEOUT, UNACKNOWLEDGED};
use super::options::{Options, Secrets};
use crate::lock::lock;

/// How to connect to servers: user, password and TLS.
pub(super) struct Entry {
    info: ConnectionInfo,
    certificates: Option<TlsCertificates>,
}

impl Entry {
    /// That of the first URL; it holds for all of them.
    pub(super) fn new(options: &Options, secrets: &Secrets) -> Result<Self, RedisError> {
        let with_password = secrets.password.as_deref().map(|password| options.with_password(password));
        let url = with_password.as_ref().unwrap_or(options).urls.first().map_or("", String::as_str);
        Ok(Self { info: url.into_connection_info()?, certificates: secrets.certificates.clone() })
    }

    /// For the server of the URL.
    pub(super) fn client(&self) -> Result<Client, RedisError> {
        self.client_of(self.info.clone())
    }

    /// For another one.
    pub(super) fn client_at(&self, host: &str, port: u16) -> Result<Client, RedisError> {
        let host = host.to_owned();
        let to = match self.info.addr() {
            ConnectionAddr::TcpTls { insecure, tls_params, .. } => {
                ConnectionAddr::TcpTls { host, port, insecure: *insecure, tls_params: tls_params.clone() }
            }
            _ => ConnectionAddr::Tcp(host, port),
        };
        self.client_of(self.info.clone().set_addr(to))
    }

    fn client_of(&self, info: ConnectionInfo) -> Result<Client, RedisError> {
        let tcp = info.tcp_settings().clone().set_nodelay(true);
        #[cfg(target_os = "linux")]
        let tcp = tcp.set_user_timeout(UNACKNOWLEDGED);
        let info = info.set_tcp_settings(tcp);
        match &self.certificates {
            Some(certificates) => Client::build_with_tls(info, certificates.clone()),
            None => Client::open(info),
        }
    }
}

/// Of one server; its connections share it.
pub(super) struct Access(Mutex<State>);

struct State {
    newest: Client,
    /// Those that the server accepted before, or may have.
    former: Option<Client>,
    uses_former: bool,
    /// Counts the changes of what new connections use.
    turn: u64,
}

impl Access {
    /// Begins with the newest.
    pub(super) fn new(newest: Client, former: Option<Client>) -> Self {
        Self(Mutex::new(State { newest, former, uses_former: false, turn: 0 }))
    }

    /// What new connections use, and in which turn.
    pub(super) fn client(&self) -> (Client, u64) {
        let state = lock(&self.0);
        let former = state.former.as_ref().filter(|_| state.uses_former);
        (former.unwrap_or(&state.newest).clone(), state.turn)
    }

    pub(super) fn turn(&self) -> u64 {
        lock(&self.0).turn
    }

    /// The newest were replaced. What is used stays until the server accepts these.
    pub(super) fn renew(&self, newest: Client) {
        let mut state = lock(&self.0);
        let replaced = std::mem::replace(&mut state.newest, newest);
        if !state.uses_former {
            (state.former, state.uses_former) = (Some(replaced), true);
        }
    }

    /// The server did not take a connection of this turn. True if there are others to try.
    pub(super) fn refused(&self, turn: u64) -> bool {
        let mut state = lock(&self.0);
        if state.turn == turn && state.former.is_some() {
            state.uses_former = !state.uses_former;
            state.turn += 1;
        }
        state.former.is_some()
    }

    /// The former ones are used.
    pub(super) fn is_behind(&self) -> bool {
        lock(&self.0).uses_former
    }

    /// Tries the newest. If the server accepts them, they are used from now on: authentication is all that matters, whatever
    /// state the server is in.
    pub(super) async fn advance(&self) -> Result<(), RedisError> {
        let newest = lock(&self.0).newest.clone();
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(CONNECT_TIMEOUT))
            .set_response_timeout(Some(CONNECT_TIMEOUT));
        let mut connection = newest.get_multiplexed_async_connection_with_config(&config).await?;
        // With TLS 1.3 the server refuses a certificate after the connection seems to be there.
        match redis::cmd("PING").query_async::<Value>(&mut connection).await {
            Err(error) if error.is_io_error() || error.code() == Some("NOAUTH") => return Err(error),
            Ok(_) | Err(_) => {}
        }
        let mut state = lock(&self.0);
        if state.uses_former {
            state.uses_former = false;
            state.turn += 1;
        }
        Ok(())
    }
}
