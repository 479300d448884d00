//! Which rule takes a request, and the count of what became of it.

use std::rc::Rc;

use super::renewals::Renewals;
use super::tokens::{Memo, Tokens};
use crate::attributes::Attributes;
use crate::config::{self, Affinity, Missing, OnInvalid};
use crate::counters::Counters;
use crate::event::RuleResult;
use crate::rollout::Mode;
use crate::session::Token;
use crate::time::Millis;

/// A configured rule with its counts.
#[derive(Debug)]
pub struct Rule {
    /// Its configuration.
    pub config: Rc<config::Rule>,
    /// Of the cookies that it issues, if they have an age.
    pub(super) renewals: Option<Renewals>,
    counters: Counters<{ RuleResult::ALL.len() }>,
}

impl Rule {
    pub(super) fn new(config: config::Rule) -> Self {
        let max_age = match &config.session.missing {
            Missing::IssueCookie(template) => template.max_age(),
            Missing::Pass | Missing::Reject => None,
        };
        let renewals = max_age.map(Renewals::new);
        Self { config: Rc::new(config), renewals, counters: Counters::default() }
    }

    /// True if it does more than observe.
    pub(super) fn enforces(&self) -> bool {
        let config::Rule { affinity, rollout, .. } = &*self.config;
        *affinity != Affinity::Off && rollout.mode == Mode::Enforce && !rollout.is_off()
    }

    pub(super) fn count(&self, result: RuleResult) {
        self.counters.add(result as usize, 1);
    }

    /// Everything that was counted since this was last asked, by the discriminant of [`RuleResult`].
    pub fn take_counts(&self) -> impl Iterator<Item = (usize, u64)> + '_ {
        self.counters.take()
    }
}

/// The index of the first rule that takes the request. What no rule asks about is not fetched, and nothing twice.
pub(super) fn find(
    rules: &[Rule],
    tokens: &Tokens,
    memo: &mut Memo,
    attributes: &dyn Attributes,
    tick: Millis,
) -> Option<usize> {
    let mut cluster = None;
    rules.iter().position(|rule| {
        let matches = &rule.config.matches;
        (matches.hosts.is_empty() || matches.takes_host(memo.authority(attributes)))
            && (matches.path_prefixes.is_empty() || matches.takes_path(memo.path(attributes)))
            && (matches.clusters.is_empty()
                || matches.takes_cluster(fetched(&mut cluster, || route_cluster(attributes))))
            && matches.headers.iter().all(|header| header.takes(memo.header(&header.name, attributes)))
            && matches.claims.iter().all(|claim| match memo.token(tokens, claim.provider, attributes, tick) {
                Token::Verified(facts) => claim.takes(&facts),
                // It may fit, and must not end up with another rule's nodes.
                Token::Unchecked => tokens.on_invalid(claim.provider) == OnInvalid::Reject,
                _ => false,
            })
    })
}

/// The cluster that the route names for this request; known to its end.
pub(super) fn route_cluster(attributes: &dyn Attributes) -> Option<Vec<u8>> {
    attributes.property(&["xds", "cluster_name"])
}

fn fetched(value: &mut Option<Vec<u8>>, fetch: impl FnOnce() -> Option<Vec<u8>>) -> &[u8] {
    value.get_or_insert_with(|| fetch().unwrap_or_default())
}
