//! Low-rank updates of a product (Hu et al., 2021, "LoRA", <https://arxiv.org/abs/2106.09685>), on plain slices: to each
//! row of it is added what the branches that the row wants make of its input. It knows nothing of ONNX Runtime.
//!
//! A row's bits depend on the row alone: whoever computes a part of it adds the same numbers in the same order. A row
//! that wants no branch keeps the product's bits.

use std::ops::Range;

use super::parallel::{OperatorError, ParallelFor, once_each};
use super::shared::SharedSlice;
use super::simd::{Instructions, LANES, Simd, Work};

/// Sums of a branch that are computed together.
const RANKS_TOGETHER: usize = 8;
/// Outputs of a row that are computed together.
const OUTPUTS_TOGETHER: usize = 64;
/// Multiplications from which on it is worth waking other threads.
const WORTH_SHARING: usize = 1 << 16;
/// Numbers that tell a branch.
const BRANCH_NUMBERS: usize = 4;

/// What is read.
#[derive(Debug, Clone, Copy)]
pub struct UpdateInputs<'a> {
    /// `[rows, outputs]`
    pub product: &'a [f32],
    /// Columns of the product.
    pub outputs: usize,
    /// `[rows, columns]`: what the product was made of.
    pub input: &'a [f32],
    /// Columns of the input.
    pub columns: usize,
    /// `[rows, adapters]`: how strong each row wants each adapter; 0 is not at all.
    pub scales: &'a [f32],
    /// Columns of the scales.
    pub adapters: usize,
    /// `[ranks of all branches, columns]`
    pub down: &'a [f32],
    /// Each branch's `[rank, its outputs]`, one after the other.
    pub up: &'a [f32],
    /// `[branches · 4]`: the adapter, the first of its outputs and their number, the rank.
    pub branches: &'a [i64],
}

/// What an adapter adds to some of the outputs.
struct Branch {
    adapter: usize,
    outputs: Range<usize>,
    rank: usize,
    /// Its first row of `down`.
    down: usize,
    /// Its first element of `up`.
    up: usize,
}

/// A branch that a row wants.
struct Wanted<'a> {
    row: usize,
    branch: &'a Branch,
    scale: f32,
    /// Its first sum.
    sum: usize,
}

/// Writes the product with its updates into `output`, `[rows, outputs]`.
///
/// # Errors
/// If the inputs do not fit each other; then nothing was written. If `parallel` fails.
pub fn update(
    inputs: &UpdateInputs,
    output: &mut [f32],
    instructions: Instructions,
    parallel: ParallelFor,
) -> Result<(), OperatorError> {
    let branches = checked(inputs, output.len())?;
    output.copy_from_slice(inputs.product);
    let (wanted, sums) = wanted(inputs, &branches);
    let cost =
        |wanted: &Wanted| wanted.branch.rank * (inputs.columns + wanted.branch.outputs.len());
    if wanted.is_empty() {
        return Ok(());
    }
    let parallel = match wanted.iter().map(cost).sum::<usize>() {
        ..WORTH_SHARING => &alone,
        _ => parallel,
    };

    let mut sums = vec![0.0; sums];
    let shared = SharedSlice::new(&mut sums);
    let groups: Vec<(&Wanted, Range<usize>)> = wanted
        .iter()
        .flat_map(|wanted| {
            let ranks = (0..wanted.branch.rank).step_by(RANKS_TOGETHER);
            ranks.map(move |rank| (wanted, rank..wanted.branch.rank.min(rank + RANKS_TOGETHER)))
        })
        .collect();
    once_each(parallel, groups.len(), &|index| {
        let (wanted, ranks) = &groups[index];
        let place = wanted.sum + ranks.start..wanted.sum + ranks.end;
        // SAFETY: no other group has these ranks of this row's branch.
        let sums = unsafe { shared.part_mut(place) };
        instructions.run(GoDown {
            inputs,
            wanted,
            first: ranks.start,
            sums,
        });
    })?;

    let rows: Vec<&[Wanted]> = wanted.chunk_by(|one, next| one.row == next.row).collect();
    let parts = inputs.outputs.div_ceil(OUTPUTS_TOGETHER);
    let shared = SharedSlice::new(output);
    once_each(parallel, rows.len() * parts, &|index| {
        let (wanted, first) = (rows[index / parts], index % parts * OUTPUTS_TOGETHER);
        let outputs = first..inputs.outputs.min(first + OUTPUTS_TOGETHER);
        let start = wanted[0].row * inputs.outputs;
        // SAFETY: no other call has these outputs of this row.
        let output = unsafe { shared.part_mut(start + outputs.start..start + outputs.end) };
        instructions.run(GoUp {
            up: inputs.up,
            wanted,
            sums: &sums,
            outputs,
            output,
        });
    })
}

/// Calls one after the other, on this thread.
fn alone(count: usize, call: &(dyn Fn(usize) + Sync)) -> Result<(), OperatorError> {
    (0..count).for_each(call);
    Ok(())
}

