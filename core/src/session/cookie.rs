//! The cookie that gives an id to a client that came without one.
//!
//! Decides what the `Set-Cookie` value looks like, not when to send it. A template that exists makes cookies that
//! browsers keep: a rule that they enforce by dropping the cookie in silence is a fault of the configuration here.
//!
//! The rules are those of RFC 6265bis (draft-ietf-httpbis-rfc6265bis-20), of CHIPS for `Partitioned`
//! (draft-cutler-httpbis-partitioned-cookies-01), and Chrome's for the prefix `__Http-`. What they call a public suffix, such as
//! `co.uk`, is a list that changes each week: it is not checked.

use std::{error, fmt};

use super::SessionId;
use super::signer::Signer;
use super::source::is_token;
use crate::time::Millis;

/// A session cookie as configured, not yet checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CookieSettings {
    /// The cookie's name.
    pub name: String,
    /// The paths that the client sends it to.
    pub path: String,
    /// The client sends it to this host and all below it; `None` is the host that set it, alone.
    pub domain: Option<String>,
    /// How long the client keeps it; `None` means until it is closed.
    pub max_age_seconds: Option<u32>,
    /// Whether it is sent over TLS only.
    pub secure: bool,
    /// Whether scripts on the page cannot see it.
    pub http_only: bool,
    /// Whether it goes along with requests that other sites cause.
    pub same_site: SameSite,
    /// Whether each site that embeds a page of this host has a cookie of its own.
    pub partitioned: bool,
}

impl CookieSettings {
    /// A cookie for the whole host, until the browser is closed, out of reach of scripts. Not `Secure`: behind a TLS
    /// terminator, and on a developer's machine, the proxy speaks plain HTTP.
    pub fn named(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            path: "/".to_owned(),
            domain: None,
            max_age_seconds: None,
            secure: false,
            http_only: true,
            same_site: SameSite::Lax,
            partitioned: false,
        }
    }
}

impl CookieSettings {
    /// The `set-cookie` value that deletes a cookie which was set so. A browser keeps a cookie by its name, domain, path and
    /// partition, and drops what breaks the rules of the name's prefix: so it looks like what set it.
    ///
    /// # Errors
    /// Every reason why a browser would drop it.
    pub fn deletion(&self) -> Result<Box<str>, Vec<CookieFault>> {
        let faults = CookieFault::all_in(self);
        if faults.is_empty() {
            Ok(format!("{}={}", self.name, self.attributes(Some(0))).into())
        } else {
            Err(faults)
        }
    }

    fn attributes(&self, max_age_seconds: Option<u32>) -> String {
        let max_age = max_age_seconds.map(|seconds| format!("; Max-Age={seconds}"));
        let domain = self.domain.as_deref().map(|name| format!("; Domain={}", without_dot(name)));
        format!(
            "; Path={path}{domain}{max_age}; SameSite={same_site}{secure}{http_only}{partitioned}",
            path = self.path,
            domain = domain.unwrap_or_default(),
            max_age = max_age.unwrap_or_default(),
            same_site = self.same_site.as_str(),
            secure = if self.secure { "; Secure" } else { "" },
            http_only = if self.http_only { "; HttpOnly" } else { "" },
            partitioned = if self.partitioned { "; Partitioned" } else { "" },
        )
    }
}

/// Which requests caused by another site carry the cookie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SameSite {
    /// None at all.
    Strict,
    /// Only following a link.
    Lax,
    /// All of them; browsers demand `Secure` with it.
    None,
}

impl SameSite {
    fn as_str(self) -> &'static str {
        match self {
            Self::Strict => "Strict",
            Self::Lax => "Lax",
            Self::None => "None",
        }
    }
}

/// A session cookie that browsers will keep.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CookieTemplate {
    name: String,
    path: String,
    /// In lower case, without a leading dot.
    domain: Option<String>,
    max_age: Option<Millis>,
    /// All that follows the value: it is the same for every session.
    attributes: String,
    signer: Option<Signer>,
}

impl CookieTemplate {
    /// Checks the settings.
    ///
    /// # Errors
    /// Every fault, not just the first.
    pub fn new(settings: &CookieSettings) -> Result<Self, Vec<CookieFault>> {
        let faults = CookieFault::all_in(settings);
        if !faults.is_empty() {
            return Err(faults);
        }
        let attributes = settings.attributes(settings.max_age_seconds);
        let max_age = settings.max_age_seconds.map(|seconds| Millis(u64::from(seconds) * 1000));
        let domain = settings.domain.as_deref().map(|domain| without_dot(domain).to_ascii_lowercase());
        let (name, path) = (settings.name.clone(), settings.path.clone());
        Ok(Self { name, path, domain, max_age, attributes, signer: None })
    }

