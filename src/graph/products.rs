//! Products with a model's matrices: `x · Wᵀ`, what stands before and behind it, and what adapters add to it. Our operator
//! computes all of that in one node; `MatMulNBits` is one of several.

use super::ORTOLAN_DOMAIN;
use super::adapter::{Adapter, LowRank};
use super::families::{self, Activation};
use super::onnx::{
    Attribute::{self, Float, Int},
    Edge, Initializer, MICROSOFT_DOMAIN, TensorValues,
};
use super::tensors::Tensor;
use super::weighted::{RmsNorm, WeightedGraph};
use super::weights::{self, Blocks};

/// The attribute of our operators that says the function of a gate: the number of an [`Activation`].
pub const GATED: &str = "gated";

/// Whose products with quantised matrices a graph has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProductOperator {
    /// `MatMulPanels`, ours, for the CPU.
    Ortolan,
    /// ONNX Runtime's `MatMulNBits`.
    Contrib,
}

/// A product, and what stands before and behind it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Product<'a> {
    /// The name of its weights, where they are several tensors'.
    pub(super) name: &'a str,
    /// The name of what comes of all.
    pub(super) result: &'a str,
    /// `[rows, columns]`
    pub(super) x: &'a Edge,
    /// Which of the step's tokens the rows are, if not all.
    pub(super) rows: Option<&'a Edge>,
    /// What `x` goes through before.
    pub(super) norm: Option<RmsNorm<'a>>,
    /// The tensors whose rows, one after the other, are those of `W`.
    pub(super) parts: &'a [String],
    /// The tensors of what is added to each row, or none.
    pub(super) biases: &'a [String],
    /// The function of each row's first half that its second half is multiplied with.
    pub(super) gated: Option<Activation>,
    /// What is added in the end.
    pub(super) residual: Option<&'a Edge>,
}

impl<'a> Product<'a> {
    /// Nothing but `x · Wᵀ`, by the name `result`.
    pub(super) fn plain(name: &'a str, result: &'a str, x: &'a Edge, parts: &'a [String]) -> Self {
        Self {
            name,
            result,
            x,
            rows: None,
            norm: None,
            parts,
            biases: &[],
            gated: None,
            residual: None,
        }
    }
}

/// The names of what the steps of a product come to: the last one's is the product's own.
struct StepNames<'a> {
    result: &'a str,
    left: usize,
}

impl<'a> StepNames<'a> {
    /// For so many steps before the gate.
    fn new(product: Product<'a>, steps: usize) -> Self {
        let behind = usize::from(product.gated.is_some()) + usize::from(product.residual.is_some());
        Self {
            result: product.result,
            left: steps + behind,
        }
    }

    fn next(&mut self, step: &str) -> String {
        self.left -= 1;
        match self.left {
            0 => self.result.to_owned(),
            _ => format!("{}.{step}", self.result),
        }
    }
}

/// What an adapter adds to some outputs of a product.
struct Branch<'a> {
    adapter: usize,
    /// The first of the outputs.
    first: usize,
    outputs: usize,
    added: &'a LowRank,
}

impl<'a> WeightedGraph<'a> {
    /// What comes of a product: in one node, if our operator can and no adapter adds to it.
    pub(super) fn product(&mut self, product: Product<'_>) -> Edge {
        let parts = product.parts;
        let branches = self.branches(parts);
        let tensors: Vec<Tensor<'_>> = parts.iter().map(|part| self.tensor(part)).collect();
        let alone = branches.is_empty();
        let halves = product.gated.is_some() && alone;
        if self.products == ProductOperator::Ortolan
            && are_of_one_kind(&tensors)
            && let Some(matrix) = self.panels(&tensors, halves)
        {
            if alone {
                return self.fused(product, matrix);
            }
            // Who wants no adapter keeps the bits of the one node.
            let mut names = StepNames::new(product, 2);
            let sums = Product {
                result: &names.next("sums"),
                gated: None,
                residual: None,
                ..product
            };
            let sums = self.fused(sums, matrix);
            let x = self.normed(product);
            return self.behind(product, names, &x, sums, &branches, Self::gated_halves);
        }
        let x = self.normed(product);
        let bias = self.bias(product);
        let steps = 1 + usize::from(bias.is_some()) + usize::from(!alone);
        let mut names = StepNames::new(product, steps);
        let mut sums = self.sums(product.name, &names.next("sums"), &x, parts);
        if let Some(bias) = bias {
            sums = self.sum(&names.next("biased"), &sums, &bias);
        }
        self.behind(product, names, &x, sums, &branches, Self::gated)
    }

