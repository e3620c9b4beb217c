//! `ortolan export`: writes a model's ONNX graphs to a folder, with a description of their inputs and outputs for other
//! programs that use ONNX Runtime.

use std::fs;
use std::io::Write;
use std::path::Path;

use anyhow::{Context, ensure};
use serde_json::{Value, json};

use super::output_file;
use crate::atomic_file::{AtomicFile, remove_stale_part_files};
use crate::cli::ExportArgs;
use crate::file_bytes::FileAccess;
use crate::graph::onnx::{ExportedGraph, Initializer, TensorValues, ValueInfo};
use crate::graph::{Embeddings, MatmulOperator, ModelFile, names};
use crate::model::BLOCK_TOKENS;
use crate::model::load::{MAX_CONTEXT_TOKENS, OpenedModel};
use crate::terminal::{ByteBar, PercentBar, printable};
use crate::token::TokenId;

const MODEL: &str = "model.onnx";
const MODEL_WEIGHTS: &str = "model.onnx.data";
const EMBEDDINGS: &str = "embeddings.onnx";
const EMBEDDING_WEIGHTS: &str = "embeddings.onnx.data";
const DESCRIPTION: &str = "ortolan.json";
const FILES: [&str; 5] = [
    MODEL,
    MODEL_WEIGHTS,
    EMBEDDINGS,
    EMBEDDING_WEIGHTS,
    DESCRIPTION,
];

/// Matrix multiplications use ONNX Runtime's own operators, which need no registration.
const MATMUL: MatmulOperator = MatmulOperator::Contrib;

/// Number of embedding matrix rows per write.
const ROWS_PER_WRITE: usize = 1024;

/// Writes the folder and returns a summary.
///
/// # Errors
/// If the model cannot be exported, or a file cannot be read or written.
pub(super) fn run(args: &ExportArgs) -> anyhow::Result<String> {
    let folder = args.folder.as_path();
    let OpenedModel {
        file, vocabulary, ..
    } = OpenedModel::open(&args.model, FileAccess::Map)?;
    let decoder = file.architecture.decoder();
    ensure!(
        decoder.is_none_or(|shape| shape.experts.is_none()),
        "{}: a mixture of experts is not supported: its operator reads the expert matrices from the model file",
        args.model.display()
    );
    let trained = file.architecture.trained_context();
    let context_tokens = match args.ctx_size {
        0 => trained,
        tokens if file.architecture.decoder().is_none() => tokens.min(trained),
        tokens => tokens,
    };
    ensure!(
        context_tokens <= MAX_CONTEXT_TOKENS,
        "--ctx-size: a context of {context_tokens} tokens is too long: the maximum is {MAX_CONTEXT_TOKENS}"
    );
    prepare_folder(folder, args.force)?;

    let bar = PercentBar::new(&format!("reading {}", args.model.display()));
    let graph = file.graph(MATMUL, context_tokens, &|share| bar.set(share));
    drop(bar);
    let embeddings = file.embeddings();
    let (model, rows) = (
        graph.exported(MODEL_WEIGHTS),
        embeddings.exported(EMBEDDING_WEIGHTS),
    );
    let description = describe(
        &file,
        context_tokens,
        [&model, &rows],
        [vocabulary.bos, vocabulary.eos],
    );
    let bytes = data_bytes(&model) + data_bytes(&rows);
    let bar = ByteBar::new(&format!("writing {}", folder.display()), bytes);
    let create = |name: &str| output_file::create(&folder.join(name));
    let write_error = |name: &str| format!("cannot write {}", folder.join(name).display());
    let mut written = Vec::new();
    let mut weights = create(MODEL_WEIGHTS)?;
    write_weights(&model, &graph.initializers, &mut weights, &bar)
        .with_context(|| write_error(MODEL_WEIGHTS))?;
    written.push(weights);
    let mut weights = create(EMBEDDING_WEIGHTS)?;
    write_rows(&embeddings, &mut weights, &bar).with_context(|| write_error(EMBEDDING_WEIGHTS))?;
    written.push(weights);
    let description = format!("{description:#}\n");
    for (name, bytes) in [
        (EMBEDDINGS, &rows.model[..]),
        (DESCRIPTION, description.as_bytes()),
        // Renamed last: if this file exists, the export is complete.
        (MODEL, &model.model),
    ] {
        let mut file = create(name)?;
        file.write_all(bytes).with_context(|| write_error(name))?;
        written.push(file);
    }
    for file in written {
        output_file::finish(file, args.force)?;
    }
    drop(bar);
    let folder = printable(&folder.display().to_string());
    Ok(format!(
        "{folder}: {MODEL} for contexts of up to {context_tokens} tokens, {EMBEDDINGS} for its input, \
         and {DESCRIPTION}, which describes the inputs\n"
    ))
}

/// Creates the folder and removes stale partial files. Without `force`, the folder must be empty.
fn prepare_folder(folder: &Path, force: bool) -> anyhow::Result<()> {
    let write_error = || format!("cannot write {}", folder.display());
    fs::create_dir_all(folder).with_context(write_error)?;
    remove_stale_part_files(folder, |name| FILES.contains(&name)).with_context(write_error)?;
    let is_empty = fs::read_dir(folder)
        .with_context(write_error)?
        .next()
        .is_none();
    ensure!(
        force || is_empty,
        "{} is not empty; --force overwrites files of the same names",
        folder.display()
    );
    for name in FILES {
        output_file::check_available(&folder.join(name), force)?;
    }
    Ok(())
}

