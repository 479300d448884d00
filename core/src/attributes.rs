//! What a decision may read of the request that it is about, of its response, and of the worker that makes it.

use crate::time::Millis;

/// A request whose headers are at hand.
///
/// Each method may leave the sandbox, which costs more than most decisions. So they are called only for what a rule asks
/// about, and as seldom as can be.
pub trait Attributes {
    /// A header by its lower-case name; of a repeated one the first. `:path` is the path with its query.
    fn header(&self, name: &str) -> Option<Vec<u8>>;

    /// Every line of a header, in order.
    fn header_lines(&self, name: &str) -> Vec<Vec<u8>>;

    /// One of Envoy's attributes, such as `xds.cluster_name`.
    fn property(&self, path: &[&str]) -> Option<Vec<u8>>;

    /// The wall clock.
    fn now(&self) -> Millis;

    /// 128 random bits; `None` if there is no source of randomness.
    fn random(&self) -> Option<[u8; 16]>;

    /// A token names a key that this provider does not have. True if newer keys are on their way, or will be asked for.
    fn wants_keys(&self, provider: usize, now: Millis) -> bool;
}

/// A response whose headers are at hand. Those of its request are gone by then.
pub trait ResponseHeaders {
    /// A header by its lower-case name; of a repeated one the first.
    fn response_header(&self, name: &str) -> Option<Vec<u8>>;

    /// Every `set-cookie` line, in order.
    fn set_cookies(&self) -> Vec<Vec<u8>>;
}

/// All lines of a header that is a list, as HTTP joins them; `None` if there is only one line.
pub(crate) fn all_lines(attributes: &dyn Attributes, name: &str) -> Option<Vec<u8>> {
    let separator = if name == "cookie" { &b"; "[..] } else { b", " };
    let lines = attributes.header_lines(name);
    (lines.len() > 1).then(|| lines.join(separator))
}
