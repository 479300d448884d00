//! Which cookie a 401 deletes: that of a token which is good for nothing any longer. A browser would send it with each
//! request, and could not even log in again.
//!
//! Decides from every provider that refused a token, since one cookie may hold a token that another provider issued, or that
//! another application on this host reads.

use super::tokens::{Memo, Provider, Tokens};
use crate::attributes::{Attributes, all_lines};
use crate::config::Verification;
use crate::token::{self, Outlook, Refusal};

/// A token that a provider refused.
struct Refused<'p> {
    token: Vec<u8>,
    /// What deletes the cookie that it came from.
    deletion: Option<&'p str>,
    outlook: Outlook,
}

impl Tokens {
    /// What deletes the cookie of a token that was refused, if one is to be deleted.
    pub(super) fn deletion_of_refused(&self, memo: &Memo, attributes: &dyn Attributes) -> Option<&str> {
        let held = memo.refused().filter_map(|(provider, refusal)| {
            self.get(provider).and_then(|provider| provider.held(refusal, memo, attributes))
        });
        let held: Vec<Refused<'_>> = held.collect();
        held.iter().find_map(|one| one.deletion.filter(|_| is_hopeless(&one.token, &held)))
    }

    /// What deletes the cookie from which this provider's token came, if it came from one and that is to be done: the token was
    /// verified, and its session is over.
    pub(super) fn deletion_of(
        &self,
        provider: usize,
        memo: &Memo,
        attributes: &dyn Attributes,
    ) -> Option<&str> {
        self.get(provider)?.locate(memo, attributes)?.1
    }
}

impl Provider {
    fn held(&self, refusal: Refusal, memo: &Memo, attributes: &dyn Attributes) -> Option<Refused<'_>> {
        let (policy, is_remote) = match &self.config.verification {
            Verification::Keys(policy, _) => (policy, false),
            Verification::Remote(policy, _) => (policy, true),
            Verification::Upstream(_) => return None,
        };
        let (token, deletion) = self.locate(memo, attributes)?;
        let outlook = match token::outlook(&token, policy, attributes.now()) {
            // Its issuer may have published the key since.
            Outlook::Bad if is_remote && refusal == Refusal::UnknownKey => Outlook::MayBeGood,
            outlook => outlook,
        };
        Some(Refused { token, deletion, outlook })
    }

    fn locate(&self, memo: &Memo, attributes: &dyn Attributes) -> Option<(Vec<u8>, Option<&str>)> {
        let mut header = |name: &str| memo.last_look(name, attributes);
        let mut all = |name: &str| all_lines(attributes, name);
        let (source, token) = token::locate(&self.config.from, &mut header, &mut all)?;
        Some((token, source.deletion()))
    }
}

/// A token whose time is over is of no use anywhere. Otherwise one provider's doubt is enough to keep it.
fn is_hopeless(token: &[u8], held: &[Refused<'_>]) -> bool {
    let said = |outlook| held.iter().any(|one| one.token == token && one.outlook == outlook);
    said(Outlook::Over) || !said(Outlook::MayBeGood)
}
