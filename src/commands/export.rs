//! `ortolan export`: a folder with a model's graph for other programs that have ONNX Runtime, and what they have to know
//! to feed it.

use std::fs;
use std::io::Write;
use std::path::Path;

use anyhow::{Context, ensure};
use serde_json::{Value, json};

use super::new_file;
use crate::atomic_file::{AtomicFile, remove_parts};
use crate::cli::ExportArgs;
use crate::file_bytes::FileAccess;
use crate::graph::onnx::{Exported, Initializer, TensorValues, ValueFacts};
use crate::graph::{Embeddings, ModelFile, ProductOperator, names};
use crate::model::load::{BLOCK_TOKENS, MAX_CONTEXT_TOKENS, ModelFiles};
use crate::terminal::{ByteBar, ShareBar, printable};
use crate::token::TokenId;

const MODEL: &str = "model.onnx";
const MODEL_WEIGHTS: &str = "model.onnx.data";
const EMBEDDINGS: &str = "embeddings.onnx";
const EMBEDDING_WEIGHTS: &str = "embeddings.onnx.data";
const FACTS: &str = "ortolan.json";
const FILES: [&str; 5] = [MODEL, MODEL_WEIGHTS, EMBEDDINGS, EMBEDDING_WEIGHTS, FACTS];

/// Those that every program with ONNX Runtime has.
const PRODUCTS: ProductOperator = ProductOperator::Contrib;

/// Rows of the embedding matrix between two writes.
const ROWS: usize = 1024;

/// Writes the folder, and says what is in it.
///
/// # Errors
/// What is wrong, with the path.
pub(super) fn run(args: &ExportArgs) -> anyhow::Result<String> {
    let folder = args.folder.as_path();
    let ModelFiles {
        file, vocabulary, ..
    } = ModelFiles::open(&args.model, FileAccess::Map)?;
    let experts = file.architecture.decoder();
    ensure!(
        experts.is_none_or(|shape| shape.experts.is_none()),
        "{}: a mixture of experts is not exported: its operator reads the experts' matrices in this file",
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
        "--ctx-size: a context of {context_tokens} tokens is more than {MAX_CONTEXT_TOKENS}"
    );
    prepare(folder, args.force)?;

    let bar = ShareBar::new(&format!("reading {}", args.model.display()));
    let graph = file.graph(PRODUCTS, context_tokens, &|share| bar.set(share));
    drop(bar);
    let embeddings = file.embeddings();
    let (model, rows) = (
        graph.exported(MODEL_WEIGHTS),
        embeddings.exported(EMBEDDING_WEIGHTS),
    );
    let facts = facts(
        &file,
        context_tokens,
        [&model, &rows],
        [vocabulary.beginning, vocabulary.end],
    );
    let bytes = data_bytes(&model) + data_bytes(&rows);
    let bar = ByteBar::new(&format!("writing {}", folder.display()), bytes);
    let new = |name: &str| new_file::create(&folder.join(name));
    let named = |name: &str| format!("cannot write {}", folder.join(name).display());
    let mut written = Vec::new();
    let mut weights = new(MODEL_WEIGHTS)?;
    write_weights(&model, &graph.initializers, &mut weights, &bar)
        .with_context(|| named(MODEL_WEIGHTS))?;
    written.push(weights);
    let mut weights = new(EMBEDDING_WEIGHTS)?;
    write_rows(&embeddings, &mut weights, &bar).with_context(|| named(EMBEDDING_WEIGHTS))?;
    written.push(weights);
    let facts = format!("{facts:#}\n");
    for (name, bytes) in [
        (EMBEDDINGS, &rows.model[..]),
        (FACTS, facts.as_bytes()),
        // The last: who finds it finds all.
        (MODEL, &model.model),
    ] {
        let mut file = new(name)?;
        file.write_all(bytes).with_context(|| named(name))?;
        written.push(file);
    }
    for file in written {
        new_file::finish(file, args.force)?;
    }
    drop(bar);
    let folder = printable(&folder.display().to_string());
    Ok(format!(
        "{folder}: {MODEL} for contexts of up to {context_tokens} tokens, {EMBEDDINGS} for its input, and {FACTS}, which says \
         how to feed them\n"
    ))
}

/// Makes the folder, which is to be empty, or `force`d.
fn prepare(folder: &Path, force: bool) -> anyhow::Result<()> {
    let named = || format!("cannot write {}", folder.display());
    fs::create_dir_all(folder).with_context(named)?;
    remove_parts(folder, |name| FILES.contains(&name)).with_context(named)?;
    let is_empty = fs::read_dir(folder).with_context(named)?.next().is_none();
    ensure!(
        force || is_empty,
        "{} is not empty; --force writes over what is of the same name",
        folder.display()
    );
    for name in FILES {
        new_file::free(&folder.join(name), force)?;
    }
    Ok(())
}

