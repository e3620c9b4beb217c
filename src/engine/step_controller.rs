//! The step-time controller: limits the prefill rows of a step while sequences decode.
//!
//! Let `d` be the measured time of a step that only decodes, and `s` the prefill share. A mixed step (with decode and
//! prefill rows) may take `L = max(step limit, d / (1 - s))`. Prefill then gets at least the share `s` of the time, and
//! no decoding sequence waits longer than `L` for its next token, for any model size. The first mixed step has one
//! prefill row. In each further mixed step, the prefill rows grow by the factor `L / elapsed`, at most 2, where
//! `elapsed` is the time of the previous mixed step.
//!
//! ```text
//! step   decode only | mixed, 1 row | mixed, 2 rows | … | mixed, n rows (at most 31 mixed steps) | decode only | …
//! time   d           | d …          |               |   | L                                      | d
//! ```
//!
//! The controller fits no cost model. The time of a step has a kink where computation begins to take longer than memory
//! access, and a line fitted on one side of the kink is far off on the other side. The controller only assumes that the
//! time of a step does not fall with the number of rows, and that the mean time per row does not rise. While prefill is
//! behind its share, the factor is `(L - d) / (elapsed - d)` instead. This factor is exact if every row costs the same,
//! and is bounded by [`MAX_CATCH_UP_PROPORTIONAL`].

use std::time::Duration;

/// Maximum growth factor of the prefill rows from one mixed step to the next.
const MAX_GROWTH: f64 = 2.0;
/// Number of steps for which a measured decode time is valid, including the measured step.
const DECODE_TIME_STEPS: u64 = 32;
/// Fraction of the limit by which a planned step may exceed the limit while prefill is behind its share. The excess
/// makes up for decode-only steps and for the first, small mixed steps.
const MAX_CATCH_UP: f64 = 0.1;
/// The same fraction under the worst-case assumption that a step's time is proportional to its rows.
const MAX_CATCH_UP_PROPORTIONAL: f64 = 0.12;
/// Maximum deficit of prefill time, as a multiple of the limit.
const MAX_DEFICIT: f64 = 2.0;
/// Maximum surplus of prefill time, as a multiple of the limit. If one row costs the prefill share of several steps,
/// the surplus cancels the deficit of the following steps.
const MAX_SURPLUS: f64 = 1.0;
/// Rows are rounded up only if the step then takes at most this multiple of the limit, assuming a time proportional to
/// the rows. A step may take 1.2 times the limit; the difference is a margin for decode times that change within
/// [`DECODE_TIME_STEPS`].
const MAX_ROUNDED_UP_STEP: f64 = 1.12;
/// Minimum mean number of prefill rows per step.
const MIN_ROWS: f64 = 1.0 / DECODE_TIME_STEPS as f64;

/// The kind of prefill rows. A row costs more if its logits are computed, so each kind is measured separately.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PrefillKind {
    /// Rows without logits, except for a prompt's last row.
    Plain,
    /// Rows with logits, for the log probabilities of prompt tokens.
    WithLogprobs,
}

/// Numbers of rows of an executed step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct StepRows {
    /// One row per decoding sequence.
    pub(super) decode: usize,
    /// Rows of prompts, recomputed tokens and forced tokens.
    pub(super) prefill: usize,
    /// Rows of draft tokens.
    pub(super) draft: usize,
}

/// Measures step times and limits the prefill rows of steps with decoding sequences. Times are in seconds.
#[derive(Debug)]
pub(super) struct StepController {
    step_limit: f64,
    prefill_share: f64,
    /// Number of steps observed.
    steps: u64,
    /// The time of the last decode-only step, by number of decode rows.
    decode_times: Vec<Option<DecodeTime>>,
    /// The last mixed step of each [`PrefillKind`].
    mixed: [Option<MixedStep>; 2],
    /// The allowance of the step that was planned but not observed yet.
    planned: Option<Allowance>,
    /// Fraction of a row that rounding down has not granted yet.
    carry: f64,
    /// Time by which prefill is behind its share; negative if it is ahead.
    deficit: f64,
}

#[derive(Debug, Clone, Copy)]
struct DecodeTime {
    seconds: f64,
    /// Index of the measured step.
    step: u64,
}

#[derive(Debug, Clone, Copy)]
struct MixedStep {
    decode_rows: usize,
    /// The decode time that was valid at that step.
    decode_seconds: f64,
    prefill_rows: f64,
    seconds: f64,
}

#[derive(Debug, Clone, Copy)]
struct Allowance {
    kind: PrefillKind,
    /// Fractional number of prefill rows, before rounding.
    rows: f64,
    /// Prefill rows that this step may have.
    granted: usize,
    limit: f64,
}

