//! The metrics of `/metrics`: one table, read from the engine's numbers when somebody asks. Nothing is counted
//! here. Names that begin with `llamacpp:` are those of llama.cpp's server: the eight of 2024 with their meaning of then, and
//! those of today.

use prometheus::TextEncoder;
use prometheus::proto::{
    Bucket, Counter, Gauge, Histogram, LabelPair, Metric, MetricFamily, MetricType,
};

use crate::engine::{self, Stats};

/// What the numbers are about.
#[derive(Debug, Clone)]
pub struct Subject<'a> {
    /// The model's name.
    pub model: &'a str,
    /// The program's version.
    pub version: &'a str,
    /// Tokens of a block of the cache.
    pub block_tokens: usize,
}

/// All metrics in Prometheus' text format, version 0.0.4.
///
/// # Errors
/// The encoder's, of which none is known for these.
pub fn text(stats: &Stats, subject: &Subject<'_>) -> Result<String, prometheus::Error> {
    TextEncoder::new().encode_to_string(&families(stats, subject))
}

/// The declaration of all there is to see.
fn families(stats: &Stats, subject: &Subject<'_>) -> Vec<MetricFamily> {
    let Stats {
        slots,
        waiting,
        blocks,
        counters,
        dead: _,
    } = stats;
    let processing = slots.iter().flatten().count();
    vec![
        counter(
            "llamacpp:prompt_tokens_total",
            "Number of prompt tokens processed.",
            counters.prompt_tokens as f64,
        ),
        counter(
            "llamacpp:tokens_predicted_total",
            "Number of generation tokens processed.",
            counters.generated_tokens as f64,
        ),
        gauge(
            "llamacpp:prompt_tokens_seconds",
            "Average prompt throughput in tokens/s.",
            ratio(counters.ended_prompt_tokens as f64, counters.prompt_seconds),
        ),
        gauge(
            "llamacpp:predicted_tokens_seconds",
            "Average generation throughput in tokens/s.",
            ratio(
                counters.ended_generated_tokens as f64,
                counters.decode_seconds,
            ),
        ),
        gauge(
            "llamacpp:kv_cache_usage_ratio",
            "KV-cache usage. 1 means 100 percent usage.",
            ratio(blocks.held as f64, blocks.total as f64),
        ),
        gauge(
            "llamacpp:kv_cache_tokens",
            "KV-cache tokens, counted in whole blocks.",
            (blocks.held * subject.block_tokens) as f64,
        ),
        gauge(
            "llamacpp:requests_processing",
            "Number of requests processing.",
            processing as f64,
        ),
        gauge(
            "llamacpp:requests_deferred",
            "Number of requests deferred.",
            *waiting as f64,
        ),
        counter(
            "llamacpp:prompt_seconds_total",
            "Prompt process time in seconds.",
            counters.prompt_seconds,
        ),
        counter(
            "llamacpp:tokens_predicted_seconds_total",
            "Predict process time in seconds.",
            counters.decode_seconds,
        ),
        counter(
            "llamacpp:n_decode_total",
            "Number of steps.",
            counters.step_tokens.count() as f64,
        ),
        gauge(
            "llamacpp:n_busy_slots_per_decode",
            "Average number of sequences in a step.",
            ratio(
                counters.step_sequences as f64,
                counters.step_tokens.count() as f64,
            ),
        ),
        counter(
            "llamacpp:n_tokens_max",
            "Most tokens that a sequence had in its context.",
            counters.longest_sequence as f64,
        ),
        counter(
            "llamacpp:spec_decode_num_drafts_total",
            "Number of steps that verified draft tokens of a sequence.",
            counters.guesses as f64,
        ),
        counter(
            "llamacpp:spec_decode_num_draft_tokens_total",
            "Number of draft tokens.",
            counters.guessed_tokens as f64,
        ),
        counter(
            "llamacpp:spec_decode_num_accepted_tokens_total",
            "Number of draft tokens that were accepted.",
            counters.rightly_guessed_tokens as f64,
        ),
        family(
            "ortolan_requests_total",
            "Requests that ended, by how.",
            MetricType::COUNTER,
            [
                ("completed", counters.completed),
                ("cancelled", counters.cancelled),
                ("expired", counters.expired),
                ("failed", counters.failed),
            ]
            .map(|(outcome, count)| counted(count as f64, &[("outcome", outcome)])),
        ),
        gauge(
            "ortolan_queue_depth",
            "Requests that wait for a slot or for blocks of the cache.",
            *waiting as f64,
        ),
        counter(
            "ortolan_prefix_hits_total",
            "Requests of whose prompt the cache held a part.",
            counters.prefix_hits as f64,
        ),
        counter(
            "ortolan_prompt_tokens_cached_total",
            "Prompt tokens that the cache held.",
            counters.cached_tokens as f64,
        ),
        counter(
            "ortolan_tokens_recomputed_total",
            "Tokens computed once more, after a preemption or a context shift.",
            counters.recomputed_tokens as f64,
        ),
        counter(
            "ortolan_tokens_guessed_total",
            "Tokens that were computed in case that they come next.",
            counters.guessed_tokens as f64,
        ),
        counter(
            "ortolan_tokens_guessed_rightly_total",
            "Tokens that came as they were guessed.",
            counters.rightly_guessed_tokens as f64,
        ),
        counter(
            "ortolan_preemptions_total",
            "Times that a request yielded its blocks to one before it.",
            counters.preemptions as f64,
        ),
        counter(
            "ortolan_context_shifts_total",
            "Times that a full context lost its older half.",
            counters.context_shifts as f64,
        ),
        counter(
            "ortolan_cache_evictions_total",
            "Blocks of the cache whose content was forgotten to make room.",
            blocks.evictions as f64,
        ),
        family(
            "ortolan_cache_blocks",
            "Blocks of the cache, by what they hold: a running request, something that can be found, or nothing.",
            MetricType::GAUGE,
            [
                ("held", blocks.held),
                ("idle", blocks.idle),
                ("free", blocks.free()),
            ]
            .map(|(state, count)| measured(count as f64, &[("state", state)])),
        ),
        family(
            "ortolan_slots",
            "Slots, by what they do.",
            MetricType::GAUGE,
            [
                ("processing", processing),
                ("idle", slots.len() - processing),
            ]
            .map(|(state, count)| measured(count as f64, &[("state", state)])),
        ),
        histogram(
            "ortolan_step_tokens",
            "Tokens of a step.",
            &counters.step_tokens,
        ),
        histogram(
            "ortolan_step_seconds",
            "What a step takes.",
            &counters.step_seconds,
        ),
        histogram(
            "ortolan_queue_wait_seconds",
            "From a request's arrival to its first step.",
            &counters.queue_wait_seconds,
        ),
        histogram(
            "ortolan_time_to_first_token_seconds",
            "From a request's arrival to its first token.",
            &counters.first_token_seconds,
        ),
        histogram(
            "ortolan_time_per_output_token_seconds",
            "Between the tokens of a request, on average.",
            &counters.token_interval_seconds,
        ),
        histogram(
            "ortolan_request_duration_seconds",
            "From a request's arrival to its end.",
            &counters.sequence_seconds,
        ),
        family(
            "ortolan_build_info",
            "The program and its model.",
            MetricType::GAUGE,
            [measured(
                1.0,
                &[("version", subject.version), ("model", subject.model)],
            )],
        ),
    ]
}

