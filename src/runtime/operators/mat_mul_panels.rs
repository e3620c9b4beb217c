//! `MatMulPanels` as ONNX Runtime sees it: attributes, inputs and their shapes. The computation is `product`'s.

use std::sync::{Arc, Mutex, PoisonError};

use ort::operator::{
    ComputeContext, Kernel, KernelContext, Operator, OperatorInput, OperatorOutput,
};
use ort::value::{PrimitiveTensorElementType, TensorElementType, ValueRef};

use super::activation::GatedActivation;
use super::node::{flag, gated, input_error, positive, refused, tensor, threads};
use super::norm::RowNorm;
use super::product::{ProductInputs, QuantisedRows, multiply};
use super::simd::Instructions;
use crate::graph::panels::{PanelCodes, PanelLayout};

/// The operator: `x · Wᵀ` as `com.microsoft::MatMulNBits` (`accuracy_level` 4) computes it, `W` in panels, with what stands
/// before and behind it.
#[derive(Default)]
pub(super) struct MatMulPanels {
    /// One node runs after the other.
    rounded: Arc<Mutex<QuantisedRows>>,
}

/// The inputs in order, as [`ProductInputs`] describes them.
const INPUTS: [&str; 5] = ["x", "panels", "norm_gain", "bias", "residual"];

impl Operator for MatMulPanels {
    type Kernel<'attr> = MatMulPanelsKernel;

    fn name(&self) -> &str {
        "MatMulPanels"
    }

    fn versions(&self) -> std::ops::RangeInclusive<u32> {
        1..=1
    }

    fn inputs(&self) -> impl IntoIterator<Item = OperatorInput> {
        INPUTS.map(|name| match name {
            "x" => OperatorInput::required(TensorElementType::Float32),
            "panels" => OperatorInput::required(TensorElementType::Uint8),
            _ => OperatorInput::optional(TensorElementType::Float32),
        })
    }

    fn outputs(&self) -> impl IntoIterator<Item = OperatorOutput> {
        [OperatorOutput::required(TensorElementType::Float32)]
    }

    fn create_kernel<'attr>(
        &self,
        attributes: &KernelContext<'attr>,
    ) -> ort::Result<MatMulPanelsKernel> {
        MatMulPanelsKernel::new(attributes, Arc::clone(&self.rounded))
    }
}

/// A node's attributes, checked.
pub(super) struct MatMulPanelsKernel {
    /// `K`
    columns: usize,
    /// `N`
    outputs: usize,
    layout: PanelLayout,
    gated: Option<GatedActivation>,
    epsilon: f32,
    rounded: Arc<Mutex<QuantisedRows>>,
    instructions: Instructions,
}

impl MatMulPanelsKernel {
    fn new(attributes: &KernelContext, rounded: Arc<Mutex<QuantisedRows>>) -> ort::Result<Self> {
        let group = integer(attributes, "block_size")?;
        if !matches!(group, 16 | 32) {
            return Err(refused(format!("block_size is {group}, not 16 or 32")));
        }
        let zero = integer(attributes, "zero_point")?;
        let zero = u8::try_from(zero).ok().filter(|zero| *zero < 64);
        let zero = zero.ok_or_else(|| refused("zero_point is above 63"))?;
        let codes = match integer(attributes, "bits")? {
            4 => PanelCodes::Nibbles { zero },
            6 => PanelCodes::SixBits { zero },
            8 => PanelCodes::Signed,
            bits => return Err(refused(format!("bits is {bits}, not 4, 6 or 8"))),
        };
        Ok(Self {
            columns: integer(attributes, "K")?,
            outputs: integer(attributes, "N")?,
            layout: PanelLayout {
                group,
                codes,
                half: flag(attributes, "half_scales")?,
                minimum: flag(attributes, "minimums")?,
            },
            gated: gated(attributes)?,
            epsilon: positive("epsilon", attributes.get("epsilon").unwrap_or(1e-6))?,
            rounded,
            instructions: Instructions::detect(),
        })
    }
}

/// An attribute that is not negative; absent, 0.
fn integer(attributes: &KernelContext, name: &str) -> ort::Result<usize> {
    let value = attributes.get::<i64>(name).unwrap_or(0);
    usize::try_from(value).map_err(|_| refused(format!("{name} is {value}, less than 0")))
}

impl Kernel for MatMulPanelsKernel {
    fn compute(&mut self, context: &ComputeContext) -> ort::Result<()> {
        let given = context.num_inputs()?;
        let values = (0..INPUTS.len().min(given)).map(|index| context.input(index));
        let values = values.collect::<ort::Result<Vec<_>>>()?;
        let missing = |index: usize| input_error(INPUTS[index], "is missing");
        let ([rows, columns], x) = optional(&values, 0)?.ok_or_else(|| missing(0))?;
        let ([_], panels) = optional(&values, 1)?.ok_or_else(|| missing(1))?;
        if columns != self.columns {
            let problem = format!("has {columns} columns, K is {}", self.columns);
            return Err(input_error(INPUTS[0], problem));
        }
        let gain = optional::<f32, 1>(&values, 2)?;
        let bias = optional::<f32, 1>(&values, 3)?;
        let residual = optional::<f32, 2>(&values, 4)?;
        let inputs = ProductInputs {
            x,
            columns,
            outputs: self.outputs,
            panels,
            layout: self.layout,
            norm: gain.map(|(_, gain)| RowNorm {
                gain,
                epsilon: self.epsilon,
            }),
            bias: bias.map(|(_, bias)| bias),
            gated: self.gated,
            residual: residual.map(|(_, residual)| residual),
        };
        let mut output = context
            .output(0, [rows as i64, inputs.width() as i64])?
            .ok_or_else(|| refused("the node has no output"))?;
        let (_, output) = output.try_extract_tensor_mut::<f32>()?;
        let mut rounded = self.rounded.lock().unwrap_or_else(PoisonError::into_inner);
        let threads = threads(context);
        multiply(&inputs, output, &mut rounded, self.instructions, &threads)
            .map_err(ort::Error::wrap)
    }
}

/// The sizes and elements of the input of that number, if it is given.
fn optional<'v, T: PrimitiveTensorElementType, const RANK: usize>(
    values: &'v [Option<ValueRef<'_>>],
    index: usize,
) -> ort::Result<Option<([usize; RANK], &'v [T])>> {
    let value = values.get(index).and_then(Option::as_ref);
    value.map(|value| tensor(value, INPUTS[index])).transpose()
}
