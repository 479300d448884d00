//! What sessions, nodes and pools are called on the wire.

use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;
use std::sync::Arc;

use serde::de::{Error as _, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest as _, Sha256};

/// The longest name of a node. `ip:port` has at most 51 bytes, a DNS name with a port 259.
pub const MAX_NODE_NAME: usize = 260;
/// As in the plugin configuration, whose pools these are.
const MAX_POOL_NAME: usize = 128;

/// What leaves the proxy in place of a session id: SHA-256 of pool, a zero byte and id, cut to 128 bits.
///
/// Who reads the store learns no id, so none can be replayed; and with 128 bits no two sessions ever meet. The pool is
/// hashed in, so one id in two pools is two sessions.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionKey([u8; 16]);

impl SessionKey {
    /// The key of the session `id` in `pool`.
    #[must_use]
    pub fn new(pool: &str, id: &[u8]) -> Self {
        let digest = Sha256::new().chain_update(pool).chain_update([0]).chain_update(id).finalize();
        let mut key = [0; 16];
        for (byte, of_digest) in key.iter_mut().zip(digest) {
            *byte = of_digest;
        }
        Self(key)
    }

    /// The bytes, which are as good as random: a shard or a hash table's slot may be taken from them.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }

    /// The key from its bytes.
    #[must_use]
    pub fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// The first eight hex digits: enough to follow a session through a log.
    #[must_use]
    pub fn short(&self) -> String {
        self.0.iter().take(4).map(|byte| format!("{byte:02x}")).collect()
    }

    fn hex(self) -> [u8; 32] {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let digit = |nibble: u8| DIGITS.get(usize::from(nibble)).copied().unwrap_or(b'0');
        let mut text = [0; 32];
        for (pair, byte) in text.chunks_exact_mut(2).zip(self.0) {
            pair.copy_from_slice(&[digit(byte >> 4), digit(byte & 0x0f)]);
        }
        text
    }
}

impl fmt::Display for SessionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(std::str::from_utf8(&self.hex()).unwrap_or_default())
    }
}

impl fmt::Debug for SessionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SessionKey({})", self.short())
    }
}

impl FromStr for SessionKey {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let nibble = |digit: u8| match digit {
            b'0'..=b'9' => Some(digit - b'0'),
            b'a'..=b'f' => Some(digit - b'a' + 10),
            _ => None,
        };
        let mut key = [0; 16];
        let mut digits = text.bytes();
        for byte in &mut key {
            match (digits.next().and_then(nibble), digits.next().and_then(nibble)) {
                (Some(high), Some(low)) => *byte = high << 4 | low,
                _ => return Err(NameError::Key),
            }
        }
        if digits.next().is_some() { Err(NameError::Key) } else { Ok(Self(key)) }
    }
}

/// A node, named as its Envoy cluster hashes it: `ip:port`, another address such as `envoy://listener/endpoint` or
/// `/run/node.sock`, or a host name.
///
/// An `ip:port` has one spelling, whatever was typed. All other text is taken as it is, unless it could not stand in a
/// header, a list, a stored pin or JSON without being quoted: 1 to [`MAX_NODE_NAME`] visible ASCII characters, none of
/// `,`, `;`, `|`, `"` and `\`. A clone shares the text.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(Arc<str>);

impl NodeId {
    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name as one segment of a URL's path: all but letters, digits and `-._~:@` percent-encoded (RFC 3986, section
    /// 3.3).
    #[must_use]
    pub fn in_path(&self) -> String {
        const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
        let digit = |nibble: u8| DIGITS.get(usize::from(nibble)).map_or('0', |digit| char::from(*digit));
        let mut path = String::with_capacity(self.0.len());
        for byte in self.0.bytes() {
            if byte.is_ascii_alphanumeric() || b"-._~:@".contains(&byte) {
                path.push(char::from(byte));
            } else {
                path.extend(['%', digit(byte >> 4), digit(byte & 0x0f)]);
            }
        }
        path
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for NodeId {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        match text.parse::<SocketAddr>() {
            Ok(address) if address.port() == 0 => Err(NameError::Node),
            Ok(address) => Ok(Self(address.to_string().into())),
            Err(_) => {
                let fits = |byte: u8| byte.is_ascii_graphic() && !b",;|\"\\".contains(&byte);
                let is_name = (1..=MAX_NODE_NAME).contains(&text.len()) && text.bytes().all(fits);
                if is_name { Ok(Self(text.into())) } else { Err(NameError::Node) }
            }
        }
    }
}

/// The name of a pool (or region): 1 to 128 letters, digits, `-` or `_`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PoolName(Box<str>);

impl PoolName {
    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for PoolName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for PoolName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        if (1..=MAX_POOL_NAME).contains(&text.len()) && text.bytes().all(fits) {
            Ok(Self(text.into()))
        } else {
            Err(NameError::Pool)
        }
    }
}

