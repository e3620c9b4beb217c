//! Decoders of every family split into several sessions, and the validity of the graph for GPU execution providers.

use std::sync::Arc;

use ort::session::Session;
use ort::value::Tensor as OrtTensor;
use ortolan::engine::{BlockId, ModelRunner};
use ortolan::graph::onnx::TensorValues;
use ortolan::graph::{AttentionOperator, DecoderStage, MatmulOperator, ModelGraph};
use ortolan::runtime::{DeviceOptions, environment, operators};

use super::*;

/// Calls `check` for every recorded model with: name, file, number of layers, context, tokens.
fn for_each_model(mut check: impl FnMut(&str, &ModelFile, usize, usize, &[TokenId])) {
    for model in recorded() {
        let folder = tempfile::tempdir().unwrap();
        let file = open(&write(folder.path(), &model)).unwrap();
        let layers = file.architecture.decoder().unwrap().layers;
        let context = model["context"].as_u64().unwrap() as usize;
        let tokens: Vec<TokenId> = serde_json::from_value(model["tokens"].clone()).unwrap();
        let name = model["name"].as_str().unwrap();
        check(name, &file, layers, context, &tokens);
    }
}

/// The logits that a decoder computes, and the content of its first cache block.
fn compute(
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
    let first: BlockId = pool.allocate().unwrap();
    pool.release(first);
    let rows = logits(&mut decoder, &mut pool, tokens, &[7, 1]);
    let block = decoder.read_block(first).unwrap();
    let other = pool.allocate().unwrap();
    decoder.write_block(other, &block).unwrap();
    assert_eq!(decoder.read_block(other).unwrap(), block);
    assert!(decoder.write_block(other, &block[1..]).is_err());
    (rows, block)
}

#[test]
fn layers_split_into_several_sessions_compute_the_same_as_one_session() {
    for_each_model(|name, file, layers, context, tokens| {
        let whole = compute(file, context, tokens, DeviceOptions::default());
        let shares = [vec![1.0; layers], vec![0.0, 1.0, 2.0]];
        for shares in shares {
            let main = Some(1);
            let devices = DeviceOptions {
                tensor_split: shares.clone(),
                main_gpu: main,
                ..DeviceOptions::default()
            };
            assert!(
                compute(file, context, tokens, devices) == whole,
                "{name} by {shares:?}"
            );
        }
    });
}

/// Creates a CPU session for a graph; returns the error of ONNX Runtime if it fails.
fn create_session(graph: ModelGraph) -> Result<Session, String> {
    let environment = environment(&common::onnxruntime()).unwrap();
    // SAFETY: the session is never run.
    let domain = unsafe { operators::domain(graph.matrices) };
    let mut builder = Session::builder(&environment)
        .unwrap()
        .with_operators(domain.unwrap())
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
fn the_gpu_graph_is_valid_and_lacks_only_cpu_kernels() {
    const NO_KERNEL: &str = "Could not find an implementation for PagedAttention(1)";

    for_each_model(|name, file, layers, context, _| {
        let stage = |attention, layers| DecoderStage {
            layers,
            attention,
            matmul: MatmulOperator::Contrib,
        };
        let graph = |attention| file.stage_graph(&stage(attention, 0..layers), context, &|_| ());
        assert!(
            create_session(graph(AttentionOperator::Ortolan)).is_ok(),
            "{name}"
        );
        let error = create_session(graph(AttentionOperator::Contrib)).unwrap_err();
        assert!(error.contains(NO_KERNEL), "{name}: {error}");
        let first = stage(AttentionOperator::Contrib, 0..1);
        let error = create_session(file.stage_graph(&first, context, &|_| ())).unwrap_err();
        assert!(error.contains(NO_KERNEL), "{name}: {error}");

        // An invalid graph is rejected before ONNX Runtime looks for kernels.
        let mut invalid = graph(AttentionOperator::Contrib);
        let attribute = b"kv_num_heads";
        let offsets = 0..invalid.model.len() - attribute.len();
        let offset = offsets
            .into_iter()
            .find(|offset| invalid.model[*offset..].starts_with(attribute));
        invalid.model[offset.unwrap()] = b'K';
        let error = create_session(invalid).unwrap_err();
        assert!(!error.contains(NO_KERNEL), "{name}: {error}");
    });
}
