//! The ONNX operator `MixtureOfExperts`: reads and checks attributes and inputs; `moe` computes the result. Attributes
//! and inputs are named as in `com.microsoft::QMoE`. Expert weights are not inputs: they stay in the model file, with
//! the tensor type of the file.

use std::sync::Arc;

use ort::operator::{ComputeContext, Kernel, KernelContext};
use ort::value::TensorElementType::Float32;

use super::custom_operator::{CustomOperator, thread_pool};
use super::moe::{MoeInputs, Routing, run_experts};
use super::node::{Input, Inputs, flag, invalid_node, output, positive, unsigned};
use super::simd::Instructions;
use crate::graph::ExpertMatrices;

/// The operator, with the expert weights of each layer that has experts.
pub(super) struct MixtureOfExperts(pub(super) Arc<[ExpertMatrices]>);

impl CustomOperator for MixtureOfExperts {
    type Kernel = MixtureOfExpertsKernel;

    const NAME: &'static str = "MixtureOfExperts";

    const INPUTS: &'static [Input] = &[
        Input::required("input", Float32),
        Input::required("router_probs", Float32),
    ];

    fn create_kernel(&self, attributes: &KernelContext) -> ort::Result<MixtureOfExpertsKernel> {
        let layer = unsigned(attributes, "layer")?;
        let layers = self.0.len();
        if layer >= layers {
            return Err(invalid_node(format!(
                "layer is {layer}, but the graph has {layers} layers with experts"
            )));
        }
        let scale = attributes.get::<f32>("routing_weights_scale");
        Ok(MixtureOfExpertsKernel {
            layers: Arc::clone(&self.0),
            layer,
            routing: Routing {
                top_k: unsigned(attributes, "k")?,
                normalize: flag(attributes, "normalize_routing_weights")?,
                scale: positive("routing_weights_scale", scale.unwrap_or(1.0))?,
            },
            instructions: Instructions::detect(),
        })
    }
}

/// The validated attributes of a node.
pub(super) struct MixtureOfExpertsKernel {
    layers: Arc<[ExpertMatrices]>,
    layer: usize,
    routing: Routing,
    instructions: Instructions,
}

impl Kernel for MixtureOfExpertsKernel {
    fn compute(&mut self, context: &ComputeContext) -> ort::Result<()> {
        let inputs = Inputs::new(context, MixtureOfExperts::INPUTS)?;
        let ([tokens, hidden], rows) = inputs.required(0)?;
        let ([_, _], scores) = inputs.required(1)?;
        let mut output = output(context, [tokens, hidden])?;
        let (_, output) = output.try_extract_tensor_mut::<f32>()?;
        let inputs = MoeInputs {
            rows,
            scores,
            hidden,
        };
        run_experts(
            &inputs,
            &self.layers[self.layer],
            self.routing,
            output,
            self.instructions,
            &thread_pool(context),
        )
        .map_err(ort::Error::wrap)
    }
}
