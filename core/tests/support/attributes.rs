//! A request that is no more than its headers and the time.

use berth_core::attributes::Attributes;
use berth_core::time::Millis;

/// The headers by name, and the wall clock.
pub(crate) struct Headers(pub(crate) &'static [(&'static str, &'static str)], pub(crate) Millis);

impl Attributes for Headers {
    fn header(&self, name: &str) -> Option<Vec<u8>> {
        self.0.iter().find(|(known, _)| *known == name).map(|(_, value)| value.as_bytes().to_vec())
    }

    fn header_lines(&self, name: &str) -> Vec<Vec<u8>> {
        self.header(name).into_iter().collect()
    }

    fn property(&self, _: &[&str]) -> Option<Vec<u8>> {
        None
    }

    fn now(&self) -> Millis {
        self.1
    }

    fn random(&self) -> Option<[u8; 16]> {
        None
    }

    fn wants_keys(&self, _: usize, _: Millis) -> bool {
        false
    }
}
