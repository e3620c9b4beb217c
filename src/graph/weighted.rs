//! A graph builder that takes weights from a model's tensors. Module `matmul` adds the methods for matrix
//! multiplications.

use std::sync::Arc;

use super::adapter::Adapter;
use super::names;
use super::onnx::{
    Attribute::{Float, Int},
    Dimension::{Fixed, Named},
    Edge, ElementType, GraphBuilder, Initializer, TensorValues,
};
use super::panels::{PanelStore, Panels};
use super::tensors::{Tensor, Tensors};

/// The operator for matmuls with quantized weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MatmulOperator {
    /// ortolan's `MatMulPanels`, for the CPU.
    Ortolan,
    /// ONNX Runtime's `MatMulNBits`.
    Contrib,
}

/// A graph under construction, and the tensors and adapters that its weights come from.
pub(super) struct WeightedGraph<'a> {
    pub(super) builder: GraphBuilder,
    tensors: &'a Tensors,
    pub(super) adapters: &'a [Adapter],
    /// The input [`names::ADAPTER_SCALES`], if there are adapters.
    pub(super) adapter_scales: Option<Edge>,
    /// The operator for quantized matmuls.
    pub(super) matmul_operator: MatmulOperator,
    /// The packed matrices of `MatMulPanels` nodes, which refer to matrices by index.
    panels: PanelStore,
}

impl<'a> WeightedGraph<'a> {
    /// Creates a graph without nodes. If there are adapters, the graph has the input [`names::ADAPTER_SCALES`].
    pub(super) fn new(
        tensors: &'a Tensors,
        adapters: &'a [Adapter],
        matmul_operator: MatmulOperator,
    ) -> Self {
        let mut builder = GraphBuilder::default();
        let adapter_scales = (!adapters.is_empty()).then(|| {
            let shape = [Named("tokens"), Fixed(adapters.len())];
            builder.input(names::ADAPTER_SCALES, ElementType::F32, &shape)
        });
        Self {
            builder,
            tensors,
            adapters,
            adapter_scales,
            matmul_operator,
            panels: PanelStore::default(),
        }
    }

    /// Releases the resident pages of mapped files, after their contents were copied.
    pub(super) fn release(&self) {
        self.tensors.release();
    }

    pub(super) fn tensor(&self, name: &str) -> Tensor<'a> {
        self.tensors
            .get(name)
            .expect("every tensor's presence was checked with the architecture")
    }

    /// Packs the stacked tensors and returns the matrix's index; see [`PanelStore::add`].
    pub(super) fn panels(
        &mut self,
        tensors: &[Tensor<'_>],
        interleaved_halves: bool,
    ) -> Option<usize> {
        self.panels
            .add(tensors, interleaved_halves, &|| self.tensors.release())
    }

    /// Adds the vector named `name` as an initializer, unless the graph already has it.
    pub(super) fn vector(&mut self, name: &str) -> Edge {
        self.vectors(name, &[name.to_owned()])
    }

    /// Adds the concatenated vectors `parts` as an initializer named `name`, unless the graph already has it. Calls
    /// with the same name must have the same `parts`.
    pub(super) fn vectors(&mut self, name: &str, parts: &[String]) -> Edge {
        if let Some(existing) = self.builder.existing_initializer(name) {
            return existing;
        }
        let values: Vec<f32> = parts
            .iter()
            .flat_map(|part| self.tensor(part).dequantized())
            .collect();
        self.builder.initializer(Initializer {
            name: name.to_owned(),
            shape: vec![values.len()],
            values: TensorValues::F32(values),
        })
    }

    /// Adds the RMS norm of each row of `x`, with the output name `result`.
    pub(super) fn rms_norm(&mut self, result: &str, norm: RmsNorm<'_>, x: &Edge) -> Edge {
        let gain = self.vector(norm.gain);
        let [normed] = self.builder.node(
            "",
            "SimplifiedLayerNormalization",
            &[Some(x), Some(&gain)],
            [result],
            &[("epsilon", Float(norm.epsilon)), ("axis", Int(-1))],
        );
        normed
    }

    /// Adds a node that computes `a + b`, with the output name `result`.
    pub(super) fn sum(&mut self, result: &str, a: &Edge, b: &Edge) -> Edge {
        let inputs = [Some(a), Some(b)];
        let [sum] = self.builder.node("", "Add", &inputs, [result], &[]);
        sum
    }

    /// Adds a node that gathers the rows of `x` with the indices `rows`. The output name is `result`.
    pub(super) fn gather_rows(&mut self, result: &str, x: &Edge, rows: &Edge) -> Edge {
        let inputs = [Some(x), Some(rows)];
        let [gathered] = self
            .builder
            .node("", "Gather", &inputs, [result], &[("axis", Int(0))]);
        gathered
    }

    /// Encodes the graph with the name `name`. Returns the bytes of the `ModelProto`, the initializers and the packed
    /// matrices.
    pub(super) fn finish(self, name: &str) -> (Vec<u8>, Vec<Initializer>, Arc<[Panels]>) {
        let (model, initializers) = self.builder.finish(name);
        (model, initializers, self.panels.finish())
    }

    /// Adds the input [`names::HIDDEN_ROWS`].
    pub(super) fn hidden_rows_input(&mut self) -> Edge {
        let rows = [Named("hidden_rows")];
        self.builder
            .input(names::HIDDEN_ROWS, ElementType::I64, &rows)
    }

    /// Makes `states`, `[hidden rows, hidden]`, a graph output.
    pub(super) fn hidden_output(&mut self, states: &Edge, hidden: usize) {
        let shape = [Named("hidden_rows"), Fixed(hidden)];
        self.builder.output(states, ElementType::F32, &shape);
    }
}

/// The parameters of an RMS norm.
#[derive(Debug, Clone, Copy)]
pub(super) struct RmsNorm<'a> {
    /// The name of the weight tensor.
    pub(super) gain: &'a str,
    /// Added to the mean square.
    pub(super) epsilon: f32,
}
