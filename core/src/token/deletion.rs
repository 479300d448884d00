//! How a browser is made to delete the cookie from which a refused token came.
//!
//! A browser keeps a cookie by its name, domain, path and partition, and drops a `Set-Cookie` that breaks the rules of the
//! name's prefix without a word. So what deletes a cookie has to look like what set it. Decides that value, not when it is
//! sent.

use std::{error, fmt};

use crate::session::{CookieFault, CookieSettings, CookieTemplate, SameSite};

/// A cookie as the issuer of tokens sets it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredCookie {
    /// Its name.
    pub name: String,
    /// Its path.
    pub path: String,
    /// Its domain; `None` if it goes to the host alone that set it.
    pub domain: Option<String>,
    /// Whether it is sent over TLS only.
    pub secure: bool,
    /// Whether it goes along with requests that other sites cause.
    pub same_site: SameSite,
    /// Whether there is one for each site that embeds this one (CHIPS).
    pub partitioned: bool,
}

impl StoredCookie {
    /// One for the whole host, not `Secure`.
    #[must_use]
    pub fn named(name: &str) -> Self {
        let CookieSettings { name, path, secure, same_site, .. } = CookieSettings::named(name);
        Self { name, path, domain: None, secure, same_site, partitioned: false }
    }

    /// The `Set-Cookie` value that deletes it.
    ///
    /// # Errors
    /// Every reason why a browser would drop that value.
    pub fn deletion(&self) -> Result<Box<str>, Vec<DeletionFault>> {
        let settings = CookieSettings {
            path: self.path.clone(),
            secure: self.secure,
            same_site: self.same_site,
            ..CookieSettings::named(&self.name)
        };
        let mut faults: Vec<DeletionFault> = CookieTemplate::new(&settings)
            .err()
            .unwrap_or_default()
            .into_iter()
            .map(DeletionFault::Cookie)
            .collect();
        if let Some(domain) = &self.domain {
            if !is_domain(domain) {
                faults.push(DeletionFault::Domain);
            } else if self.name.get(..7).is_some_and(|start| start.eq_ignore_ascii_case("__Host-")) {
                faults.push(DeletionFault::HostPrefixWithDomain);
            }
        }
        if self.partitioned && !self.secure {
            faults.push(DeletionFault::PartitionedNotSecure);
        }
        if !faults.is_empty() {
            return Err(faults);
        }
        let domain = self.domain.as_ref().map(|domain| format!("; Domain={domain}")).unwrap_or_default();
        let same_site = match self.same_site {
            SameSite::Strict => "Strict",
            SameSite::Lax => "Lax",
            SameSite::None => "None",
        };
        let secure = if self.secure { "; Secure" } else { "" };
        let partitioned = if self.partitioned { "; Partitioned" } else { "" };
        let Self { name, path, .. } = self;
        let value = format!(
            "{name}=; Path={path}{domain}; Max-Age=0; SameSite={same_site}{secure}; HttpOnly{partitioned}"
        );
        Ok(value.into())
    }
}

/// A host name, with or without the dot before it that browsers ignore.
fn is_domain(domain: &str) -> bool {
    let labels = domain.strip_prefix('.').unwrap_or(domain).split('.');
    let fits = |label: &str| {
        !label.is_empty() && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    };
    labels.into_iter().all(fits)
}

/// Why a browser would not delete the cookie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeletionFault {
    /// It would drop a cookie like this one.
    Cookie(CookieFault),
    /// Not a host name.
    Domain,
    /// A name with the prefix `__Host-`, which has no domain.
    HostPrefixWithDomain,
    /// `Partitioned` without `Secure`.
    PartitionedNotSecure,
}

impl fmt::Display for DeletionFault {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cookie(fault) => fault.fmt(formatter),
            Self::Domain => formatter.write_str("use a host name for the cookie's domain"),
            Self::HostPrefixWithDomain => {
                formatter.write_str("browsers drop a cookie named __Host- with a domain: leave it out")
            }
            Self::PartitionedNotSecure => {
                formatter.write_str("browsers drop a partitioned cookie unless it is secure: set secure")
            }
        }
    }
}

impl error::Error for DeletionFault {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_deletes_a_cookie_looks_like_what_set_it() {
        let plain = StoredCookie::named("token");
        assert_eq!(&*plain.deletion().unwrap(), "token=; Path=/; Max-Age=0; SameSite=Lax; HttpOnly");

        let everywhere = StoredCookie {
            path: "/app".into(),
            domain: Some("example.com".into()),
            secure: true,
            same_site: SameSite::None,
            partitioned: true,
            ..StoredCookie::named("__Secure-token")
        };
        assert_eq!(
            &*everywhere.deletion().unwrap(),
            "__Secure-token=; Path=/app; Domain=example.com; Max-Age=0; SameSite=None; Secure; HttpOnly; Partitioned"
        );
    }

    #[test]
    fn what_a_browser_would_drop_is_a_fault() {
        let host = StoredCookie { secure: true, ..StoredCookie::named("__Host-token") };
        assert!(host.deletion().is_ok());
        let domain = Some("example.com".to_owned());
        let with_domain = StoredCookie { domain: domain.clone(), path: "/app".into(), ..host };
        let faults =
            [DeletionFault::Cookie(CookieFault::HostPrefixWithPath), DeletionFault::HostPrefixWithDomain];
        assert_eq!(with_domain.deletion().unwrap_err(), faults);

        let insecure =
            StoredCookie { partitioned: true, same_site: SameSite::None, ..StoredCookie::named("t") };
        let faults =
            [DeletionFault::Cookie(CookieFault::SameSiteNoneNotSecure), DeletionFault::PartitionedNotSecure];
        assert_eq!(insecure.deletion().unwrap_err(), faults);

        for bad in ["", ".", "a b", "example.com; Secure", "example..com", "ex\u{e4}mple.com"] {
            let cookie = StoredCookie { domain: Some(bad.to_owned()), ..StoredCookie::named("t") };
            assert_eq!(cookie.deletion().unwrap_err(), [DeletionFault::Domain], "{bad:?}");
        }
    }
}
