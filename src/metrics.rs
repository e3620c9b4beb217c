//! The Prometheus metrics of `/metrics`, computed from the engine's statistics at each scrape. Names that begin with
//! `llamacpp:` are metrics of llama.cpp's server: the eight metrics of 2024, with the meaning that they had then, and
//! the metrics that llama.cpp has added since.

use prometheus::TextEncoder;
use prometheus::proto::{
    Bucket, Counter, Gauge, Histogram, LabelPair, Metric, MetricFamily, MetricType,
};

use crate::engine::{self, Stats};

/// Values for labels and units that the engine's statistics do not contain.
#[derive(Debug, Clone)]
pub struct Subject<'a> {
    /// The model's name, as in API responses.
    pub model: &'a str,
    /// The version of ortolan.
    pub version: &'a str,
    /// Number of tokens in a cache block.
    pub block_tokens: usize,
}

/// Returns all metrics in Prometheus's text format, version 0.0.4.
///
/// # Errors
/// If the encoder rejects a metric, which no metric of ortolan is known to cause.
pub fn text(stats: &Stats, subject: &Subject<'_>) -> Result<String, prometheus::Error> {
    TextEncoder::new().encode_to_string(&metric_families(stats, subject))
}

#[rustfmt::skip] // One row per metric.
fn metric_families(stats: &Stats, subject: &Subject<'_>) -> Vec<MetricFamily> {
    let Stats { slots, waiting, blocks, counters, death_reason: _ } = stats;
    let processing = slots.iter().flatten().count();
    vec![
        counter("llamacpp:prompt_tokens_total", "Number of prompt tokens processed.", counters.prompt_tokens as f64),
        counter("llamacpp:tokens_predicted_total", "Number of generation tokens processed.",
            counters.generated_tokens as f64),
        gauge("llamacpp:prompt_tokens_seconds", "Average prompt throughput in tokens/s.",
            ratio(counters.ended_prompt_tokens as f64, counters.prompt_seconds)),
        gauge("llamacpp:predicted_tokens_seconds", "Average generation throughput in tokens/s.",
            ratio(counters.ended_generated_tokens as f64, counters.decode_seconds)),
        gauge("llamacpp:kv_cache_usage_ratio", "KV-cache usage. 1 means 100 percent usage.",
            ratio(blocks.referenced as f64, blocks.total as f64)),
        gauge("llamacpp:kv_cache_tokens", "KV-cache tokens, counted in whole blocks.",
            (blocks.referenced * subject.block_tokens) as f64),
        gauge("llamacpp:requests_processing", "Number of requests processing.", processing as f64),
        gauge("llamacpp:requests_deferred", "Number of requests deferred.", *waiting as f64),
        counter("llamacpp:prompt_seconds_total", "Prompt process time in seconds.", counters.prompt_seconds),
        counter("llamacpp:tokens_predicted_seconds_total", "Predict process time in seconds.", counters.decode_seconds),
        counter("llamacpp:n_decode_total", "Number of steps.", counters.step_tokens.count() as f64),
        gauge("llamacpp:n_busy_slots_per_decode", "Average number of sequences in a step.",
            ratio(counters.step_sequences as f64, counters.step_tokens.count() as f64)),
        counter("llamacpp:n_tokens_max", "Largest number of tokens in the context of a sequence.",
            counters.longest_sequence as f64),
        counter("llamacpp:spec_decode_num_drafts_total", "Number of steps that verified draft tokens of a sequence.",
            counters.draft_verifications as f64),
        counter("llamacpp:spec_decode_num_draft_tokens_total", "Number of draft tokens.", counters.draft_tokens as f64),
        counter("llamacpp:spec_decode_num_accepted_tokens_total", "Number of draft tokens that were accepted.",
            counters.accepted_draft_tokens as f64),
        family("ortolan_requests_total", "Requests that ended, by outcome.", MetricType::COUNTER,
            [
                ("completed", counters.completed),
                ("cancelled", counters.cancelled),
                ("expired", counters.expired),
                ("failed", counters.failed),
            ].map(|(outcome, count)| counter_metric(count as f64, &[("outcome", outcome)]))),
        gauge("ortolan_queue_depth", "Requests waiting for a slot or for cache blocks.", *waiting as f64),
        counter("ortolan_prefix_hits_total", "Requests with a prompt prefix found in the cache.",
            counters.prefix_hits as f64),
        counter("ortolan_prompt_tokens_cached_total", "Prompt tokens read from the cache.",
            counters.cached_tokens as f64),
        counter("ortolan_tokens_recomputed_total", "Tokens computed again after a preemption or a context shift.",
            counters.recomputed_tokens as f64),
        counter("ortolan_tokens_guessed_total", "Draft tokens computed by speculative decoding.",
            counters.draft_tokens as f64),
        counter("ortolan_tokens_guessed_rightly_total", "Draft tokens that were accepted.",
            counters.accepted_draft_tokens as f64),
        counter("ortolan_preemptions_total", "Preemptions of requests for lack of cache blocks.",
            counters.preemptions as f64),
        counter("ortolan_context_shifts_total", "Context shifts, each of which drops the older half of a full context.",
            counters.context_shifts as f64),
        counter("ortolan_cache_evictions_total", "Cached blocks that were evicted for lack of free blocks.",
            blocks.evictions as f64),
        family("ortolan_cache_blocks", "Cache blocks by state: held by requests, idle with cached content, or free.",
            MetricType::GAUGE,
            [("held", blocks.referenced), ("idle", blocks.evictable), ("free", blocks.free())]
                .map(|(state, count)| gauge_metric(count as f64, &[("state", state)]))),
        family("ortolan_slots", "Slots by state.", MetricType::GAUGE,
            [("processing", processing), ("idle", slots.len() - processing)]
                .map(|(state, count)| gauge_metric(count as f64, &[("state", state)]))),
        histogram("ortolan_step_tokens", "Tokens computed in a step.", &counters.step_tokens),
        histogram("ortolan_step_seconds", "Duration of a step in seconds.", &counters.step_seconds),
        histogram("ortolan_queue_wait_seconds", "Time from a request's arrival to its first step in seconds.",
            &counters.queue_wait_seconds),
        histogram("ortolan_time_to_first_token_seconds", "Time from a request's arrival to its first token in seconds.",
            &counters.first_token_seconds),
        histogram("ortolan_time_per_output_token_seconds",
            "Mean time between the output tokens of a request in seconds.", &counters.token_interval_seconds),
        histogram("ortolan_request_duration_seconds", "Time from a request's arrival to its end in seconds.",
            &counters.sequence_seconds),
        family("ortolan_build_info", "Version of ortolan and name of the model.", MetricType::GAUGE,
            [gauge_metric(1.0, &[("version", subject.version), ("model", subject.model)])]),
    ]
}

