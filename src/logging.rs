//! Sets up the output of log lines and traces. All modules log through `tracing`; the spans of requests and generations
//! come from `server` and `model`.

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

/// Path of a collector's trace endpoint, relative to its URL (the default of the OTLP specification).
const TRACES_PATH: &str = "/v1/traces";

/// Guard of the log and trace outputs. Dropping it writes queued log lines and exports pending traces.
pub struct Logging {
    lines: LineQueue,
    traces: Option<SdkTracerProvider>,
}

impl Logging {
    /// Starts logging to standard error, filtered by `RUST_LOG`. Traces go to `collector`, an `http` URL, in OTLP's
    /// binary encoding.
    ///
    /// # Errors
    /// If the collector's URL is invalid.
    pub fn start(format: LogFormat, collector: Option<&str>) -> anyhow::Result<Self> {
        let provider = collector.map(provider).transpose()?;
        let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
        let queue = LineQueue::new(std::io::stderr(), |lines| {
            tracing::warn!(
                lines,
                "log lines were dropped: standard error was read too slowly"
            );
        });
        let writer = queue.clone();
        let lines = tracing_subscriber::fmt::layer()
            .with_writer(move || writer.clone())
            // A failed write to standard error would be reported on standard error itself.
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
            // Only the program's own spans, not those of the exporter's HTTP client; independent of the log filter.
            let own_spans = Targets::new().with_target(env!("CARGO_CRATE_NAME"), LevelFilter::INFO);
            let tracer = provider.tracer(env!("CARGO_PKG_NAME"));
            tracing_opentelemetry::layer()
                .with_tracer(tracer)
                .with_location(false)
                .with_threads(false)
                .with_tracked_inactivity(false)
                .with_target(false)
                .with_filter(own_spans)
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
    let option = || format!("--otlp-endpoint {collector}");
    let url = url::Url::parse(collector).with_context(option)?;
    ensure!(
        url.scheme() == "http" && url.has_host(),
        "{}: must be an http URL such as http://127.0.0.1:4318",
        option()
    );
    let exporter = SpanExporter::builder()
        .with_http()
        .with_protocol(Protocol::HttpBinary)
        .with_endpoint(format!("{}{TRACES_PATH}", collector.trim_end_matches('/')))
        .build()
        .with_context(option)?;
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
