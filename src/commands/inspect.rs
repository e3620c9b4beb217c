//! `ortolan inspect`: shows the contents of model files, whether the server supports the model, and its memory
//! estimate. For an unsupported or damaged model, shows the headers' contents and the reason.

mod contents;
mod page;

use std::path::Path;

use anyhow::{Context, ensure};
use serde::Serialize;
use serde_json::{Map, Value};

use crate::cli::InspectArgs;
use crate::file_bytes::FileAccess;
use crate::gguf::{Gguf, TensorType};
use crate::graph::families::RotaryScaling;
use crate::graph::imported::ImportedModel;
use crate::graph::{Architecture, DecoderShape, MatmulKind, ModelFile, is_expert_tensor};
use crate::model::MemoryEstimate;
use crate::model::load::{MAX_CONTEXT_TOKENS, ModelSource, OpenedModel, TextProcessor};
use crate::terminal;
use crate::text::{Algorithm, Vocabulary};
use crate::token::TokenId;
use contents::{Contents, TensorEntry};

/// Maximum value of `--parallel`.
const MAX_PARALLEL: usize = 1 << 20;

/// Report about a model. The JSON output has the same field names.
#[derive(Serialize)]
struct Report {
    path: String,
    format: String,
    files: usize,
    bytes: u64,
    parameters: u64,
    served: bool,
    /// Why the server cannot load the model.
    problem: Option<String>,
    family: Option<String>,
    sizes: Option<Hyperparameters>,
    tokenizer: Option<TokenizerInfo>,
    chat_template: Option<String>,
    tensor_types: Vec<TensorTypeSummary>,
    memory: Option<Memory>,
    metadata: Map<String, Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tensors: Option<Vec<TensorEntry>>,
}

#[derive(Serialize)]
struct Hyperparameters {
    layers: usize,
    hidden: usize,
    heads: usize,
    kv_heads: usize,
    head_size: usize,
    feed_forward: usize,
    vocabulary: usize,
    trained_context: usize,
    rotary: Option<RotaryInfo>,
    window: Option<SlidingWindow>,
    /// Optional features of the layers, such as biases, norms and experts.
    parts: Vec<String>,
    tied_output: bool,
}

#[derive(Serialize)]
struct RotaryInfo {
    /// Number of rotated dimensions per head.
    values: usize,
    pairs: &'static str,
    base: f32,
    scaling: String,
}

#[derive(Serialize)]
struct SlidingWindow {
    tokens: usize,
    /// Every n-th layer has global attention; `None` if no layer has.
    #[serde(rename = "all_seeing")]
    global_every: Option<usize>,
}

#[derive(Serialize)]
struct TokenizerInfo {
    algorithm: String,
    tokens: usize,
    beginning: Option<NamedToken>,
    adds_beginning: bool,
    end: Option<NamedToken>,
    adds_end: bool,
}

#[derive(Serialize)]
struct NamedToken {
    id: u32,
    text: String,
}

/// Count and size of all tensors of a type.
#[derive(Serialize)]
struct TensorTypeSummary {
    #[serde(rename = "type")]
    kind: String,
    tensors: usize,
    values: u64,
    /// `None` for an unknown type.
    bytes: Option<u64>,
    computed: String,
}

/// Memory estimate in bytes, except for `ctx_size` (tokens) and `parallel` (slots).
#[derive(Serialize)]
struct Memory {
    weights: u64,
    /// Approximate size of the runtime's packed copy of the weights.
    packed: u64,
    embeddings: u64,
    experts: u64,
    cache_per_token: u64,
    cache_of_trained_context: u64,
    ctx_size: usize,
    parallel: usize,
    cache: u64,
    total: u64,
}

/// Inspects a model and returns the report as text or JSON.
///
/// # Errors
/// If an option is invalid, or no file header can be read.
pub(super) fn run(args: &InspectArgs) -> anyhow::Result<String> {
    let InspectArgs {
        ctx_size, parallel, ..
    } = *args;
    ensure!(
        ctx_size <= MAX_CONTEXT_TOKENS,
        "--ctx-size {ctx_size}: must be at most {MAX_CONTEXT_TOKENS}"
    );
    ensure!(
        (1..=MAX_PARALLEL).contains(&parallel),
        "--parallel {parallel}: must be from 1 to {MAX_PARALLEL}"
    );
    let report = Report::new(args)?;
    match args.json {
        true => json(&report),
        false => Ok(page::page(&report)),
    }
}

/// Returns the report as JSON. Escapes characters that would control a terminal.
fn json(report: &Report) -> anyhow::Result<String> {
    let text = serde_json::to_string_pretty(report).context("cannot write the report as JSON")?;
    let mut escaped = String::with_capacity(text.len() + 1);
    for char in text.chars() {
        match terminal::is_unsafe_to_print(char) && char != '\n' {
            // These characters occur only inside JSON strings, and all are below U+10000.
            true => escaped.push_str(&format!("\\u{:04x}", u32::from(char))),
            false => escaped.push(char),
        }
    }
    escaped.push('\n');
    Ok(escaped)
}

