//! TLS of the listener and of the operator's commands: certificates from PEM files, on both sides.

use std::fmt::{self, Display};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio::sync::watch;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::follow::{Files, Kind, follow};
use crate::given::Fault;

/// PEM files of the listener.
#[derive(Debug, Clone)]
pub struct ListenerFiles {
    /// Certificates, its own first.
    pub cert: PathBuf,
    /// Private key.
    pub key: PathBuf,
    /// Authorities of client certificates, which are required if it is there.
    pub client_ca: Option<PathBuf>,
}

/// Chooses the one implementation of cryptography that is linked, for the listener and for Redis.
pub fn choose_provider() {
    // An error says that it was chosen before.
    let _ = rustls::crypto::ring::default_provider().install_default();
}

/// What takes TLS connections now.
pub type Acceptor = watch::Receiver<Arc<TlsAcceptor>>;

/// What takes TLS connections: with the files as they are, then and whenever they change. Connections that are open stay.
///
/// # Errors
/// Every file that cannot be read, or that does not fit the others.
pub fn acceptor(files: &ListenerFiles) -> Result<Acceptor, Vec<Fault>> {
    let of = |setting, file: &Path, kind| (setting, file.to_owned(), kind);
    let mut certificates = vec![of("tls-cert", &files.cert, Kind::Chain)];
    certificates.extend(files.client_ca.as_deref().map(|file| of("tls-client-ca", file, Kind::Authorities)));
    let paths = [&files.cert, &files.key].into_iter().chain(&files.client_ca).cloned().collect();
    let followed = Files { name: "tls", what: "certificates of the listener", paths, certificates };
    let files = files.clone();
    follow(followed, move || load_acceptor(&files).map_err(Faults)).map_err(|Faults(all)| all)
}

/// Faults of files that are followed.
#[derive(Debug)]
pub(crate) struct Faults(pub(crate) Vec<Fault>);

impl Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all: Vec<String> = self.0.iter().map(Fault::to_string).collect();
        f.write_str(&all.join("; "))
    }
}

impl From<io::Error> for Faults {
    fn from(error: io::Error) -> Self {
        Self(vec![Fault::new("files", format!("cannot be followed: {error}"))])
    }
}

fn load_acceptor(files: &ListenerFiles) -> Result<TlsAcceptor, Vec<Fault>> {
    choose_provider();
    let mut faults = Vec::new();
    let mut note = |fault| faults.push(fault);
    let certificates = certificates("tls-cert", &files.cert).map_err(&mut note).ok();
    let key = private_key("tls-key", &files.key).map_err(&mut note).ok();
    let client_roots = files
        .client_ca
        .as_deref()
        .map(|file| authorities("tls-client-ca", file))
        .transpose()
        .map_err(&mut note);
    let (Some(certificates), Some(key), Ok(client_roots)) = (certificates, key, client_roots) else {
        return Err(faults);
    };

    let builder = match client_roots {
        None => ServerConfig::builder().with_no_client_auth(),
        Some(roots) => {
            let verifier = WebPkiClientVerifier::builder(Arc::new(roots)).build();
            let verifier = verifier.map_err(|error| vec![Fault::new("tls-client-ca", error.to_string())])?;
            ServerConfig::builder().with_client_cert_verifier(verifier)
        }
    };
    let mut config = builder
        .with_single_cert(certificates, key)
        .map_err(|error| vec![Fault::new("tls-cert, tls-key", format!("do not fit: {error}"))])?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// A PEM file, and the name of the setting that names it.
pub type Named<'n> = (&'n str, &'n Path);

/// What opens TLS connections: trusts the authorities of a file, else those of the system, and shows a certificate of its
/// own if there is one.
///
/// # Errors
/// Every file that cannot be read, or that does not fit the others.
pub fn connector(
    ca: Option<Named<'_>>,
    own: Option<(Named<'_>, Named<'_>)>,
) -> Result<TlsConnector, Vec<Fault>> {
    choose_provider();
    let mut faults = Vec::new();
    let mut note = |fault| faults.push(fault);
    let roots = match ca {
        Some((setting, file)) => authorities(setting, file),
        None => system_authorities(),
    };
    let roots = roots.map_err(&mut note).ok();
    let own_places = own.map(|((cert, _), (key, _))| format!("{cert}, {key}"));
    let own = own.map(|((cert, cert_file), (key, key_file))| {
        let certificates = certificates(cert, cert_file).map_err(&mut note).ok();
        let key = private_key(key, key_file).map_err(&mut note).ok();
        certificates.zip(key)
    });
    let (Some(roots), Some(own)) = (roots, own.map_or(Some(None), |own| own.map(Some))) else {
        return Err(faults);
    };

    let builder = ClientConfig::builder().with_root_certificates(roots);
    let mut config = match own {
        None => builder.with_no_client_auth(),
        Some((certificates, key)) => builder.with_client_auth_cert(certificates, key).map_err(|error| {
            let place = own_places.unwrap_or_default();
            vec![Fault::new(place, format!("do not fit: {error}"))]
        })?,
    };
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsConnector::from(Arc::new(config)))
}

fn authorities(setting: &str, file: &Path) -> Result<RootCertStore, Fault> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(setting, file)? {
        roots
            .add(certificate)
            .map_err(|error| Fault::new(setting, format!("{}: {error}", file.display())))?;
    }
    Ok(roots)
}

/// Some of the system's may be broken or of an unknown kind; one that works is enough.
fn system_authorities() -> Result<RootCertStore, Fault> {
    let mut roots = RootCertStore::empty();
    let found = rustls_native_certs::load_native_certs();
    let (added, _) = roots.add_parsable_certificates(found.certs);
    if added == 0 {
        return Err(Fault::new("--ca", "the system has no certificate authorities: name a file with yours"));
    }
    Ok(roots)
}

fn private_key(setting: &str, file: &Path) -> Result<PrivateKeyDer<'static>, Fault> {
    PrivateKeyDer::from_pem_file(file).map_err(|error| unreadable(setting, file, &error))
}

fn certificates(setting: &str, file: &Path) -> Result<Vec<CertificateDer<'static>>, Fault> {
    let all: Result<Vec<_>, _> = CertificateDer::pem_file_iter(file).and_then(Iterator::collect);
    match all {
        Ok(all) if all.is_empty() => Err(unreadable(setting, file, &"there is no certificate in it")),
        Ok(all) => Ok(all),
        Err(error) => Err(unreadable(setting, file, &error)),
    }
}

fn unreadable(setting: &str, file: &Path, reason: &dyn Display) -> Fault {
    Fault::new(setting, format!("cannot read {}: {reason}", file.display()))
}
