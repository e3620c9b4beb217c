//! Registration of the custom operators with ONNX Runtime, which calls them through C functions. A panic that leaves a
//! C function aborts the process, so panics become errors here: the step fails, and the next step runs.

use std::any::Any;
use std::ops::RangeInclusive;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{Mutex, PoisonError};

use ort::operator::{
    ComputeContext, Kernel, KernelContext, Operator, OperatorInput, OperatorOutput,
};
use ort::value::TensorElementType;

use super::node::Input;
use super::parallel::OperatorError;

/// A custom operator in version 1. Its only output is an f32 tensor.
pub(super) trait CustomOperator: Send + Sync + 'static {
    type Kernel: Kernel + 'static;

    const NAME: &'static str;

    const INPUTS: &'static [Input];

    /// Reads and checks the attributes of a node.
    fn create_kernel(&self, attributes: &KernelContext) -> ort::Result<Self::Kernel>;
}

/// A custom operator as ONNX Runtime calls it: panics become errors.
pub(super) struct Registered<O>(pub(super) O);

impl<O: CustomOperator> Operator for Registered<O> {
    type Kernel<'attr> = RegisteredKernel<O>;

    fn name(&self) -> &str {
        O::NAME
    }

    fn versions(&self) -> RangeInclusive<u32> {
        1..=1
    }

    fn inputs(&self) -> impl IntoIterator<Item = OperatorInput> {
        O::INPUTS.iter().map(|input| match input.is_required {
            true => OperatorInput::required(input.element),
            false => OperatorInput::optional(input.element),
        })
    }

    fn outputs(&self) -> impl IntoIterator<Item = OperatorOutput> {
        [OperatorOutput::required(TensorElementType::Float32)]
    }

    fn create_kernel<'attr>(
        &self,
        attributes: &KernelContext<'attr>,
    ) -> ort::Result<RegisteredKernel<O>> {
        catch_panic(O::NAME, || self.0.create_kernel(attributes)).map(RegisteredKernel)
    }
}

/// The kernel of a [`Registered`] operator.
pub(super) struct RegisteredKernel<O: CustomOperator>(O::Kernel);

impl<O: CustomOperator> Kernel for RegisteredKernel<O> {
    fn compute(&mut self, context: &ComputeContext) -> ort::Result<()> {
        catch_panic(O::NAME, || self.0.compute(context))
    }
}

/// Returns a panic of `call` as an error. State that the panic left incomplete is not read again: the outputs of a
/// failed run are dropped, and kernels keep only scratch memory, which each run overwrites.
fn catch_panic<T>(operator: &str, call: impl FnOnce() -> ort::Result<T>) -> ort::Result<T> {
    catch_unwind(AssertUnwindSafe(call)).unwrap_or_else(|payload| {
        let message = panic_message(&*payload);
        Err(ort::Error::new(format!("{operator} panicked: {message}")))
    })
}

pub(super) fn panic_message(payload: &(dyn Any + Send)) -> String {
    let text = payload.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| payload.downcast_ref::<&str>().copied());
    // `ort` panics if an error message contains NUL.
    text.unwrap_or("no message").replace('\0', "\\0")
}

/// Returns ONNX Runtime's thread pool as a [`ParallelFor`](super::parallel::ParallelFor). The pool's threads make each
/// call through a C function, too: the first panic resumes on the calling thread when all calls have returned.
pub(super) fn thread_pool(
    context: &ComputeContext,
) -> impl Fn(usize, &(dyn Fn(usize) + Sync)) -> Result<(), OperatorError> {
    |count, call| {
        let first_panic = Mutex::new(None);
        let catching = |index| {
            if let Err(payload) = catch_unwind(AssertUnwindSafe(|| call(index))) {
                let mut panic = first_panic.lock().unwrap_or_else(PoisonError::into_inner);
                panic.get_or_insert(payload);
            }
        };
        let result = context.par_for(count, 0, catching);
        let first_panic = first_panic.into_inner();
        if let Some(payload) = first_panic.unwrap_or_else(PoisonError::into_inner) {
            resume_unwind(payload);
        }
        result.map_err(|error| OperatorError::Threads(error.to_string()))
    }
}