/// Text that cannot be a name of its kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NameError {
    /// Not a session key.
    Key,
    /// Not a node.
    Node,
    /// Not a pool.
    Pool,
}

impl fmt::Display for NameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Key => "must be 32 lower-case hex digits",
            Self::Node => {
                "must be ip:port or another name that Envoy has for a host: at most 260 visible ASCII characters, none \
                 of , ; | \" and \\"
            }
            Self::Pool => "must be 1 to 128 letters, digits, - or _",
        })
    }
}

impl std::error::Error for NameError {}

/// Names travel as strings; reading one allocates nothing it does not keep.
macro_rules! as_string {
    ($($name:ty),*) => {$(
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Text;
                impl Visitor<'_> for Text {
                    type Value = $name;

                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        f.write_str("a string")
                    }

                    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<$name, E> {
                        text.parse().map_err(E::custom)
                    }
                }
                deserializer.deserialize_str(Text).map_err(D::Error::custom)
            }
        }
    )*};
}

as_string!(SessionKey, NodeId, PoolName);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn key_is_the_first_half_of_the_digest_of_pool_zero_and_id() {
        // printf 'nodes\0alice' | sha256sum | cut -c1-32
        assert_eq!(SessionKey::new("nodes", b"alice").to_string(), "b00d751538274ebbc2e379252cebf9fa");
    }

    #[test]
    fn key_survives_a_trip_as_text_and_nothing_else_is_one() {
        let key = SessionKey::new("nodes", b"bob");
        assert_eq!(key.to_string().parse(), Ok(key));
        assert_eq!(key.short(), key.to_string()[..8]);

        let upper = key.to_string().to_uppercase();
        for text in ["", "0123", upper.as_str(), &format!("{key}0"), &"ä".repeat(16)] {
            assert_eq!(text.parse::<SessionKey>(), Err(NameError::Key), "{text}");
        }
    }

    #[test]
    fn addresses_have_one_spelling() {
        for (text, name) in [
            ("10.0.0.1:80", "10.0.0.1:80"),
            ("10.0.0.1:080", "10.0.0.1:80"),
            ("[0:0::1]:80", "[::1]:80"),
            ("[FE80::A]:65535", "[fe80::a]:65535"),
        ] {
            assert_eq!(text.parse::<NodeId>().unwrap().as_str(), name);
        }
        assert_eq!("10.0.0.1:0".parse::<NodeId>(), Err(NameError::Node));
    }

    #[test]
    fn a_node_may_be_called_whatever_envoy_calls_a_host() {
        let longest = "x".repeat(MAX_NODE_NAME);
        for text in [
            "envoy://connect_originate/10.0.0.9:8080",
            "envoy://connect_originate/[fd00::9]:8080",
            "envoy://x0/",
            "/run/node.sock",
            "@berth/node",
            "db-0.db.default.svc.cluster.local:5432",
            "db-0",
            "10.0.0.1",
            longest.as_str(),
        ] {
            let node: NodeId = text.parse().unwrap();
            assert_eq!((node.as_str(), node.to_string().as_str()), (text, text));
            // It needs no escape in JSON, so bounds of bodies hold for any name.
            assert_eq!(serde_json::to_string(&node).unwrap(), format!("\"{text}\""));
        }
    }

    #[test]
    fn a_name_in_a_path_is_one_segment() {
        for (text, path) in [
            ("10.0.0.1:80", "10.0.0.1:80"),
            ("[::1]:80", "%5B::1%5D:80"),
            ("envoy://x0/[::1]:80", "envoy:%2F%2Fx0%2F%5B::1%5D:80"),
            ("/run/n.sock", "%2Frun%2Fn.sock"),
            ("@a?b#c%2F", "@a%3Fb%23c%252F"),
        ] {
            assert_eq!(text.parse::<NodeId>().unwrap().in_path(), path);
        }
    }

    #[test]
    fn what_would_break_a_list_a_header_or_a_stored_pin_is_no_name() {
        let too_long = "x".repeat(MAX_NODE_NAME + 1);
        for text in [
            "",
            " ",
            "a b",
            "a,b",
            "a|b",
            "a;b",
            "a\"b",
            "a\\b",
            "a\tb",
            "a\r\nb",
            "a\0",
            "\u{7f}",
            "\u{9b}",
            "nœud:80",
            "/run/my node.sock",
            too_long.as_str(),
        ] {
            assert_eq!(text.parse::<NodeId>(), Err(NameError::Node), "{text:?}");
        }
    }

    #[test]
    fn pools_cannot_leave_their_place_in_a_store_key() {
        for text in ["", "a}b", "a/b", "a b", "ä", &"x".repeat(129)] {
            assert_eq!(text.parse::<PoolName>(), Err(NameError::Pool), "{text}");
        }
    }
}
