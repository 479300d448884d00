//! What a store on Redis is given: servers, files, times.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use redis::{ClientTlsConfig, TlsCertificates};
use tokio::sync::watch;

use crate::follow::{Files, Kind, follow};
use crate::given::Fault;
use crate::secrets;
use crate::store::Keeping;
use crate::tls::{Faults, choose_provider, connector};

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

/// PEM files for `rediss://`, and the file with the password: what is read again when it changes.
#[derive(Debug, Clone, Default)]
pub struct Tls {
    /// Authorities of the servers' certificates; absent is the system's.
    pub ca: Option<PathBuf>,
    /// The service's own certificate and private key, if the servers ask for one.
    pub client: Option<(PathBuf, PathBuf)>,
    /// The password is its first line, in place of that of the URL.
    pub password_file: Option<PathBuf>,
}

/// What the files hold.
#[derive(Clone)]
pub(super) struct Secrets {
    /// `None` without TLS, where they would be refused.
    pub(super) certificates: Option<TlsCertificates>,
    pub(super) password: Option<String>,
}

impl Options {
    /// What the files hold, then and whenever they change; constant without files.
    pub(super) fn follow(&self) -> Result<watch::Receiver<Arc<Secrets>>, Fault> {
        let Tls { ca, client, password_file } = &self.tls;
        let (cert, key) = client.as_ref().map(|(cert, key)| (cert, key)).unzip();
        let paths: Vec<PathBuf> =
            [ca.as_ref(), cert, key, password_file.as_ref()].into_iter().flatten().cloned().collect();
        if paths.is_empty() {
            return Ok(watch::channel(Arc::new(self.read()?)).1);
        }
        let of = |setting, file: &PathBuf, kind| (setting, file.clone(), kind);
        let mut certificates: Vec<_> =
            ca.iter().map(|file| of("redis-ca", file, Kind::Authorities)).collect();
        certificates.extend(cert.map(|file| of("redis-cert", file, Kind::Chain)));
        let what = "certificates and the password of Redis";
        let options = self.clone();
        let load = move || options.read().map_err(|fault| Faults(vec![fault]));
        follow(Files { name: "redis", what, paths, certificates }, load).map_err(|faults| {
            let files = || Fault::new("redis", "its files cannot be followed");
            faults.0.into_iter().next().unwrap_or_else(files)
        })
    }

    fn read(&self) -> Result<Secrets, Fault> {
        let password =
            self.tls.password_file.as_deref().map(|file| secrets::password("redis-password-file", file));
        Ok(Secrets { certificates: self.read_certificates()?, password: password.transpose()? })
    }

    /// The same servers with this password in each URL.
    pub(super) fn with_password(&self, password: &str) -> Self {
        let with = |url: &String| {
            let Some((scheme, rest)) = url.split_once("://") else { return url.clone() };
            let end = rest.find(['/', '?']).unwrap_or(rest.len());
            let (authority, path) = rest.split_at(end);
            let (user, host) = authority.rsplit_once('@').unwrap_or(("", authority));
            let user = user.split(':').next().unwrap_or_default();
            format!("{scheme}://{user}:{}@{host}{path}", escaped(password))
        };
        Self { urls: self.urls.iter().map(with).collect(), ..self.clone() }
    }

    fn read_certificates(&self) -> Result<Option<TlsCertificates>, Fault> {
        if !self.urls.iter().any(|url| url.starts_with("rediss")) {
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
        // That each is what it should be, and goes with the others: while it is replaced it may be half written.
        let own = self.tls.client.as_ref();
        let own = own.map(|(cert, key)| (("redis-cert", cert.as_path()), ("redis-key", key.as_path())));
        let ca = self.tls.ca.as_deref().map(|file| ("redis-ca", file));
        if ca.is_some() || own.is_some() {
            connector(ca, own).map_err(|faults| {
                faults.into_iter().next().unwrap_or_else(|| Fault::new("redis-ca", "cannot be used"))
            })?;
        }
        Ok(Some(TlsCertificates { client_tls, root_cert }))
    }
}

/// As the user information of a URL has it: all but letters and digits by their numbers.
pub(super) fn escaped(text: &str) -> String {
    let one = |byte: u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' => char::from(byte).to_string(),
        byte => format!("%{byte:02X}"),
    };
    text.bytes().map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_takes_its_place_in_each_kind_of_url() {
        for (url, with) in [
            ("redis://a", "redis://:p%40%2F@a"),
            ("redis://a:1/2", "redis://:p%40%2F@a:1/2"),
            ("rediss://u@a", "rediss://u:p%40%2F@a"),
            ("redis://u:old@a?protocol=resp3", "redis://u:p%40%2F@a?protocol=resp3"),
            ("redis+sentinel://u:old@a:1,b:2/m", "redis+sentinel://u:p%40%2F@a:1,b:2/m"),
        ] {
            let options = Options {
                urls: vec![url.to_owned()],
                cluster: false,
                quorum: false,
                tls: Tls::default(),
                timeout: Duration::from_secs(1),
                keeping: Keeping::default(),
            };
            assert_eq!(options.with_password("p@/").urls, [with]);
        }
    }
}
