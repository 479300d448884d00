//! TLS of the listener.

use std::path::PathBuf;

use clap::Args;

use super::checks::Checks;
use crate::given::{Given, file};
use crate::tls::ListenerFiles;

#[derive(Args)]
pub(super) struct TlsFlags {
    /// PEM file with the listener's certificates, its own first; serves TLS
    #[arg(long, value_name = "FILE", value_parser = file())]
    tls_cert: Option<Given<PathBuf>>,
    /// PEM file with the listener's private key
    #[arg(long, value_name = "FILE", value_parser = file())]
    tls_key: Option<Given<PathBuf>>,
    /// PEM file with the authorities of client certificates, which are then required
    #[arg(long, value_name = "FILE", value_parser = file())]
    tls_client_ca: Option<Given<PathBuf>>,
}

impl TlsFlags {
    /// Whether clients must show a certificate.
    pub(super) fn asks_for_certificates(&self) -> bool {
        self.tls_client_ca.as_ref().is_some_and(|file| file.value.is_ok())
    }

    pub(super) fn check(self, checks: &mut Checks) -> Option<ListenerFiles> {
        let client_ca = checks.take(self.tls_client_ca);
        match (checks.take(self.tls_cert), checks.take(self.tls_key)) {
            (Some(cert), Some(key)) => Some(ListenerFiles { cert, key, client_ca }),
            (None, None) if client_ca.is_none() => None,
            _ => {
                checks.fault("tls-cert, tls-key", "TLS needs both; tls-client-ca only goes with them");
                None
            }
        }
    }
}
