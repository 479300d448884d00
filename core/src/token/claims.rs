//! What a token says of its bearer, and whether it holds for us and for now.

use serde_json::{Map, Value};

use super::{ClaimPath, Policy, Refusal, json};
use crate::time::Millis;

/// No clock is ahead by more.
const DAY: Millis = Millis(24 * 60 * 60 * 1000);
/// The doubles from here on are not all whole numbers.
const EXACT: f64 = 9_007_199_254_740_992.0;

/// The claims of a token that was verified, here or by Envoy.
#[derive(Clone, PartialEq)]
pub struct Claims(Map<String, Value>);

/// Claims name people; logs must not.
impl std::fmt::Debug for Claims {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Claims({} members)", self.0.len())
    }
}

impl Claims {
    /// Takes over a payload that somebody else has verified, such as Envoy's `jwt_authn`.
    ///
    /// # Errors
    /// [`Refusal::Malformed`] if it is not a JSON object, or has a member twice.
    pub fn from_payload(json: &[u8]) -> Result<Self, Refusal> {
        json::object(json).map(Self).ok_or(Refusal::Malformed)
    }

    /// The claim as it is.
    #[must_use]
    pub fn get(&self, path: &ClaimPath) -> Option<&Value> {
        path.find(&self.0)
    }

    /// The claim as text: a string as it is, a whole number in decimal. Nothing else has one text that everybody would
    /// write, so nothing else can name a session.
    #[must_use]
    pub fn text(&self, path: &ClaimPath) -> Option<String> {
        match self.get(path)? {
            Value::String(text) => Some(text.clone()),
            Value::Number(number) if number.is_f64() => {
                let float = number.as_f64().filter(|float| float.fract() == 0.0 && float.abs() < EXACT)?;
                #[expect(clippy::cast_possible_truncation, reason = "whole and in range")]
                let whole = float as i64;
                Some(whole.to_string())
            }
            Value::Number(number) => Some(number.to_string()),
            _ => None,
        }
    }

    /// The claim as a point in time: seconds since the epoch, with or without a fraction. What was before is 0.
    #[must_use]
    pub fn seconds(&self, path: &ClaimPath) -> Option<Millis> {
        date(self.get(path)?)
    }

    /// When it expires, without leeway.
    #[must_use]
    pub fn expires(&self) -> Option<Millis> {
        date(self.0.get("exp")?)
    }

    /// When their time begins, by the later of `nbf` and `iat`.
    pub(super) fn begins(&self) -> Option<Millis> {
        ["nbf", "iat"].into_iter().filter_map(|name| date(self.0.get(name)?)).max()
    }

    /// Whether they hold under this policy.
    pub(super) fn check(&self, policy: &Policy, now: Millis) -> Result<(), Refusal> {
        match self.date("exp")? {
            None if policy.require_expiry => return Err(Refusal::ClaimMissing),
            Some(expires) if now >= expires + policy.leeway => return Err(Refusal::Expired),
            _ => {}
        }
        self.check_begin(policy, now)?;
        self.check_issuer(policy)?;
        self.check_audience(policy)
    }

    fn check_begin(&self, policy: &Policy, now: Millis) -> Result<(), Refusal> {
        for name in ["nbf", "iat"] {
            if self.date(name)?.is_some_and(|begins| now + policy.leeway < begins) {
                return Err(Refusal::NotYetValid);
            }
        }
        Ok(())
    }

    fn check_issuer(&self, policy: &Policy) -> Result<(), Refusal> {
        let Some(wanted) = &policy.issuer else { return Ok(()) };
        match self.0.get("iss") {
            None => Err(Refusal::ClaimMissing),
            Some(Value::String(issuer)) if issuer == wanted => Ok(()),
            Some(Value::String(_)) => Err(Refusal::Issuer),
            Some(_) => Err(Refusal::ClaimType),
        }
    }

    fn check_audience(&self, policy: &Policy) -> Result<(), Refusal> {
        if policy.audiences.is_empty() {
            return Ok(());
        }
        let is_ours = |value: &Value| policy.audiences.iter().any(|ours| value.as_str() == Some(ours));
        let found = match self.0.get("aud") {
            None => return Err(Refusal::ClaimMissing),
            Some(value @ Value::String(_)) => is_ours(value),
            Some(Value::Array(values)) if values.iter().all(Value::is_string) => values.iter().any(is_ours),
            Some(_) => return Err(Refusal::ClaimType),
        };
        if found { Ok(()) } else { Err(Refusal::Audience) }
    }

    /// Whether their time has not come, but comes within a day: the issuer's clock may be ahead. Further ahead it counts in another unit.
    pub(super) fn are_of_later(&self, policy: &Policy, now: Millis) -> bool {
        self.check_begin(policy, now) == Err(Refusal::NotYetValid)
            && self.check_begin(policy, now + DAY) == Ok(())
    }

    /// Whether they name another issuer than this policy, or no audience of its own.
    pub(super) fn are_of_others(&self, policy: &Policy) -> bool {
        self.check_issuer(policy) == Err(Refusal::Issuer)
            || self.check_audience(policy) == Err(Refusal::Audience)
    }

    fn date(&self, name: &str) -> Result<Option<Millis>, Refusal> {
        self.0.get(name).map(|value| date(value).ok_or(Refusal::ClaimType)).transpose()
    }
}

/// A NumericDate (RFC 7519, section 2). A date before the epoch is the epoch; one too large is [`Millis`]' maximum.
fn date(value: &Value) -> Option<Millis> {
    let number = value.as_number()?;
    if let Some(seconds) = number.as_u64() {
        return Some(Millis(seconds.saturating_mul(1000)));
    }
    // A cast from a float saturates, and what is not a number cannot be written in JSON.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "saturates as it should")]
    number.as_f64().map(|seconds| Millis((seconds * 1000.0) as u64))
}
