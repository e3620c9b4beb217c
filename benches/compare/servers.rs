//! Runs the two compared servers as child processes.

use std::fmt;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};

use super::cases::Setting;
use super::common::process::{KillOnDrop, memory_bytes};

/// A compared server program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Program {
    Ortolan,
    LlamaServer,
}

impl fmt::Display for Program {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Ortolan => "ortolan",
            Self::LlamaServer => "llama-server",
        })
    }
}

/// Paths of the programs.
#[derive(Debug)]
pub(crate) struct Programs {
    pub(crate) llama_server: PathBuf,
}

impl Programs {
    /// The command that serves `model` on `port` with this setting and the program's defaults otherwise.
    fn command(&self, program: Program, model: &Path, setting: Setting, port: u16) -> Command {
        let Setting {
            slots,
            context,
            cache,
        } = setting;
        let mut command = Command::new(match program {
            Program::Ortolan => Path::new(env!("CARGO_BIN_EXE_ortolan")),
            Program::LlamaServer => &self.llama_server,
        });
        let mut option = |name: &str, value: usize| {
            command.args([name, &value.to_string()]);
        };
        option("--port", port.into());
        option("--parallel", slots);
        match (program, cache) {
            (Program::Ortolan, None) => option("--ctx-size", context),
            (Program::Ortolan, Some(cache)) => {
                option("--ctx-size", context);
                option("--cache-tokens", cache);
            }
            // In llama.cpp, --ctx-size is the size of the cache, which slots divide equally or share (--kv-unified).
            (Program::LlamaServer, None) => option("--ctx-size", slots * context),
            (Program::LlamaServer, Some(cache)) => {
                option("--ctx-size", cache);
                command.arg("--kv-unified");
            }
        }
        command.arg("--model").arg(model);
        command
    }

    /// The version that the program reports.
    pub(crate) fn version(&self, program: Program) -> anyhow::Result<String> {
        if program == Program::Ortolan {
            return Ok(env!("CARGO_PKG_VERSION").to_owned());
        }
        let output = Command::new(&self.llama_server).arg("--version").output()?;
        let output = [output.stderr, output.stdout].concat();
        let output = String::from_utf8_lossy(&output);
        let line = output
            .lines()
            .find_map(|line| line.strip_prefix("version:"));
        let version = line.context("llama-server --version prints no version")?;
        Ok(version.trim().to_owned())
    }
}

/// A running server; it is killed on drop.
pub(crate) struct Server {
    process: KillOnDrop,
    /// `http://host:port`
    pub(crate) address: String,
    /// Time from the start until `/health` succeeded.
    pub(crate) ready_after: Duration,
}

impl Server {
    /// Starts the server and waits until `/health` succeeds.
    pub(crate) async fn start(
        programs: &Programs,
        program: Program,
        model: &Path,
        setting: Setting,
    ) -> anyhow::Result<Self> {
        const TIMEOUT: Duration = Duration::from_secs(60);
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let mut command = programs.command(program, model, setting, port);
        // Created before the start, because it takes a while.
        let http = reqwest::Client::new();
        let start = Instant::now();
        let process = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let process = process.with_context(|| format!("cannot start {program}"))?;
        let mut server = Self {
            process: KillOnDrop(process),
            address: format!("http://127.0.0.1:{port}"),
            ready_after: Duration::ZERO,
        };
        let health = format!("{}/health", server.address);
        loop {
            if let Ok(response) = http.get(&health).send().await
                && response.status().is_success()
            {
                server.ready_after = start.elapsed();
                return Ok(server);
            }
            let exit = server.process.0.try_wait()?;
            ensure!(exit.is_none(), "{program} exited: {exit:?}");
            ensure!(
                start.elapsed() < TIMEOUT,
                "{program} is not ready after {TIMEOUT:?}"
            );
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Peak resident memory so far, in MiB.
    pub(crate) fn peak_mebibytes(&self) -> f64 {
        memory_bytes(self.process.0.id(), "VmHWM:") as f64 / f64::from(1 << 20)
    }
}
