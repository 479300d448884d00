//! What a soak found, for people, and whether it is a fault.

use std::fmt::Write as _;
use std::time::Duration;

use crate::ledger::{Event, Part};
use crate::memory::Trend;
use crate::schedule::Schedule;
use crate::seat::Load;

/// One answer in so many may be for now only, while parts are away.
const MOST_FOR_NOW: u64 = 10;

pub(crate) struct Report<'r, 'w> {
    pub(crate) wanted: usize,
    pub(crate) sessions: usize,
    /// Why these are fewer than were asked for.
    pub(crate) limits: String,
    pub(crate) stopped: bool,
    pub(crate) schedule: &'r Schedule<'w>,
}

impl Report<'_, '_> {
    /// What fails the run.
    pub(crate) fn faults(&self) -> Vec<String> {
        let ledger = &self.load().ledger;
        let mut faults: Vec<String> = Event::ALL
            .into_iter()
            .filter(|event| event.is_violation() && ledger.counted(*event) > 0)
            .map(|event| format!("{} {}", ledger.counted(event), event.text()))
            .collect();
        // The others are restarted: what they hold after that grows as it should.
        for life in [&self.schedule.lives[0], &self.schedule.lives[2]] {
            if let Some(trend) = life.trend(self.warm_up()).filter(Trend::grows) {
                faults.push(format!(
                    "{} grows by {:.1} MB an hour, more than {:.1}",
                    life.name,
                    trend.slope,
                    trend.bound()
                ));
            }
        }
        let (for_now, served) = (
            ledger.counted(Event::Provisional) + ledger.counted(Event::Retried),
            ledger.counted(Event::Request) + ledger.counted(Event::Socket),
        );
        if for_now * MOST_FOR_NOW > served {
            faults.push(format!("{for_now} of {served} answers were only for now"));
        }
        for (name, times) in self.outages() {
            if !self.stopped && times == 0 {
                faults.push(format!("no {name}"));
            }
        }
        if !self.stopped && ledger.counted(Event::Message) == 0 {
            faults.push("no message was echoed".to_owned());
        }
        if !self.stopped && self.most_sockets() * 10 < self.sessions as i64 * 9 {
            faults.push(format!(
                "only {} of {} WebSockets were live at once",
                self.most_sockets(),
                self.sessions
            ));
        }
        faults
    }

    /// How often each kind of part was killed.
    fn outages(&self) -> [(&'static str, usize); 4] {
        let ledger = &self.load().ledger;
        [
            ("nodes killed", ledger.outages(|part| matches!(part, Part::Node(_)))),
            ("Envoys killed", ledger.outages(|part| matches!(part, Part::Envoy(_)))),
            ("services killed", ledger.outages(|part| part == Part::Service)),
            ("primaries of Redis killed", ledger.outages(|part| part == Part::Redis)),
        ]
    }

    pub(crate) fn text(&self) -> String {
        let ledger = &self.load().ledger;
        let minutes = self.schedule.began.elapsed().as_secs_f64() / 60.0;
        let mut text = format!(
            "# Soak\n\n{minutes:.1} minutes, {} live WebSockets asked for, {} the aim{}, at most {} live at once. Two Envoys with a worker \
             each, two services, a Redis Cluster of six, twenty nodes.{}\n\n",
            self.wanted,
            self.sessions,
            self.limits,
            self.most_sockets(),
            if self.stopped { " Stopped before its time." } else { "" },
        );
        text += "| done, and met | times |\n|---|---|\n";
        for (name, times) in self.outages() {
            let _ = writeln!(text, "| {name} | {times} |");
        }
        for event in Event::ALL {
            let name = event.text();
            let name = if event.is_violation() { format!("**{name}**") } else { name.into() };
            let _ = writeln!(text, "| {name} | {} |", ledger.counted(event));
        }
        text += "\n| memory, MB | first quarter | last quarter | difference | most | slope, MB an hour | allowed |\n|---|---|---|---|---|---|---|\n";
        for (place, life) in self.schedule.lives.iter().enumerate() {
            let Some(trend) = life.trend(self.warm_up()) else { continue };
            let bound = match place {
                0 | 2 if trend.says_something() => format!("{:.1}", trend.bound()),
                0 | 2 => "too short to say".into(),
                _ => "not judged".into(),
            };
            let _ = writeln!(
                text,
                "| {} | {:.1} | {:.1} | {:+.1} | {:.1} | {:+.1} | {bound} |",
                life.name,
                trend.first,
                trend.last,
                trend.last - trend.first,
                trend.most,
                trend.slope
            );
        }
        let _ = writeln!(
            text,
            "\nQuarters are of the time after the warm-up, the first sixth; they are given as medians, the slope is by least squares."
        );
        let described = ledger.described();
        if !described.is_empty() {
            text += "\nWhat went wrong:\n\n";
            for (event, what) in described {
                let _ = writeln!(text, "- {}: {what}", event.text());
            }
        }
        text
    }

    fn load(&self) -> &Load {
        &self.schedule.load
    }

    fn warm_up(&self) -> Duration {
        self.schedule.length / 6
    }

    fn most_sockets(&self) -> i64 {
        self.schedule.sockets.iter().map(|(_, live)| *live).max().unwrap_or_default()
    }
}