impl StepController {
    /// Creates a controller without measurements. `prefill_share` is greater than 0 and less than 1.
    pub(super) fn new(step_limit: Duration, prefill_share: f64) -> Self {
        Self {
            step_limit: step_limit.as_secs_f64(),
            prefill_share,
            steps: 0,
            decode_times: Vec::new(),
            mixed: [None; 2],
            planned: None,
            carry: 0.0,
            deficit: 0.0,
        }
    }

    /// Returns the number of prefill rows for the next step, at most `max_rows`. `decode_rows` is the number of
    /// decoding sequences in the step. Returns 0 if the decode time must be measured first.
    pub(super) fn prefill_rows(
        &mut self,
        decode_rows: usize,
        kind: PrefillKind,
        max_rows: usize,
    ) -> usize {
        let Some(decode_seconds) = self.decode_time(decode_rows) else {
            self.planned = Some(Allowance {
                kind,
                rows: 0.0,
                granted: 0,
                limit: 0.0,
            });
            return 0;
        };
        let limit = self.limit(decode_seconds);
        let mixed = self.mixed[kind as usize];
        let mixed = mixed.map(|mixed| mixed.with_decode_rows(decode_rows, decode_seconds));
        let rows = mixed.map_or(1.0, |mixed| {
            let rows = mixed.prefill_rows * mixed.growth(limit, self.deficit);
            // A single step that is unusually slow must not stop prefill.
            rows.max((mixed.prefill_rows / MAX_GROWTH).clamp(MIN_ROWS, 1.0))
        });
        let rows = rows.min(max_rows as f64);
        let carry = mixed.map_or(0.0, |_| self.carry);
        let with_carry = rows + carry;
        let mut granted = with_carry as usize;
        if granted > 1
            && granted as f64 > rows
            && mixed.is_some_and(|mixed| mixed.is_too_long_with(granted as f64, limit))
        {
            granted -= 1;
        }
        let granted = granted.min(max_rows);
        self.carry = (with_carry - granted as f64).min(1.0);
        self.planned = Some(Allowance {
            kind,
            rows,
            granted,
            limit,
        });
        granted
    }

    /// Records that a step with these rows took `elapsed`.
    pub(super) fn observe(&mut self, rows: StepRows, elapsed: Duration) {
        self.steps += 1;
        let (planned, seconds) = (self.planned.take(), elapsed.as_secs_f64());
        let Some(allowance) = planned else {
            // The step was planned without a limit, because no decoding sequence waited for prefill.
            (self.carry, self.deficit) = (0.0, 0.0);
            if rows.decode == 0 {
                self.decode_times.clear();
            } else if rows.prefill + rows.draft == 0 {
                self.set_decode_time(rows.decode, seconds);
            }
            return;
        };
        if rows.decode == 0 || rows.draft > 0 {
            return;
        }
        if rows.prefill == 0 {
            self.set_decode_time(rows.decode, seconds);
            self.add_deficit(self.prefill_share * seconds, self.limit(seconds));
            return;
        }
        let Some(Some(decode)) = self.decode_times.get_mut(rows.decode) else {
            return;
        };
        // The decode rows alone cannot take longer than the mixed step.
        decode.seconds = decode.seconds.min(seconds);
        let prefill_seconds = seconds - decode.seconds;
        let step = MixedStep {
            decode_rows: rows.decode,
            decode_seconds: decode.seconds,
            prefill_rows: rows.prefill as f64,
            seconds,
        };
        self.observe_mixed(step, allowance);
        let missed = self.prefill_share * seconds - prefill_seconds;
        self.add_deficit(missed, allowance.limit);
    }

    fn observe_mixed(&mut self, step: MixedStep, allowance: Allowance) {
        let Allowance {
            kind,
            rows,
            granted,
            limit,
        } = allowance;
        let observed = if step.prefill_rows > rows && step.prefill_rows as usize == granted {
            // Rows were rounded up: scale the prefill time down to the fractional number of rows.
            let prefill_seconds = step.seconds - step.decode_seconds;
            MixedStep {
                prefill_rows: rows,
                seconds: step.decode_seconds + prefill_seconds * rows / step.prefill_rows,
                ..step
            }
        } else if step.prefill_rows as usize == granted {
            step
        } else {
            // A step with fewer rows than granted says little about a full step, unless even that step took too long.
            let in_time = step.seconds <= limit;
            let scaled = step.prefill_rows * (limit / step.seconds).min(MAX_GROWTH);
            if in_time && scaled < rows && self.mixed[kind as usize].is_some() {
                return;
            }
            step
        };
        self.mixed[kind as usize] = Some(observed);
    }