/// The branches, if everything has the size that it has to have.
fn checked(inputs: &UpdateInputs, output: usize) -> Result<Vec<Branch>, OperatorError> {
    let invalid = |input, problem: String| Err(OperatorError::input(input, problem));
    let rows = inputs
        .product
        .len()
        .checked_div(inputs.outputs)
        .unwrap_or(0);
    for (name, elements, width) in [
        ("product", inputs.product.len(), inputs.outputs),
        ("output", output, inputs.outputs),
        ("input", inputs.input.len(), inputs.columns),
        ("scales", inputs.scales.len(), inputs.adapters),
    ] {
        if width == 0 || rows.checked_mul(width) != Some(elements) {
            let problem = format!("has {elements} elements, not {rows} rows of {width}");
            return invalid(name, problem);
        }
    }
    let (told, rest) = inputs.branches.as_chunks::<BRANCH_NUMBERS>();
    let (mut down, mut up) = (0, 0);
    let mut branches = Vec::with_capacity(told.len());
    for numbers in told {
        let [adapter, first, count, rank] =
            numbers.map(|number| usize::try_from(number).unwrap_or(usize::MAX));
        let end = first
            .checked_add(count)
            .filter(|end| *end <= inputs.outputs);
        let (Some(end), true) = (end, adapter < inputs.adapters) else {
            return invalid(
                "branches",
                format!("{numbers:?} is beyond the product or the scales"),
            );
        };
        branches.push(Branch {
            adapter,
            outputs: first..end,
            rank,
            down,
            up,
        });
        down = rank.saturating_add(down);
        up = rank.saturating_mul(count).saturating_add(up);
    }
    let fits = down.checked_mul(inputs.columns) == Some(inputs.down.len());
    match rest.is_empty() && fits && up == inputs.up.len() {
        true => Ok(branches),
        false => invalid("branches", "are not those of down and up".to_owned()),
    }
}

/// The branches that rows want, row by row, and how many sums they have together.
fn wanted<'a>(inputs: &UpdateInputs, branches: &'a [Branch]) -> (Vec<Wanted<'a>>, usize) {
    let mut wanted = Vec::new();
    let mut sum = 0;
    for (row, scales) in inputs.scales.chunks_exact(inputs.adapters).enumerate() {
        for branch in branches {
            let scale = scales[branch.adapter];
            if scale != 0.0 {
                wanted.push(Wanted {
                    row,
                    branch,
                    scale,
                    sum,
                });
                sum += branch.rank;
            }
        }
    }
    (wanted, sum)
}

/// Some sums of a row's branch: products of its input with rows of `down`.
struct GoDown<'a> {
    inputs: &'a UpdateInputs<'a>,
    wanted: &'a Wanted<'a>,
    /// The first of the ranks.
    first: usize,
    sums: &'a mut [f32],
}

impl Work for GoDown<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let columns = self.inputs.columns;
        let input = &self.inputs.input[self.wanted.row * columns..][..columns];
        let first = self.wanted.branch.down + self.first;
        let down = self.inputs.down[first * columns..].chunks_exact(columns);
        for (sum, row) in self.sums.iter_mut().zip(down) {
            *sum = dot(simd, input, row);
        }
    }
}

/// The sum of the elements' products.
#[inline(always)]
fn dot<S: Simd>(simd: S, left: &[f32], right: &[f32]) -> f32 {
    let (left, left_rest) = left.as_chunks::<LANES>();
    let (right, right_rest) = right.as_chunks::<LANES>();
    let mut sums = [simd.splat(0.0); 4];
    for (left, right) in left.chunks(4).zip(right.chunks(4)) {
        for ((left, right), sum) in left.iter().zip(right).zip(&mut sums) {
            *sum = simd.multiply_add(simd.load(left), simd.load(right), *sum);
        }
    }
    let [a, b, c, d] = simd.sum_lanes(sums);
    let rest = left_rest.iter().zip(right_rest);
    (a + b) + (c + d) + rest.map(|(left, right)| left * right).sum::<f32>()
}

/// Some outputs of a row: what its branches add to them, one after the other.
struct GoUp<'a> {
    up: &'a [f32],
    wanted: &'a [Wanted<'a>],
    sums: &'a [f32],
    outputs: Range<usize>,
    output: &'a mut [f32],
}

impl Work for GoUp<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        for wanted in self.wanted {
            let branch = wanted.branch;
            let first = self.outputs.start.max(branch.outputs.start);
            let end = self.outputs.end.min(branch.outputs.end);
            if first >= end {
                continue;
            }
            let sums = &self.sums[wanted.sum..][..branch.rank];
            let width = branch.outputs.len();
            let up = self.up[branch.up..][..branch.rank * width].chunks_exact(width);
            let within = first - branch.outputs.start..end - branch.outputs.start;
            let mut added = [0.0; OUTPUTS_TOGETHER];
            let added = &mut added[..within.len()];
            for (sum, row) in sums.iter().zip(up) {
                add_scaled(simd, *sum, &row[within.clone()], added);
            }
            let output = &mut self.output[first - self.outputs.start..end - self.outputs.start];
            add_scaled(simd, wanted.scale, added, output);
        }
    }
}

/// Adds `scale · values` to what is there.
#[inline(always)]
fn add_scaled<S: Simd>(simd: S, scale: f32, values: &[f32], to: &mut [f32]) {
    let (values, values_rest) = values.as_chunks::<LANES>();
    let (to, to_rest) = to.as_chunks_mut::<LANES>();
    let scales = simd.splat(scale);
    for (value, to) in values.iter().zip(to) {
        let sum = simd.multiply_add(scales, simd.load(value), simd.load(to));
        simd.store(sum, to);
    }
    for (value, to) in values_rest.iter().zip(to_rest) {
        *to += scale * value;
    }
}
