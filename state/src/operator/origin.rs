//! Where a service is: scheme, host and port of a URL that has nothing else.

use std::fmt;

use hyper::Uri;
use hyper::http::uri::Scheme;
use rustls::pki_types::ServerName;

/// Where a service is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Origin {
    /// An IPv6 address has brackets.
    pub(super) host: String,
    pub(super) port: u16,
    /// For `https://`: whose certificate it must show.
    pub(super) tls_name: Option<ServerName<'static>>,
}

impl Origin {
    pub(super) fn parse(url: &str) -> Result<Self, String> {
        let (https, host, port) =
            split(url).ok_or_else(|| format!("must be http://host:port or https://host:port, is {url:?}"))?;
        let name = || ServerName::try_from(host.trim_matches(['[', ']']).to_owned());
        let tls_name = https.then(name).transpose();
        let tls_name =
            tls_name.map_err(|_| format!("has no host that a certificate could name, is {url:?}"))?;
        Ok(Self { host, port, tls_name })
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls_name.is_some() { "https" } else { "http" };
        write!(f, "{scheme}://{}:{}", self.host, self.port)
    }
}

/// Whether it is https, the host, the port.
fn split(url: &str) -> Option<(bool, String, u16)> {
    let uri: Uri = url.parse().ok()?;
    let https = uri.scheme()? == &Scheme::HTTPS;
    let authority = uri.authority()?;
    let host = authority.host();
    let port = match authority.as_str().strip_prefix(host)? {
        "" if https => 443,
        "" => 80,
        // Also what the library does not read as a number: an empty port, or one above 65535.
        _ => authority.port_u16()?,
    };
    // The library drops a fragment.
    let is_whole = uri.path().chars().all(|c| c == '/') && uri.query().is_none() && !url.contains('#');
    let is_known = https || uri.scheme()? == &Scheme::HTTP;
    (is_known && is_whole && !host.is_empty()).then(|| (https, host.to_owned(), port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_is_scheme_host_and_port() {
        for (url, origin) in [
            ("http://127.0.0.1:8650", "http://127.0.0.1:8650"),
            ("http://berth.example", "http://berth.example:80"),
            ("https://berth.example/", "https://berth.example:443"),
            ("https://[::1]:8650//", "https://[::1]:8650"),
            ("http://[::1]", "http://[::1]:80"),
        ] {
            assert_eq!(Origin::parse(url).map(|origin| origin.to_string()).as_deref(), Ok(origin));
        }
    }

    #[test]
    fn nothing_else_is_one() {
        for url in [
            "",
            "localhost:8650",
            "berth.example",
            "ftp://berth.example",
            "unix:/run/berth",
            "http://",
            "http://:80",
            "http://a:",
            "http://a:65536",
            "http://a:-1",
            "http://a:b:1",
            "http://::1:80",
            "http://[::1",
            "http://[a]:1x",
            "http://user@a",
            "http://user:secret@a:80",
            "http://a/v1",
            "http://a?pool=nodes",
            "http://a#b",
            "http://a b",
            "https://a_ b",
        ] {
            assert!(Origin::parse(url).is_err_and(|fault| fault.starts_with("must be http://")), "{url}");
        }
    }
}
