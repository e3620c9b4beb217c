//! The ONNX operator `MatMulPanels`: reads and checks attributes and inputs. The packed weights are not inputs, because
//! ONNX Runtime would copy input weights during session creation. `matmul` computes the result.

use std::sync::{Arc, Mutex, PoisonError};

use ort::operator::{ComputeContext, Kernel, KernelContext};
use ort::value::TensorElementType::Float32;

use super::custom_operator::{CustomOperator, thread_pool};
use super::matmul::{MatmulInputs, QuantizedActivations, multiply};
use super::node::{Input, Inputs, gate_activation, invalid_node, output, positive, unsigned};
use super::norm::RowNorm;
use super::simd::Instructions;
use crate::graph::Activation;
use crate::graph::panels::Panels;

/// The operator: `x · Wᵀ` with the arithmetic of `com.microsoft::MatMulNBits` (`accuracy_level` 4), for weights packed
/// in panels, with optional norm, bias, gate and residual.
pub(super) struct MatMulPanels {
    matrices: Arc<[Panels]>,
    /// Scratch memory that all nodes share, since nodes run one after the other.
    quantized: Arc<Mutex<QuantizedActivations>>,
}

impl MatMulPanels {
    pub(super) fn new(matrices: Arc<[Panels]>) -> Self {
        Self {
            matrices,
            quantized: Arc::default(),
        }
    }
}

impl CustomOperator for MatMulPanels {
    type Kernel = MatMulPanelsKernel;

    const NAME: &'static str = "MatMulPanels";

    /// [`MatmulInputs`] describes the inputs.
    const INPUTS: &'static [Input] = &[
        Input::required("x", Float32),
        Input::optional("norm_gain", Float32),
        Input::optional("bias", Float32),
        Input::optional("residual", Float32),
    ];

    fn create_kernel(&self, attributes: &KernelContext) -> ort::Result<MatMulPanelsKernel> {
        let matrix = unsigned(attributes, "matrix")?;
        let matrices = self.matrices.len();
        if matrix >= matrices {
            return Err(invalid_node(format!(
                "matrix is {matrix}, but the graph has {matrices} packed matrices"
            )));
        }
        Ok(MatMulPanelsKernel {
            matrices: Arc::clone(&self.matrices),
            matrix,
            gated: gate_activation(attributes)?,
            epsilon: positive("epsilon", attributes.get("epsilon").unwrap_or(1e-6))?,
            quantized: Arc::clone(&self.quantized),
            instructions: Instructions::detect(),
        })
    }
}

/// The validated attributes of a node.
pub(super) struct MatMulPanelsKernel {
    matrices: Arc<[Panels]>,
    matrix: usize,
    gated: Option<Activation>,
    epsilon: f32,
    quantized: Arc<Mutex<QuantizedActivations>>,
    instructions: Instructions,
}

impl Kernel for MatMulPanelsKernel {
    fn compute(&mut self, context: &ComputeContext) -> ort::Result<()> {
        let inputs = Inputs::new(context, MatMulPanels::INPUTS)?;
        let ([rows, columns], x) = inputs.required(0)?;
        let gain = inputs.optional::<f32, 1>(1)?;
        let bias = inputs.optional::<f32, 1>(2)?;
        let residual = inputs.optional::<f32, 2>(3)?;
        let matrix = &self.matrices[self.matrix];
        let expected = matrix.shape.columns;
        if columns != expected {
            let problem = format!("has {columns} columns, but the matrix has {expected}");
            return Err(inputs.error(0, problem));
        }
        let matmul = MatmulInputs {
            x,
            matrix,
            norm: gain.map(|(_, gain)| RowNorm {
                gain,
                epsilon: self.epsilon,
            }),
            bias: bias.map(|(_, bias)| bias),
            gated: self.gated,
            residual: residual.map(|(_, residual)| residual),
        };
        let mut output = output(context, [rows, matmul.width()])?;
        let (_, output) = output.try_extract_tensor_mut::<f32>()?;
        let mut quantized = self
            .quantized
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let parallel = thread_pool(context);
        multiply(
            &matmul,
            output,
            &mut quantized,
            self.instructions,
            &parallel,
        )
        .map_err(ort::Error::wrap)
    }
}