    /// A product by our operator, with the matrix of that number.
    fn fused(&mut self, product: Product<'_>, matrix: usize) -> Edge {
        let gain = product.norm.map(|norm| self.vector(norm.gain));
        let bias = self.bias(product);
        let mut attributes = vec![("matrix", Int(matrix as i64))];
        attributes.extend(product.gated.map(gated_attribute));
        attributes.extend(product.norm.map(|norm| ("epsilon", Float(norm.epsilon))));
        let inputs = [
            Some(product.x),
            gain.as_ref(),
            bias.as_ref(),
            product.residual,
        ];
        let [result] = self.builder.node(
            ORTOLAN_DOMAIN,
            "MatMulPanels",
            &inputs,
            [product.result],
            &attributes,
        );
        result
    }

    /// `x` after its norm, if there is one.
    fn normed(&mut self, product: Product<'_>) -> Edge {
        match product.norm {
            None => product.x.clone(),
            Some(norm) => self.rms_norm(&format!("{}.normed", norm.gain), norm, product.x),
        }
    }

    /// What is made of a product's sums, each step in a node of its own.
    fn behind(
        &mut self,
        product: Product<'_>,
        mut names: StepNames<'_>,
        x: &Edge,
        sums: Edge,
        branches: &[Branch<'_>],
        gate: impl Fn(&mut Self, &str, &Edge, Activation) -> Edge,
    ) -> Edge {
        let mut found = sums;
        if let ([_, ..], Some(mut scales)) = (branches, self.scales.clone()) {
            if let Some(rows) = product.rows {
                scales = self.rows(&format!("{}.scales", product.result), &scales, rows);
            }
            found = self.updated(&names.next("updated"), &found, x, &scales, branches);
        }
        if let Some(activation) = product.gated {
            found = gate(self, &names.next("gated"), &found, activation);
        }
        if let Some(residual) = product.residual {
            found = self.sum(&names.next("added"), residual, &found);
        }
        found
    }

    /// What is added to each row of a product, if anything is.
    fn bias(&mut self, product: Product<'_>) -> Option<Edge> {
        let biases = product.biases;
        let name = format!("{}.bias", product.name);
        (!biases.is_empty()).then(|| self.vectors(&name, biases))
    }

    /// The second half of each row of `both`, times a function of the first, as the product's one node computes it.
    fn gated_halves(&mut self, result: &str, both: &Edge, activation: Activation) -> Edge {
        let [gated] = self.builder.node(
            ORTOLAN_DOMAIN,
            "GatedHalves",
            &[Some(both)],
            [result],
            &[gated_attribute(activation)],
        );
        gated
    }

    /// The same by ONNX Runtime's operators.
    fn gated(&mut self, result: &str, both: &Edge, activation: Activation) -> Edge {
        let [gate, up] = self.builder.node(
            "",
            "Split",
            &[Some(both)],
            [&format!("{result}.gate"), &format!("{result}.up")],
            &[("axis", Int(-1)), ("num_outputs", Int(2))],
        );
        let (operator, attributes): (_, &[_]) = match activation {
            // x · sigmoid(x).
            Activation::Silu => ("QuickGelu", &[("alpha", Float(1.0))]),
            Activation::GeluTanh => ("FastGelu", &[]),
        };
        let [activated] = self.builder.node(
            MICROSOFT_DOMAIN,
            operator,
            &[Some(&gate)],
            [&format!("{result}.activated")],
            attributes,
        );
        let inputs = [Some(&activated), Some(&up)];
        let [gated] = self.builder.node("", "Mul", &inputs, [result], &[]);
        gated
    }

    /// What adapters add to the product with these parts.
    fn branches(&self, parts: &[String]) -> Vec<Branch<'a>> {
        let mut branches = Vec::new();
        let mut first = 0;
        for part in parts {
            let outputs = self.tensor(part).rows();
            let weight = match &**part {
                // Nothing else is multiplied with it.
                families::TOKEN_EMBEDDING => families::OUTPUT,
                part => part,
            };
            let of_adapter = |(adapter, of): (usize, &'a Adapter)| {
                let added = of.branch(weight)?;
                Some(Branch {
                    adapter,
                    first,
                    outputs,
                    added,
                })
            };
            branches.extend(self.adapters.iter().enumerate().filter_map(of_adapter));
            first += outputs;
        }
        branches
    }