    /// The same for ids that are signed.
    #[must_use]
    pub fn signed_by(self, signer: Signer) -> Self {
        Self { signer: Some(signer), ..self }
    }

    /// What signs its ids.
    #[must_use]
    pub fn signer(&self) -> Option<&Signer> {
        self.signer.as_ref()
    }

    /// Makes an id for a client that has none, of the caller's randomness.
    #[must_use]
    pub fn new_id(&self, random: [u8; 16]) -> SessionId {
        match &self.signer {
            Some(signer) => signer.sign(random),
            None => SessionId::from_random(random),
        }
    }

    /// Whether an id that came with the cookie may be one of [`Self::new_id`]: signatures were looked at when it was found.
    #[must_use]
    pub fn may_have_made(&self, id: &SessionId) -> bool {
        self.signer.is_some() || id.looks_random()
    }

    /// The cookie's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// True if this line of `Set-Cookie` may set or delete the same cookie: it has the name, and no other path or domain. A line
    /// without these may have them from the request's URL.
    #[must_use]
    pub fn may_be_set_by(&self, line: &[u8]) -> bool {
        let mut parts = line.split(|byte| *byte == b';').map(|part| {
            let mut sides = part.splitn(2, |byte| *byte == b'=').map(<[u8]>::trim_ascii);
            (sides.next().unwrap_or_default(), sides.next().unwrap_or_default())
        });
        if parts.next().is_none_or(|(name, _)| name != self.name.as_bytes()) {
            return false;
        }
        parts.all(|(attribute, value)| {
            if attribute.eq_ignore_ascii_case(b"path") {
                // A browser takes what does not begin with a slash for none.
                !value.starts_with(b"/") || value == self.path.as_bytes()
            } else if attribute.eq_ignore_ascii_case(b"domain") {
                let value = value.strip_prefix(b".").unwrap_or(value);
                let ours = |domain: &String| value.eq_ignore_ascii_case(domain.as_bytes());
                value.is_empty() || self.domain.as_ref().is_none_or(ours)
            } else {
                true
            }
        })
    }

    /// The domain, if browsers drop a cookie of it that this host sets. `*.example.com` is any host below it.
    #[must_use]
    pub fn domain_without(&self, host: &str) -> Option<&str> {
        let domain = self.domain.as_deref()?;
        let below = host.strip_prefix("*.").unwrap_or(host).strip_suffix(domain);
        (!below.is_some_and(|below| below.is_empty() || below.ends_with('.'))).then_some(domain)
    }

    /// How long the client keeps it; `None` means until it is closed.
    #[must_use]
    pub fn max_age(&self) -> Option<Millis> {
        self.max_age
    }

    /// The `Set-Cookie` value for a session.
    ///
    /// `None` if the id holds bytes that a cookie cannot carry, such as `;`: an id that came in a header could otherwise
    /// add attributes of its own. An id from [`SessionId::from_random`] always fits.
    pub fn set_cookie(&self, id: &SessionId) -> Option<Vec<u8>> {
        let value = id.as_bytes();
        value
            .iter()
            .all(is_cookie_byte)
            .then(|| [self.name.as_bytes(), b"=", value, self.attributes.as_bytes()].concat())
    }
}

/// Why a session cookie would not work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CookieFault {
    /// The name is not a token.
    Name,
    /// The path would end the attribute, or does not start with a slash.
    Path,
    /// The client would not take the path for one: it is too long.
    PathTooLong,
    /// The domain is not the name of a host, or not written as browsers compare it.
    Domain,
    /// The domain is an IP address, or has only one label.
    DomainOfOneHost,
    /// The client would delete the cookie at once.
    MaxAgeZero,
    /// `SameSite=None` without `Secure`.
    SameSiteNoneNotSecure,
    /// A name with the prefix `__Secure-` or `__Host-` without `Secure`.
    PrefixNotSecure,
    /// A name with the prefix `__Host-` and a path that is not `/`.
    HostPrefixWithPath,
    /// A name with the prefix `__Host-` and a domain.
    HostPrefixWithDomain,
    /// A name with the prefix `__Http-` or `__Host-Http-` that scripts may see.
    HttpPrefixNotHttpOnly,
    /// `Partitioned` without `Secure`.
    PartitionedNotSecure,
}