/// Bytes of a graph's weights.
fn data_bytes(exported: &Exported) -> u64 {
    let last = exported.weights.last();
    last.map_or(0, |weight| weight.offset + weight.length)
}

fn write_weights(
    exported: &Exported,
    initializers: &[Initializer],
    file: &mut AtomicFile,
    bar: &ByteBar,
) -> anyhow::Result<()> {
    let mut place = 0;
    for (weight, initializer) in exported.weights.iter().zip(initializers) {
        ensure!(weight.name == initializer.name, "the graph's order");
        let gap = vec![0; (weight.offset - place) as usize];
        file.write_all(&gap)?;
        match &initializer.values {
            TensorValues::U8(values) => file.write_all(values)?,
            TensorValues::F32(values) => write_floats(values, file)?,
        }
        place = weight.offset + weight.length;
        bar.add(gap.len() + weight.length as usize);
    }
    Ok(())
}

fn write_rows(embeddings: &Embeddings, file: &mut AtomicFile, bar: &ByteBar) -> anyhow::Result<()> {
    let mut values = Vec::new();
    for start in (0..embeddings.rows()).step_by(ROWS) {
        values.clear();
        let rows = start..embeddings.rows().min(start + ROWS);
        let read = embeddings.read(rows, &mut values);
        read.map_err(|row| anyhow::anyhow!("there is no row {row}"))?;
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

/// What somebody else's program has to know.
fn facts(
    file: &ModelFile,
    context_tokens: usize,
    [model, rows]: [&Exported; 2],
    [beginning, end]: [Option<TokenId>; 2],
) -> Value {
    let architecture = &file.architecture;
    let id = |token: Option<TokenId>| token.map(|TokenId(id)| id);
    let values = |values: &[ValueFacts]| -> Vec<Value> {
        let told = values.iter().map(|value| {
            let mut told = json!(value);
            told["is"] = meaning(&value.name).into();
            told
        });
        told.collect()
    };
    let graph = |name: &str, weights: &str, exported: &Exported| {
        json!({
            "file": name,
            "weights": weights,
            "inputs": values(&exported.inputs),
            "outputs": values(&exported.outputs),
        })
    };
    let operators: Vec<Value> = model.operators.iter().map(operator).collect();
    let mut facts = json!({
        "producer": concat!("ortolan ", env!("CARGO_PKG_VERSION")),
        "family": architecture.name(),
        "layers": architecture.layers(),
        "hidden": architecture.hidden(),
        "vocabulary": architecture.vocabulary(),
        "context_tokens": context_tokens,
        "beginning_token": id(beginning),
        "end_token": id(end),
        "model": graph(MODEL, MODEL_WEIGHTS, model),
        "embeddings": graph(EMBEDDINGS, EMBEDDING_WEIGHTS, rows),
        "operators": operators,
    });
    if let Some(shape) = architecture.decoder() {
        let tokens = file.least_rows(PRODUCTS).tokens;
        facts["cache"] = json!({
            "tensors": "key_cache.N and value_cache.N of each layer N, written in place",
            "type": "float16",
            "shape": ["blocks", "block_tokens", shape.kv_heads, shape.head_size],
            "block_tokens": BLOCK_TOKENS,
        });
        facts["least_tokens"] = json!({
            "tokens": tokens,
            "is": "with as many tokens and rows of logits in each run, a row's bits do not depend on its neighbours",
        });
    }
    facts
}

fn meaning(name: &str) -> &'static str {
    match name {
        names::INPUT_IDS => "token ids",
        names::INPUTS_EMBEDS => "the tokens' rows of the embedding matrix, sequence after sequence",
        names::POSITIONS => "the place of each token in its sequence",
        names::CUMULATIVE_SEQUENCE_LENGTH => {
            "where each sequence's tokens begin among all of the run, and where the last end"
        }
        names::PAST_SEQLENS => "tokens of each sequence that are in the cache already",
        names::BLOCK_TABLE => {
            "each sequence's blocks of the cache in order, also those that the run fills; rows end with zeros"
        }
        names::LOGIT_ROWS => "the tokens whose logits are wanted",
        names::LOGITS => "of the token after each of them",
        names::HIDDEN_ROWS => "the tokens whose hidden states are wanted",
        names::HIDDEN => "the state after the last norm of each of them",
        _ => "a layer's part of the cache",
    }
}

fn operator([domain, name]: &[String; 2]) -> Value {
    let is = match &**domain {
        crate::graph::ORTOLAN_DOMAIN => format!(
            "to be registered by the program: inputs, attributes and result are those of com.microsoft.{name} in ONNX Runtime's \
             ContribOperators.md, in single precision"
        ),
        _ => "ONNX Runtime's own".to_owned(),
    };
    json!({"domain": domain, "name": name, "is": is})
}