/// A quotient; over nothing it is 0.
fn ratio(dividend: f64, divisor: f64) -> f64 {
    match divisor > 0.0 {
        true => dividend / divisor,
        false => 0.0,
    }
}

fn counter(name: &str, help: &str, value: f64) -> MetricFamily {
    family(name, help, MetricType::COUNTER, [counted(value, &[])])
}

fn gauge(name: &str, help: &str, value: f64) -> MetricFamily {
    family(name, help, MetricType::GAUGE, [measured(value, &[])])
}

fn histogram(name: &str, help: &str, values: &engine::Histogram) -> MetricFamily {
    // The encoder adds the bucket without a bound itself.
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

fn counted(value: f64, labels: &[(&str, &str)]) -> Metric {
    let mut counter = Counter::default();
    counter.set_value(value);
    let mut metric = labelled(labels);
    metric.set_counter(counter);
    metric
}

fn measured(value: f64, labels: &[(&str, &str)]) -> Metric {
    let mut gauge = Gauge::default();
    gauge.set_value(value);
    let mut metric = labelled(labels);
    metric.set_gauge(gauge);
    metric
}

fn labelled(labels: &[(&str, &str)]) -> Metric {
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
    fn what_a_scrape_shows() {
        let mut stats = Stats {
            slots: vec![None; 2],
            waiting: 3,
            blocks: BlockStats {
                total: 8,
                held: 2,
                idle: 1,
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