impl CookieFault {
    fn all_in(settings: &CookieSettings) -> Vec<Self> {
        // Browsers compare these prefixes without regard to case.
        let has_prefix = |prefix: &str| {
            settings.name.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix))
        };
        let host = has_prefix("__Host-");
        let http = has_prefix("__Http-") || has_prefix("__Host-Http-");
        let domain = settings.domain.as_deref().map(without_dot);
        // Browsers drop blanks at its end, and would keep a cookie of another path.
        let path_is_valid = settings.path.starts_with('/')
            && !settings.path.ends_with(' ')
            && !settings.path.contains(|c: char| c == ';' || c.is_control());
        [
            (!is_token(&settings.name), Self::Name),
            (!path_is_valid, Self::Path),
            (settings.path.len() > MAX_ATTRIBUTE, Self::PathTooLong),
            (domain.is_some_and(|domain| !is_domain(domain)), Self::Domain),
            (domain.is_some_and(|domain| is_domain(domain) && is_one_host(domain)), Self::DomainOfOneHost),
            (settings.max_age_seconds == Some(0), Self::MaxAgeZero),
            (settings.same_site == SameSite::None && !settings.secure, Self::SameSiteNoneNotSecure),
            ((host || http || has_prefix("__Secure-")) && !settings.secure, Self::PrefixNotSecure),
            (host && settings.path != "/", Self::HostPrefixWithPath),
            (host && domain.is_some(), Self::HostPrefixWithDomain),
            (http && !settings.http_only, Self::HttpPrefixNotHttpOnly),
            (settings.partitioned && !settings.secure, Self::PartitionedNotSecure),
        ]
        .into_iter()
        .filter_map(|(is_wrong, fault)| is_wrong.then_some(fault))
        .collect()
    }
}

impl fmt::Display for CookieFault {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Name => "use letters, digits and any of !#$%&'*+-.^_`|~ for the cookie's name",
            Self::Path => "start the cookie's path with `/`, and leave out `;`, control characters and blanks at its end",
            Self::PathTooLong => "browsers ignore a path of more than 1024 bytes: give a shorter one",
            Self::Domain => {
                "give the name of a host, such as example.com, without scheme, port or path, in ASCII (xn--… for others)"
            }
            Self::DomainOfOneHost => {
                "browsers take no cookie for all of a top-level domain, nor for several IP addresses: leave the domain out, and \
                 each host has its own cookie"
            }
            Self::MaxAgeZero => "a max age of 0 deletes the cookie: give at least a second, or leave it out",
            Self::SameSiteNoneNotSecure => {
                "browsers drop a cookie with SameSite=None unless it is secure: set secure"
            }
            Self::PrefixNotSecure => {
                "browsers drop a cookie named __Secure-, __Host- or __Http- unless it is secure: set secure"
            }
            Self::HostPrefixWithPath => {
                "browsers drop a cookie named __Host- unless its path is `/`: set that path"
            }
            Self::HostPrefixWithDomain => {
                "browsers drop a cookie named __Host- that has a domain: leave the domain out, or name it __Secure-"
            }
            Self::HttpPrefixNotHttpOnly => {
                "browsers drop a cookie named __Http- or __Host-Http- that scripts may see: set http_only"
            }
            Self::PartitionedNotSecure => {
                "browsers drop a partitioned cookie unless it is secure: set secure"
            }
        })
    }
}

impl error::Error for CookieFault {}

/// Browsers ignore a longer attribute.
const MAX_ATTRIBUTE: usize = 1_024;
/// Of a host's name in DNS, and of one label of it.
const MAX_DOMAIN: usize = 253;
const MAX_LABEL: usize = 63;

/// A leading dot says nothing: browsers drop it.
fn without_dot(domain: &str) -> &str {
    domain.strip_prefix('.').unwrap_or(domain)
}

