//! The ONNX operator `MixtureOfExperts`: reads and checks attributes and inputs; `moe` computes the result. Attributes
//! and inputs are named as in `com.microsoft::QMoE`. Expert weights are not inputs: they stay in the model file, with
//! the tensor type of the file.

use std::sync::Arc;

use ort::operator::{ComputeContext, Kernel, KernelContext, OperatorInput};
use ort::value::TensorElementType::Float32;

use super::custom_operator::{CustomOperator, thread_pool};
use super::moe::{MoeInputs, Routing, run_experts};
use super::node::{flag, input_error, invalid_node, positive, tensor, unsigned};
use super::simd::Instructions;
use crate::graph::ExpertMatrices;

/// The operator, with the expert weights of each layer that has experts.
pub(super) struct MixtureOfExperts(pub(super) Arc<[ExpertMatrices]>);

/// Names of the inputs in order.
const INPUTS: [&str; 2] = ["input", "router_probs"];

impl CustomOperator for MixtureOfExperts {
    type Kernel = MixtureOfExpertsKernel;

    const NAME: &'static str = "MixtureOfExperts";

    fn inputs(&self) -> impl IntoIterator<Item = OperatorInput> {
        INPUTS.map(|_| OperatorInput::required(Float32))
    }

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
        let value = |index: usize| {
            let value = context.input(index)?;
            value.ok_or_else(|| input_error(INPUTS[index], "is missing"))
        };
        let (rows, scores) = (value(0)?, value(1)?);
        let ([tokens, hidden], rows) = tensor::<f32, 2>(&rows, INPUTS[0])?;
        let ([_, _], scores) = tensor::<f32, 2>(&scores, INPUTS[1])?;
        let mut output = context
            .output(0, [tokens as i64, hidden as i64])?
            .ok_or_else(|| invalid_node("the node has no output"))?;
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
