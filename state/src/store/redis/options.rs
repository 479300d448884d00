//! What a store on Redis is given: servers, files, times.

use std::path::{Path, PathBuf};
use std::time::Duration;

use redis::{ClientTlsConfig, TlsCertificates};

use crate::given::Fault;
use crate::store::Keeping;
use crate::tls::choose_provider;

/// Where the servers are and how they are asked.
#[derive(Debug, Clone)]
pub struct Options {
    /// `redis://` or `rediss://`, with user and password if need be; several for a Cluster.
    pub urls: Vec<String>,
    /// The servers form a Redis Cluster.
    pub cluster: bool,
    /// Ask a replica to confirm each resolve.
    pub quorum: bool,
    /// For `rediss://`.
    pub tls: Tls,
    /// The longest any verb may take.
    pub timeout: Duration,
    /// How long and how much to keep.
    pub keeping: Keeping,
}

/// PEM files for `rediss://`.
#[derive(Debug, Clone, Default)]
pub struct Tls {
    /// Authorities of the servers' certificates; absent is the system's.
    pub ca: Option<PathBuf>,
    /// The service's own certificate and private key, if the servers ask for one.
    pub client: Option<(PathBuf, PathBuf)>,
}

impl Options {
    /// What the files hold; `None` without TLS, where they would be refused.
    pub(super) fn read_certificates(&self) -> Result<Option<TlsCertificates>, Fault> {
        if !self.urls.iter().any(|url| url.starts_with("rediss:")) {
            return Ok(None);
        }
        choose_provider();
        let read = |setting: &str, file: &Path| {
            std::fs::read(file)
                .map_err(|error| Fault::new(setting, format!("cannot read {}: {error}", file.display())))
        };
        let root_cert = self.tls.ca.as_deref().map(|file| read("redis-ca", file)).transpose()?;
        let client_tls = match &self.tls.client {
            Some((cert, key)) => Some(ClientTlsConfig {
                client_cert: read("redis-cert", cert)?,
                client_key: read("redis-key", key)?,
            }),
            None => None,
        };
        Ok(Some(TlsCertificates { client_tls, root_cert }))
    }
}
