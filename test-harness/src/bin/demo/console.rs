//! After the story: everything stays up, and nodes and the state service can be killed and revived by typing.

use berth_harness::{Ports, World, root};
use tokio::sync::mpsc;

use crate::crowd::By;
use crate::identity::Identity;
use crate::issuer::TokenIssuer;
use crate::native::MINIMUM_RING_SIZE;
use crate::stage::names;
use crate::verbs::{Ran, Scene, VERBS};

/// Obeys until `quit`; without a terminal, until it is stopped.
pub(crate) async fn run(world: &World, identity: &Identity, ports: Ports) {
    let mut scene = Scene::new(world, identity);
    let look = scene.crowd.look(&world.client(), By::Berth).await;
    // Not the one that the story killed: it has no sessions yet.
    let names = names(world);
    let (number, fullest) = (1..).zip(&names).max_by_key(|(_, name)| look.count_on(name)).expect("nodes");
    println!(
        "{}
Type here (N counts from 1):  {}
Try `kill {number}`: that node has {} of {} sessions.
",
        advice(&scene, ports, fullest),
        commands(identity).join(" | "),
        look.count_on(fullest),
        scene.crowd.len(),
    );
    let (sender, mut lines) = mpsc::channel(1);
    std::thread::spawn(move || {
        for line in std::io::stdin().lines().map_while(Result::ok) {
            if sender.blocking_send(line).is_err() {
                return;
            }
        }
    });
    while let Some(line) = lines.recv().await {
        match scene.obey(&line).await {
            Ok(Ran::Quit) => return,
            Ok(Ran::Done(said)) => println!("{said}"),
            Ok(Ran::Unknown(verb)) => {
                println!("unknown command {verb:?}; commands: {}", commands(identity).join(", "));
            }
            Err(hint) => println!("{hint}"),
        }
    }
    // No one can type: stay until somebody stops us.
    std::future::pending::<()>().await;
}

/// What can be typed.
fn commands(identity: &Identity) -> Vec<&'static str> {
    let has_issuer = identity.issuer().is_some();
    VERBS.iter().filter(|verb| has_issuer || !verb.of_issuer).map(|verb| verb.usage).collect()
}

/// What to try in another terminal.
fn advice(scene: &Scene<'_>, ports: Ports, fullest: &str) -> String {
    let Scene { world, identity, .. } = scene;
    let Ports { proxy, admin, state, first_node } = ports;
    let berth = std::env::current_exe().map(|demo| demo.with_file_name("berth")).unwrap_or_default();
    let berth = berth.strip_prefix(root()).unwrap_or(&berth).display();
    let server = match state {
        None => String::new(),
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
  {berth} nodes --admin http://127.0.0.1:{admin} --count    all nodes: Envoy's view, what is on record, their sessions
  {berth} drain {fullest}       keeps its sessions, gets no new ones
  {berth} watch                      sessions that are rehomed, as it happens
  {berth} help                       what else there is; `help VERB` has an example of each
  {berth} ring --minimum-ring-size {MINIMUM_RING_SIZE} $(printf ' --member 127.0.0.1:%s' {{{first_node}..{last_node}}}) player-1

  curl -s 127.0.0.1:{admin}/stats/prometheus | grep ^berth  what is counted
  http://127.0.0.1:{admin}                                  Envoy's admin interface
"
    )
}

fn by_header(proxy: u16) -> String {
    format!(
        "  curl -i 127.0.0.1:{proxy}/ -H 'x-session-id: player-1'    the header x-berth says what Berth did
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
        issuer.for_shell()
    )
}
