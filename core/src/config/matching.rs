//! Which requests a rule takes, by what their first lines say.
//!
//! All is compared as it stands: no regular expression runs on a request's way.

use serde_json::{Map, Value};

use super::claims::ClaimBook;
use super::fields::{Faults, Fields, quoted};
use crate::session::is_header_name;
use crate::token::{ClaimPath, Facts, Form, Slot};

/// More values than this are a list that belongs elsewhere; each is compared on the way of a request.
const MAX_CONDITIONS: usize = 16;

/// Which requests a rule takes: those that fit each condition that is given.
#[derive(Debug, Default)]
pub struct Match {
    /// Lower-case host names without port; `*.example.com` is any name below it.
    pub hosts: Vec<String>,
    /// Starts of the path.
    pub path_prefixes: Vec<String>,
    /// Clusters that the route names before Berth acts.
    pub clusters: Vec<String>,
    /// What headers say.
    pub headers: Vec<HeaderMatch>,
    /// What verified tokens say.
    pub claims: Vec<ClaimMatch>,
}

/// What a claim of a provider's verified token says.
#[derive(Debug)]
pub struct ClaimMatch {
    /// The provider's place in the configuration.
    pub provider: usize,
    slot: Slot,
    values: Values,
}

/// What a header says.
#[derive(Debug)]
pub struct HeaderMatch {
    /// In lower case.
    pub name: String,
    values: Values,
}

/// Which values fit.
#[derive(Debug)]
enum Values {
    Any,
    OneOf(Vec<String>),
    Beginning(String),
}

impl Values {
    fn take(&self, value: &[u8]) -> bool {
        match self {
            Self::Any => true,
            Self::OneOf(values) => values.iter().any(|wanted| wanted.as_bytes() == value),
            Self::Beginning(prefix) => value.starts_with(prefix.as_bytes()),
        }
    }

    fn read(fields: &mut Fields<'_>, faults: &mut Faults) -> Self {
        let one_of: Vec<String> =
            fields.strings("one_of", faults).into_iter().map(|(_, text)| text.to_owned()).collect();
        let prefix = fields.string("prefix", faults).map(str::to_owned);
        if fields.value("one_of").is_some() && fields.value("prefix").is_some() {
            faults.add(&fields.path_of("prefix"), "does not go with one_of: make it a rule of its own");
        }
        match prefix {
            Some(prefix) => Self::Beginning(prefix),
            None if one_of.is_empty() => Self::Any,
            None => Self::OneOf(one_of),
        }
    }
}

impl ClaimMatch {
    /// True if a request whose token says this fits.
    #[must_use]
    pub fn takes(&self, facts: &Facts) -> bool {
        facts.text(self.slot).is_some_and(|text| self.values.take(text.as_bytes()))
    }

    fn read(value: &Value, path: &str, book: &mut ClaimBook, faults: &mut Faults) -> Option<Self> {
        let mut fields = Fields::of(value, path, faults);
        let provider = book.provider(&mut fields, faults);
        let claim = fields.required("claim", "name the claim", faults);
        let claim = claim.and_then(|claim| ClaimPath::read(claim, &fields.path_of("claim"), faults));
        let values = Values::read(&mut fields, faults);
        fields.finish(faults);
        let (provider, _) = provider?;
        Some(Self { provider, slot: book.slot(provider, claim?, Form::Text), values })
    }
}

impl HeaderMatch {
    /// True if a request with this value of the header fits.
    #[must_use]
    pub fn takes(&self, value: Option<&[u8]>) -> bool {
        value.is_some_and(|value| self.values.take(value))
    }

    fn read(value: &Value, path: &str, faults: &mut Faults) -> Option<Self> {
        let mut fields = Fields::of(value, path, faults);
        let name = fields.required_string("name", "name the header", faults);
        if let Some(name) = name.filter(|name| !is_header_name(name)) {
            let message = "must be the name of a header, or :method or :authority";
            faults.add(&fields.path_of("name"), format!("{message}, is {}", quoted(name)));
        }
        let values = Values::read(&mut fields, faults);
        fields.finish(faults);
        Some(Self { name: name?.to_ascii_lowercase(), values })
    }
}

impl Match {
    /// True if no condition is given.
    #[must_use]
    pub fn is_everything(&self) -> bool {
        self.hosts.is_empty()
            && self.path_prefixes.is_empty()
            && self.clusters.is_empty()
            && self.headers.is_empty()
            && self.claims.is_empty()
    }

