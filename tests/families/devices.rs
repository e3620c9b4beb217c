//! The layers of every family divided among sessions, and the graph that a GPU's provider is given.

use std::sync::Arc;

use ort::session::Session;
use ort::value::Tensor as OrtTensor;
use ortolan::engine::{BlockId, ModelRunner};
use ortolan::graph::onnx::TensorValues;
use ortolan::graph::{AttentionOperator, DecoderPart, ModelGraph, ProductOperator};
use ortolan::runtime::{DeviceOptions, environment, operators};

use super::*;

/// Every recorded model, opened, with its layers, its context and its tokens.
fn each(mut look: impl FnMut(&str, &ModelFile, usize, usize, &[TokenId])) {
    for model in recorded() {
        let folder = tempfile::tempdir().unwrap();
        let file = open(&write(folder.path(), &model)).unwrap();
        let layers = file.architecture.decoder().unwrap().layers;
        let context = model["context"].as_u64().unwrap() as usize;
        let tokens: Vec<TokenId> = serde_json::from_value(model["tokens"].clone()).unwrap();
        let name = model["name"].as_str().unwrap();
        look(name, &file, layers, context, &tokens);
    }
}

/// What a decoder computes, and the cache's first block of it.
fn computed(
    file: &ModelFile,
    context: usize,
    tokens: &[TokenId],
    devices: DeviceOptions,
) -> (Vec<Vec<f32>>, Vec<u8>) {
    let options = SessionOptions {
        devices,
        ..SessionOptions::new(common::onnxruntime())
    };
    let mut decoder =
        Decoder::load(file, &options, context, BLOCKS, BLOCK_TOKENS, &|_| ()).unwrap();
    let mut pool = BlockPool::new(BLOCKS, BLOCK_TOKENS);
    let first: BlockId = pool.take().unwrap();
    pool.release(first);
    let rows = logits(&mut decoder, &mut pool, tokens, &[7, 1]);
    let block = decoder.read_block(first).unwrap();
    let other = pool.take().unwrap();
    decoder.write_block(other, &block).unwrap();
    assert_eq!(decoder.read_block(other).unwrap(), block);
    assert!(decoder.write_block(other, &block[1..]).is_err());
    (rows, block)
}

#[test]
fn layers_divided_among_sessions_compute_what_one_session_does() {
    each(|name, file, layers, context, tokens| {
        let whole = computed(file, context, tokens, DeviceOptions::default());
        let shares = [vec![1.0; layers], vec![0.0, 1.0, 2.0]];
        for shares in shares {
            let main = Some(1);
            let devices = DeviceOptions {
                shares: shares.clone(),
                main,
                ..DeviceOptions::default()
            };
            assert!(
                computed(file, context, tokens, devices) == whole,
                "{name} by {shares:?}"
            );
        }
    });
}

/// What the runtime says to a graph where it has the CPU alone.
fn answer(graph: ModelGraph) -> Result<Session, String> {
    let environment = environment(&common::onnxruntime()).unwrap();
    let mut builder = Session::builder(&environment)
        .unwrap()
        .with_operators(operators::domain(graph.matrices).unwrap())
        .unwrap();
    for initializer in graph.initializers {
        let shape = initializer.shape;
        let tensor = match initializer.values {
            TensorValues::F32(values) => OrtTensor::from_array((shape, values)).unwrap().into_dyn(),
            TensorValues::U8(values) => OrtTensor::from_array((shape, values)).unwrap().into_dyn(),
        };
        builder = builder
            .with_external_initializer(&initializer.name, Arc::new(tensor))
            .unwrap();
    }
    let session = builder.commit_from_memory(&graph.model);
    session.map_err(|error| error.to_string())
}

#[test]
fn the_graph_for_a_gpu_is_valid_and_lacks_its_kernels_alone() {
    const NO_KERNEL: &str = "Could not find an implementation for PagedAttention(1)";

    each(|name, file, layers, context, _| {
        let part = |attention, layers| DecoderPart {
            layers,
            attention,
            products: ProductOperator::Contrib,
        };
        let graph = |attention| file.part(&part(attention, 0..layers), context, &|_| ());
        assert!(answer(graph(AttentionOperator::Ortolan)).is_ok(), "{name}");
        let problem = answer(graph(AttentionOperator::Contrib)).unwrap_err();
        assert!(problem.contains(NO_KERNEL), "{name}: {problem}");
        let first = part(AttentionOperator::Contrib, 0..1);
        let problem = answer(file.part(&first, context, &|_| ())).unwrap_err();
        assert!(problem.contains(NO_KERNEL), "{name}: {problem}");

        // What is not valid is refused before anybody looks for kernels.
        let mut wrong = graph(AttentionOperator::Contrib);
        let attribute = b"kv_num_heads";
        let places = 0..wrong.model.len() - attribute.len();
        let place = places
            .into_iter()
            .find(|place| wrong.model[*place..].starts_with(attribute));
        wrong.model[place.unwrap()] = b'K';
        let problem = answer(wrong).unwrap_err();
        assert!(!problem.contains(NO_KERNEL), "{name}: {problem}");
    });
}