    /// Returns the maximum time of a mixed step whose decode rows alone take `decode_seconds`.
    fn limit(&self, decode_seconds: f64) -> f64 {
        let share_limit = decode_seconds / (1.0 - self.prefill_share);
        self.step_limit.max(share_limit)
    }

    fn decode_time(&self, decode_rows: usize) -> Option<f64> {
        let measured = (*self.decode_times.get(decode_rows)?)?;
        let is_valid = self.steps + 1 - measured.step < DECODE_TIME_STEPS;
        is_valid.then_some(measured.seconds)
    }

    fn set_decode_time(&mut self, decode_rows: usize, seconds: f64) {
        if self.decode_times.len() <= decode_rows {
            self.decode_times.resize(decode_rows + 1, None);
        }
        let step = self.steps;
        self.decode_times[decode_rows] = Some(DecodeTime { seconds, step });
    }

    /// Adds the time by which prefill fell short of its share; negative if prefill got more.
    fn add_deficit(&mut self, seconds: f64, limit: f64) {
        self.deficit = (self.deficit + seconds).clamp(-MAX_SURPLUS * limit, MAX_DEFICIT * limit);
    }
}

impl MixedStep {
    /// Returns this step with `decode_rows` decode rows, which alone now take `decode_seconds`. The returned time is an
    /// upper bound.
    fn with_decode_rows(self, decode_rows: usize, decode_seconds: f64) -> Self {
        let (before, now) = (self.decode_rows as f64, decode_rows as f64);
        let with_rows = (now + self.prefill_rows) / (before + self.prefill_rows);
        let more_rows = (now / before).max(1.0);
        let slower = match self.decode_seconds > 0.0 {
            true => decode_seconds / (self.decode_seconds * more_rows),
            false => 1.0,
        };
        let slower = match decode_rows == self.decode_rows {
            true => slower,
            // The changed number of rows may explain a decrease of the ratio, so only an increase counts.
            false => slower.max(1.0),
        };
        Self {
            decode_rows,
            decode_seconds,
            seconds: self.seconds * with_rows.max(1.0) * slower,
            ..self
        }
    }

    /// Returns the factor from this step's prefill rows to those of a step that takes `limit` seconds. `deficit` is the
    /// time by which prefill is behind its share.
    fn growth(&self, limit: f64, deficit: f64) -> f64 {
        let target = limit + deficit.clamp(0.0, MAX_CATCH_UP * limit);
        let longest = limit + deficit.clamp(0.0, MAX_CATCH_UP_PROPORTIONAL * limit);
        let constant_row_cost =
            (target - self.decode_seconds) / (self.seconds - self.decode_seconds);
        (target / self.seconds)
            .max(constant_row_cost.min(longest / self.seconds))
            .min(MAX_GROWTH)
    }

