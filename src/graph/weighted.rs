//! An ONNX graph under construction together with the tensors that its weights come from. What is multiplied with them is
//! `products`' matter.

use std::sync::Arc;

use super::adapter::Adapter;
use super::names;
use super::onnx::{
    Attribute::{Float, Int},
    Dimension::{Fixed, Named},
    Edge, ElementType, GraphBuilder, Initializer, TensorValues,
};
use super::panels::{PanelStore, Panels};
use super::products::ProductOperator;
use super::tensors::{Tensor, Tensors};

/// A graph and its weights.
pub(super) struct WeightedGraph<'a> {
    pub(super) builder: GraphBuilder,
    tensors: &'a Tensors,
    pub(super) adapters: &'a [Adapter],
    /// How strong each token wants each adapter, if there are any.
    pub(super) scales: Option<Edge>,
    /// Whose products it has.
    pub(super) products: ProductOperator,
    /// The matrices of our operator's, which knows them by their numbers.
    panels: PanelStore,
}

impl<'a> WeightedGraph<'a> {
    /// Nothing built yet.
    pub(super) fn new(
        tensors: &'a Tensors,
        adapters: &'a [Adapter],
        products: ProductOperator,
    ) -> Self {
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
            products,
            panels: PanelStore::default(),
        }
    }

    /// Gives back the memory that what was looked at of mapped files takes: what is made of it is not there twice.
    pub(super) fn release(&self) {
        self.tensors.release();
    }

    pub(super) fn tensor(&self, name: &str) -> Tensor<'a> {
        self.tensors
            .get(name)
            .expect("every tensor's presence was checked with the architecture")
    }

    /// The number of the matrix that the tensors make as panels, if they can; with `halves`, as two halves.
    pub(super) fn panels(&mut self, tensors: &[Tensor<'_>], halves: bool) -> Option<usize> {
        self.panels.add(tensors, halves, &|| self.tensors.release())
    }

    /// The vector of that name.
    pub(super) fn vector(&mut self, name: &str) -> Edge {
        self.vectors(name, &[name.to_owned()])
    }

    /// The vectors `parts`, one behind the other, as one of the name `name`, which stands for these alone.
    pub(super) fn vectors(&mut self, name: &str, parts: &[String]) -> Edge {
        if let Some(known) = self.builder.known(name) {
            return known;
        }
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

    /// The root-mean-square norm of each row of `x`, by the name `result`.
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

    /// The sum of both, by the name `result`.
    pub(super) fn sum(&mut self, result: &str, a: &Edge, b: &Edge) -> Edge {
        let inputs = [Some(a), Some(b)];
        let [sum] = self.builder.node("", "Add", &inputs, [result], &[]);
        sum
    }

    /// Some rows of `x`, by the name `result`.
    pub(super) fn rows(&mut self, result: &str, x: &Edge, rows: &Edge) -> Edge {
        let inputs = [Some(x), Some(rows)];
        let [wanted] = self
            .builder
            .node("", "Gather", &inputs, [result], &[("axis", Int(0))]);
        wanted
    }

    /// The bytes of the graph named `name`, what the session is given beside them, and our products' matrices.
    pub(super) fn finish(self, name: &str) -> (Vec<u8>, Vec<Initializer>, Arc<[Panels]>) {
        let (model, initializers) = self.builder.finish(name);
        (model, initializers, self.panels.finish())
    }

    /// The input that says which rows' states are wanted.
    pub(super) fn hidden_rows(&mut self) -> Edge {
        let rows = [Named("hidden_rows")];
        self.builder
            .input(names::HIDDEN_ROWS, ElementType::I64, &rows)
    }

    /// Makes states, each `hidden` wide, the output of that name.
    pub(super) fn hidden(&mut self, states: &Edge, hidden: usize) {
        let shape = [Named("hidden_rows"), Fixed(hidden)];
        self.builder.output(states, ElementType::F32, &shape);
    }
}

/// A root-mean-square norm.
#[derive(Debug, Clone, Copy)]
pub(super) struct RmsNorm<'a> {
    /// The tensor that each row is multiplied with.
    pub(super) gain: &'a str,
    /// Added to the mean square.
    pub(super) epsilon: f32,
}
