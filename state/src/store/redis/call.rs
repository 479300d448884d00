//! What is sent and what comes back: scripts by hash or by text, `WAIT` behind them, and what an error means.

use std::time::Duration;

use redis::{Cmd, ErrorKind, Pipeline, RedisError, ServerErrorKind, Value};

use super::layout::Shard;
use super::scripts::Named;
use crate::store::StoreError;

/// One command or script call.
pub(super) struct Step {
    command: Cmd,
    script: Option<&'static Named>,
}

impl Step {
    pub(super) fn command(name: &str) -> Self {
        Self { command: redis::cmd(name), script: None }
    }

    pub(super) fn script(script: &'static Named, keys: &[String]) -> Self {
        let mut command = redis::cmd("EVALSHA");
        command.arg(&script.hash).arg(keys.len()).arg(keys);
        Self { command, script: Some(script) }
    }

    pub(super) fn arg(mut self, argument: impl redis::ToRedisArgs) -> Self {
        self.command.arg(argument);
        self
    }
}

/// Steps as they are sent: by hash, and once more by text to a server that does not know the scripts.
pub(super) struct Call {
    pub(super) pipeline: Pipeline,
    /// One for each step.
    scripts: Vec<Option<&'static Named>>,
    wait: Option<Duration>,
}

impl Call {
    pub(super) fn new(steps: impl IntoIterator<Item = Step>, wait: Option<Duration>) -> Self {
        let (mut pipeline, mut scripts) = (Pipeline::new(), Vec::new());
        for step in steps {
            pipeline.add_command(step.command);
            scripts.push(step.script);
        }
        let mut call = Self { pipeline, scripts, wait };
        call.add_wait();
        call
    }

    /// `WAIT` as the last command: on one connection it speaks of all writes before it.
    fn add_wait(&mut self) {
        if let Some(wait) = self.wait {
            self.pipeline.cmd("WAIT").arg(1).arg(wait.as_millis().max(1) as u64);
        }
    }

    /// Each script by its text, which also teaches it to the server.
    pub(super) fn commands_by_text(&self) -> impl Iterator<Item = Cmd> {
        self.pipeline.cmd_iter().zip(&self.scripts).map(|(by_hash, script)| {
            let Some(script) = script else { return by_hash.clone() };
            let mut command = redis::cmd("EVAL");
            command.arg(script.text);
            for argument in by_hash.args_iter().skip(2) {
                if let redis::Arg::Simple(bytes) = argument {
                    command.arg(bytes);
                }
            }
            command
        })
    }

    pub(super) fn by_text(&self) -> Self {
        let mut pipeline = Pipeline::new();
        for command in self.commands_by_text() {
            pipeline.add_command(command);
        }
        let mut call = Self { pipeline, scripts: vec![None; self.scripts.len()], wait: self.wait };
        call.add_wait();
        call
    }

    pub(super) fn answers(&self, mut values: Vec<Value>) -> Answers {
        let confirmed = |value| matches!(value, Some(Value::Int(replicas)) if replicas > 0);
        let durable = self.wait.map(|_| confirmed(values.pop()));
        Answers { values, durable }
    }
}

/// Steps of one shard, in order.
pub(super) struct Group {
    pub(super) shard: Shard,
    pub(super) steps: Vec<Step>,
}

/// What became of a group.
pub(super) struct Answers {
    /// One for each step.
    pub(super) values: Vec<Value>,
    /// Whether a replica confirmed; `None` if nobody asked it.
    pub(super) durable: Option<bool>,
}

pub(super) fn is_no_script(value: &Value) -> bool {
    matches!(value, Value::ServerError(error) if error.kind() == Some(ServerErrorKind::NoScript))
}

pub(super) fn server_error(value: &Value) -> Option<StoreError> {
    let Value::ServerError(error) = value else { return None };
    let message = format!("{} {}", error.code(), error.details().unwrap_or_default());
    Some(if error.kind().is_some_and(is_away) {
        StoreError::Unreachable(message)
    } else {
        StoreError::Refused(message)
    })
}

pub(super) fn refused(answers: &Answers) -> Result<(), StoreError> {
    answers.values.iter().find_map(server_error).map_or(Ok(()), Err)
}

pub(super) fn failure(error: &RedisError) -> StoreError {
    match error.kind() {
        _ if error.is_timeout() => StoreError::Timeout,
        ErrorKind::Io | ErrorKind::ClusterConnectionNotFound => StoreError::Unreachable(error.to_string()),
        ErrorKind::Server(kind) if is_away(kind) => StoreError::Unreachable(error.to_string()),
        _ => StoreError::Refused(error.to_string()),
    }
}

/// Another server would have to answer, or this one later.
fn is_away(kind: ServerErrorKind) -> bool {
    matches!(
        kind,
        ServerErrorKind::ReadOnly
            | ServerErrorKind::BusyLoading
            | ServerErrorKind::MasterDown
            | ServerErrorKind::ClusterDown
            // Followed as often as the library does, to a primary that is not there.
            | ServerErrorKind::Moved
            | ServerErrorKind::Ask
            | ServerErrorKind::TryAgain
    )
}
