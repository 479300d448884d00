//! The way between proxies and services: it delays, loses, repeats and reorders calls and answers.

use crate::random::Random;
use crate::schedule::{PROXIES, SERVICES};

/// What is wrong with one proxy's way.
#[derive(Debug, Clone, Default)]
struct Way {
    cuts: u32,
    slower_by: u64,
    answers_later_by: u64,
    loss_percent: u64,
    twice: u32,
}

/// The network.
#[derive(Debug)]
pub struct Network {
    ways: Vec<Way>,
    down: Vec<u32>,
    random: Random,
}

/// What becomes of one call.
#[derive(Debug, Clone, Copy)]
pub struct Passage {
    /// Which service it reaches, if any.
    pub service: usize,
    /// It arrives after so many milliseconds, at each of these times.
    pub arrives: [Option<u64>; 2],
    /// Its answer takes so long; `None` if it is lost.
    pub returns: Option<u64>,
}

impl Network {
    /// One without faults.
    #[must_use]
    pub fn new(random: Random) -> Self {
        Self { ways: vec![Way::default(); PROXIES], down: vec![0; SERVICES], random }
    }

    /// A proxy reaches no service, or does again.
    pub fn cut(&mut self, proxy: usize, begins: bool) {
        count(&mut self.ways[proxy].cuts, begins);
    }

    /// Calls take longer, or no longer.
    pub fn slow(&mut self, proxy: usize, by: u64, begins: bool) {
        self.ways[proxy].slower_by = if begins { by } else { 0 };
    }

    /// Answers about sessions take longer, or no longer.
    pub fn answer_late(&mut self, proxy: usize, by: u64, begins: bool) {
        self.ways[proxy].answers_later_by = if begins { by } else { 0 };
    }

    /// Some calls are lost, or no longer.
    pub fn lose(&mut self, proxy: usize, percent: u64, begins: bool) {
        self.ways[proxy].loss_percent = if begins { percent } else { 0 };
    }

    /// Calls arrive twice, or no longer.
    pub fn twice(&mut self, proxy: usize, begins: bool) {
        count(&mut self.ways[proxy].twice, begins);
    }

    /// A service does not answer, or does again.
    pub fn service_down(&mut self, service: usize, begins: bool) {
        count(&mut self.down[service], begins);
    }

    /// True if a service answers.
    #[must_use]
    pub fn is_up(&self, service: usize) -> bool {
        self.down[service] == 0
    }

    /// True if answers reach the proxy now.
    #[must_use]
    pub fn is_cut(&self, proxy: usize) -> bool {
        self.ways[proxy].cuts > 0
    }

    /// What becomes of a call that a proxy makes now, about sessions or not.
    pub fn passage(&mut self, proxy: usize, is_about_sessions: bool) -> Passage {
        let service = self.random.index(SERVICES);
        let way = self.ways[proxy].clone();
        let delay = |random: &mut Random| {
            let rare = if random.percent(3) { 15 } else { 0 };
            random.between(1, 4) + rare + way.slower_by * random.between(50, 150) / 100
        };
        let is_lost = way.cuts > 0 || self.random.percent(way.loss_percent);
        let first = delay(&mut self.random);
        let second = first + self.random.between(1, 40);
        let late = if is_about_sessions { way.answers_later_by } else { 0 };
        let returns = delay(&mut self.random) + late;
        let is_answer_lost = self.random.percent(way.loss_percent);
        Passage {
            service,
            arrives: [(!is_lost).then_some(first), (!is_lost && way.twice > 0).then_some(second)],
            returns: (!is_answer_lost).then_some(returns),
        }
    }
}

fn count(faults: &mut u32, begins: bool) {
    *faults = if begins { *faults + 1 } else { faults.saturating_sub(1) };
}
