//! Where log lines and traces go. What is told is `tracing`'s: lines from everywhere, the spans of requests and
//! generations from `server` and `model`.

mod queue;

use std::env;
use std::io::IsTerminal;

use anyhow::{Context, ensure};
use opentelemetry::KeyValue;
use opentelemetry::trace::TracerProvider;
use opentelemetry_otlp::{Protocol, SpanExporter, WithExportConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::SdkTracerProvider;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Registry};

use crate::cli::LogFormat;
use queue::LineQueue;

/// Where a collector takes traces, below its address (the OTLP specification's default).
const TRACES_PATH: &str = "/v1/traces";

/// Begun logging. What is still to be written and exported goes out when it is dropped.
pub struct Logging {
    lines: LineQueue,
    traces: Option<SdkTracerProvider>,
}

impl Logging {
    /// Log lines go to standard error; `RUST_LOG` chooses which. Traces go to the collector at `collector`, an
    /// `http` address, in OTLP's binary form.
    ///
    /// # Errors
    /// The collector's address is none.
    pub fn start(format: LogFormat, collector: Option<&str>) -> anyhow::Result<Self> {
        let provider = collector.map(provider).transpose()?;
        let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
        let queue = LineQueue::new(std::io::stderr(), |lines| {
            tracing::warn!(lines, "log lines were dropped: they were read too slowly");
        });
        let writer = queue.clone();
        let lines = tracing_subscriber::fmt::layer()
            .with_writer(move || writer.clone())
            // It would say on standard error that standard error is closed.
            .log_internal_errors(false);
        let lines: Box<dyn Layer<Registry> + Send + Sync> = match format {
            LogFormat::Json => {
                let lines = lines.json().flatten_event(true).with_span_list(false);
                lines.with_filter(filter).boxed()
            }
            LogFormat::Text => {
                let lines = lines.with_ansi(std::io::stderr().is_terminal());
                lines.with_filter(filter).boxed()
            }
        };
        let traces = provider.as_ref().map(|provider| {
            // Our own spans, whatever of them the log shows; not those of the exporter's client.
            let ours = Targets::new().with_target(env!("CARGO_CRATE_NAME"), LevelFilter::INFO);
            let tracer = provider.tracer(env!("CARGO_PKG_NAME"));
            tracing_opentelemetry::layer()
                .with_tracer(tracer)
                .with_location(false)
                .with_threads(false)
                .with_tracked_inactivity(false)
                .with_target(false)
                .with_filter(ours)
        });
        tracing_subscriber::registry()
            .with(lines)
            .with(traces)
            .init();
        Ok(Self {
            lines: queue,
            traces: provider,
        })
    }
}

fn provider(collector: &str) -> anyhow::Result<SdkTracerProvider> {
    let named = || format!("--otlp-endpoint {collector}");
    let address = url::Url::parse(collector).with_context(named)?;
    ensure!(
        address.scheme() == "http" && address.has_host(),
        "{}: a collector's address is as http://127.0.0.1:4318",
        named()
    );
    let exporter = SpanExporter::builder()
        .with_http()
        .with_protocol(Protocol::HttpBinary)
        .with_endpoint(format!("{}{TRACES_PATH}", collector.trim_end_matches('/')))
        .build()
        .with_context(named)?;
    let version = KeyValue::new("service.version", env!("CARGO_PKG_VERSION"));
    let mut resource = Resource::builder().with_attribute(version);
    if env::var_os("OTEL_SERVICE_NAME").is_none() {
        resource = resource.with_service_name(env!("CARGO_PKG_NAME"));
    }
    Ok(SdkTracerProvider::builder()
        .with_batch_exporter(exporter)
        .with_resource(resource.build())
        .build())
}

impl Drop for Logging {
    fn drop(&mut self) {
        if let Some(Err(error)) = self.traces.as_ref().map(SdkTracerProvider::shutdown) {
            tracing::warn!(%error, "some traces were not exported");
        }
        self.lines.flush();
    }
}
