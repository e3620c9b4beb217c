//! Low-rank updates, against their definition in f64.

use super::super::low_rank::{UpdateInputs, update};
use super::*;

/// A product with branches: each of an adapter, with its first output, their number and its rank.
#[derive(Debug, Clone)]
struct Updated {
    columns: usize,
    outputs: usize,
    adapters: usize,
    branches: Vec<[usize; 4]>,
    seed: u64,
}

impl Updated {
    fn elements(&self, which: u64, count: usize) -> Vec<f32> {
        let element = |place| noise([self.seed, which, place as u64, 0, 0]);
        (0..count).map(element).collect()
    }

    fn down(&self) -> Vec<f32> {
        let ranks: usize = self.branches.iter().map(|branch| branch[3]).sum();
        self.elements(1, ranks * self.columns)
    }

    fn up(&self) -> Vec<f32> {
        let elements = self.branches.iter().map(|branch| branch[2] * branch[3]);
        self.elements(2, elements.sum())
    }

    /// The product, the input and the scales of a row.
    fn row(&self, row: usize) -> [Vec<f32>; 3] {
        let mut scales = self.elements(5 + row as u64, self.adapters);
        // A third of the wishes are for nothing.
        let unwanted = scales.iter_mut().filter(|scale| scale.abs() < 0.33);
        unwanted.for_each(|scale| *scale = 0.0);
        let [product, input] = [(1000, self.outputs), (2000, self.columns)]
            .map(|(which, count)| self.elements(which + row as u64, count));
        [product, input, scales]
    }

    fn run(
        &self,
        rows: &[usize],
        instructions: Instructions,
        parallel: ParallelFor,
    ) -> Vec<Vec<f32>> {
        let rows = rows.iter().map(|row| self.row(*row));
        let [mut product, mut input, mut scales] = [const { Vec::new() }; 3];
        for [of_product, of_input, of_scales] in rows {
            product.extend(of_product);
            input.extend(of_input);
            scales.extend(of_scales);
        }
        let numbers = self.branches.as_flattened().iter();
        let branches: Vec<i64> = numbers.map(|number| *number as i64).collect();
        let inputs = UpdateInputs {
            product: &product,
            outputs: self.outputs,
            input: &input,
            columns: self.columns,
            scales: &scales,
            adapters: self.adapters,
            down: &self.down(),
            up: &self.up(),
            branches: &branches,
        };
        let mut output = vec![f32::NAN; product.len()];
        update(&inputs, &mut output, instructions, parallel).unwrap();
        output
            .chunks_exact(self.outputs)
            .map(<[f32]>::to_vec)
            .collect()
    }

    fn reference(&self, row: usize) -> Vec<f64> {
        let [product, input, scales] = self.row(row);
        let mut output: Vec<f64> = product.iter().map(|value| f64::from(*value)).collect();
        let (down, up) = (self.down(), self.up());
        let (mut down, mut up) = (down.chunks_exact(self.columns), up.as_slice());
        for [adapter, first, count, rank] in self.branches.clone() {
            for row in down.by_ref().take(rank) {
                let products = row.iter().zip(&input);
                let sum: f64 = products.map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
                let (of_rank, rest) = up.split_at(count);
                up = rest;
                for (output, weight) in output[first..].iter_mut().zip(of_rank) {
                    *output += f64::from(scales[adapter]) * sum * f64::from(*weight);
                }
            }
        }
        output
    }
}

fn updated() -> impl Strategy<Value = Updated> {
    let sizes = (1..90_usize, 1..150_usize, 1..4_usize, any::<u64>());
    sizes.prop_flat_map(|(columns, outputs, adapters, seed)| {
        let branch = (0..adapters, 0..outputs, 1..=outputs, 1..20_usize).prop_map(
            move |(adapter, first, count, rank)| [adapter, first, count.min(outputs - first), rank],
        );
        prop::collection::vec(branch, 1..5).prop_map(move |branches| Updated {
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
    fn updates_are_what_they_are_by_definition(node in updated()) {
        for instructions in Instructions::available() {
            for (row, found) in node.run(&[0, 1, 2], instructions, &one_thread).iter().enumerate() {
                for (found, wanted) in found.iter().zip(node.reference(row)) {
                    prop_assert!((f64::from(*found) - wanted).abs() < 1e-3, "{found} {wanted}");
                }
            }
        }
    }

    #[test]
    fn company_and_threads_change_no_bit_of_an_update(node in updated()) {
        let rows: Vec<usize> = (0..40).collect();
        let all = node.run(&rows, Instructions::detect(), &three_threads);
        for row in [0, 17, 39] {
            let alone = node.run(&[row], Instructions::detect(), &one_thread);
            prop_assert!(all[row] == alone[0]);
            let [product, _, scales] = node.row(row);
            let wanted = |branch: &[usize; 4]| scales[branch[0]] != 0.0;
            if !node.branches.iter().any(wanted) {
                prop_assert!(all[row] == product);
            }
        }
    }
}

#[test]
fn branches_that_do_not_fit_are_refused() {
    let (rows, one) = ([0.0; 6], [0.0; 3]);
    let inputs = UpdateInputs {
        product: &rows,
        outputs: 3,
        input: &rows,
        columns: 3,
        scales: &rows[..2],
        adapters: 1,
        down: &one,
        up: &one,
        branches: &[0, 0, 3, 1],
    };
    let run = |inputs: &UpdateInputs| {
        let refused = update(inputs, &mut [0.0; 6], Instructions::detect(), &one_thread);
        refused.map_err(|error| error.to_string())
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
        let refused = run(&UpdateInputs { branches, ..inputs });
        assert!(
            refused.unwrap_err().starts_with("branches: "),
            "{branches:?}"
        );
    }
    let refused = run(&UpdateInputs {
        scales: &rows,
        ..inputs
    });
    assert_eq!(
        refused.unwrap_err(),
        "scales: has 6 elements, not 2 rows of 1"
    );
}
