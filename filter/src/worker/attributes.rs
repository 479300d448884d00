//! What Berth reads of the request, or of its response, in the effective context.

use berth_core::attributes::{Attributes, ResponseHeaders};
use berth_core::time::Millis;

use super::Worker;
use crate::host;

/// The attributes of the request in the effective context.
pub(super) struct Here<'w>(pub(super) &'w Worker);

impl Attributes for Here<'_> {
    fn header(&self, name: &str) -> Option<Vec<u8>> {
        host::request_header(name)
    }

    fn header_lines(&self, name: &str) -> Vec<Vec<u8>> {
        host::request_headers(name)
    }

    fn property(&self, path: &[&str]) -> Option<Vec<u8>> {
        host::property(path.to_vec())
    }

    fn now(&self) -> Millis {
        host::now()
    }

    fn random(&self) -> Option<[u8; 16]> {
        host::random()
    }

    fn wants_keys(&self, provider: usize, now: Millis) -> bool {
        self.0.issuer(provider).is_some_and(|issuer| issuer.want(now))
    }
}

impl ResponseHeaders for Here<'_> {
    fn response_header(&self, name: &str) -> Option<Vec<u8>> {
        host::response_header(name)
    }

    fn set_cookies(&self) -> Vec<Vec<u8>> {
        host::response_headers("set-cookie")
    }
}