/// Returns the size of a graph's weight file in bytes.
fn data_bytes(exported: &ExportedGraph) -> u64 {
    let last = exported.weights.last();
    last.map_or(0, |weight| weight.offset + weight.length)
}

fn write_weights(
    exported: &ExportedGraph,
    initializers: &[Initializer],
    file: &mut AtomicFile,
    bar: &ByteBar,
) -> anyhow::Result<()> {
    let mut position = 0;
    for (weight, initializer) in exported.weights.iter().zip(initializers) {
        ensure!(
            weight.name == initializer.name,
            "the weights are not in the order of the initializers"
        );
        let padding = vec![0; (weight.offset - position) as usize];
        file.write_all(&padding)?;
        match &initializer.values {
            TensorValues::U8(values) => file.write_all(values)?,
            TensorValues::F32(values) => write_floats(values, file)?,
        }
        position = weight.offset + weight.length;
        bar.add(padding.len() + weight.length as usize);
    }
    Ok(())
}

fn write_rows(embeddings: &Embeddings, file: &mut AtomicFile, bar: &ByteBar) -> anyhow::Result<()> {
    let mut values = Vec::new();
    for start in (0..embeddings.rows()).step_by(ROWS_PER_WRITE) {
        values.clear();
        let rows = start..embeddings.rows().min(start + ROWS_PER_WRITE);
        let read = embeddings.read(rows, &mut values);
        read.map_err(|row| anyhow::anyhow!("row {row} does not exist"))?;
        write_floats(&values, file)?;
        bar.add(size_of_val(&values[..]));
    }
    Ok(())
}

fn write_floats(values: &[f32], file: &mut AtomicFile) -> std::io::Result<()> {
    let mut bytes = Vec::new();
    for values in values.chunks(1 << 16) {
        bytes.clear();
        bytes.extend(values.iter().flat_map(|value| value.to_le_bytes()));
        file.write_all(&bytes)?;
    }
    Ok(())
}

/// Returns the contents of [`DESCRIPTION`].
fn describe(
    file: &ModelFile,
    context_tokens: usize,
    [model, rows]: [&ExportedGraph; 2],
    [bos, eos]: [Option<TokenId>; 2],
) -> Value {
    let architecture = &file.architecture;
    let id = |token: Option<TokenId>| token.map(|TokenId(id)| id);
    let values = |values: &[ValueInfo]| -> Vec<Value> {
        let described = values.iter().map(|value| {
            let mut described = json!(value);
            described["is"] = meaning(&value.name).into();
            described
        });
        described.collect()
    };
    let graph = |name: &str, weights: &str, exported: &ExportedGraph| {
        json!({
            "file": name,
            "weights": weights,
            "inputs": values(&exported.inputs),
            "outputs": values(&exported.outputs),
        })
    };
    let operators: Vec<Value> = model.operators.iter().map(operator).collect();
    let mut description = json!({
        "producer": concat!("ortolan ", env!("CARGO_PKG_VERSION")),
        "family": architecture.name(),
        "layers": architecture.layers(),
        "hidden": architecture.hidden(),
        "vocabulary": architecture.vocabulary(),
        "context_tokens": context_tokens,
        "beginning_token": id(bos),
        "end_token": id(eos),
        "model": graph(MODEL, MODEL_WEIGHTS, model),
        "embeddings": graph(EMBEDDINGS, EMBEDDING_WEIGHTS, rows),
        "operators": operators,
    });
    if let Some(shape) = architecture.decoder() {
        let tokens = file.min_rows(MATMUL).tokens;
        description["cache"] = json!({
            "tensors": "key_cache.N and value_cache.N of each layer N, written in place",
            "type": "float16",
            "shape": ["blocks", "block_tokens", shape.kv_heads, shape.head_size],
            "block_tokens": BLOCK_TOKENS,
        });
        description["least_tokens"] = json!({
            "tokens": tokens,
            "is": "with at least as many tokens and logits rows per run, a row's result is independent of the others",
        });
    }
    description
}

fn meaning(name: &str) -> &'static str {
    match name {
        names::INPUT_IDS => "token ids",
        names::INPUTS_EMBEDS => {
            "the tokens' rows of the embedding matrix, concatenated over the sequences"
        }
        names::POSITIONS => "the position of each token in its sequence",
        names::CUMULATIVE_SEQUENCE_LENGTH => {
            "the start of each sequence among the tokens of the run, and the total number of tokens"
        }
        names::PAST_SEQLENS => "the number of cached tokens of each sequence",
        names::BLOCK_TABLE => {
            "the cache blocks of each sequence in order, including those that the run fills; rows are padded with zeros"
        }
        names::LOGIT_ROWS => "the indices of the tokens whose logits are computed",
        names::LOGITS => "the logits of the token after each of them",
        names::HIDDEN_ROWS => "the indices of the tokens whose hidden states are returned",
        names::HIDDEN => "their hidden states after the last norm",
        _ => "the keys or values of a layer in the cache",
    }
}

fn operator([domain, name]: &[String; 2]) -> Value {
    let is = match &**domain {
        crate::graph::ORTOLAN_DOMAIN => format!(
            "a custom operator that the program must register: inputs, attributes and outputs are those of \
             com.microsoft.{name} in ONNX Runtime's ContribOperators.md, in single precision"
        ),
        _ => "an operator of ONNX Runtime".to_owned(),
    };
    json!({"domain": domain, "name": name, "is": is})
}
