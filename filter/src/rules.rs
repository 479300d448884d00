//! Which rule takes a request, and the count of what became of it.

use std::cell::Cell;

use berth_core::config::{Affinity, Rule};
use berth_core::event::RuleResult;
use berth_core::rollout::Mode;
use berth_core::session::Token;

use crate::host;
use crate::plugin::Plugin;
use crate::tokens::Asked;

/// A configured rule with its counters.
pub(crate) struct LiveRule {
    pub(crate) config: Rule,
    counters: [(Cell<u64>, Option<u32>); RuleResult::ALL.len()],
}

impl LiveRule {
    pub(crate) fn new(config: Rule) -> Self {
        let define = |result: RuleResult| {
            config.is_named.then(|| host::define_counter(&result.stat(&config.name))).flatten()
        };
        Self { counters: RuleResult::ALL.map(|result| (Cell::new(0), define(result))), config }
    }

    /// Whether it does more than look on.
    pub(crate) fn enforces(&self) -> bool {
        let Rule { affinity, rollout, .. } = &self.config;
        *affinity != Affinity::Off && rollout.mode == Mode::Enforce && !rollout.is_off()
    }

    pub(crate) fn count(&self, result: RuleResult) {
        if let Some((value, _)) = self.counters.get(result as usize) {
            value.set(value.get() + 1);
        }
    }

    /// Hands what was counted since the last flush to Envoy.
    pub(crate) fn flush(&self) {
        for (value, metric) in &self.counters {
            let by = value.take();
            if by > 0 {
                host::increment(*metric, by);
            }
        }
    }
}

/// The first rule that takes the request; what no rule asks about is not fetched, and nothing twice.
pub(crate) fn find<'p>(plugin: &'p Plugin, asked: &mut Asked<'p>) -> Option<usize> {
    let (mut authority, mut path, mut cluster) = (None, None, None);
    plugin.rules.iter().position(|rule| {
        let matches = &rule.config.matches;
        (matches.hosts.is_empty()
            || matches.takes_host(fetched(&mut authority, || host::request_header(":authority"))))
            && (matches.path_prefixes.is_empty()
                || matches.takes_path(fetched(&mut path, || host::request_header(":path"))))
            && (matches.clusters.is_empty()
                || matches.takes_cluster(fetched(&mut cluster, host::route_cluster)))
            && matches.headers.iter().all(|header| header.takes(asked.header(&header.name)))
            && matches.claims.iter().all(|claim| match asked.token(plugin, claim.provider) {
                Token::Verified(facts) => claim.takes(&facts),
                _ => false,
            })
    })
}

fn fetched(value: &mut Option<Vec<u8>>, fetch: impl FnOnce() -> Option<Vec<u8>>) -> &[u8] {
    value.get_or_insert_with(|| fetch().unwrap_or_default())
}
