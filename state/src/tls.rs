//! TLS of the listener: certificates from PEM files, and client certificates if asked for.

use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio_rustls::TlsAcceptor;

use crate::settings::Tls;

/// Chooses the one implementation of cryptography that is linked, for the listener and for Redis.
pub fn choose_provider() {
    // An error says that it was chosen before.
    let _ = rustls::crypto::ring::default_provider().install_default();
}

/// What takes TLS connections.
///
/// # Errors
/// Which file cannot be read, or does not fit the others.
pub fn acceptor(tls: &Tls) -> Result<TlsAcceptor, String> {
    choose_provider();
    let builder = match &tls.client_ca {
        None => ServerConfig::builder().with_no_client_auth(),
        Some(file) => {
            let mut roots = RootCertStore::empty();
            for certificate in certificates("tls-client-ca", file)? {
                roots
                    .add(certificate)
                    .map_err(|error| format!("tls-client-ca: {}: {error}", file.display()))?;
            }
            let verifier = WebPkiClientVerifier::builder(Arc::new(roots)).build();
            let verifier = verifier.map_err(|error| format!("tls-client-ca: {}: {error}", file.display()))?;
            ServerConfig::builder().with_client_cert_verifier(verifier)
        }
    };
    let key = PrivateKeyDer::from_pem_file(&tls.key)
        .map_err(|error| format!("tls-key: cannot read {}: {error}", tls.key.display()))?;
    let mut config = builder
        .with_single_cert(certificates("tls-cert", &tls.cert)?, key)
        .map_err(|error| format!("tls-cert and tls-key do not fit: {error}"))?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

fn certificates(setting: &str, file: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let unreadable = |error: String| format!("{setting}: cannot read {}: {error}", file.display());
    let all: Result<Vec<_>, _> =
        CertificateDer::pem_file_iter(file).map_err(|error| unreadable(error.to_string()))?.collect();
    match all {
        Ok(all) if all.is_empty() => Err(unreadable("there is no certificate in it".to_owned())),
        Ok(all) => Ok(all),
        Err(error) => Err(unreadable(error.to_string())),
    }
}
