//! Who asks, and what they may: the one table of it.
//!
//! Without a set of keys (`--jwks`) a caller with the static token, if there is one, may do
//! everything. With one, the static token or the client certificate is the proxies', who may do what the filter does and
//! nothing else, because it lies on every proxy; people and programs bring a token of their own (a JWT), whose scopes say
//! what they may. The verifying is core's; nothing here looks into a token that it has not verified.

use std::sync::Arc;

use axum::http::{HeaderMap, Method, header};
use berth_core::time::Millis;
use berth_core::token::{self, ClaimPath, Claims, Refusal};
use berth_core::wire::NodeChange;
use serde_json::Value;

use super::call::Call;
use crate::issuer::Issuer;
use crate::secrets::Tokens;

/// What a token's bearer may look at.
const READ: &str = "berth.read";
/// What a token's bearer may change; includes reading.
const OPERATE: &str = "berth.operate";
/// Where a token has its scopes: OAuth's own (RFC 8693, section 4.2), and what some issuers have instead.
const SCOPES: [&str; 2] = ["scope", "scp"];
/// Enough for any issuer's `sub`; a log line must not grow by the sender's will.
const MAX_SUBJECT: usize = 128;

/// How the service knows who asks. By default it does not.
#[derive(Clone, Default)]
pub struct Access {
    /// The static token: that of the proxies if there is an issuer, else everybody's.
    pub token: Option<String>,
    /// More of the same, from a file that is followed.
    pub tokens: Option<Tokens>,
    /// True if every connection has shown a certificate that was checked.
    pub certificates: bool,
    /// Who issues the tokens of all others.
    pub issuer: Option<Issuer>,
}

/// Who sent a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Caller {
    pub(super) role: Role,
    /// The token's `sub`, for the log.
    pub(super) subject: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// The service does not distinguish roles.
    Anyone,
    Proxy,
    Operator,
    Reader,
    /// Its token is good, and has none of our scopes.
    Stranger,
}

/// What a request does, as far as rights go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Action {
    /// Resolve or touch sessions.
    Place,
    /// Look at nodes, sessions, changes.
    Read,
    /// Share a node's cooldown, and change nothing else of it.
    Cool,
    /// Change a node's record otherwise, or forget it.
    ChangeNode,
    /// End a session.
    End,
}

impl Role {
    /// The table.
    pub(super) fn may(self, action: Action) -> bool {
        use Action::{ChangeNode, Cool, End, Place, Read};
        match self {
            Self::Anyone => true,
            Self::Proxy => matches!(action, Place | Read | Cool | End),
            Self::Operator => matches!(action, Read | Cool | ChangeNode | End),
            Self::Reader => matches!(action, Read),
            Self::Stranger => false,
        }
    }
}

impl Action {
    /// The least that such a request does; what else a change to a node is, its body tells. What has no route is answered
    /// 405 to all who may read.
    pub(super) fn of(call: Call, method: &Method) -> Self {
        match (call, method) {
            (Call::Resolve | Call::Touch, _) => Self::Place,
            (Call::Node, &Method::PUT) => Self::Cool,
            (Call::Node, &Method::DELETE) => Self::ChangeNode,
            (Call::Session, &Method::DELETE) => Self::End,
            _ => Self::Read,
        }
    }

    /// The scope that a token needs for it; none helps where only proxies may.
    pub(super) fn scope(self) -> Option<&'static str> {
        match self {
            Self::Place => None,
            Self::Read => Some(READ),
            Self::Cool | Self::ChangeNode | Self::End => Some(OPERATE),
        }
    }
}

impl From<&NodeChange> for Action {
    fn from(change: &NodeChange) -> Self {
        let NodeChange {
            state,
            self_state,
            weight,
            boot_id,
            note,
            cooldown_until_ms,
            cooldown_ms,
            correlation_id: _,
        } = change;
        let is_else = state.is_some()
            || self_state.is_some()
            || weight.is_some()
            || boot_id.is_some()
            || note.is_some();
        let is_cooldown = cooldown_until_ms.is_some() || cooldown_ms.is_some();
        if is_cooldown && !is_else { Self::Cool } else { Self::ChangeNode }
    }
}

/// Why the caller could not be identified.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unknown {
    /// No bearer token.
    Missing,
    /// Not the static token, and there is no other.
    Wrong,
    /// No token of the issuer.
    Refused(Refusal),
}

impl Access {
    /// True if everybody may ask.
    pub(super) fn is_open(&self) -> bool {
        self.has_no_token() && self.issuer.is_none() && !self.certificates
    }

    fn has_no_token(&self) -> bool {
        self.token.is_none() && self.tokens.is_none()
    }

    /// Compares with each one, so that the time does not tell which one it was.
    fn is_static(&self, given: &[u8]) -> bool {
        let tokens = self.tokens.as_ref().map(|tokens| Arc::clone(&tokens.borrow()));
        let all = self.token.iter().chain(tokens.iter().flat_map(|tokens| tokens.0.iter()));
        all.fold(false, |is_one, token| is_one | same(given, token.as_bytes()))
    }

    /// Who sent a request with these headers.
    pub(super) fn caller(&self, headers: &HeaderMap, now: Millis) -> Result<Caller, Unknown> {
        let role = if self.issuer.is_some() { Role::Proxy } else { Role::Anyone };
        let by_right = Ok(Caller { role, subject: None });
        if self.has_no_token() {
            let by_certificate = self.certificates && !headers.contains_key(header::AUTHORIZATION);
            if self.issuer.is_none() || by_certificate {
                return by_right;
            }
        }
        let given = bearer(headers).ok_or(Unknown::Missing)?;
        if self.is_static(given) {
            return by_right;
        }
        let issuer = self.issuer.as_ref().ok_or(Unknown::Wrong)?;
        let claims = token::verify(given.trim_ascii(), &issuer.keys(), &issuer.policy, now);
        claims.map(|claims| Caller::by(&claims)).map_err(Unknown::Refused)
    }
}