    /// The product with what the branches add to it, as strong as `scales` says.
    fn updated(
        &mut self,
        result: &str,
        product: &Edge,
        x: &Edge,
        scales: &Edge,
        branches: &[Branch<'_>],
    ) -> Edge {
        let ranks: usize = branches.iter().map(|branch| branch.added.rank).sum();
        let numbers = |branch: &Branch<'_>| {
            let &Branch {
                adapter,
                first,
                outputs,
                added,
            } = branch;
            [adapter, first, outputs, added.rank].map(|number| number as i64)
        };
        let numbers: Vec<i64> = branches.iter().flat_map(numbers).collect();
        let numbers = self
            .builder
            .integers(&format!("{result}.branches"), &numbers);
        let added = branches.iter().map(|branch| branch.added);
        let down: Vec<f32> = added
            .clone()
            .flat_map(|added| &added.down)
            .copied()
            .collect();
        let up: Vec<f32> = added.flat_map(|added| &added.up).copied().collect();
        let mut floats = |part: &str, shape, values| {
            self.builder.initializer(Initializer {
                name: format!("{result}.{part}"),
                shape,
                values: TensorValues::F32(values),
            })
        };
        let down = floats("down", vec![ranks, down.len() / ranks], down);
        let up = floats("up", vec![up.len()], up);
        let inputs = [product, x, scales, &down, &up, &numbers].map(Some);
        let [updated] = self
            .builder
            .node(ORTOLAN_DOMAIN, "LowRankUpdate", &inputs, [result], &[]);
        updated
    }

    /// `x · Wᵀ` by the name `result`.
    fn sums(&mut self, name: &str, result: &str, x: &Edge, parts: &[String]) -> Edge {
        let tensors: Vec<Tensor<'_>> = parts.iter().map(|part| self.tensor(part)).collect();
        if are_of_one_kind(&tensors) {
            return self.stacked_product(name, result, x, &tensors);
        }
        // Parts of different types cannot share one product: one each, side by side.
        let products: Vec<Edge> = parts
            .iter()
            .zip(&tensors)
            .map(|(part, tensor)| {
                self.stacked_product(
                    part,
                    &format!("{part}.product"),
                    x,
                    std::slice::from_ref(tensor),
                )
            })
            .collect();
        let inputs: Vec<Option<&Edge>> = products.iter().map(Some).collect();
        let [joined] = self
            .builder
            .node("", "Concat", &inputs, [result], &[("axis", Int(-1))]);
        joined
    }

