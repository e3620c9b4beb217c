//! Adds matrix multiplications with a model's weights, `x · Wᵀ`, to a graph, with the surrounding norm, bias, gate,
//! residual and LoRA updates. ortolan's operator `MatMulPanels` fuses all of these except LoRA updates into one node;
//! ONNX Runtime's `MatMulNBits` needs several nodes.

use super::ORTOLAN_DOMAIN;
use super::adapter::{Adapter, LoraMatrices};
use super::families::{self, Activation};
use super::onnx::{
    Attribute::{self, Float, Int},
    Edge, Initializer, MICROSOFT_DOMAIN, TensorValues,
};
use super::tensors::Tensor;
use super::weighted::{MatmulOperator, RmsNorm, WeightedGraph};
use super::weights::{self, NBitsOperands};

/// The attribute of ortolan's operators that selects a gate's activation: an [`Activation`] as an integer.
pub const GATED: &str = "gated";

/// A matrix multiplication `x · Wᵀ` and the operations before and after it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Matmul<'a> {
    /// Prefix of the names of the initializers.
    pub(super) weight_name: &'a str,
    /// The name of the output of the last operation.
    pub(super) output: &'a str,
    /// The input, `[rows, columns]`.
    pub(super) x: &'a Edge,
    /// The index of the token in the step for each row of `x`; `None` if the rows are all tokens.
    pub(super) token_rows: Option<&'a Edge>,
    /// The norm that is applied to `x` first.
    pub(super) norm: Option<RmsNorm<'a>>,
    /// The names of the tensors that are stacked to form `W`.
    pub(super) weights: &'a [String],
    /// The names of the bias tensors, in the order of `weights`; empty for a matmul without bias.
    pub(super) biases: &'a [String],
    /// If set, each row of the result becomes `activation(first half) · second half`.
    pub(super) gate: Option<Activation>,
    /// The residual that is added last.
    pub(super) residual: Option<&'a Edge>,
}

impl<'a> Matmul<'a> {
    /// Returns a matmul without other operations: `x · Wᵀ`, with the output name `output`.
    pub(super) fn plain(
        weight_name: &'a str,
        output: &'a str,
        x: &'a Edge,
        weights: &'a [String],
    ) -> Self {
        Self {
            weight_name,
            output,
            x,
            token_rows: None,
            norm: None,
            weights,
            biases: &[],
            gate: None,
            residual: None,
        }
    }
}

/// Generates output names for consecutive nodes. The last node gets the matmul's output name.
struct OutputNames<'a> {
    output: &'a str,
    remaining_nodes: usize,
}

impl<'a> OutputNames<'a> {
    /// Prepares names for `nodes` nodes, plus the nodes for the gate and the residual.
    fn new(matmul: Matmul<'a>, nodes: usize) -> Self {
        let last_nodes =
            usize::from(matmul.gate.is_some()) + usize::from(matmul.residual.is_some());
        Self {
            output: matmul.output,
            remaining_nodes: nodes + last_nodes,
        }
    }

    fn next(&mut self, suffix: &str) -> String {
        self.remaining_nodes -= 1;
        match self.remaining_nodes {
            0 => self.output.to_owned(),
            _ => format!("{}.{suffix}", self.output),
        }
    }
}

/// An adapter's update to a range of a matmul's outputs.
struct LoraUpdate<'a> {
    adapter: usize,
    /// Index of the first updated output.
    first_output: usize,
    outputs: usize,
    matrices: &'a LoraMatrices,
}

