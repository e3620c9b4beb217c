//! `MixtureOfExperts` as ONNX Runtime sees it: inputs and attributes by the names that `com.microsoft::QMoE` has for them.
//! The matrices are no inputs: they stay in the model's file, in whatever type it has them. The computation is `mixture`'s.

use std::sync::Arc;

use ort::operator::{
    ComputeContext, Kernel, KernelContext, Operator, OperatorInput, OperatorOutput,
};
use ort::value::TensorElementType::Float32;

use super::mixture::{MixtureInputs, Routing, mix};
use super::node::{flag, input_error, number, positive, refused, tensor, threads};
use super::simd::Instructions;
use crate::graph::ExpertMatrices;

/// The operator, with the matrices of each layer.
pub(super) struct MixtureOfExperts(pub(super) Arc<[ExpertMatrices]>);

/// The inputs in their order.
const INPUTS: [&str; 2] = ["input", "router_probs"];

impl Operator for MixtureOfExperts {
    type Kernel<'attr> = MixtureOfExpertsKernel;

    fn name(&self) -> &str {
        "MixtureOfExperts"
    }

    fn versions(&self) -> std::ops::RangeInclusive<u32> {
        1..=1
    }

    fn inputs(&self) -> impl IntoIterator<Item = OperatorInput> {
        INPUTS.map(|_| OperatorInput::required(Float32))
    }

    fn outputs(&self) -> impl IntoIterator<Item = OperatorOutput> {
        [OperatorOutput::required(Float32)]
    }

    fn create_kernel<'attr>(
        &self,
        attributes: &KernelContext<'attr>,
    ) -> ort::Result<MixtureOfExpertsKernel> {
        let layer = number(attributes, "layer")?;
        let layers = self.0.len();
        if layer >= layers {
            return Err(refused(format!(
                "layer is {layer} of {layers} with experts"
            )));
        }
        let scale = attributes.get::<f32>("routing_weights_scale");
        Ok(MixtureOfExpertsKernel {
            layers: Arc::clone(&self.0),
            layer,
            routing: Routing {
                used: number(attributes, "k")?,
                normalised: flag(attributes, "normalize_routing_weights")?,
                scale: positive("routing_weights_scale", scale.unwrap_or(1.0))?,
            },
            instructions: Instructions::detect(),
        })
    }
}

/// A node's attributes, checked.
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
            .ok_or_else(|| refused("the node has no output"))?;
        let (_, output) = output.try_extract_tensor_mut::<f32>()?;
        let inputs = MixtureInputs {
            rows,
            scores,
            hidden,
        };
        mix(
            &inputs,
            &self.layers[self.layer],
            self.routing,
            output,
            self.instructions,
            &threads(context),
        )
        .map_err(ort::Error::wrap)
    }
}
