//! What a running Envoy uses, as Linux tells it in /proc. For `BERTH_HARNESS=process`: a container's command is not Envoy.

use std::process::Child;
use std::time::Duration;

use super::Envoy;

/// `sysconf(_SC_CLK_TCK)` is 100 on every Linux that Envoy is released for.
const TICKS_PER_SECOND: u64 = 100;

impl Envoy {
    /// The CPU time it has used, user and system.
    ///
    /// # Panics
    /// If it does not run, or /proc cannot tell.
    pub fn cpu_time(&self) -> Duration {
        let stat = self.proc("stat");
        // Fields 14 and 15; field 2, the name in parentheses, may hold blanks.
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        let ticks: u64 = fields[11..13].iter().map(|field| field.parse::<u64>().expect("a number")).sum();
        Duration::from_millis(ticks * 1000 / TICKS_PER_SECOND)
    }

    /// The CPU time of its main thread, and that of all others together, to the nanosecond.
    ///
    /// # Panics
    /// If it does not run, or /proc cannot tell.
    pub fn thread_times(&self) -> (Duration, Duration) {
        let pid = self.pid();
        let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).expect("/proc tells of a running child");
        let (mut main, mut others) = (Duration::ZERO, Duration::ZERO);
        for task in tasks.flatten() {
            // A thread may have ended meanwhile.
            let Ok(stat) = std::fs::read_to_string(task.path().join("schedstat")) else { continue };
            let nanoseconds = stat.split_whitespace().next().and_then(|field| field.parse().ok());
            let time = Duration::from_nanos(nanoseconds.expect("the time on a processor"));
            if task.file_name().to_str() == Some(&pid.to_string()) { main += time } else { others += time }
        }
        (main, others)
    }

    /// The memory it has in use (RSS), in bytes.
    ///
    /// # Panics
    /// If it does not run, or /proc cannot tell.
    pub fn resident_memory(&self) -> u64 {
        crate::process::resident_memory(self.pid()).expect("a line VmRSS")
    }

    /// How long its last start took, until its listener served, in steps of some 20 ms.
    pub fn start_time(&self) -> Duration {
        self.state.lock().unwrap().start_time
    }

    pub(super) fn pid(&self) -> u32 {
        self.state.lock().unwrap().child.as_ref().map(Child::id).expect("this Envoy is killed")
    }

    fn proc(&self, file: &str) -> String {
        std::fs::read_to_string(format!("/proc/{}/{file}", self.pid()))
            .expect("/proc tells of a running child")
    }
}