    /// Returns whether a step with `prefill_rows` prefill rows may take too long. `prefill_rows` is at least that of
    /// this step.
    fn is_too_long_with(&self, prefill_rows: f64, limit: f64) -> bool {
        let decode_rows = self.decode_rows as f64;
        let rows = (decode_rows + prefill_rows) / (decode_rows + self.prefill_rows);
        self.seconds * rows > MAX_ROUNDED_UP_STEP * limit
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_millis(100);

    /// Plans and observes a step with `decode_rows` decode rows while long prompts wait. Returns its prefill rows.
    fn step(
        controller: &mut StepController,
        decode_rows: usize,
        milliseconds: fn(usize) -> u64,
    ) -> usize {
        step_of_kind(controller, decode_rows, PrefillKind::Plain, milliseconds)
    }

    fn step_of_kind(
        controller: &mut StepController,
        decode_rows: usize,
        kind: PrefillKind,
        milliseconds: fn(usize) -> u64,
    ) -> usize {
        let prefill = controller.prefill_rows(decode_rows, kind, 500);
        let rows = StepRows {
            decode: decode_rows,
            prefill,
            draft: 0,
        };
        let elapsed = Duration::from_millis(milliseconds(decode_rows + prefill));
        controller.observe(rows, elapsed);
        prefill
    }

    /// Observes a decode-only step while no prompt waits.
    fn decode(controller: &mut StepController, decode: usize, milliseconds: u64) {
        let rows = StepRows {
            decode,
            prefill: 0,
            draft: 0,
        };
        controller.observe(rows, Duration::from_millis(milliseconds));
    }

    fn large_model(rows: usize) -> u64 {
        300.max(30 * rows as u64)
    }

    #[test]
    fn the_decode_time_is_measured_then_rows_double_up_to_the_limit() {
        let mut controller = StepController::new(LIMIT, 0.5);
        let rows: Vec<usize> = (0..9)
            .map(|_| step(&mut controller, 1, large_model))
            .collect();
        assert_eq!(rows[..5], [0, 1, 2, 4, 8]);
        // 600 ms allow 20 rows, plus the rows that make up for the deficit of the first steps.
        for rows in &rows[5..] {
            assert!((15..=21).contains(rows), "{rows}");
        }
    }

    #[test]
    fn the_decode_time_is_measured_again_every_32nd_step() {
        let mut controller = StepController::new(LIMIT, 0.5);
        decode(&mut controller, 2, 300);
        let rows: Vec<usize> = (0..65)
            .map(|_| step(&mut controller, 2, large_model))
            .collect();
        let measured: Vec<usize> = (0..65).filter(|step| rows[*step] == 0).collect();
        assert_eq!(measured, [31, 63]);
    }

    #[test]
    fn the_decode_time_is_measured_for_each_number_of_decode_rows() {
        let mut controller = StepController::new(LIMIT, 0.5);
        decode(&mut controller, 2, 300);
        assert_eq!(step(&mut controller, 2, large_model), 1);
        assert_eq!(step(&mut controller, 3, large_model), 0);
        assert_eq!(step(&mut controller, 3, large_model), 1);
        // Measured four steps ago.
        assert_eq!(step(&mut controller, 2, large_model), 2);
        // A step without decode rows discards the measured decode times.
        decode(&mut controller, 0, 300);
        assert_eq!(step(&mut controller, 2, large_model), 0);
    }

    #[test]
    fn the_first_step_of_another_prefill_kind_has_one_row() {
        let mut controller = StepController::new(LIMIT, 0.5);
        decode(&mut controller, 1, 300);
        for _ in 0..8 {
            step(&mut controller, 1, large_model);
        }
        let with_logprobs = |rows: usize| large_model(1) + 100 * (rows as u64 - 1);
        let rows: Vec<usize> = (0..4)
            .map(|_| step_of_kind(&mut controller, 1, PrefillKind::WithLogprobs, with_logprobs))
            .collect();
        assert_eq!(rows[..2], [1, 1]);
        assert!(
            rows[2..].iter().all(|rows| (2..=3).contains(rows)),
            "{rows:?}"
        );
        assert!(step(&mut controller, 1, large_model) >= 15);
    }

    #[test]
    fn a_slowdown_reduces_the_rows_of_the_next_step_but_not_to_zero() {
        let mut controller = StepController::new(LIMIT, 0.5);
        decode(&mut controller, 1, 10);
        let fast = |rows: usize| 10 + rows as u64;
        let rows: Vec<usize> = (0..12).map(|_| step(&mut controller, 1, fast)).collect();
        assert!((80..=96).contains(&rows[11]), "{rows:?}");
        // Ten times slower: one step is too long.
        let slow = |rows: usize| 100 + 10 * rows as u64;
        step(&mut controller, 1, slow);
        let rows = step(&mut controller, 1, slow);
        assert!((1..=10).contains(&rows), "{rows}");
        // An interruption of an hour.
        step(&mut controller, 1, |_| 3_600_000);
        let rows: Vec<usize> = (0..9).map(|_| step(&mut controller, 1, fast)).collect();
        assert!((1..=2).contains(&rows[0]) && rows[8] >= 80, "{rows:?}");
    }

    /// A row costs more than a step's share of prefill, so one row is granted every few steps.
    #[test]
    fn fractions_of_rows_add_up() {
        let mut controller = StepController::new(Duration::from_millis(1), 0.2);
        let cost = |rows: usize| 100 + 100 * (rows as u64 - 1);
        let rows: Vec<usize> = (0..200).map(|_| step(&mut controller, 1, cost)).collect();
        assert!(rows.iter().all(|rows| *rows <= 1));
        // A row takes 100 ms, four times the prefill time of a step of 125 ms with 100 ms of decode.
        let count: usize = rows[100..].iter().sum();
        assert!(
            (20..=32).contains(&count),
            "{count} rows in a hundred steps"
        );
    }

    #[test]
    fn rows_double_while_the_clock_stands_still() {
        let mut controller = StepController::new(LIMIT, 0.5);
        let rows: Vec<usize> = (0..12).map(|_| step(&mut controller, 1, |_| 0)).collect();
        assert_eq!(rows, [0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 500, 500]);
    }
}
