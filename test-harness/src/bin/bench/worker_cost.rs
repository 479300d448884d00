//! What a worker costs: the memory of an Envoy, and its start, with and without the filter, with one worker and with
//! more. Each worker has a VM of its own; so has Envoy's main thread.

use std::time::Duration;

use berth_harness::World;
use serde_json::json;

use crate::arm::{HEADER, NODES, native, ready};
use crate::report::{Report, median};

const ROUNDS: usize = 5;
const WORKERS: [u32; 2] = [1, 5];
/// Enough that each worker serves some.
const REQUESTS: usize = 500;
/// Ticks, in which the filter gets its snapshot and Envoy's allocator comes to rest.
const REST: Duration = Duration::from_secs(2);

struct Kind {
    name: &'static str,
    /// By [`WORKERS`].
    worlds: Vec<Started>,
}

struct Started {
    world: World,
    megabytes: Vec<f64>,
    start_ms: Vec<f64>,
    start_cpu_ms: Vec<f64>,
}

pub(crate) async fn measure(report: &mut Report) {
    let mut kinds =
        [Kind { name: "native ring_hash", worlds: Vec::new() }, Kind { name: "Berth", worlds: Vec::new() }];
    for kind in &mut kinds {
        for workers in WORKERS {
            let builder = match kind.name {
                "Berth" => World::builder(),
                _ => native("ring_hash.v3.RingHash"),
            };
            let world = builder.nodes(NODES).concurrency(workers).start().await;
            world.envoy(0).kill();
            kind.worlds.push(Started {
                world,
                megabytes: Vec::new(),
                start_ms: Vec::new(),
                start_cpu_ms: Vec::new(),
            });
        }
    }
    for _ in 0..ROUNDS {
        for started in kinds.iter_mut().flat_map(|kind| &mut kind.worlds) {
            started.round().await;
        }
    }
    tell(report, &kinds);
}

impl Started {
    /// One start, while none of the others runs.
    async fn round(&mut self) {
        let envoy = self.world.envoy(0);
        envoy.restart().await;
        self.start_ms.push(envoy.start_time().as_secs_f64() * 1e3);
        self.start_cpu_ms.push(envoy.cpu_time().as_secs_f64() * 1e3);
        let request = |number: usize| self.world.get("/").header(HEADER, format!("session-{number}"));
        ready(&request(0)).await;
        self.world.client().send_all((0..REQUESTS).map(request).collect()).await;
        tokio::time::sleep(REST).await;
        self.megabytes.push(envoy.resident_memory() as f64 / 1e6);
        envoy.kill();
    }

    fn medians(&self) -> [f64; 3] {
        [&self.megabytes, &self.start_ms, &self.start_cpu_ms].map(|figures| median(figures))
    }
}

fn tell(report: &mut Report, kinds: &[Kind]) {
    report.section(
        "What a worker costs Envoy",
        &format!(
            "Memory (RSS) {REST:?} after {REQUESTS} requests, and the time and CPU time from Envoy's start until its \
             listener serves,\nin steps of some 20 ms; medians of {ROUNDS} starts, of one Envoy at a time."
        ),
    );
    report.table(&["", "workers", "MB", "start, ms", "start, CPU ms"]);
    let mut json = Vec::new();
    for Kind { name, worlds } in kinds {
        for (workers, started) in WORKERS.iter().zip(worlds) {
            let [megabytes, start, cpu] = started.medians();
            report.row(&[
                name,
                &workers.to_string(),
                &format!("{megabytes:.0}"),
                &format!("{start:.0}"),
                &format!("{cpu:.0}"),
            ]);
            json.push(json!({
                "arm": name, "workers": workers, "megabytes": megabytes, "start_ms": start, "start_cpu_ms": cpu,
                "rounds": {
                    "megabytes": started.megabytes, "start_ms": started.start_ms,
                    "start_cpu_ms": started.start_cpu_ms,
                },
            }));
        }
    }
    for Kind { name, worlds } in kinds {
        let [few, many] = [&worlds[0], &worlds[1]].map(Started::medians);
        let more = f64::from(WORKERS[1] - WORKERS[0]);
        let [megabytes, _, cpu] = [0, 1, 2].map(|figure| (many[figure] - few[figure]) / more);
        report.row(&[name, "one more", &format!("{megabytes:+.1}"), "", &format!("{cpu:+.0}")]);
    }
    report.json("worker_cost", json);
}
