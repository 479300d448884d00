//! After the story: everything stays up, and nodes and the state service can be killed and revived by typing.

use std::collections::BTreeSet;

use berth_harness::{Ports, World, root};
use tokio::sync::mpsc;

use crate::NODE_PORTS;
use crate::crowd::{By, Crowd};
use crate::identity::Identity;
use crate::issuer::TokenIssuer;
use crate::screen::Screen;
use crate::session::Session;
use crate::stage::{SESSIONS, names};

const COMMANDS: &str = "\
Type here:  table | kill N | revive N | drain N | degrade N | undrain N | add | remove N
            state off | state on | quit                                        (N counts from 1)";
/// With `--jwt`.
const ISSUER_COMMANDS: &str = "            issuer off | issuer on | rotate";

/// Obeys until `quit`; without a terminal, until it is stopped.
pub(crate) async fn run(world: &World, identity: &Identity, ports: Ports) {
    println!("{}\n{}\n", advice(world, identity, ports), commands(identity));
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
        match obey(world, identity, &mut down, line.trim()).await {
            Ok(true) => return,
            Ok(false) => {}
            Err(hint) => println!("{hint}"),
        }
    }
    // No one can type: stay until somebody stops us.
    std::future::pending::<()>().await;
}

fn commands(identity: &Identity) -> String {
    match identity {
        Identity::Header => COMMANDS.to_owned(),
        Identity::Token(_) => format!("{COMMANDS}\n{ISSUER_COMMANDS}"),
    }
}

/// What to try in another terminal.
fn advice(world: &World, identity: &Identity, Ports { proxy, admin, state, first_node }: Ports) -> String {
    let berth = std::env::current_exe().map(|demo| demo.with_file_name("berth")).unwrap_or_default();
    let berth = berth.strip_prefix(root()).unwrap_or(&berth).display();
    let server = match state {
        None | Some(8650) => String::new(),
        Some(port) => format!("  export BERTH_SERVER=http://127.0.0.1:{port}\n"),
    };
    let visits = match identity {
        Identity::Header => by_header(proxy),
        Identity::Token(issuer) => by_token(proxy, issuer),
    };
    let last_node = usize::from(first_node) + names(world).len() - 1;
    format!(
        "
Everything stays up. Try in another terminal:

{visits}
{server}  {berth} inspect player-1           its pin
  {berth} drain 127.0.0.1:{first_node}       keeps its sessions, gets no new ones
  {berth} nodes                      what operators and proxies say of nodes
  {berth} watch                      sessions that are rehomed, as it happens
  {berth} ring $(printf ' --member 127.0.0.1:%s' {{{first_node}..{last_node}}}) player-1

  curl -s 127.0.0.1:{admin}/stats/prometheus | grep ^berth  what is counted
  http://127.0.0.1:{admin}                                  Envoy's admin interface
"
    )
}

fn by_header(proxy: u16) -> String {
    format!(
        "\
  curl -i 127.0.0.1:{proxy}/ -H 'x-session-id: player-1'    the header x-berth says what Berth did
  curl -i 127.0.0.1:{proxy}/ -H 'x-session-id: player-1' -H 'x-native: 1'    native ring_hash
  curl -i 127.0.0.1:{proxy}/ws/player-1                     the same session by path, ?sid=, cookie
  curl -i 127.0.0.1:{proxy}/                                no session: any node
"
    )
}

fn by_token(proxy: u16, issuer: &TokenIssuer) -> String {
    format!(
        "\
{}
  curl -i 127.0.0.1:{proxy}/ -H \"authorization: Bearer $TOKEN\"      the header x-berth says what Berth did
  curl -i 127.0.0.1:{proxy}/ -H \"authorization: Bearer $TOKEN\" -H 'x-native: 1'    jwt_authn + ring_hash
  curl -i 127.0.0.1:{proxy}/ -H \"authorization: Bearer $EXPIRED\"    401, and says why
  curl -i 127.0.0.1:{proxy}/ -H 'x-session-id: player-1'            names no session: any node
",
        tokens(issuer)
    )
}

/// Those of `player-1`, to be pasted into a shell.
fn tokens(issuer: &TokenIssuer) -> String {
    let player = Session::new("player-1");
    format!("  TOKEN={}\n\n  EXPIRED={}\n", issuer.token(&player), issuer.expired(&player.id))
}

/// True to quit.
async fn obey(
    world: &World,
    identity: &Identity,
    down: &mut BTreeSet<String>,
    line: &str,
) -> Result<bool, String> {
    let words: Vec<&str> = line.split_whitespace().collect();
    match words[..] {
        [] | ["table"] => {
            let (crowd, client) = (Crowd::named(identity, "player", SESSIONS), world.client());
            let [berth, native] =
                [crowd.look(&client, By::Berth).await, crowd.look(&client, By::Native).await];
            Screen::new(identity.native()).draw(world, down, &berth, &native, true);
        }
        ["quit" | "exit"] => return Ok(true),
        ["state", "off"] => {
            world.state(0).kill();
            println!("the state service is killed");
        }
        ["state", "on"] => {
            if !world.state(0).runs() {
                world.state(0).restart().await;
            }
            println!("the state service runs");
        }
        ["rotate"] | ["issuer", "off" | "on"] => {
            let issuer = identity.issuer().ok_or("there is no issuer: start the demo with --jwt")?;
            command(issuer, words[words.len() - 1]).await;
        }
        ["add"] if world.nodes().len() >= NODE_PORTS.into() => {
            return Err(format!("there are {NODE_PORTS} nodes; more have no ports"));
        }
        ["add"] => println!("{} added", world.add_node().await.name()),
        [verb, number] => {
            let index = number.parse::<usize>().ok().and_then(|number| number.checked_sub(1));
            let Some(index) = index.filter(|&index| index < world.nodes().len()) else {
                return Err(format!("{number}: must be 1 to {}", world.nodes().len()));
            };
            change(world, down, verb, index).await?;
        }
        _ => return Err(COMMANDS.to_owned()),
    }
    Ok(false)
}

/// Does something to the issuer.
async fn command(issuer: &TokenIssuer, verb: &str) {
    match verb {
        "off" => {
            issuer.leave().await;
            println!("the issuer is away");
        }
        "on" => {
            issuer.come_back().await;
            println!("the issuer is back");
        }
        _ => {
            issuer.publish_next();
            issuer.sign_with_next();
            println!(
                "a new key signs; tokens by the former one are good until the next rotation, which should wait 5 s\n\n{}",
                tokens(issuer)
            );
        }
    }
}

/// Does something to a node.
async fn change(world: &World, down: &mut BTreeSet<String>, verb: &str, index: usize) -> Result<(), String> {
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
        "drain" => return operate(world, &["drain", node.name()]).await,
        "degrade" => return operate(world, &["set-state", node.name(), "degraded"]).await,
        "undrain" => return operate(world, &["set-state", node.name(), "active"]).await,
        "remove" => world.remove_node(index).await,
        _ => return Err(COMMANDS.to_owned()),
    }
    println!("{}: {verb}", node.name());
    Ok(())
}

/// Runs an operator's command, and shows it.
async fn operate(world: &World, arguments: &[&str]) -> Result<(), String> {
    println!("$ berth {}", arguments.join(" "));
    println!("{}", world.state(0).operate(arguments).await?);
    Ok(())
}