    fn stacked_product(
        &mut self,
        weight: &str,
        result: &str,
        x: &Edge,
        tensors: &[Tensor<'_>],
    ) -> Edge {
        match self.products {
            ProductOperator::Ortolan => {
                if let Some(matrix) = self.panels(tensors, false) {
                    let product = Product::plain(weight, result, x, &[]);
                    return self.fused(product, matrix);
                }
            }
            ProductOperator::Contrib => {
                if let Some(blocks) = weights::stack(tensors) {
                    return self.block_nodes(weight, result, x, tensors, blocks);
                }
            }
        }
        let matrix = self.builder.initializer(Initializer {
            name: format!("{weight}.matrix"),
            shape: vec![tensors[0].columns(), rows(tensors)],
            values: TensorValues::F32(weights::dense(tensors)),
        });
        let inputs = [Some(x), Some(&matrix)];
        let [product] = self.builder.node("", "MatMul", &inputs, [result], &[]);
        product
    }

    /// The product by `MatMulNBits`, and what it lacks.
    fn block_nodes(
        &mut self,
        weight: &str,
        result: &str,
        x: &Edge,
        tensors: &[Tensor<'_>],
        blocks: Blocks,
    ) -> Edge {
        let (columns, rows) = (tensors[0].columns(), rows(tensors));
        let block = blocks.block;
        let per_row = columns / block;
        let quants = self.builder.initializer(Initializer {
            name: format!("{weight}.quants"),
            shape: vec![rows, per_row, block * blocks.bits / 8],
            values: TensorValues::U8(blocks.quants),
        });
        let scales = self.builder.initializer(Initializer {
            name: format!("{weight}.scales"),
            shape: vec![rows, per_row],
            values: TensorValues::F32(blocks.scales),
        });
        let symmetric = match blocks.offsets {
            None => result.to_owned(),
            Some(_) => format!("{result}.symmetric"),
        };
        let [product] = self.builder.node(
            MICROSOFT_DOMAIN,
            "MatMulNBits",
            &[Some(x), Some(&quants), Some(&scales)],
            [&symmetric],
            &[
                ("K", Int(columns as i64)),
                ("N", Int(rows as i64)),
                ("bits", Int(blocks.bits as i64)),
                ("block_size", Int(block as i64)),
                // Activations as int8, one scale per block: what llama.cpp computes with, too.
                ("accuracy_level", Int(4)),
            ],
        );
        let Some(offsets) = blocks.offsets else {
            return product;
        };
        let offsets = self.builder.initializer(Initializer {
            name: format!("{weight}.offsets"),
            shape: vec![per_row, rows],
            values: TensorValues::F32(offsets),
        });
        let sums = self.block_sums(result, x, [per_row, block]);
        let [corrected] = self.builder.node(
            "",
            "Gemm",
            &[Some(&sums), Some(&offsets), Some(&product)],
            [result],
            &[],
        );
        corrected
    }

    /// `[tokens, blocks]`: the sums of each block of so many values of a row.
    fn block_sums(&mut self, result: &str, x: &Edge, [blocks, block]: [usize; 2]) -> Edge {
        let name = |what: &str| format!("{result}.{what}");
        let shape = self
            .builder
            .integers(&name("block_shape"), &[0, blocks as i64, block as i64]);
        let [split] = self.builder.node(
            "",
            "Reshape",
            &[Some(x), Some(&shape)],
            [&name("blocks")],
            &[],
        );
        let axes = self.builder.integers(&name("block_axis"), &[2]);
        let [sums] = self.builder.node(
            "",
            "ReduceSum",
            &[Some(&split), Some(&axes)],
            [&name("block_sums")],
            &[("keepdims", Int(0))],
        );
        sums
    }
}

/// The function of a gate, as our operators are told it.
fn gated_attribute(activation: Activation) -> (&'static str, Attribute) {
    (GATED, Int(activation as i64))
}

/// Whether matrices can be stacked to one.
fn are_of_one_kind(tensors: &[Tensor<'_>]) -> bool {
    let kinds = tensors.iter().map(Tensor::product_kind);
    kinds.clone().all(|kind| kind == tensors[0].product_kind())
}

/// Of all matrices together.
fn rows(tensors: &[Tensor<'_>]) -> usize {
    tensors.iter().map(Tensor::rows).sum()
}
