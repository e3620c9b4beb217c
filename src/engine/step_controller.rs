//! How many prefill rows a step may carry while sequences decode: the step-time controller.
//!
//! With `d` the measured time of a step that only decodes and `s` the prefill share, a step may take
//! `L = max(step limit, d / (1 - s))`: prefill then has at least the share `s` of the time, and no decoding sequence waits
//! longer than `L` for its next token, whatever the model's size. Prefill rows are scaled by `L / elapsed` of the previous
//! mixed step (one with decode and prefill rows), at most doubled, beginning with one row.
//!
//! ```text
//! step       decode only | mixed, 1 row | mixed, 2 rows | … | mixed, n rows   (31 mixed steps at most)   | decode only | …
//! takes      d           | d …          |               |   | L                                          | d
//! ```
//!
//! No cost model is fitted: a step's time has a hinge where arithmetic exceeds memory traffic, and a line fitted to one side
//! of it overshoots on the other side by far. All that is assumed of the time of `n` rows is that it does not fall with `n`,
//! and that its mean for a row does not rise. While prefill is behind its share, rows grow by `(L - d) / (elapsed - d)`
//! instead, which is exact for a constant cost per row, bounded by [`FASTEST_CATCH_UP`].

use std::time::Duration;

/// Most that the prefill rows grow by from one step to the next.
const MAX_GROWTH: f64 = 2.0;
/// A measured decode time is used in this many steps, the measuring one included.
const DECODE_TIME_STEPS: u64 = 32;
/// How far beyond the limit a step is planned, as a part of it, while prefill is behind its share: steps that only decode and
/// the first, small mixed steps are made up for.
const CATCH_UP: f64 = 0.1;
/// The same, if the step's time is proportional to its rows, which is the most that they can cost.
const FASTEST_CATCH_UP: f64 = 0.12;
/// Most limits that prefill is made up for.
const MAX_OWED: f64 = 2.0;
/// Most limits that prefill is ahead of its share, so that a row that costs several steps' share is not made up for again.
const MAX_AHEAD: f64 = 1.0;
/// The longest step, in limits, that rows are rounded up for, if its time is proportional to its rows. What is left to the
/// 1.2 limits that a step may take is for decode times that change within [`DECODE_TIME_STEPS`].
const ROUNDED_UP: f64 = 1.12;
/// Fewest prefill rows of a step, on average.
const MIN_ROWS: f64 = 1.0 / DECODE_TIME_STEPS as f64;

/// What prefill rows are for: a row costs more where its logits are wanted, so both are measured on their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PrefillKind {
    /// Keys and values, and logits behind the last row at most.
    Plain,
    /// The log-probabilities of prompt tokens.
    Scored,
}

/// The rows of a step that ran.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct StepRows {
    /// Decoding sequences, each with one row.
    pub(super) decode: usize,
    /// Prefill rows.
    pub(super) prefill: usize,
    /// Draft rows.
    pub(super) draft: usize,
}

/// Measures steps and limits the prefill rows beside decoding sequences. Times are in seconds.
#[derive(Debug)]
pub(super) struct StepController {
    step_limit: f64,
    prefill_share: f64,
    /// Steps observed.
    steps: u64,
    /// The time of the last decode-only step with so many decode rows.
    decode_times: Vec<Option<DecodeTime>>,
    /// The last mixed step of each [`PrefillKind`].
    mixed: [Option<MixedStep>; 2],
    /// The limit for the step that is planned.
    planned: Option<Allowance>,
    /// The part of a row by which earlier steps fell short.
    carry: f64,
    /// How far prefill is behind its share; ahead, where negative.
    owed: f64,
}

#[derive(Debug, Clone, Copy)]
struct DecodeTime {
    seconds: f64,
    /// Number of the step.
    step: u64,
}

#[derive(Debug, Clone, Copy)]
struct MixedStep {
    decode_rows: usize,
    /// The decode time that held then.
    decode_seconds: f64,
    prefill_rows: f64,
    seconds: f64,
}

#[derive(Debug, Clone, Copy)]
struct Allowance {
    kind: PrefillKind,
    /// Prefill rows on average.
    rows: f64,
    /// Prefill rows of this step.
    granted: usize,
    limit: f64,
}

impl StepController {
    /// Nothing measured yet. `prefill_share` is greater than 0 and less than 1.
    pub(super) fn new(step_limit: Duration, prefill_share: f64) -> Self {
        Self {
            step_limit: step_limit.as_secs_f64(),
            prefill_share,
            steps: 0,
            decode_times: Vec::new(),
            mixed: [None; 2],
            planned: None,
            carry: 0.0,
            owed: 0.0,
        }
    }