    /// True if a request with this `:authority` fits the host condition.
    #[must_use]
    pub fn takes_host(&self, authority: &[u8]) -> bool {
        let host = without_port(authority);
        self.hosts.is_empty()
            || self.hosts.iter().any(|wanted| match wanted.strip_prefix('*') {
                Some(suffix) => {
                    host.len() > suffix.len()
                        && host
                            .get(host.len() - suffix.len()..)
                            .is_some_and(|end| end.eq_ignore_ascii_case(suffix.as_bytes()))
                }
                None => host.eq_ignore_ascii_case(wanted.as_bytes()),
            })
    }

    /// True if a request with this `:path` fits the path condition.
    #[must_use]
    pub fn takes_path(&self, path: &[u8]) -> bool {
        self.path_prefixes.is_empty()
            || self.path_prefixes.iter().any(|prefix| path.starts_with(prefix.as_bytes()))
    }

    /// True if a request that is routed to this cluster fits the cluster condition.
    #[must_use]
    pub fn takes_cluster(&self, cluster: &[u8]) -> bool {
        self.clusters.is_empty() || self.clusters.iter().any(|wanted| wanted.as_bytes() == cluster)
    }

    pub(super) fn read(fields: &mut Fields<'_>, book: &mut ClaimBook, faults: &mut Faults) -> Self {
        let Some(value) = fields.value("match") else { return Self::default() };
        let path = fields.path_of("match");
        if value.as_object().is_some_and(Map::is_empty) {
            faults.add(
                &path,
                "is empty: give hosts, path_prefixes, clusters, headers or claims, or leave it out",
            );
        }
        let mut fields = Fields::of(value, &path, faults);
        let hosts = fields.strings("hosts", faults);
        let path_prefixes = fields.strings("path_prefixes", faults);
        let clusters = fields.strings("clusters", faults);
        let headers = conditions(&mut fields, "headers", faults);
        let claims = conditions(&mut fields, "claims", faults);
        fields.finish(faults);
        for (path, host) in &hosts {
            if !is_host_pattern(host) {
                let message = "must be a host name without port, or *.name for any below it";
                faults.add(path, format!("{message}, is {}", quoted(host)));
            }
        }
        for (path, prefix) in path_prefixes.iter().filter(|(_, prefix)| !prefix.starts_with('/')) {
            faults.add(path, format!("must start with /, is {}", quoted(prefix)));
        }
        let texts = |pairs: Vec<(String, &str)>| pairs.into_iter().map(|(_, text)| text.to_owned()).collect();
        Self {
            hosts: hosts.iter().map(|(_, host)| host.to_ascii_lowercase()).collect(),
            path_prefixes: texts(path_prefixes),
            clusters: texts(clusters),
            headers: headers
                .into_iter()
                .filter_map(|(path, value)| HeaderMatch::read(value, &path, faults))
                .collect(),
            claims: claims
                .into_iter()
                .filter_map(|(path, value)| ClaimMatch::read(value, &path, book, faults))
                .collect(),
        }
    }
}

fn conditions<'v>(
    fields: &mut Fields<'v>,
    name: &'static str,
    faults: &mut Faults,
) -> Vec<(String, &'v Value)> {
    let Some(elements) = fields.array(name, faults) else { return Vec::new() };
    if !(1..=MAX_CONDITIONS).contains(&elements.len()) {
        let message = format!("must have 1 to {MAX_CONDITIONS} elements, has {}", elements.len());
        faults.add(&fields.path_of(name), message);
    }
    elements
}

fn is_host_pattern(text: &str) -> bool {
    let name = text.strip_prefix("*.").unwrap_or(text);
    let has_port = without_port(text.as_bytes()).len() < text.len();
    !name.is_empty() && !name.contains(['*', '/']) && name.chars().all(|c| c.is_ascii_graphic()) && !has_port
}

/// `example.com:8080` → `example.com`; `[::1]:80` → `[::1]`.
fn without_port(authority: &[u8]) -> &[u8] {
    match authority.iter().rposition(|&byte| byte == b':') {
        Some(colon) if authority.get(colon + 1..).is_some_and(|port| port.iter().all(u8::is_ascii_digit)) => {
            // A bare IPv6 address is not a host with port.
            let host = authority.get(..colon).unwrap_or(authority);
            if host.contains(&b':') && !host.ends_with(b"]") { authority } else { host }
        }
        _ => authority,
    }
}
