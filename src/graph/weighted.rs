//! An ONNX graph under construction together with the tensors that its weights come from: what decoders and encoders
//! multiply with and add.

use super::names;
use super::onnx::{
    Attribute::Int,
    Dimension::{Fixed, Named},
    Edge, ElementType, GraphBuilder, Initializer, MICROSOFT_DOMAIN, TensorValues,
};
use super::tensors::{Tensor, Tensors};
use super::weights::{self, Product};

/// A graph and its weights.
pub(super) struct WeightedGraph<'a> {
    pub(super) builder: GraphBuilder,
    tensors: &'a Tensors,
}

impl<'a> WeightedGraph<'a> {
    /// Nothing built yet.
    pub(super) fn new(tensors: &'a Tensors) -> Self {
        Self {
            builder: GraphBuilder::default(),
            tensors,
        }
    }

    pub(super) fn tensor(&self, name: &str) -> Tensor<'a> {
        self.tensors
            .get(name)
            .expect("every tensor's presence was checked with the architecture")
    }

    /// The vector of that name.
    pub(super) fn vector(&mut self, name: &str) -> Edge {
        self.vectors(name, &[name.to_owned()])
    }

    /// The vectors `parts`, one behind the other, as one of the name `name`.
    pub(super) fn vectors(&mut self, name: &str, parts: &[String]) -> Edge {
        let values: Vec<f32> = parts
            .iter()
            .flat_map(|part| self.tensor(part).dequantised())
            .collect();
        self.builder.initializer(Initializer {
            name: name.to_owned(),
            shape: vec![values.len()],
            values: TensorValues::F32(values),
        })
    }

    /// The rows that are asked for of the states after the last norm, each `hidden` wide.
    pub(super) fn hidden(&mut self, states: &Edge, hidden: usize) {
        let rows = [Named("hidden_rows")];
        let rows = self
            .builder
            .input(names::HIDDEN_ROWS, ElementType::I64, &rows);
        let [wanted] = self.builder.node(
            "",
            "Gather",
            &[Some(states), Some(&rows)],
            [names::HIDDEN],
            &[("axis", Int(0))],
        );
        let shape = [Named("hidden_rows"), Fixed(hidden)];
        self.builder.output(&wanted, ElementType::F32, &shape);
    }

    /// `x · Wᵀ` with the rows of the tensors `parts` stacked to `W`. The result's name is `name`, or
    /// that of its weights with a suffix where it stands for a single tensor.
    pub(super) fn product(&mut self, name: &str, x: &Edge, parts: &[String]) -> Edge {
        let result = match name {
            names::LOGITS => name.to_owned(),
            weight => format!("{weight}.product"),
        };
        let tensors: Vec<Tensor<'_>> = parts.iter().map(|part| self.tensor(part)).collect();
        if tensors
            .iter()
            .all(|tensor| tensor.product_kind() == tensors[0].product_kind())
        {
            return self.stacked_product(name, &result, x, &tensors);
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
            .node("", "Concat", &inputs, [&result], &[("axis", Int(-1))]);
        joined
    }

    fn stacked_product(
        &mut self,
        weight: &str,
        result: &str,
        x: &Edge,
        tensors: &[Tensor<'_>],
    ) -> Edge {
        let columns = tensors[0].columns();
        let rows: usize = tensors.iter().map(|tensor| tensor.rows()).sum();
        let blocks = match weights::stack(tensors) {
            Product::Blocks(blocks) => blocks,
            Product::Dense(values) => {
                let matrix = self.builder.initializer(Initializer {
                    name: format!("{weight}.matrix"),
                    shape: vec![columns, rows],
                    values: TensorValues::F32(values),
                });
                let [product] =
                    self.builder
                        .node("", "MatMul", &[Some(x), Some(&matrix)], [result], &[]);
                return product;
            }
        };
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