/// Labels of letters, digits and inner hyphens. Underscores are in use, too.
fn is_domain(domain: &str) -> bool {
    let is_label = |label: &str| {
        (1..=MAX_LABEL).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    domain.len() <= MAX_DOMAIN && domain.split('.').all(is_label)
}

/// A domain that no other host is below: of one label, or an IPv4 address, which ends in a number.
fn is_one_host(domain: &str) -> bool {
    domain.rsplit_once('.').is_none_or(|(_, last)| last.bytes().all(|byte| byte.is_ascii_digit()))
}

/// What RFC 6265 lets a cookie's value hold: no blank, quote, comma, semicolon or backslash, and ASCII only.
fn is_cookie_byte(byte: &u8) -> bool {
    byte.is_ascii_graphic() && !b"\",;\\".contains(byte)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::{Source, identify};

    fn settings() -> CookieSettings {
        CookieSettings::named("sid")
    }

    fn id(text: &str) -> SessionId {
        SessionId::new(text.into()).unwrap()
    }

    fn set_cookie(settings: &CookieSettings) -> String {
        let cookie = CookieTemplate::new(settings).unwrap().set_cookie(&id("abc")).unwrap();
        String::from_utf8(cookie).unwrap()
    }

    #[test]
    fn default_cookie_covers_the_host_and_ends_with_the_browser() {
        assert_eq!(set_cookie(&settings()), "sid=abc; Path=/; SameSite=Lax; HttpOnly");
    }

    #[test]
    fn every_setting_is_written() {
        let settings = CookieSettings {
            path: "/play".into(),
            domain: Some(".Example.com".into()),
            max_age_seconds: Some(1800),
            secure: true,
            http_only: false,
            same_site: SameSite::None,
            partitioned: true,
            ..settings()
        };
        assert_eq!(
            set_cookie(&settings),
            "sid=abc; Path=/play; Domain=Example.com; Max-Age=1800; SameSite=None; Secure; Partitioned"
        );
        assert!(
            set_cookie(&CookieSettings { same_site: SameSite::Strict, ..settings })
                .contains("; SameSite=Strict;")
        );
    }

    #[test]
    fn an_id_cannot_add_attributes() {
        let template = CookieTemplate::new(&settings()).unwrap();

        for bytes in ["a; Domain=evil", "a,b", "a b", "a\"b", "a\\b", "ü"] {
            assert_eq!(template.set_cookie(&id(bytes)), None, "{bytes}");
        }
    }

    #[test]
    fn an_issued_cookie_comes_back_as_the_same_session() {
        let template = CookieTemplate::new(&settings()).unwrap();

        for id in [SessionId::from_random([0xa5; 16]), id("a=b"), id("{x}/'%41'")] {
            let cookie = template.set_cookie(&id).unwrap();
            let sent_back = cookie.split(|byte| *byte == b';').next().unwrap().to_vec();

            let found = identify(&[Source::cookie("sid").unwrap()], &mut |_| Some(sent_back.clone()));

            assert_eq!(found, Some(id));
        }
    }

    #[test]
    fn every_fault_is_reported() {
        let settings = CookieSettings {
            name: "s id".into(),
            path: "play".into(),
            max_age_seconds: Some(0),
            same_site: SameSite::None,
            ..settings()
        };
        let faults = CookieTemplate::new(&settings).unwrap_err();
        assert_eq!(
            faults,
            [
                CookieFault::Name,
                CookieFault::Path,
                CookieFault::MaxAgeZero,
                CookieFault::SameSiteNoneNotSecure
            ]
        );
    }

    #[test]
    fn a_path_cannot_end_its_attribute() {
        for path in ["", "play", "/a;b", "/a\r\nb", "/a\u{7f}", "/a "] {
            let settings = CookieSettings { path: path.into(), ..settings() };
            assert_eq!(CookieTemplate::new(&settings).unwrap_err(), [CookieFault::Path], "{path:?}");
        }
        let of_length =
            |length: usize| CookieSettings { path: format!("/{}", "a".repeat(length - 1)), ..settings() };
        assert!(CookieTemplate::new(&of_length(1_024)).is_ok());
        assert_eq!(CookieTemplate::new(&of_length(1_025)).unwrap_err(), [CookieFault::PathTooLong]);
    }

    #[test]
    fn name_prefixes_are_held_to_what_browsers_demand() {
        let faults = |name: &str, secure, path: &str| {
            let settings = CookieSettings { secure, path: path.into(), ..CookieSettings::named(name) };
            CookieTemplate::new(&settings).err().unwrap_or_default()
        };
        assert_eq!(faults("__Secure-sid", false, "/"), [CookieFault::PrefixNotSecure]);
        assert_eq!(faults("__host-sid", false, "/"), [CookieFault::PrefixNotSecure]);
        assert_eq!(faults("__Host-sid", true, "/play"), [CookieFault::HostPrefixWithPath]);
        assert_eq!(faults("__Host-sid", true, "/"), []);
        assert_eq!(faults("__Secure-sid", true, "/play"), []);

        let faults = |name: &str, domain: Option<&str>, http_only| {
            let domain = domain.map(str::to_owned);
            let settings = CookieSettings { secure: true, domain, http_only, ..CookieSettings::named(name) };
            CookieTemplate::new(&settings).err().unwrap_or_default()
        };
        let domain = Some("example.com");
        assert_eq!(faults("__HOST-sid", domain, true), [CookieFault::HostPrefixWithDomain]);
        assert_eq!(faults("__Secure-sid", domain, false), []);
        assert_eq!(faults("__Http-sid", domain, false), [CookieFault::HttpPrefixNotHttpOnly]);
        assert_eq!(faults("__Http-sid", domain, true), []);
        assert_eq!(
            faults("__Host-Http-sid", domain, false),
            [CookieFault::HostPrefixWithDomain, CookieFault::HttpPrefixNotHttpOnly]
        );
    }

    #[test]
    fn a_partitioned_cookie_must_be_secure() {
        let settings = CookieSettings { partitioned: true, ..settings() };
        assert_eq!(CookieTemplate::new(&settings).unwrap_err(), [CookieFault::PartitionedNotSecure]);
    }

    #[test]
    fn a_domain_is_the_name_of_more_than_one_host() {
        let faults = |domain: &str| {
            let settings = CookieSettings { domain: Some(domain.into()), ..settings() };
            CookieTemplate::new(&settings).err().unwrap_or_default()
        };
        let long = format!("{}.com", "a".repeat(63));
        for domain in
            ["example.com", ".example.com", "EXAMPLE.com", "a_b.x-y.example", "xn--bcher-kva.example", &long]
        {
            assert_eq!(faults(domain), [], "{domain}");
        }
        let (too_long, longer) = (format!("{}.com", "a".repeat(64)), "a.".repeat(126) + "com");
        for domain in [
            "",
            ".",
            "..example.com",
            "example.com.",
            "a..b",
            "-a.com",
            "a-.com",
            "*.example.com",
            "example.com:80",
            "https://example.com",
            "example.com/a",
            "example.com; Secure",
            "bücher.example",
            "[::1]",
            &too_long,
            &longer,
        ] {
            assert_eq!(faults(domain), [CookieFault::Domain], "{domain:?}");
        }
        for domain in ["localhost", ".com", "10.0.0.1", "127.1"] {
            assert_eq!(faults(domain), [CookieFault::DomainOfOneHost], "{domain}");
        }
    }

    #[test]
    fn faults_say_what_to_do() {
        assert!(CookieFault::SameSiteNoneNotSecure.to_string().ends_with("set secure"));
        assert!(CookieFault::MaxAgeZero.to_string().contains("leave it out"));
    }

    #[test]
    fn what_deletes_a_cookie_looks_like_what_set_it() {
        let plain = CookieSettings::named("token");
        assert_eq!(&*plain.deletion().unwrap(), "token=; Path=/; Max-Age=0; SameSite=Lax; HttpOnly");

        let everywhere = CookieSettings {
            path: "/app".into(),
            domain: Some("example.com".into()),
            secure: true,
            same_site: SameSite::None,
            partitioned: true,
            ..CookieSettings::named("__Secure-token")
        };
        assert_eq!(
            &*everywhere.deletion().unwrap(),
            "__Secure-token=; Path=/app; Domain=example.com; Max-Age=0; SameSite=None; Secure; HttpOnly; Partitioned"
        );
    }

    #[test]
    fn what_would_not_delete_a_cookie_is_a_fault() {
        let host = CookieSettings { secure: true, ..CookieSettings::named("__Host-token") };
        assert!(host.deletion().is_ok());
        let with_domain = CookieSettings { domain: Some("example.com".into()), ..host };
        assert_eq!(with_domain.deletion(), Err(vec![CookieFault::HostPrefixWithDomain]));
    }

    #[test]
    fn another_cookie_of_its_name_is_not_the_same() {
        let settings =
            CookieSettings { path: "/play".into(), domain: Some("example.com".into()), ..settings() };
        let template = CookieTemplate::new(&settings).unwrap();
        for same in [
            "sid=",
            " sid =x; Max-Age=0",
            "sid=x; Path=/play; Domain=.Example.com",
            "sid; path = /play",
            "sid=x; Path; Domain=",
            "sid=x; Path=play",
        ] {
            assert!(template.may_be_set_by(same.as_bytes()), "{same}");
        }
        for other in [
            "sid2=x",
            "Sid=x",
            "x=sid",
            "",
            "sid=x; Path=/",
            "sid=x; PATH=/old",
            "sid=x; domain=a.example.com",
        ] {
            assert!(!template.may_be_set_by(other.as_bytes()), "{other}");
        }
    }
}
