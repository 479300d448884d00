//! What may still become of a token that was refused.

use super::{Claims, MAX_TOKEN, Policy, jws};
use crate::time::Millis;

/// Whether a token that is refused here and now may be good elsewhere or later.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outlook {
    /// Its time is over, also if another issuer made it.
    Over,
    /// It says that it is of another issuer, or for others, or for later.
    MayBeGood,
    /// Neither.
    Bad,
}

/// What a token says of itself. No key has confirmed it, so it may decide nothing but what is its sender's own affair.
#[must_use]
pub fn outlook(token: &[u8], policy: &Policy, now: Millis) -> Outlook {
    let payload = || jws::payload_of(token, policy.allow_padding);
    let claims = (token.len() <= MAX_TOKEN).then(payload).flatten();
    let Some(claims) = claims.and_then(|payload| Claims::from_payload(&payload).ok()) else {
        return Outlook::Bad;
    };
    if claims.expires().is_some_and(|expires| now >= expires + policy.leeway) {
        return Outlook::Over;
    }
    let may_be_good = claims.are_of_others(policy) || claims.are_of_later(policy, now);
    if may_be_good { Outlook::MayBeGood } else { Outlook::Bad }
}
