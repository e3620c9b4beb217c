//! Runs the server as a child process, for benches that measure its latency, memory and responses.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, ensure};
use futures_util::StreamExt;
use ortolan_client::Client;
use serde_json::Value;

use crate::common::process::{KillOnDrop, memory_bytes};

/// A running server; it is killed on drop.
pub(crate) struct Program {
    process: KillOnDrop,
    /// `http://host:port`
    pub(crate) address: String,
}

impl Program {
    /// Starts the server on a free port and waits until its model is loaded.
    pub(crate) async fn start(model: &Path, options: &[&str]) -> anyhow::Result<Self> {
        let mut process = Command::new(env!("CARGO_BIN_EXE_ortolan"))
            .arg("-m")
            .arg(model)
            .args(["--port", "0"])
            .args(options)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()?;
        let stderr = process.stderr.take().context("the log is not piped")?;
        let mut lines = BufReader::new(stderr).lines();
        let address = lines
            .by_ref()
            .map_while(Result::ok)
            .find_map(|line| {
                let line: Value = serde_json::from_str(&line).ok()?;
                line["address"].as_str().map(str::to_owned)
            })
            .context("the server exited before it listened")?;
        // The log must be read, so that the server does not block on a full pipe.
        std::thread::spawn(move || lines.map_while(Result::ok).for_each(drop));
        let process = KillOnDrop(process);
        let program = Self { process, address };
        while !program
            .client()
            .health(None, None)
            .await
            .is_ok_and(|health| health.status() == 200)
        {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(program)
    }

    /// A client without a timeout.
    pub(crate) fn client(&self) -> Client {
        Client::new_with_client(&self.address, reqwest::Client::new())
    }

    /// The process id.
    pub(crate) fn id(&self) -> u32 {
        self.process.0.id()
    }

    /// Resident memory in bytes.
    pub(crate) fn resident_bytes(&self) -> u64 {
        memory_bytes(self.id(), "VmRSS:")
    }
}

/// Sends a streamed request and reads up to `events` events. Dropping the future disconnects the client.
pub(crate) async fn read_events(
    client: &Client,
    body: &Value,
    events: usize,
) -> anyhow::Result<()> {
    let request = serde_json::from_value(body.clone())?;
    let response = client.completion_stream(&request).await?;
    ensure!(
        response.status() == 200,
        "the stream failed: {}",
        response.status()
    );
    let mut stream = response.into_inner().into_inner();
    for _ in 0..events {
        if stream.next().await.transpose()?.is_none() {
            break;
        }
    }
    Ok(())
}
