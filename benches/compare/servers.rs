//! The two programs that are compared, as processes of their own.

use std::fmt;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};

use super::cases::Setting;

/// Which program.
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

/// Where they are.
#[derive(Debug)]
pub(crate) struct Programs {
    pub(crate) llama_server: PathBuf,
}

impl Programs {
    /// The command line that serves `model` at `port` as `setting` has it: each program's defaults, but for what the setting
    /// says.
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
            // There it is the cache, which the slots have equal parts of, or all together.
            (Program::LlamaServer, None) => option("--ctx-size", slots * context),
            (Program::LlamaServer, Some(cache)) => {
                option("--ctx-size", cache);
                command.arg("--kv-unified");
            }
        }
        command.arg("--model").arg(model);
        command
    }

    /// What the program says of its version.
    pub(crate) fn version(&self, program: Program) -> anyhow::Result<String> {
        if program == Program::Ortolan {
            return Ok(env!("CARGO_PKG_VERSION").to_owned());
        }
        let output = Command::new(&self.llama_server).arg("--version").output()?;
        let told = [output.stderr, output.stdout].concat();
        let told = String::from_utf8_lossy(&told);
        let line = told.lines().find_map(|line| line.strip_prefix("version:"));
        let version = line.context("llama-server says its version")?;
        Ok(version.trim().to_owned())
    }
}

/// One that runs; it ends with this value.
pub(crate) struct Server {
    process: Child,
    /// `http://host:port`
    pub(crate) address: String,
    /// From its start until it served.
    pub(crate) ready_after: Duration,
}

impl Server {
    /// Starts it and waits until `/health` says that it serves.
    pub(crate) async fn start(
        programs: &Programs,
        program: Program,
        model: &Path,
        setting: Setting,
    ) -> anyhow::Result<Self> {
        const PATIENCE: Duration = Duration::from_secs(60);
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let mut command = programs.command(program, model, setting, port);
        // Before: it takes a processor for a while.
        let http = reqwest::Client::new();
        let start = Instant::now();
        let process = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let process = process.with_context(|| format!("{program} does not start"))?;
        let mut server = Self {
            process,
            address: format!("http://127.0.0.1:{port}"),
            ready_after: Duration::ZERO,
        };
        let health = format!("{}/health", server.address);
        loop {
            if let Ok(answer) = http.get(&health).send().await
                && answer.status().is_success()
            {
                server.ready_after = start.elapsed();
                return Ok(server);
            }
            let ended = server.process.try_wait()?;
            ensure!(ended.is_none(), "{program} ended: {ended:?}");
            ensure!(start.elapsed() < PATIENCE, "{program} does not serve");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// The most memory that it had resident so far, in MiB.
    pub(crate) fn peak_mebibytes(&self) -> anyhow::Result<f64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process.id()))?;
        let line = status.lines().find(|line| line.starts_with("VmHWM:"));
        let kibibytes = line.and_then(|line| line.split_whitespace().nth(1));
        Ok(kibibytes.context("it runs")?.parse::<f64>()? / 1024.0)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself; either way it is gone afterwards.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
