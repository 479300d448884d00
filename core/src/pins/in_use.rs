//! The sessions of requests that are under way: a WebSocket of hours is one request, and its session is in use all the
//! time, though no request asks for its pin.

use super::hand::Hand;
use crate::time::Millis;

/// A request's slot in [`InUse`], to be handed back when it ends.
#[derive(Debug, PartialEq, Eq)]
pub struct InUseHandle(u32);

/// The sessions of all requests that are under way, each as what the caller needs of it.
#[derive(Debug)]
pub struct InUse<T> {
    slots: Vec<Option<T>>,
    free: Vec<u32>,
    hand: Hand,
}

impl<T: Clone> InUse<T> {
    /// An empty set. Each session is to be looked at once in an interval.
    #[must_use]
    pub fn new(interval: Millis) -> Self {
        Self { slots: Vec::new(), free: Vec::new(), hand: Hand::new(interval) }
    }

    /// A request begins.
    pub fn enter(&mut self, session: T) -> InUseHandle {
        if let Some(index) = self.free.pop()
            && let Some(slot) = self.slots.get_mut(index as usize)
        {
            *slot = Some(session);
            return InUseHandle(index);
        }
        self.slots.push(Some(session));
        InUseHandle(u32::try_from(self.slots.len() - 1).unwrap_or(u32::MAX))
    }

    /// It ends.
    #[expect(clippy::needless_pass_by_value, reason = "a handle is handed back once")]
    pub fn leave(&mut self, handle: InUseHandle) {
        if let Some(taken) = self.slots.get_mut(handle.0 as usize)
            && taken.take().is_some()
        {
            self.free.push(handle.0);
        }
    }

    /// From now on each is to be looked at once in this time.
    pub fn look_every(&mut self, interval: Millis) {
        self.hand.go_round_in(interval);
    }

    /// The sessions whose turn it is at `now`. Ask on every tick.
    pub fn turn(&mut self, now: Millis) -> Vec<T> {
        let slots = u32::try_from(self.slots.len()).unwrap_or(u32::MAX);
        self.hand.wind(now, slots);
        std::iter::from_fn(|| self.hand.next(slots))
            .filter_map(|slot| self.slots.get(slot as usize).cloned().flatten())
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Millis {
        Millis(1_000_000 + seconds * 1000)
    }

    #[test]
    fn each_that_is_there_has_its_turn_once_an_interval() {
        let mut in_use = InUse::new(Millis(60_000));
        let mut handles: Vec<InUseHandle> = (0..100usize).map(|session| in_use.enter(session)).collect();
        in_use.turn(at(0));
        handles.drain(..50).for_each(|handle| in_use.leave(handle));

        let mut turns = [0; 100];
        for second in 1..=180 {
            for session in in_use.turn(at(second)) {
                turns[session] += 1;
            }
        }

        assert!(turns[..50].iter().all(|turns| *turns == 0), "{turns:?}");
        assert!(turns[50..].iter().all(|turns| *turns == 3), "{turns:?}");
    }

    #[test]
    fn slots_are_used_again() {
        let mut in_use = InUse::new(Millis(1_000));
        for session in 0..1_000 {
            let handle = in_use.enter(session);
            in_use.leave(handle);
        }

        assert_eq!(in_use.slots.len(), 1);
    }
}