impl<'a> WeightedGraph<'a> {
    /// Adds a matmul and returns its output. The matmul is a single node if `MatMulPanels` supports the weights and no
    /// adapter updates them.
    pub(super) fn matmul(&mut self, matmul: Matmul<'_>) -> Edge {
        let weights = matmul.weights;
        let updates = self.lora_updates(weights);
        let tensors: Vec<Tensor<'_>> = weights.iter().map(|weight| self.tensor(weight)).collect();
        let has_no_updates = updates.is_empty();
        let interleaved_halves = matmul.gate.is_some() && has_no_updates;
        if self.matmul_operator == MatmulOperator::Ortolan
            && have_same_type(&tensors)
            && let Some(matrix) = self.panels(&tensors, interleaved_halves)
        {
            if has_no_updates {
                return self.mat_mul_panels(matmul, matrix);
            }
            // For sequences without an adapter, the result is bit-identical to the result of the single fused node.
            let mut names = OutputNames::new(matmul, 2);
            let sums = Matmul {
                output: &names.next("sums"),
                gate: None,
                residual: None,
                ..matmul
            };
            let sums = self.mat_mul_panels(sums, matrix);
            let x = self.normed_input(matmul);
            return self.add_following_nodes(matmul, names, &x, sums, &updates, Self::gated_halves);
        }
        let x = self.normed_input(matmul);
        let bias = self.bias(matmul);
        let nodes = 1 + usize::from(bias.is_some()) + usize::from(!has_no_updates);
        let mut names = OutputNames::new(matmul, nodes);
        let mut sums = self.sums(matmul.weight_name, &names.next("sums"), &x, weights);
        if let Some(bias) = bias {
            sums = self.sum(&names.next("biased"), &sums, &bias);
        }
        self.add_following_nodes(matmul, names, &x, sums, &updates, Self::gated)
    }

    /// Adds a `MatMulPanels` node with the packed matrix that has the index `matrix`.
    fn mat_mul_panels(&mut self, matmul: Matmul<'_>, matrix: usize) -> Edge {
        let gain = matmul.norm.map(|norm| self.vector(norm.gain));
        let bias = self.bias(matmul);
        let mut attributes = vec![("matrix", Int(matrix as i64))];
        attributes.extend(matmul.gate.map(gate_attribute));
        attributes.extend(matmul.norm.map(|norm| ("epsilon", Float(norm.epsilon))));
        let inputs = [
            Some(matmul.x),
            gain.as_ref(),
            bias.as_ref(),
            matmul.residual,
        ];
        let [result] = self.builder.node(
            ORTOLAN_DOMAIN,
            "MatMulPanels",
            &inputs,
            [matmul.output],
            &attributes,
        );
        result
    }

    /// Adds the norm and returns its output; returns `x` if the matmul has no norm.
    fn normed_input(&mut self, matmul: Matmul<'_>) -> Edge {
        match matmul.norm {
            None => matmul.x.clone(),
            Some(norm) => self.rms_norm(&format!("{}.normed", norm.gain), norm, matmul.x),
        }
    }