    /// Prefill rows, `max_rows` at most, of the next step, in which `decode_rows` sequences decode. 0 if the time of a step
    /// without prefill rows is to be measured first.
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
        let mixed = mixed.map(|mixed| mixed.beside(decode_rows, decode_seconds));
        let rows = mixed.map_or(1.0, |mixed| {
            let rows = mixed.prefill_rows * mixed.growth(limit, self.owed);
            // One interrupted step does not end a prompt's progress.
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

    /// A step with these rows took `elapsed`.
    pub(super) fn observe(&mut self, rows: StepRows, elapsed: Duration) {
        self.steps += 1;
        let (planned, seconds) = (self.planned.take(), elapsed.as_secs_f64());
        let Some(allowance) = planned else {
            // No prefill waited beside decoding sequences.
            (self.carry, self.owed) = (0.0, 0.0);
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
            self.owe(self.prefill_share * seconds, self.limit(seconds));
            return;
        }
        let Some(Some(decode)) = self.decode_times.get_mut(rows.decode) else {
            return;
        };
        // The decode rows alone take no longer than with others.
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
        self.owe(missed, allowance.limit);
    }

    fn observe_mixed(&mut self, step: MixedStep, allowance: Allowance) {
        let Allowance {
            kind,
            rows,
            granted,
            limit,
        } = allowance;
        let observed = if step.prefill_rows > rows && step.prefill_rows as usize == granted {
            // The same for the rows before they were rounded up.
            let prefill_seconds = step.seconds - step.decode_seconds;
            MixedStep {
                prefill_rows: rows,
                seconds: step.decode_seconds + prefill_seconds * rows / step.prefill_rows,
                ..step
            }
        } else if step.prefill_rows as usize == granted {
            step
        } else {
            // A step that was not full says little about a full one, unless even it was too long.
            let in_time = step.seconds <= limit;
            let scaled = step.prefill_rows * (limit / step.seconds).min(MAX_GROWTH);
            if in_time && scaled < rows && self.mixed[kind as usize].is_some() {
                return;
            }
            step
        };
        self.mixed[kind as usize] = Some(observed);
    }

    /// How long a step may take beside which `decode_rows` alone take `decode_seconds`.
    fn limit(&self, decode_seconds: f64) -> f64 {
        let of_share = decode_seconds / (1.0 - self.prefill_share);
        self.step_limit.max(of_share)
    }

    fn decode_time(&self, decode_rows: usize) -> Option<f64> {
        let measured = (*self.decode_times.get(decode_rows)?)?;
        let fresh = self.steps + 1 - measured.step < DECODE_TIME_STEPS;
        fresh.then_some(measured.seconds)
    }

    fn set_decode_time(&mut self, decode_rows: usize, seconds: f64) {
        if self.decode_times.len() <= decode_rows {
            self.decode_times.resize(decode_rows + 1, None);
        }
        let step = self.steps;
        self.decode_times[decode_rows] = Some(DecodeTime { seconds, step });
    }

    /// Prefill had so much less than its share; more, where negative.
    fn owe(&mut self, seconds: f64, limit: f64) {
        self.owed = (self.owed + seconds).clamp(-MAX_AHEAD * limit, MAX_OWED * limit);
    }
}

impl MixedStep {
    /// At most what this step would have been beside `decode_rows` that alone take `decode_seconds` now.
    fn beside(self, decode_rows: usize, decode_seconds: f64) -> Self {
        let (before, now) = (self.decode_rows as f64, decode_rows as f64);
        let with_rows = (now + self.prefill_rows) / (before + self.prefill_rows);
        let more_rows = (now / before).max(1.0);
        let slower = match self.decode_seconds > 0.0 {
            true => decode_seconds / (self.decode_seconds * more_rows),
            false => 1.0,
        };
        let slower = match decode_rows == self.decode_rows {
            true => slower,
            // How much of it the rows make is not known.
            false => slower.max(1.0),
        };
        Self {
            decode_rows,
            decode_seconds,
            seconds: self.seconds * with_rows.max(1.0) * slower,
            ..self
        }
    }

    /// The factor that scales the prefill rows from this step to one of `limit` seconds, of which prefill is behind by `owed`.
    fn growth(&self, limit: f64, owed: f64) -> f64 {
        let target = limit + owed.clamp(0.0, CATCH_UP * limit);
        let longest = limit + owed.clamp(0.0, FASTEST_CATCH_UP * limit);
        let constant_row_cost =
            (target - self.decode_seconds) / (self.seconds - self.decode_seconds);
        (target / self.seconds)
            .max(constant_row_cost.min(longest / self.seconds))
            .min(MAX_GROWTH)
    }

    /// Whether a step with so many prefill rows, not fewer than this one's, may be too long.
    fn is_too_long_with(&self, prefill_rows: f64, limit: f64) -> bool {
        let decode_rows = self.decode_rows as f64;
        let rows = (decode_rows + prefill_rows) / (decode_rows + self.prefill_rows);
        self.seconds * rows > ROUNDED_UP * limit
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_millis(100);

    /// Plans and runs a step beside `decode_rows` while prompts of any length wait. Returns its prefill rows.
    fn step(
        controller: &mut StepController,
        decode_rows: usize,
        milliseconds: fn(usize) -> u64,
    ) -> usize {
        step_of(controller, decode_rows, PrefillKind::Plain, milliseconds)
    }

    fn step_of(
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

    /// A step that only decodes while no prompt waits.
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
        // 600 ms are 20 rows; what prefill did not have at first, it has now.
        for rows in &rows[5..] {
            assert!((15..=21).contains(rows), "{rows}");
        }
    }

    #[test]
    fn a_decode_time_that_is_known_is_not_measured_again_but_for_every_32nd_step() {
        let mut controller = StepController::new(LIMIT, 0.5);
        decode(&mut controller, 2, 300);
        let rows: Vec<usize> = (0..65)
            .map(|_| step(&mut controller, 2, large_model))
            .collect();
        let measuring: Vec<usize> = (0..65).filter(|step| rows[*step] == 0).collect();
        assert_eq!(measuring, [31, 63]);
    }

    #[test]
    fn a_change_of_the_decode_rows_is_measured() {
        let mut controller = StepController::new(LIMIT, 0.5);
        decode(&mut controller, 2, 300);
        assert_eq!(step(&mut controller, 2, large_model), 1);
        assert_eq!(step(&mut controller, 3, large_model), 0);
        assert_eq!(step(&mut controller, 3, large_model), 1);
        // Measured four steps ago.
        assert_eq!(step(&mut controller, 2, large_model), 2);
        // No sequence decodes, and so nothing that was measured counts later.
        decode(&mut controller, 0, 300);
        assert_eq!(step(&mut controller, 2, large_model), 0);
    }

    #[test]
    fn rows_that_cost_more_begin_with_one() {
        let mut controller = StepController::new(LIMIT, 0.5);
        decode(&mut controller, 1, 300);
        for _ in 0..8 {
            step(&mut controller, 1, large_model);
        }
        let scored = |rows: usize| large_model(1) + 100 * (rows as u64 - 1);
        let rows: Vec<usize> = (0..4)
            .map(|_| step_of(&mut controller, 1, PrefillKind::Scored, scored))
            .collect();
        assert_eq!(rows[..2], [1, 1]);
        assert!(
            rows[2..].iter().all(|rows| (2..=3).contains(rows)),
            "{rows:?}"
        );
        assert!(step(&mut controller, 1, large_model) >= 15);
    }

    #[test]
    fn a_machine_that_gets_slower_has_fewer_rows_in_the_next_step_and_not_none() {
        let mut controller = StepController::new(LIMIT, 0.5);
        decode(&mut controller, 1, 10);
        let fast = |rows: usize| 10 + rows as u64;
        let rows: Vec<usize> = (0..12).map(|_| step(&mut controller, 1, fast)).collect();
        assert!((80..=96).contains(&rows[11]), "{rows:?}");
        // Ten times as slow: one step is too long.
        let slow = |rows: usize| 100 + 10 * rows as u64;
        step(&mut controller, 1, slow);
        let rows = step(&mut controller, 1, slow);
        assert!((1..=10).contains(&rows), "{rows}");
        // An interruption of an hour.
        step(&mut controller, 1, |_| 3_600_000);
        let rows: Vec<usize> = (0..9).map(|_| step(&mut controller, 1, fast)).collect();
        assert!((1..=2).contains(&rows[0]) && rows[8] >= 80, "{rows:?}");
    }

    /// Costs of a row that the share has no time for: it has the rows of a few steps together.
    #[test]
    fn fractions_of_rows_add_up() {
        let mut controller = StepController::new(Duration::from_millis(1), 0.2);
        let cost = |rows: usize| 100 + 100 * (rows as u64 - 1);
        let rows: Vec<usize> = (0..200).map(|_| step(&mut controller, 1, cost)).collect();
        assert!(rows.iter().all(|rows| *rows <= 1));
        // A row takes 100 ms, four times what a step of 125 ms has beside the 100 ms of its decode row.
        let count: usize = rows[100..].iter().sum();
        assert!(
            (20..=32).contains(&count),
            "{count} rows of a hundred steps"
        );
    }

    #[test]
    fn a_clock_that_stands_still_stops_nothing() {
        let mut controller = StepController::new(LIMIT, 0.5);
        let rows: Vec<usize> = (0..12).map(|_| step(&mut controller, 1, |_| 0)).collect();
        assert_eq!(rows, [0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 500, 500]);
    }
}
