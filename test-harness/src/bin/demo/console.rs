//! After the story: everything stays up, and nodes can be killed and revived by typing.

use std::collections::BTreeSet;

use berth_harness::{Ports, World};
use tokio::sync::mpsc;

use crate::MOST_NODES;
use crate::crowd::Crowd;
use crate::screen::Screen;

const COMMANDS: &str = "\
Type here:  table | kill N | revive N | drain N | degrade N | undrain N | add | remove N | quit   (N counts from 1)";

/// Obeys until `quit`; without a terminal, until it is stopped.
pub(crate) async fn run(world: &World, ports: Ports, crowd: Crowd) {
    let Ports { proxy, admin, .. } = ports;
    let members: String = world.nodes().iter().map(|node| format!(" --member {}", node.name())).collect();
    println!(
        "
Everything stays up. Try in another terminal:

  curl -i 127.0.0.1:{proxy}/ -H 'x-session-id: player-1'     the header x-berth says what Berth did
  curl -i 127.0.0.1:{proxy}/ws/player-1                      the same session by path, by ?sid= or by cookie
  curl -i 127.0.0.1:{proxy}/                                 no session: any node
  curl -s 127.0.0.1:{admin}/stats/prometheus | grep ^berth   what is counted
  curl -s 127.0.0.1:{admin}/clusters | grep health_flags     what Envoy thinks of its hosts
  cargo run -q -p berth-state -- ring{members} player-1

{COMMANDS}
"
    );
    let (sender, mut lines) = mpsc::channel(1);
    std::thread::spawn(move || {
        for line in std::io::stdin().lines().map_while(Result::ok) {
            if sender.blocking_send(line).is_err() {
                return;
            }
        }
    });
    let mut down = BTreeSet::new();
    while let Some(line) = lines.recv().await {
        match obey(world, &crowd, &mut down, line.trim()).await {
            Ok(true) => return,
            Ok(false) => {}
            Err(hint) => println!("{hint}"),
        }
    }
    // No one can type: stay until somebody stops us.
    std::future::pending::<()>().await;
}

/// True to quit.
async fn obey(world: &World, crowd: &Crowd, down: &mut BTreeSet<String>, line: &str) -> Result<bool, String> {
    let words: Vec<&str> = line.split_whitespace().collect();
    match words[..] {
        [] | ["table"] => {
            let look = crowd.look(&world.client()).await;
            Screen::default().draw(world, down, &look, true);
        }
        ["quit" | "exit"] => return Ok(true),
        ["add"] if world.nodes().len() >= MOST_NODES.into() => {
            return Err(format!("there are {MOST_NODES} nodes; more have no ports"));
        }
        ["add"] => println!("{} added", world.add_node().await.name()),
        [verb, number] => {
            let index = number.parse::<usize>().ok().and_then(|number| number.checked_sub(1));
            let Some(index) = index.filter(|&index| index < world.nodes().len()) else {
                return Err(format!("{number}: must be 1 to {}", world.nodes().len()));
            };
            let node = world.node(index);
            match verb {
                "kill" => {
                    node.refuse().await;
                    down.insert(node.name().to_owned());
                }
                "revive" => {
                    node.restart().await;
                    down.remove(node.name());
                }
                "drain" => world.set_eds_health(index, "DRAINING").await,
                "degrade" => world.set_eds_health(index, "DEGRADED").await,
                "undrain" => world.set_eds_health(index, "UNKNOWN").await,
                "remove" => world.remove_node(index).await,
                _ => return Err(COMMANDS.to_owned()),
            }
            println!("{}: {verb}", node.name());
        }
        _ => return Err(COMMANDS.to_owned()),
    }
    Ok(false)
}