/// Divides two numbers; 0 if the divisor is 0.
fn ratio(dividend: f64, divisor: f64) -> f64 {
    match divisor > 0.0 {
        true => dividend / divisor,
        false => 0.0,
    }
}

fn counter(name: &str, help: &str, value: f64) -> MetricFamily {
    family(
        name,
        help,
        MetricType::COUNTER,
        [counter_metric(value, &[])],
    )
}

fn gauge(name: &str, help: &str, value: f64) -> MetricFamily {
    family(name, help, MetricType::GAUGE, [gauge_metric(value, &[])])
}

fn histogram(name: &str, help: &str, values: &engine::Histogram) -> MetricFamily {
    // The encoder adds the `+Inf` bucket.
    let bounded = values.cumulative().filter(|(bound, _)| bound.is_finite());
    let buckets = bounded.map(|(bound, count)| {
        let mut bucket = Bucket::default();
        bucket.set_upper_bound(bound);
        bucket.set_cumulative_count(count);
        bucket
    });
    let mut histogram = Histogram::default();
    histogram.set_bucket(buckets.collect());
    histogram.set_sample_sum(values.sum());
    histogram.set_sample_count(values.count());
    let mut metric = Metric::default();
    metric.set_histogram(histogram);
    family(name, help, MetricType::HISTOGRAM, [metric])
}

fn family(
    name: &str,
    help: &str,
    kind: MetricType,
    metrics: impl IntoIterator<Item = Metric>,
) -> MetricFamily {
    let mut family = MetricFamily::default();
    family.set_name(name.to_owned());
    family.set_help(help.to_owned());
    family.set_field_type(kind);
    family.set_metric(metrics.into_iter().collect());
    family
}

fn counter_metric(value: f64, labels: &[(&str, &str)]) -> Metric {
    let mut counter = Counter::default();
    counter.set_value(value);
    let mut metric = labeled_metric(labels);
    metric.set_counter(counter);
    metric
}

fn gauge_metric(value: f64, labels: &[(&str, &str)]) -> Metric {
    let mut gauge = Gauge::default();
    gauge.set_value(value);
    let mut metric = labeled_metric(labels);
    metric.set_gauge(gauge);
    metric
}

fn labeled_metric(labels: &[(&str, &str)]) -> Metric {
    let labels = labels.iter().map(|(name, value)| {
        let mut label = LabelPair::default();
        label.set_name((*name).to_owned());
        label.set_value((*value).to_owned());
        label
    });
    let mut metric = Metric::default();
    metric.set_label(labels.collect());
    metric
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::BlockStats;

    #[test]
    fn metrics_match_the_snapshot() {
        let mut stats = Stats {
            slots: vec![None; 2],
            waiting: 3,
            blocks: BlockStats {
                total: 8,
                referenced: 2,
                evictable: 1,
                evictions: 4,
            },
            ..Stats::default()
        };
        stats.counters.prompt_tokens = 30;
        stats.counters.ended_prompt_tokens = 20;
        stats.counters.prompt_seconds = 0.5;
        let subject = Subject {
            model: "a \"model\"\\",
            version: "1.2.3",
            block_tokens: 32,
        };
        let text = text(&stats, &subject).unwrap();
        let lines: Vec<&str> = text
            .lines()
            .filter(|line| !line.starts_with('#') && !line.contains("_bucket"))
            .collect();
        let mut settings = insta::Settings::clone_current();
        settings.set_snapshot_path("../snapshots");
        settings.set_prepend_module_to_snapshot(false);
        settings.bind(|| insta::assert_snapshot!("metrics", lines.join("\n")));
    }
}