    /// Adds the nodes after a matmul: LoRA updates, gate and residual.
    fn add_following_nodes(
        &mut self,
        matmul: Matmul<'_>,
        mut names: OutputNames<'_>,
        x: &Edge,
        sums: Edge,
        updates: &[LoraUpdate<'_>],
        gate: impl Fn(&mut Self, &str, &Edge, Activation) -> Edge,
    ) -> Edge {
        let mut output = sums;
        if let ([_, ..], Some(mut scales)) = (updates, self.adapter_scales.clone()) {
            if let Some(rows) = matmul.token_rows {
                scales = self.gather_rows(&format!("{}.scales", matmul.output), &scales, rows);
            }
            output = self.low_rank_update(&names.next("updated"), &output, x, &scales, updates);
        }
        if let Some(activation) = matmul.gate {
            output = gate(self, &names.next("gated"), &output, activation);
        }
        if let Some(residual) = matmul.residual {
            output = self.sum(&names.next("added"), residual, &output);
        }
        output
    }

    /// Adds the concatenated biases as an initializer; returns `None` if the matmul has no bias.
    fn bias(&mut self, matmul: Matmul<'_>) -> Option<Edge> {
        let biases = matmul.biases;
        let name = format!("{}.bias", matmul.weight_name);
        (!biases.is_empty()).then(|| self.vectors(&name, biases))
    }

    /// Adds a node that computes `activation(first half) · second half` of each row of `both`, bit-identical to the
    /// fused `MatMulPanels` node.
    fn gated_halves(&mut self, result: &str, both: &Edge, activation: Activation) -> Edge {
        let [gated] = self.builder.node(
            ORTOLAN_DOMAIN,
            "GatedHalves",
            &[Some(both)],
            [result],
            &[gate_attribute(activation)],
        );
        gated
    }

    /// Adds nodes that compute `activation(first half) · second half` of each row of `both` with ONNX Runtime's
    /// operators.
    fn gated(&mut self, result: &str, both: &Edge, activation: Activation) -> Edge {
        let [gate, up] = self.builder.node(
            "",
            "Split",
            &[Some(both)],
            [&format!("{result}.gate"), &format!("{result}.up")],
            &[("axis", Int(-1)), ("num_outputs", Int(2))],
        );
        let (operator, attributes): (_, &[_]) = match activation {
            // `QuickGelu` is `x · sigmoid(alpha · x)`.
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

    /// Returns the updates of all adapters to the matmul with the weights `weights`.
    fn lora_updates(&self, weights: &[String]) -> Vec<LoraUpdate<'a>> {
        let mut updates = Vec::new();
        let mut first_output = 0;
        for name in weights {
            let outputs = self.tensor(name).rows();
            let weight = match &**name {
                // A matmul with the embedding matrix uses it as the tied output matrix.
                families::TOKEN_EMBEDDING => families::OUTPUT,
                name => name,
            };
            let update = |(index, adapter): (usize, &'a Adapter)| {
                let matrices = adapter.lora(weight)?;
                Some(LoraUpdate {
                    adapter: index,
                    first_output,
                    outputs,
                    matrices,
                })
            };
            updates.extend(self.adapters.iter().enumerate().filter_map(update));
            first_output += outputs;
        }
        updates
    }

    /// Adds a `LowRankUpdate` node: `product` plus each update, multiplied by the scale of the update's adapter.
    fn low_rank_update(
        &mut self,
        result: &str,
        product: &Edge,
        x: &Edge,
        scales: &Edge,
        updates: &[LoraUpdate<'_>],
    ) -> Edge {
        let ranks: usize = updates.iter().map(|update| update.matrices.rank).sum();
        let numbers = |update: &LoraUpdate<'_>| {
            let &LoraUpdate {
                adapter,
                first_output,
                outputs,
                matrices,
            } = update;
            [adapter, first_output, outputs, matrices.rank].map(|number| number as i64)
        };
        let numbers: Vec<i64> = updates.iter().flat_map(numbers).collect();
        let numbers = self
            .builder
            .integers(&format!("{result}.branches"), &numbers);
        let matrices = updates.iter().map(|update| update.matrices);
        let a: Vec<f32> = matrices
            .clone()
            .flat_map(|matrices| &matrices.a)
            .copied()
            .collect();
        let b: Vec<f32> = matrices
            .flat_map(|matrices| &matrices.b_transposed)
            .copied()
            .collect();
        let mut floats = |part: &str, shape, values| {
            self.builder.initializer(Initializer {
                name: format!("{result}.{part}"),
                shape,
                values: TensorValues::F32(values),
            })
        };
        let a = floats("down", vec![ranks, a.len() / ranks], a);
        let b = floats("up", vec![b.len()], b);
        let inputs = [product, x, scales, &a, &b, &numbers].map(Some);
        let [updated] = self
            .builder
            .node(ORTOLAN_DOMAIN, "LowRankUpdate", &inputs, [result], &[]);
        updated
    }

    /// Adds nodes that compute `x · Wᵀ`, with the output name `result`.
    fn sums(&mut self, weight_name: &str, result: &str, x: &Edge, weights: &[String]) -> Edge {
        let tensors: Vec<Tensor<'_>> = weights.iter().map(|weight| self.tensor(weight)).collect();
        if have_same_type(&tensors) {
            return self.stacked_matmul(weight_name, result, x, &tensors);
        }
        // Weights of different types cannot be stacked: each weight gets a node, and the outputs are concatenated.
        let outputs: Vec<Edge> = weights
            .iter()
            .zip(&tensors)
            .map(|(weight, tensor)| {
                self.stacked_matmul(
                    weight,
                    &format!("{weight}.product"),
                    x,
                    std::slice::from_ref(tensor),
                )
            })
            .collect();
        let inputs: Vec<Option<&Edge>> = outputs.iter().map(Some).collect();
        let [joined] = self
            .builder
            .node("", "Concat", &inputs, [result], &[("axis", Int(-1))]);
        joined
    }

    fn stacked_matmul(
        &mut self,
        weight: &str,
        result: &str,
        x: &Edge,
        tensors: &[Tensor<'_>],
    ) -> Edge {
        match self.matmul_operator {
            MatmulOperator::Ortolan => {
                if let Some(matrix) = self.panels(tensors, false) {
                    let matmul = Matmul::plain(weight, result, x, &[]);
                    return self.mat_mul_panels(matmul, matrix);
                }
            }
            MatmulOperator::Contrib => {
                if let Some(operands) = weights::stack_quantized(tensors) {
                    return self.mat_mul_n_bits(weight, result, x, tensors, operands);
                }
            }
        }
        let matrix = self.builder.initializer(Initializer {
            name: format!("{weight}.matrix"),
            shape: vec![tensors[0].columns(), rows(tensors)],
            values: TensorValues::F32(weights::stack_transposed(tensors)),
        });
        let inputs = [Some(x), Some(&matrix)];
        let [product] = self.builder.node("", "MatMul", &inputs, [result], &[]);
        product
    }

    /// Adds a `MatMulNBits` node, and nodes that add the contribution of mins if the type has mins.
    fn mat_mul_n_bits(
        &mut self,
        weight: &str,
        result: &str,
        x: &Edge,
        tensors: &[Tensor<'_>],
        operands: NBitsOperands,
    ) -> Edge {
        let (columns, rows) = (tensors[0].columns(), rows(tensors));
        let block_size = operands.block_size;
        let per_row = columns / block_size;
        let quants = self.builder.initializer(Initializer {
            name: format!("{weight}.quants"),
            shape: vec![rows, per_row, block_size * operands.bits / 8],
            values: TensorValues::U8(operands.quants),
        });
        let scales = self.builder.initializer(Initializer {
            name: format!("{weight}.scales"),
            shape: vec![rows, per_row],
            values: TensorValues::F32(operands.scales),
        });
        let symmetric = match operands.offsets {
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
                ("bits", Int(operands.bits as i64)),
                ("block_size", Int(block_size as i64)),
                // Quantize activations to int8 with one scale per block, as llama.cpp does.
                ("accuracy_level", Int(4)),
            ],
        );
        let Some(offsets) = operands.offsets else {
            return product;
        };
        let offsets = self.builder.initializer(Initializer {
            name: format!("{weight}.offsets"),
            shape: vec![per_row, rows],
            values: TensorValues::F32(offsets),
        });
        let sums = self.block_sums(result, x, [per_row, block_size]);
        let [corrected] = self.builder.node(
            "",
            "Gemm",
            &[Some(&sums), Some(&offsets), Some(&product)],
            [result],
            &[],
        );
        corrected
    }

    /// Adds nodes that sum each block of `block_size` values in the rows of `x`. The output is `[tokens, blocks]`.
    fn block_sums(&mut self, result: &str, x: &Edge, [blocks, block_size]: [usize; 2]) -> Edge {
        let name = |suffix: &str| format!("{result}.{suffix}");
        let shape = self
            .builder
            .integers(&name("block_shape"), &[0, blocks as i64, block_size as i64]);
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

/// Returns the attribute of ortolan's operators that selects the gate's activation.
fn gate_attribute(activation: Activation) -> (&'static str, Attribute) {
    (GATED, Int(activation as i64))
}

/// Whether all tensors have the same matmul type, so that they can be stacked.
fn have_same_type(tensors: &[Tensor<'_>]) -> bool {
    let mut types = tensors.iter().map(Tensor::matmul_type);
    types.all(|kind| kind == tensors[0].matmul_type())
}

/// Returns the total number of rows of `tensors`.
fn rows(tensors: &[Tensor<'_>]) -> usize {
    tensors.iter().map(Tensor::rows).sum()
}
