//! An ONNX graph under construction together with the tensors that its weights come from: what decoders and encoders
//! multiply with and add, and what adapters add to that.

use super::adapter::{Adapter, LowRank};
use super::onnx::{
    Attribute::Int,
    Dimension::{Fixed, Named},
    Edge, ElementType, GraphBuilder, Initializer, MICROSOFT_DOMAIN, TensorValues,
};
use super::tensors::{Tensor, Tensors};
use super::weights::{self, Product};
use super::{ORTOLAN_DOMAIN, families, names};

/// What an adapter adds to some outputs of a product.
struct Branch<'a> {
    adapter: usize,
    /// The first of the outputs.
    first: usize,
    outputs: usize,
    added: &'a LowRank,
}

/// A graph and its weights.
pub(super) struct WeightedGraph<'a> {
    pub(super) builder: GraphBuilder,
    tensors: &'a Tensors,
    adapters: &'a [Adapter],
    /// How strong each token wants each adapter, if there are any.
    scales: Option<Edge>,
}

impl<'a> WeightedGraph<'a> {
    /// Nothing built yet.
    pub(super) fn new(tensors: &'a Tensors, adapters: &'a [Adapter]) -> Self {
        let mut builder = GraphBuilder::default();
        let scales = (!adapters.is_empty()).then(|| {
            let shape = [Named("tokens"), Fixed(adapters.len())];
            builder.input(names::ADAPTER_SCALES, ElementType::F32, &shape)
        });
        Self {
            builder,
            tensors,
            adapters,
            scales,
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

    /// `x · Wᵀ` with the rows of the tensors `parts` stacked to `W`, and what adapters add to it. The result's name is
    /// `name`, or that of its weights with a suffix where it stands for a single tensor.
    pub(super) fn product(&mut self, name: &str, x: &Edge, parts: &[String]) -> Edge {
        let result = format!("{name}.product");
        match (self.branches(parts), self.scales.clone()) {
            (branches, Some(scales)) if !branches.is_empty() => {
                let unchanged = self.product_of(name, &format!("{result}.unchanged"), x, parts);
                self.updated(&result, &unchanged, x, &scales, &branches)
            }
            _ => self.product_of(name, &result, x, parts),
        }
    }

    /// The logits: the product of those rows of the tokens that `rows` names with the matrix `part`, by the name `result`.
    pub(super) fn product_of_rows(
        &mut self,
        result: &str,
        x: &Edge,
        rows: &Edge,
        part: &str,
    ) -> Edge {
        let parts = [part.to_owned()];
        match (self.branches(&parts), self.scales.clone()) {
            (branches, Some(scales)) if !branches.is_empty() => {
                let [scales] = self.builder.node(
                    "",
                    "Gather",
                    &[Some(&scales), Some(rows)],
                    [&format!("{result}.scales")],
                    &[("axis", Int(0))],
                );
                let unchanged = self.product_of(part, &format!("{result}.unchanged"), x, &parts);
                self.updated(result, &unchanged, x, &scales, &branches)
            }
            _ => self.product_of(part, result, x, &parts),
        }
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
    fn product_of(&mut self, name: &str, result: &str, x: &Edge, parts: &[String]) -> Edge {
        let tensors: Vec<Tensor<'_>> = parts.iter().map(|part| self.tensor(part)).collect();
        if tensors
            .iter()
            .all(|tensor| tensor.product_kind() == tensors[0].product_kind())
        {
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