impl Caller {
    fn by(claims: &Claims) -> Self {
        let scopes: Vec<&str> = SCOPES.iter().flat_map(|name| scopes(claim(claims, name))).collect();
        let role = if scopes.contains(&OPERATE) {
            Role::Operator
        } else if scopes.contains(&READ) {
            Role::Reader
        } else {
            Role::Stranger
        };
        let subject = claim(claims, "sub").and_then(Value::as_str);
        Self { role, subject: subject.map(|subject| subject.chars().take(MAX_SUBJECT).collect()) }
    }
}

/// A text of names between blanks, or a list of names.
fn scopes(claim: Option<&Value>) -> Vec<&str> {
    match claim {
        Some(Value::String(text)) => text.split(' ').collect(),
        Some(Value::Array(names)) => names.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    }
}

fn claim<'c>(claims: &'c Claims, name: &str) -> Option<&'c Value> {
    claims.get(&ClaimPath::parse(name).ok()?)
}

/// What the first `Authorization` bears; the scheme's case does not count (RFC 9110, section 11.1).
fn bearer(headers: &HeaderMap) -> Option<&[u8]> {
    const SCHEME: &[u8] = b"Bearer ";
    let value = headers.get(header::AUTHORIZATION)?.as_bytes();
    let (scheme, token) = value.split_at_checked(SCHEME.len())?;
    scheme.eq_ignore_ascii_case(SCHEME).then_some(token)
}

/// Takes the same time wherever two texts differ.
fn same(one: &[u8], other: &[u8]) -> bool {
    one.len() == other.len() && one.iter().zip(other).fold(0, |differ, (a, b)| differ | (a ^ b)) == 0
}

#[cfg(test)]
mod tests {
    use berth_core::wire::NodeState;
    use serde_json::json;

    use super::*;

    #[test]
    fn each_role_may_what_it_is_for_and_nothing_else() {
        use Action::{ChangeNode, Cool, End, Place, Read};
        use Role::{Anyone, Operator, Proxy, Reader, Stranger};
        let roles = [Anyone, Proxy, Operator, Reader, Stranger];
        for (action, may) in [
            (Place, [true, true, false, false, false]),
            (Read, [true, true, true, true, false]),
            (Cool, [true, true, true, false, false]),
            (ChangeNode, [true, false, true, false, false]),
            (End, [true, true, true, false, false]),
        ] {
            assert_eq!(roles.map(|role| role.may(action)), may, "{action:?}");
        }
    }

    #[test]
    fn scopes_are_whole_names_wherever_an_issuer_has_them() {
        for (claims, role) in [
            (json!({"scope": "openid berth.read"}), Role::Reader),
            (json!({"scope": "berth.operate"}), Role::Operator),
            (json!({"scope": "berth.read berth.operate"}), Role::Operator),
            (json!({"scp": "email berth.operate"}), Role::Operator),
            (json!({"scp": ["berth.read", "email"]}), Role::Reader),
            (json!({"scope": "openid", "scp": ["berth.operate"]}), Role::Operator),
            (json!({}), Role::Stranger),
            (json!({"scope": "berth.reader berth.operate2 xberth.read BERTH.READ berth"}), Role::Stranger),
            (json!({"scope": "berth.read,berth.operate"}), Role::Stranger),
            (json!({"scp": ["a berth.operate", 7, ["berth.operate"]]}), Role::Stranger),
            (json!({"scope": {"berth.operate": true}, "scp": true}), Role::Stranger),
            (json!({"roles": "berth.operate"}), Role::Stranger),
        ] {
            let read = Claims::from_payload(claims.to_string().as_bytes()).unwrap();
            assert_eq!(Caller::by(&read).role, role, "{claims}");
        }
    }

    #[test]
    fn a_subject_is_text_of_bounded_length() {
        let subject =
            |claims: Value| Caller::by(&Claims::from_payload(claims.to_string().as_bytes()).unwrap()).subject;

        assert_eq!(subject(json!({"sub": "ada"})).as_deref(), Some("ada"));
        assert_eq!(subject(json!({"sub": "ä".repeat(9000)})), Some("ä".repeat(MAX_SUBJECT)));
        assert_eq!(subject(json!({"sub": ["ada"]})), None);
        assert_eq!(subject(json!({})), None);
    }

    #[test]
    fn only_a_cooldown_and_nothing_beside_it_is_the_proxies_change() {
        let cooldown = NodeChange { cooldown_until_ms: Some(7), ..NodeChange::default() };
        let correlated = NodeChange { correlation_id: Some("1".to_owned()), ..cooldown.clone() };
        let by_length = NodeChange { cooldown_ms: Some(7), ..NodeChange::default() };
        for change in [&cooldown, &correlated, &by_length] {
            assert_eq!(Action::from(change), Action::Cool, "{change:?}");
        }
        for change in [
            NodeChange::default(),
            NodeChange { state: Some(NodeState::Active), ..cooldown.clone() },
            NodeChange { weight: Some(1), ..cooldown.clone() },
            NodeChange { boot_id: Some("b".to_owned()), ..cooldown.clone() },
            NodeChange { note: Some(String::new()), ..cooldown },
            NodeChange { state: Some(NodeState::Draining), ..NodeChange::default() },
        ] {
            assert_eq!(Action::from(&change), Action::ChangeNode, "{change:?}");
        }
    }
}
