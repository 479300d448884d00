//! A state service to ask, and how to print what it says.

use std::io::{self, Write};
use std::time::Duration;

use berth_core::wire::{ApiRequest, PoolName};
use berth_state::given::Fault;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::arguments::Server;
use super::client::{Client, Failure};
use crate::format::Format;

/// Where to ask, and how to print.
pub(super) struct Asked {
    client: Client,
    pub(super) pool: PoolName,
    pub(super) format: Format,
}

impl Asked {
    pub(super) fn new(server: &Server, faults: &mut Vec<Fault>) -> Option<Self> {
        let (client, pool, format) = (server.client(faults), server.pool(faults), server.format(faults));
        Some(Self { client: client?, pool: pool?, format: format? })
    }

    pub(super) fn pool(&self) -> &str {
        self.pool.as_str()
    }

    pub(super) async fn send<T: DeserializeOwned>(&self, request: &ApiRequest) -> Result<T, Failure> {
        ask(&self.client, request).await
    }

    pub(super) async fn send_within<T: DeserializeOwned>(
        &self,
        time: Duration,
        request: &ApiRequest,
    ) -> Result<T, Failure> {
        ask_within(&self.client, time, request).await
    }

    pub(super) fn print<T: Serialize>(&self, value: &T, text: impl Fn(&T) -> String) -> Result<(), Failure> {
        let mut out = io::stdout().lock();
        let text = match self.format {
            Format::Json => line(value)?,
            Format::Text => text(value),
        };
        out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(Failure::Output)
    }

    pub(super) fn print_all<T: Serialize>(
        &self,
        values: &[T],
        text: impl Fn(&[T]) -> String,
    ) -> Result<(), Failure> {
        let all = match self.format {
            Format::Json => values.iter().map(line).collect::<Result<_, _>>()?,
            Format::Text => text(values),
        };
        let mut out = io::stdout().lock();
        out.write_all(all.as_bytes()).and_then(|()| out.flush()).map_err(Failure::Output)
    }
}

/// Sends a request and reads the answer.
pub(super) async fn ask<T: DeserializeOwned>(client: &Client, request: &ApiRequest) -> Result<T, Failure> {
    let ApiRequest { method, path, body } = request;
    read(&client.ask(method, path, body).await?)
}

/// The same, in so much time.
pub(super) async fn ask_within<T: DeserializeOwned>(
    client: &Client,
    time: Duration,
    request: &ApiRequest,
) -> Result<T, Failure> {
    let ApiRequest { method, path, body } = request;
    read(&client.ask_within(time, method, path, body).await?)
}

/// A page of something in between, such as a maintenance page with status 200, is no answer of the service.
fn read<T: DeserializeOwned>(body: &[u8]) -> Result<T, Failure> {
    serde_json::from_slice(body)
        .map_err(|error| Failure::Unreachable(format!("the answer is not that of a state service: {error}")))
}

fn line(value: &impl Serialize) -> Result<String, Failure> {
    let text = serde_json::to_string(value).map_err(|error| Failure::Refused(error.to_string()))?;
    Ok(text + "\n")
}
