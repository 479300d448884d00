//! What stands below the options of each command's help: examples, and what its exit code says.

/// Help with these examples.
macro_rules! help {
    ($($example:literal)+) => {
        concat!(
            "Examples:\n",
            $("  ", $example, "\n",)+
            "\nExit code: 0 done; 1 refused, or there is no such session or node; 2 the command line is wrong;\n",
            "           3 the service or its store cannot be reached"
        )
    };
}

/// The same for commands that refuse nodes of which nothing is known.
macro_rules! help_of_node {
    ($($example:literal)+) => {
        concat!(
            "Examples:\n",
            $("  ", $example, "\n",)+
            "\nExit code: 0 done; 1 refused; 2 the command line is wrong; 3 the service or its store cannot be reached;\n",
            "           5 nothing is known of such a node in this pool, and --force is not given"
        )
    };
}

pub(super) const NODES: &str = help! {
    "berth nodes                                         of which nodes something was said"
    "berth nodes --admin http://127.0.0.1:9901           all nodes of a proxy, by the cluster with the pool's name"
    "berth nodes --admin http://127.0.0.1:9901 --count   and how many sessions each has"
    "berth nodes --pool games --admin http://127.0.0.1:9901 --cluster game_servers"
};
pub(super) const INSPECT: &str = help! {
    "berth inspect ada --pool games                      by the id that clients send"
    "berth inspect --key 8b1a9953c4611296a827abf8c47804d7  by the key that events have"
};
pub(super) const DRAIN: &str = help_of_node! {
    "berth drain 10.0.0.3:8080 --note 'new kernel'"
    "berth drain 10.0.0.9:8080 --force                   before it gets its first session"
    "berth set-state 10.0.0.3:8080 active                takes it back"
};
pub(super) const FORGET: &str = help! {
    "berth forget 10.0.0.3:8080"
};
pub(super) const SET_STATE: &str = help_of_node! {
    "berth set-state 10.0.0.3:8080 standby               keeps its sessions, gets no new ones"
    "berth set-state 10.0.0.3:8080 active --note ''      as at first, without a note"
};
pub(super) const END: &str = help! {
    "berth end ada --pool games"
};
pub(super) const IMPORT: &str = "\
Examples:
  berth import --pool games --ttl 2h sessions.txt     lines such as: ada 10.0.0.1:8080
  tail -F access.log | berth import --pool games      until it is ended
  berth import --pool games --replace sessions.txt    also moves sessions that have another pin

Exit code: 0 done; 1 refused, or lines were left out; 2 the command line is wrong; 3 the service or its store could not be
           reached in the first 10s; later it is tried again; 143 SIGTERM, 130 SIGINT: what was read before is imported";
pub(super) const WATCH: &str = help! {
    "berth watch"
    "berth watch --limit 10 --format json | jq .node     the next ten, for a script"
};
pub(super) const LEAVE: &str = "\
Examples:
  berth leave --node 10.0.0.3:8080 --pool games --deadline 5m
  POD_IP=10.0.0.3 PORT=8080 BERTH_POOL=games,chat berth leave
  berth leave --node 10.0.0.3:8080 --pool games --undo   it stays, and gets new sessions again

Exit code: 0 it has no sessions left; 1 refused until the deadline; 2 the command line is wrong; 3 the service did not answer
           before the deadline: the node is not draining in each pool; 4 it still has sessions at the deadline, or they could
           not be counted; 5 nothing is known of such a node; 143 SIGTERM, 130 SIGINT";
pub(super) const JOIN: &str = "\
Examples:
  berth join --node 10.0.0.3:8080 --pool games
  POD_IP=10.0.0.3 PORT=8080 BERTH_POOL=games,chat berth join

Exit code: 0 done, or the service did not answer or refused, which is a warning; 2 the command line is wrong";