impl Report {
    fn new(args: &InspectArgs) -> anyhow::Result<Self> {
        let path = args.path.as_path();
        let opened = OpenedModel::open_any(path, FileAccess::Map);
        let graph = match opened.as_ref().map(|files| &files.file) {
            Ok(ModelSource::Imported(graph)) => Some(graph),
            _ => None,
        };
        let contents = match graph {
            Some(graph) => Ok(Contents::from_graph(graph)),
            None => Contents::read(path),
        };
        let contents = match (contents, &opened) {
            (Ok(contents), _) => contents,
            // Report the error that the server would report.
            (Err(_), Err(error)) => anyhow::bail!("{error:#}"),
            (Err(error), Ok(_)) => return Err(error),
        };
        let mut report = Self {
            path: path.display().to_string(),
            family: contents.family(),
            parameters: graph.map_or(contents.parameters(), ImportedModel::parameters),
            tensor_types: summarize_types(&contents.tensors),
            format: contents.format,
            files: contents.files,
            bytes: contents.bytes,
            served: false,
            problem: None,
            sizes: None,
            tokenizer: None,
            chat_template: None,
            memory: None,
            metadata: contents.metadata,
            tensors: args.tensors.then_some(contents.tensors),
        };
        let problem = match opened {
            Ok(files) => report.add_model(files, args).err(),
            Err(error) => {
                // The tensors of a GGUF file may be valid even if the tokenizer is not supported.
                if let Ok(file) = model_file(path) {
                    report.add_model_file(&file, args);
                }
                Some(error)
            }
        };
        report.served = problem.is_none();
        report.problem = problem.map(|problem| format!("{problem:#}"));
        Ok(report)
    }

    fn add_model(
        &mut self,
        files: OpenedModel<ModelSource>,
        args: &InspectArgs,
    ) -> anyhow::Result<()> {
        let OpenedModel {
            file,
            vocabulary,
            chat_template,
            pooling: _,
        } = files;
        match &file {
            ModelSource::Tensors(file) => self.add_model_file(file, args),
            ModelSource::Imported(graph) => self.family = Some(graph.family.clone()),
        }
        self.tokenizer = Some(TokenizerInfo::new(&vocabulary));
        self.chat_template.clone_from(&chat_template);
        let trained = file.trained_context_tokens();
        ensure!(
            trained <= MAX_CONTEXT_TOKENS || args.ctx_size > 0,
            "the trained context of {trained} tokens exceeds the maximum of {MAX_CONTEXT_TOKENS}: set --ctx-size"
        );
        let tokens = file.vocabulary_size();
        TextProcessor::new(file.path(), tokens, vocabulary, chat_template.as_deref()).map(drop)
    }

    fn add_model_file(&mut self, file: &ModelFile, args: &InspectArgs) {
        self.family = Some(file.architecture.name().to_owned());
        self.sizes = Some(Hyperparameters::new(&file.architecture));
        self.memory = Some(Memory::new(file, args));
    }
}

fn model_file(path: &Path) -> anyhow::Result<ModelFile> {
    let gguf = Gguf::open(path, FileAccess::Map)?;
    Ok(ModelFile::new(path.to_owned(), gguf)?)
}

impl Memory {
    fn new(file: &ModelFile, args: &InspectArgs) -> Self {
        let trained = file.architecture.trained_context();
        let ctx_size = match args.ctx_size {
            0 => trained,
            // An encoder has no position embeddings beyond its trained context.
            tokens if file.architecture.decoder().is_none() => tokens.min(trained),
            tokens => tokens,
        };
        let estimate = MemoryEstimate::new(file, ctx_size, args.parallel);
        Self {
            weights: estimate.weight_bytes,
            packed: estimate.packed_weight_bytes,
            embeddings: estimate.embedding_bytes,
            experts: estimate.expert_bytes,
            cache_per_token: estimate.cache_bytes_per_token,
            cache_of_trained_context: estimate
                .cache_bytes_per_token
                .saturating_mul(trained as u64),
            ctx_size,
            parallel: args.parallel,
            cache: estimate.cache_bytes,
            total: estimate.total_bytes(),
        }
    }
}

impl Hyperparameters {
    fn new(architecture: &Architecture) -> Self {
        match architecture {
            Architecture::Decoder { shape, .. } => Self {
                layers: shape.layers,
                hidden: shape.hidden,
                heads: shape.heads,
                kv_heads: shape.kv_heads,
                head_size: shape.head_size,
                feed_forward: shape.feed_forward,
                vocabulary: shape.vocabulary,
                trained_context: shape.trained_context,
                rotary: Some(RotaryInfo::new(shape)),
                window: shape.sliding_window.as_ref().map(|window| SlidingWindow {
                    tokens: window.window_tokens,
                    global_every: window.global_every,
                }),
                parts: parts(shape),
                tied_output: shape.tied_output,
            },
            Architecture::Bert(shape) => Self {
                layers: shape.layers,
                hidden: shape.hidden,
                heads: shape.heads,
                kv_heads: shape.heads,
                head_size: shape.hidden / shape.heads,
                feed_forward: shape.feed_forward,
                vocabulary: shape.vocabulary,
                trained_context: shape.trained_context,
                rotary: None,
                window: None,
                parts: vec!["an encoder with learned positions".to_owned()],
                tied_output: false,
            },
        }
    }
}

