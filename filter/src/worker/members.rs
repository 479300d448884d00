//! The members of each pool, as all VMs of this Envoy know them: published by the leader, read by all.

use berth_core::health::HealthPolicy;
use berth_core::ring::RingError;
use berth_core::roster::Roster;
use berth_core::time::Millis;

use super::Worker;

impl Worker {
    /// Catches up with what is published, and with the time.
    pub(crate) fn refresh(&self, now: Millis) {
        for (pool, link) in self.links.iter().enumerate() {
            self.read_changes(pool);
            let known = self.pool(pool).map(|pool| pool.roster().version);
            let head = link.roster.head();
            if let Some(mut pool) = self.pool(pool) {
                pool.is_cluster_unknown = head.is_unknown;
            }
            if Some(head.version) == known {
                let built = self.pool(pool).map(|mut pool| pool.refresh(now));
                self.log_ring_error(pool, built);
            } else if let Some(roster) = link.roster.read() {
                self.adopt(pool, roster, now);
            }
        }
    }

    /// Applies a change to the published roster and makes the result this VM's view. `change` says whether it changed
    /// anything, and may run again.
    pub(crate) fn change_roster(
        &self,
        pool: usize,
        now: Millis,
        mut change: impl FnMut(&mut Roster, &HealthPolicy) -> bool,
    ) {
        let Some(link) = self.links.get(pool) else { return };
        let Some(policy) = self.pool(pool).map(|pool| pool.config.health.clone()) else { return };
        if let Some(roster) = link.roster.update(|roster| change(roster, &policy)) {
            self.adopt(pool, roster, now);
        }
    }

    /// Says once what keeps the pool's cluster from being what its pins need.
    pub(crate) fn warn(&self, pool: usize, cluster: &str, complaint: Option<&str>, bad_name: Option<&str>) {
        let (Some(link), Some(name)) = (self.links.get(pool), self.pool_name(pool)) else { return };
        let [mut complained, mut misnamed] = link.warned.get();
        // Another leader has said it.
        complained |= self.pool(pool).is_some_and(|pool| pool.roster().unsupported);
        let advice = complaint.filter(|_| !std::mem::replace(&mut complained, true));
        let names = "hashes hosts by name; those go by their address whose name tells no node apart, such as";
        let names = bad_name.filter(|_| !std::mem::replace(&mut misnamed, true)).map(|bad| (names, bad));
        for (what, detail) in advice.map(|advice| (advice, "")).into_iter().chain(names) {
            log::warn!("berth: pool {name}: cluster {cluster} {what} {detail}");
        }
        link.warned.set([complained, misnamed]);
    }

    fn adopt(&self, pool: usize, roster: Roster, now: Millis) {
        let built = self.pool(pool).map(|mut pool| pool.adopt(roster, now));
        self.log_ring_error(pool, built);
        self.log_events(pool);
    }

    fn log_ring_error(&self, pool: usize, built: Option<Result<(), RingError>>) {
        if let (Some(Err(error)), Some(name)) = (built, self.pool_name(pool)) {
            log::error!("berth: pool {name}: {error}; the previous ring stays");
        }
    }
}
