//! A panic of an operator fails the run of the session, and the next run succeeds.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use ort::operator::{ComputeContext, Kernel, KernelContext, OperatorDomain};
use ort::session::Session;
use ort::value::{Tensor, TensorElementType};

use super::super::custom_operator::{CustomOperator, Registered, panic_message, thread_pool};
use super::super::node::Input;
use super::session::environment;
use crate::graph::ORTOLAN_DOMAIN;
use crate::graph::onnx::{Attribute, Dimension, ElementType, GraphBuilder};
use crate::runtime::library::lock_session_creation;

/// Writes its input to the output, but panics for some values.
struct Fragile;

struct FragileKernel;

const PANIC_IN_COMPUTE: f32 = 1.0;
const PANIC_ON_OTHER_THREAD: f32 = 2.0;

impl CustomOperator for Fragile {
    type Kernel = FragileKernel;

    const NAME: &'static str = "Fragile";

    const INPUTS: &'static [Input] = &[Input::required("x", TensorElementType::Float32)];

    fn create_kernel(&self, attributes: &KernelContext) -> ort::Result<FragileKernel> {
        assert_eq!(attributes.get::<i64>("valid"), Some(1), "invalid attribute");
        Ok(FragileKernel)
    }
}

impl Kernel for FragileKernel {
    fn compute(&mut self, context: &ComputeContext) -> ort::Result<()> {
        let input = context.input(0)?.unwrap();
        let value = input.try_extract_tensor::<f32>()?.1[0];
        assert_ne!(value, PANIC_IN_COMPUTE, "panic in compute");
        if value == PANIC_ON_OTHER_THREAD {
            let caller = thread::current().id();
            let has_panicked = AtomicBool::new(false);
            let parallel = thread_pool(context);
            let result = parallel(8, &|_| {
                if thread::current().id() != caller {
                    has_panicked.store(true, Ordering::Relaxed);
                    panic!("panic on another thread");
                }
                // Leaves the other indices to the other thread.
                let deadline = Instant::now() + Duration::from_secs(20);
                while !has_panicked.load(Ordering::Relaxed) {
                    assert!(Instant::now() < deadline, "there is no other thread");
                    thread::sleep(Duration::from_millis(1));
                }
            });
            panic!("the pool returned {result:?} after a panic");
        }
        let mut output = context.output(0, [1_usize])?.unwrap();
        output.try_extract_tensor_mut::<f32>()?.1[0] = value;
        Ok(())
    }
}

fn session(valid: i64) -> ort::Result<Session> {
    let mut graph = GraphBuilder::default();
    let shape = [Dimension::Fixed(1)];
    let x = graph.input("x", ElementType::F32, &shape);
    let attributes = [("valid", Attribute::Int(valid))];
    let [y] = graph.node(
        ORTOLAN_DOMAIN,
        Fragile::NAME,
        &[Some(&x)],
        ["y"],
        &attributes,
    );
    graph.output(&y, ElementType::F32, &shape);
    let (model, _) = graph.finish("one node");

    let environment = environment();
    let domain = OperatorDomain::new(ORTOLAN_DOMAIN)?.add(Registered(Fragile))?;
    let _guard = lock_session_creation();
    Session::builder(&environment)?
        .with_operators(domain)?
        .with_intra_threads(2)?
        .commit_from_memory(&model)
}

fn run(session: &mut Session, value: f32) -> Result<Vec<f32>, String> {
    let x = Tensor::from_array(([1_usize], vec![value])).unwrap();
    let outputs = session.run(ort::inputs!["x" => x]);
    let outputs = outputs.map_err(|error| error.to_string())?;
    Ok(outputs["y"].try_extract_tensor::<f32>().unwrap().1.to_vec())
}

#[test]
fn a_panic_on_any_thread_fails_one_run_and_the_next_run_succeeds() {
    let mut session = session(1).unwrap();
    for (value, message) in [
        (PANIC_IN_COMPUTE, "panic in compute"),
        (PANIC_ON_OTHER_THREAD, "panic on another thread"),
    ] {
        let error = run(&mut session, value).unwrap_err();
        assert!(error.contains("Fragile panicked: "), "{error}");
        assert!(error.contains(message), "{error}");
        assert_eq!(run(&mut session, 5.0), Ok(vec![5.0]));
    }
}

#[test]
fn a_panic_while_a_node_is_created_fails_the_creation_of_the_session() {
    let error = session(0).map(drop).unwrap_err().to_string();
    assert!(error.contains("Fragile panicked: "), "{error}");
    assert!(error.contains("invalid attribute"), "{error}");
}

#[test]
fn a_panic_message_is_text_without_nul() {
    assert_eq!(panic_message(&"a\0b"), "a\\0b");
    assert_eq!(panic_message(&"a".to_owned()), "a");
    assert_eq!(panic_message(&1), "no message");
}
