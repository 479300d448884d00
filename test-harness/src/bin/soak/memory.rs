//! Memory over time, and whether it grows.

use std::time::Duration;

/// What grows by less than this an hour is not a fault, however small the part is.
const LEAST: f64 = 8.0;
/// Of its memory a part may gain so much in an hour.
const SHARE: f64 = 0.10;
/// Of a shorter run, minutes are too few to say what an hour brings.
const JUDGED: Duration = Duration::from_mins(20);

/// One process from its start to its end.
#[derive(Debug)]
pub(crate) struct Life {
    pub(crate) name: String,
    /// Since the beginning of the soak, and MB.
    samples: Vec<(Duration, f64)>,
}

/// What the samples after the warm-up say.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Trend {
    pub(crate) first: f64,
    pub(crate) last: f64,
    pub(crate) most: f64,
    /// MB an hour, by least squares.
    pub(crate) slope: f64,
    span: Duration,
}

impl Life {
    pub(crate) fn new(name: String) -> Self {
        Self { name, samples: Vec::new() }
    }

    pub(crate) fn note(&mut self, at: Duration, bytes: u64) {
        self.samples.push((at, bytes as f64 / 1e6));
    }

    /// Of the samples after this time; `None` if there are too few.
    pub(crate) fn trend(&self, after: Duration) -> Option<Trend> {
        let samples: Vec<(f64, f64)> = self
            .samples
            .iter()
            .filter(|(at, _)| *at >= after)
            .map(|(at, size)| (at.as_secs_f64() / 3600.0, *size))
            .collect();
        if samples.len() < 8 {
            return None;
        }
        let count = samples.len() as f64;
        let (time, size) = samples.iter().fold((0.0, 0.0), |(t, s), (at, size)| (t + at, s + size));
        let (time, size) = (time / count, size / count);
        let (product, square) = samples.iter().fold((0.0, 0.0), |(product, square), (at, found)| {
            (product + (at - time) * (found - size), square + (at - time).powi(2))
        });
        let quarter = samples.len() / 4;
        let [first, last] = [&samples[..quarter], &samples[samples.len() - quarter..]].map(median);
        let hours = samples[samples.len() - 1].0 - samples[0].0;
        Some(Trend {
            first,
            last,
            most: samples.iter().map(|(_, size)| *size).fold(0.0, f64::max),
            slope: product / square,
            span: Duration::from_secs_f64(hours * 3600.0),
        })
    }
}

impl Trend {
    /// MB an hour that are allowed.
    pub(crate) fn bound(&self) -> f64 {
        (self.first * SHARE).max(LEAST)
    }

    /// Whether it was watched for long enough.
    pub(crate) fn says_something(&self) -> bool {
        self.span >= JUDGED
    }

    /// Both figures have to say so: a single rise of many samples that ends makes a slope, and noise makes a difference.
    pub(crate) fn grows(&self) -> bool {
        let hours = self.span.as_secs_f64() / 3600.0;
        // The middles of the first and the last quarter are three quarters of the time apart.
        self.says_something()
            && self.slope > self.bound()
            && self.last - self.first > self.bound() * hours * 0.75
    }
}

fn median(samples: &[(f64, f64)]) -> f64 {
    let mut sizes: Vec<f64> = samples.iter().map(|(_, size)| *size).collect();
    sizes.sort_by(f64::total_cmp);
    sizes[sizes.len() / 2]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One sample each ten seconds.
    fn life(minutes: u64, size: impl Fn(f64) -> f64) -> Life {
        let mut life = Life::new("a part".into());
        for step in 0..minutes * 6 {
            let at = Duration::from_secs(step * 10);
            life.note(at, (size(at.as_secs_f64() / 3600.0) * 1e6) as u64);
        }
        life
    }

    #[test]
    fn steady_growth_is_found_and_its_slope_named() {
        let trend = life(60, |hours| 500.0 + 120.0 * hours).trend(Duration::from_mins(10)).unwrap();

        assert!((trend.slope - 120.0).abs() < 1.0, "{trend:?}");
        assert!(trend.grows(), "{trend:?}");
    }

    #[test]
    fn growth_that_ends_in_the_warm_up_and_waves_are_none() {
        let grown = life(60, |hours| 500.0 + 1000.0 * hours.min(0.15));
        let waves = life(60, |hours| 500.0 + 30.0 * (hours * 40.0).sin());

        for life in [grown, waves] {
            let trend = life.trend(Duration::from_mins(10)).unwrap();
            assert!(!trend.grows(), "{trend:?}");
        }
    }

    #[test]
    fn a_few_minutes_say_nothing() {
        let trend = life(5, |hours| 500.0 + 1000.0 * hours).trend(Duration::ZERO).unwrap();

        assert!(!trend.grows(), "{trend:?}");
    }
}