/// Optional features of the layers, such as biases, norms and experts.
fn parts(shape: &DecoderShape) -> Vec<String> {
    let softcap = |name, cap: Option<f32>| cap.map(|cap| format!("{name} soft-capped at {cap}"));
    let feature = |is_present: bool, name: &str| is_present.then(|| name.to_owned());
    let parts = [
        feature(shape.qkv_biases, "biases for queries, keys and values"),
        feature(shape.query_key_norms, "norms for queries and keys"),
        feature(shape.post_norms, "norms after attention and feed-forward"),
        softcap("attention scores", shape.score_softcap),
        softcap("logits", shape.logit_softcap),
        feature(shape.embedding_scale.is_some(), "scaled embeddings"),
        shape.experts.as_ref().map(|experts| {
            let (count, top_k, width) = (experts.count, experts.top_k, experts.feed_forward);
            format!("{count} experts of width {width} per layer, {top_k} per token")
        }),
    ];
    parts.into_iter().flatten().collect()
}

impl RotaryInfo {
    fn new(shape: &DecoderShape) -> Self {
        let rotary = &shape.rotary;
        Self {
            values: rotary.rotated_dims,
            pairs: match rotary.interleaved {
                true => "neighbours",
                false => "halves",
            },
            base: rotary.base,
            scaling: match &rotary.scaling {
                RotaryScaling::None => "none".to_owned(),
                RotaryScaling::Linear(factor) => format!("linear by {factor}"),
                RotaryScaling::Yarn {
                    factor,
                    original_context,
                    ..
                } => format!("yarn by {factor}, original context {original_context} tokens"),
                RotaryScaling::PerFrequency(_) => "a factor for each frequency".to_owned(),
                RotaryScaling::LongRope {
                    original_context, ..
                } => {
                    format!("longrope: other factors beyond {original_context} tokens")
                }
            },
        }
    }
}

impl TokenizerInfo {
    fn new(vocabulary: &Vocabulary) -> Self {
        let named_token = |token: Option<TokenId>| {
            let TokenId(id) = token?;
            let text = vocabulary.tokens.get(token?.row())?.clone();
            Some(NamedToken { id, text })
        };
        Self {
            algorithm: match &vocabulary.algorithm {
                Algorithm::ByteLevelBpe { pre, merges } => {
                    format!(
                        "byte-level BPE, {} merges, pre-tokenizer \"{pre}\"",
                        merges.len()
                    )
                }
                Algorithm::CharacterBpe { merges } => {
                    format!("character BPE, {} merges", merges.len())
                }
                Algorithm::SentencePieceBpe { .. } => "SentencePiece BPE".to_owned(),
                Algorithm::Unigram { .. } => "SentencePiece Unigram".to_owned(),
                Algorithm::WordPiece(_) => "WordPiece".to_owned(),
                Algorithm::TokenizerJson(_) => "tokenizer.json".to_owned(),
            },
            tokens: vocabulary.tokens.len(),
            beginning: named_token(vocabulary.bos),
            adds_beginning: vocabulary.adds_bos,
            end: named_token(vocabulary.eos),
            adds_end: vocabulary.adds_eos,
        }
    }
}

/// Summarizes the tensors by type, in the order of each type's first occurrence.
fn summarize_types(tensors: &[TensorEntry]) -> Vec<TensorTypeSummary> {
    let mut summaries: Vec<TensorTypeSummary> = Vec::new();
    for name in tensors.iter().map(|tensor| &tensor.kind) {
        if summaries.iter().any(|summary| summary.kind == *name) {
            continue;
        }
        let of_type = || tensors.iter().filter(|tensor| tensor.kind == *name);
        let tensor_type = of_type().find_map(|tensor| tensor.tensor_type);
        let matrices = || of_type().filter(|tensor| tensor.shape.len() > 1);
        let has_weights = matrices().any(|tensor| !is_expert_tensor(&tensor.name));
        let has_experts = matrices().any(|tensor| is_expert_tensor(&tensor.name));
        summaries.push(TensorTypeSummary {
            kind: name.clone(),
            tensors: of_type().count(),
            values: of_type()
                .map(TensorEntry::values)
                .fold(0, u64::saturating_add),
            bytes: of_type().map(|tensor| tensor.bytes).sum(),
            computed: describe_computation(tensor_type, has_weights, has_experts),
        });
    }
    summaries
}

/// Describes which computation the runtime uses for tensors of a type.
fn describe_computation(kind: Option<TensorType>, has_weights: bool, has_experts: bool) -> String {
    match kind {
        None => "not supported".to_owned(),
        Some(_) if !has_weights => "in single precision".to_owned(),
        Some(kind) if has_experts => {
            format!("{}; experts in single precision", MatmulKind::from(kind))
        }
        Some(kind) => MatmulKind::from(kind).to_string(),
    }
}
