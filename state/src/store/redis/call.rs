//! What is sent and what comes back: scripts by hash or by text, `WAIT` behind them, and what an error means.

use std::time::Duration;

use redis::{Cmd, ErrorKind, Pipeline, RedisError, ServerError, ServerErrorKind, Value};

use super::format;
use super::layout::Shard;
use super::replicas::Replicated;
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

    pub(super) fn is_script(&self) -> bool {
        self.script.is_some()
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
    /// Given up after this time it counts as one without an answer; sooner, its caller went away.
    pub(super) late: Duration,
    /// It finds out whether the server answers, so it is sent also to one that did not lately.
    pub(super) is_probe: bool,
}

impl Call {
    pub(super) fn new(steps: impl IntoIterator<Item = Step>, wait: Option<Duration>, late: Duration) -> Self {
        let (mut pipeline, mut scripts) = (Pipeline::new(), Vec::new());
        for step in steps {
            pipeline.add_command(step.command);
            scripts.push(step.script);
        }
        let mut call = Self { pipeline, scripts, wait, late, is_probe: false };
        call.add_wait();
        call
    }

    /// The same, also for a server that did not answer lately.
    pub(super) fn into_probe(self) -> Self {
        Self { is_probe: true, ..self }
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

    /// The steps whose scripts the server does not know, by text, and their places. Only those: a step that it carried out,
    /// because another call loaded the script meanwhile, would be answered a second time, and say found instead of claimed or
    /// rehomed.
    pub(super) fn unknown(&self, answers: &Answers) -> Option<(Vec<usize>, Self)> {
        let places: Vec<usize> = (0..)
            .zip(&answers.values)
            .filter(|(_, value)| is_no_script(value))
            .map(|(place, _)| place)
            .collect();
        let again = (!places.is_empty()).then(|| self.again(&places));
        again.map(|again| (places, again))
    }

    /// The steps of these places, by text.
    pub(super) fn again(&self, places: &[usize]) -> Self {
        let mut pipeline = Pipeline::new();
        for (_, command) in (0..).zip(self.commands_by_text()).filter(|(place, _)| places.contains(place)) {
            pipeline.add_command(command);
        }
        let mut call = Self { pipeline, scripts: vec![None; places.len()], ..*self };
        call.add_wait();
        call
    }

    /// The same for the server that is taking over their slot: each after `ASKING`, and without waiting for a replica.
    pub(super) fn asking(&self) -> Self {
        let mut pipeline = Pipeline::new();
        let mut scripts = Vec::new();
        for command in self.commands_by_text() {
            pipeline.add_command(redis::cmd("ASKING")).add_command(command);
            scripts.extend([None, None]);
        }
        Self { pipeline, scripts, wait: None, ..*self }
    }

    pub(super) fn answers(&self, mut values: Vec<Value>) -> Answers {
        let said = |value| match value {
            Some(Value::Int(replicas)) if replicas > 0 => Replicated::Confirmed,
            Some(Value::ServerError(error)) => Replicated::Refused(text_of(&error)),
            _ => Replicated::Silent,
        };
        let replicated = self.wait.map(|_| said(values.pop()));
        Answers { values, replicated }
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
    /// What replicas said; `None` if they were not asked.
    pub(super) replicated: Option<Replicated>,
}

impl Answers {
    /// With the answers to the steps that were sent once more.
    pub(super) fn with(mut self, places: &[usize], again: Self) -> Self {
        for (place, value) in places.iter().zip(again.values) {
            if let Some(answer) = self.values.get_mut(*place) {
                *answer = value;
            }
        }
        // Said last, on the same connection: it speaks of all of them.
        Self { replicated: again.replicated, ..self }
    }

    /// Whether a replica confirmed; `None` if none was asked.
    pub(super) fn durable(&self) -> Option<bool> {
        self.replicated.as_ref().map(|replicated| *replicated == Replicated::Confirmed)
    }
}

fn is_no_script(value: &Value) -> bool {
    matches!(value, Value::ServerError(error) if error.kind() == Some(ServerErrorKind::NoScript))
}

pub(super) fn server_error(value: &Value) -> Option<StoreError> {
    let Value::ServerError(error) = value else { return None };
    Some(said(error.code(), error.details()))
}

fn text_of(error: &ServerError) -> String {
    format!("{} {}", error.code(), error.details().unwrap_or_default())
}

fn said(code: &str, details: Option<&str>) -> StoreError {
    if code == format::CODE {
        return format::newer_by_script(details.unwrap_or_default());
    }
    let message = format!("{code} {}", details.unwrap_or_default());
    let is_away = STATES.contains(&code) || OF_A_SLOT.contains(&code);
    if is_away { StoreError::Unreachable(message) } else { StoreError::Refused(message) }
}

/// The answers, or the first refusal among them. What is of a newer format is that step's matter: the others stand.
pub(super) fn accepted(answers: Answers) -> Result<Answers, StoreError> {
    match answers.values.iter().filter(|value| !is_newer(value)).find_map(server_error) {
        Some(refusal) => Err(refusal),
        None => Ok(answers),
    }
}

/// The answers, if none of their steps met a newer format.
pub(super) fn all_read(answers: Answers) -> Result<Answers, StoreError> {
    match answers.values.iter().find_map(server_error) {
        Some(refusal) => Err(refusal),
        None => Ok(answers),
    }
}

fn is_newer(value: &Value) -> bool {
    matches!(value, Value::ServerError(error) if error.code() == format::CODE)
}

pub(super) fn failure(error: &RedisError) -> StoreError {
    match error.kind() {
        _ if error.is_timeout() => StoreError::Timeout,
        ErrorKind::Io => StoreError::Unreachable(error.to_string()),
        _ => match error.code() {
            Some(code) => said(code, error.detail()),
            None => StoreError::Refused(error.to_string()),
        },
    }
}

/// The server as a whole cannot serve now: another would have to answer, or this one later.
pub(super) fn is_servers_state(value: &Value) -> bool {
    matches!(value, Value::ServerError(error) if STATES.contains(&error.code()))
}

/// Codes that name a slot: the server answers for others.
pub(super) fn slot_error(value: &Value) -> Option<&ServerError> {
    match value {
        Value::ServerError(error) if OF_A_SLOT.contains(&error.code()) => Some(error),
        _ => None,
    }
}

/// Codes of a server that cannot serve now, whatever it is asked. A primary that is fenced off (`NOREPLICAS`), cannot save
/// (`MISCONF`) or is occupied by a script (`BUSY`) may have been replaced behind its name, just as one that became a replica.
const STATES: [&str; 6] = ["READONLY", "LOADING", "MASTERDOWN", "NOREPLICAS", "MISCONF", "BUSY"];
/// Codes of a server that does not serve one slot.
const OF_A_SLOT: [&str; 4] = ["MOVED", "ASK", "TRYAGAIN", "CLUSTERDOWN"];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::redis::scripts;

    #[test]
    fn only_what_was_not_carried_out_is_sent_again() {
        let steps = ["a", "b", "c"].map(|key| Step::script(&scripts::END, &[key.to_owned()]));
        let call = Call::new(steps, None, Duration::ZERO);
        let no_script = || redis::parse_redis_value(b"-NOSCRIPT No matching script.\r\n").unwrap();
        let answers = call.answers(vec![no_script(), Value::Int(1), no_script()]);

        let (places, again) = call.unknown(&answers).unwrap();

        assert_eq!(places, [0, 2]);
        let sent: Vec<Vec<u8>> = again.pipeline.cmd_iter().map(Cmd::get_packed_command).collect();
        assert_eq!(sent.len(), 2);
        for (command, key) in sent.iter().zip(["a", "c"]) {
            let text = String::from_utf8_lossy(command);
            assert!(text.contains("EVAL\r\n") && text.ends_with(&format!("\r\n{key}\r\n")), "{text}");
        }
        let all = answers.with(&places, again.answers(vec![Value::Int(2), Value::Int(3)]));
        assert_eq!(all.values, [Value::Int(2), Value::Int(1), Value::Int(3)]);
        assert!(call.unknown(&all).is_none());
    }
}
