//! Low-rank updates compared with a reference in f64.

use super::super::low_rank::{LowRankInputs, update};
use super::*;

/// Shapes of a low-rank update. A branch is: adapter, first output, number of outputs, rank.
#[derive(Debug, Clone)]
struct Configuration {
    columns: usize,
    outputs: usize,
    adapters: usize,
    branches: Vec<[usize; 4]>,
    seed: u64,
}

impl Configuration {
    fn elements(&self, kind: u64, count: usize) -> Vec<f32> {
        let element = |index| noise([self.seed, kind, index as u64, 0, 0]);
        (0..count).map(element).collect()
    }

    fn lora_a(&self) -> Vec<f32> {
        let ranks: usize = self.branches.iter().map(|branch| branch[3]).sum();
        self.elements(1, ranks * self.columns)
    }

    fn lora_b(&self) -> Vec<f32> {
        let elements = self.branches.iter().map(|branch| branch[2] * branch[3]);
        self.elements(2, elements.sum())
    }

    /// Returns the base, the input and the scales of a row.
    fn row(&self, row: usize) -> [Vec<f32>; 3] {
        let mut scales = self.elements(5 + row as u64, self.adapters);
        // About a third of the scales disable their adapter.
        let disabled = scales.iter_mut().filter(|scale| scale.abs() < 0.33);
        disabled.for_each(|scale| *scale = 0.0);
        let [base, input] = [(1000, self.outputs), (2000, self.columns)]
            .map(|(kind, count)| self.elements(kind + row as u64, count));
        [base, input, scales]
    }

    fn run(
        &self,
        rows: &[usize],
        instructions: Instructions,
        parallel: ParallelFor,
    ) -> Vec<Vec<f32>> {
        let rows = rows.iter().map(|row| self.row(*row));
        let [mut base, mut input, mut scales] = [const { Vec::new() }; 3];
        for [row_base, row_input, row_scales] in rows {
            base.extend(row_base);
            input.extend(row_input);
            scales.extend(row_scales);
        }
        let fields = self.branches.as_flattened().iter();
        let branches: Vec<i64> = fields.map(|field| *field as i64).collect();
        let inputs = LowRankInputs {
            base: &base,
            outputs: self.outputs,
            input: &input,
            columns: self.columns,
            scales: &scales,
            adapters: self.adapters,
            lora_a: &self.lora_a(),
            lora_b: &self.lora_b(),
            branches: &branches,
        };
        let mut output = vec![f32::NAN; base.len()];
        update(&inputs, &mut output, instructions, parallel).unwrap();
        output
            .chunks_exact(self.outputs)
            .map(<[f32]>::to_vec)
            .collect()
    }

    fn reference(&self, row: usize) -> Vec<f64> {
        let [base, input, scales] = self.row(row);
        let mut output: Vec<f64> = base.iter().map(|value| f64::from(*value)).collect();
        let (lora_a, lora_b) = (self.lora_a(), self.lora_b());
        let mut a_rows = lora_a.chunks_exact(self.columns);
        let mut b_elements = lora_b.as_slice();
        for [adapter, first, count, rank] in self.branches.clone() {
            for row in a_rows.by_ref().take(rank) {
                let products = row.iter().zip(&input);
                let sum: f64 = products.map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
                let (b_row, rest) = b_elements.split_at(count);
                b_elements = rest;
                for (output, weight) in output[first..].iter_mut().zip(b_row) {
                    *output += f64::from(scales[adapter]) * sum * f64::from(*weight);
                }
            }
        }
        output
    }
}

fn configuration() -> impl Strategy<Value = Configuration> {
    let sizes = (1..90_usize, 1..150_usize, 1..4_usize, any::<u64>());
    sizes.prop_flat_map(|(columns, outputs, adapters, seed)| {
        let branch = (0..adapters, 0..outputs, 1..=outputs, 1..20_usize).prop_map(
            move |(adapter, first, count, rank)| [adapter, first, count.min(outputs - first), rank],
        );
        prop::collection::vec(branch, 1..5).prop_map(move |branches| Configuration {
            columns,
            outputs,
            adapters,
            branches,
            seed,
        })
    })
}

proptest! {
    #[test]
    fn updates_match_the_reference(configuration in configuration()) {
        for instructions in Instructions::available() {
            for (row, output) in configuration.run(&[0, 1, 2], instructions, &one_thread).iter().enumerate() {
                for (value, expected) in output.iter().zip(configuration.reference(row)) {
                    prop_assert!((f64::from(*value) - expected).abs() < 1e-3, "{value} {expected}");
                }
            }
        }
    }

    #[test]
    fn updates_do_not_depend_on_other_rows_or_threads(configuration in configuration()) {
        let rows: Vec<usize> = (0..40).collect();
        let all = configuration.run(&rows, Instructions::detect(), &three_threads);
        for row in [0, 17, 39] {
            let alone = configuration.run(&[row], Instructions::detect(), &one_thread);
            prop_assert!(all[row] == alone[0]);
            let [base, _, scales] = configuration.row(row);
            let is_active = |branch: &[usize; 4]| scales[branch[0]] != 0.0;
            if !configuration.branches.iter().any(is_active) {
                prop_assert!(all[row] == base);
            }
        }
    }
}

#[test]
fn mismatched_branches_are_rejected() {
    let (rows, matrix) = ([0.0; 6], [0.0; 3]);
    let inputs = LowRankInputs {
        base: &rows,
        outputs: 3,
        input: &rows,
        columns: 3,
        scales: &rows[..2],
        adapters: 1,
        lora_a: &matrix,
        lora_b: &matrix,
        branches: &[0, 0, 3, 1],
    };
    let run = |inputs: &LowRankInputs| {
        let result = update(inputs, &mut [0.0; 6], Instructions::detect(), &one_thread);
        result.map_err(|error| error.to_string())
    };
    run(&inputs).unwrap();
    for branches in [
        &[0_i64, 0, 3][..],
        &[1, 0, 3, 1],
        &[0, 1, 3, 1],
        &[0, -1, 3, 1],
        &[0, 0, 3, 2],
        &[0, 0, 3, i64::MAX],
        &[],
    ] {
        let result = run(&LowRankInputs { branches, ..inputs });
        assert!(
            result.unwrap_err().starts_with("branches: "),
            "{branches:?}"
        );
    }
    let result = run(&LowRankInputs {
        scales: &rows,
        ..inputs
    });
    assert_eq!(
        result.unwrap_err(),
        "scales: has 6 elements, not 2 rows of 1"
    );
}
