//! `ortolan inspect`: what is in a model's files, whether the server takes them, and the memory that it will need. What
//! cannot be served is shown as far as its headers can be read, with the reason.

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
use crate::graph::{Architecture, Computation, DecoderShape, ModelFile, stays_in_file};
use crate::model::MemoryNeed;
use crate::model::load::{MAX_CONTEXT_TOKENS, ModelFiles, ModelSource, ModelText};
use crate::terminal;
use crate::text::{Algorithm, Vocabulary};
use crate::token::TokenId;
use contents::{Contents, TensorLine};

/// Most sequences at once that memory is told for.
const MAX_PARALLEL: usize = 1 << 20;

/// What is shown of a model.
#[derive(Serialize)]
struct Report {
    path: String,
    format: String,
    files: usize,
    bytes: u64,
    parameters: u64,
    served: bool,
    /// Why it is not.
    problem: Option<String>,
    family: Option<String>,
    sizes: Option<Sizes>,
    tokenizer: Option<TokenizerFacts>,
    chat_template: Option<String>,
    tensor_types: Vec<TypeCount>,
    memory: Option<Memory>,
    metadata: Map<String, Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tensors: Option<Vec<TensorLine>>,
}

#[derive(Serialize)]
struct Sizes {
    layers: usize,
    hidden: usize,
    heads: usize,
    kv_heads: usize,
    head_size: usize,
    feed_forward: usize,
    vocabulary: usize,
    trained_context: usize,
    rotary: Option<RotaryFacts>,
    window: Option<Window>,
    /// What its layers have that not all families' have.
    parts: Vec<String>,
    tied_output: bool,
}

#[derive(Serialize)]
struct RotaryFacts {
    /// Values of a head that are turned.
    values: usize,
    pairs: &'static str,
    base: f32,
    scaling: String,
}

#[derive(Serialize)]
struct Window {
    tokens: usize,
    /// Each so-manieth layer sees all.
    all_seeing: Option<usize>,
}

#[derive(Serialize)]
struct TokenizerFacts {
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

/// The tensors of one type.
#[derive(Serialize)]
struct TypeCount {
    #[serde(rename = "type")]
    kind: String,
    tensors: usize,
    values: u64,
    /// Where the type is known.
    bytes: Option<u64>,
    computed: String,
}

/// Bytes.
#[derive(Serialize)]
struct Memory {
    weights: u64,
    /// About.
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

/// What is to be shown.
///
/// # Errors
/// Nothing can be read.
pub(super) fn run(args: &InspectArgs) -> anyhow::Result<String> {
    let InspectArgs {
        ctx_size, parallel, ..
    } = *args;
    ensure!(
        ctx_size <= MAX_CONTEXT_TOKENS,
        "--ctx-size {ctx_size}: at most {MAX_CONTEXT_TOKENS}"
    );
    ensure!(
        (1..=MAX_PARALLEL).contains(&parallel),
        "--parallel {parallel}: from 1 to {MAX_PARALLEL}"
    );
    let report = Report::new(args)?;
    match args.json {
        true => json(&report),
        false => Ok(page::page(&report)),
    }
}

/// The report for programs, in which nothing steers a terminal.
fn json(report: &Report) -> anyhow::Result<String> {
    let text = serde_json::to_string_pretty(report).context("the report is no JSON")?;
    let mut shown = String::with_capacity(text.len() + 1);
    for char in text.chars() {
        match terminal::steers(char) && char != '\n' {
            // Within a string, and below U+10000.
            true => shown.push_str(&format!("\\u{:04x}", u32::from(char))),
            false => shown.push(char),
        }
    }
    shown.push('\n');
    Ok(shown)
}

impl Report {
    fn new(args: &InspectArgs) -> anyhow::Result<Self> {
        let path = args.path.as_path();
        let opened = ModelFiles::open_any(path, FileAccess::Map);
        let graph = match opened.as_ref().map(|files| &files.file) {
            Ok(ModelSource::Imported(graph)) => Some(graph),
            _ => None,
        };
        let contents = match graph {
            Some(graph) => Ok(Contents::of_graph(graph)),
            None => Contents::read(path),
        };
        let contents = match (contents, &opened) {
            (Ok(contents), _) => contents,
            // Its words are the server's.
            (Err(_), Err(error)) => anyhow::bail!("{error:#}"),
            (Err(error), Ok(_)) => return Err(error),
        };
        let mut report = Self {
            path: path.display().to_string(),
            family: contents.family(),
            parameters: graph.map_or(contents.parameters(), ImportedModel::parameters),
            tensor_types: type_counts(&contents.tensors),
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
            Ok(files) => report.tell(files, args).err(),
            Err(error) => {
                // The text may be what is wrong.
                if let Ok(file) = model_file(path) {
                    report.tell_of_file(&file, args);
                }
                Some(error)
            }
        };
        report.served = problem.is_none();
        report.problem = problem.map(|problem| format!("{problem:#}"));
        Ok(report)
    }

    fn tell(&mut self, files: ModelFiles<ModelSource>, args: &InspectArgs) -> anyhow::Result<()> {
        let ModelFiles {
            file,
            vocabulary,
            chat_template,
            pooling: _,
        } = files;
        match &file {
            ModelSource::Tensors(file) => self.tell_of_file(file, args),
            ModelSource::Imported(graph) => self.family = Some(graph.family.clone()),
        }
        self.tokenizer = Some(TokenizerFacts::new(&vocabulary));
        self.chat_template.clone_from(&chat_template);
        let trained = file.trained_context();
        ensure!(
            trained <= MAX_CONTEXT_TOKENS || args.ctx_size > 0,
            "a context of {trained} tokens is more than {MAX_CONTEXT_TOKENS}: --ctx-size says a smaller one"
        );
        let tokens = file.vocabulary();
        ModelText::new(file.path(), tokens, vocabulary, chat_template.as_deref()).map(drop)
    }

    fn tell_of_file(&mut self, file: &ModelFile, args: &InspectArgs) {
        self.family = Some(file.architecture.name().to_owned());
        self.sizes = Some(Sizes::new(&file.architecture));
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
            // An encoder has no places beyond.
            tokens if file.architecture.decoder().is_none() => tokens.min(trained),
            tokens => tokens,
        };
        let need = MemoryNeed::new(file, ctx_size, args.parallel);
        Self {
            weights: need.weights,
            packed: need.packed,
            embeddings: need.embeddings,
            experts: need.experts,
            cache_per_token: need.cache_per_token,
            cache_of_trained_context: need.cache_per_token.saturating_mul(trained as u64),
            ctx_size,
            parallel: args.parallel,
            cache: need.cache,
            total: need.total(),
        }
    }
}

impl Sizes {
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
                rotary: Some(RotaryFacts::new(shape)),
                window: shape.local.as_ref().map(|local| Window {
                    tokens: local.window,
                    all_seeing: local.all_seeing,
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
                parts: vec!["an encoder with learnt positions".to_owned()],
                tied_output: false,
            },
        }
    }
}

/// What the layers have that not all families' have.
fn parts(shape: &DecoderShape) -> Vec<String> {
    let capped = |what, cap: Option<f32>| cap.map(|cap| format!("{what} capped at {cap}"));
    let told = |has: bool, what: &str| has.then(|| what.to_owned());
    let parts = [
        told(shape.biases, "biases of queries, keys and values"),
        told(shape.query_key_norms, "norms of queries and keys"),
        told(shape.post_norms, "norms behind attention and feed-forward"),
        capped("scores", shape.score_cap),
        capped("logits", shape.logit_cap),
        told(shape.embedding_scale.is_some(), "scaled embeddings"),
        shape.experts.as_ref().map(|experts| {
            let (count, used, wide) = (experts.count, experts.used, experts.feed_forward);
            format!("{count} experts of width {wide} in each layer, {used} of them for each token")
        }),
    ];
    parts.into_iter().flatten().collect()
}

impl RotaryFacts {
    fn new(shape: &DecoderShape) -> Self {
        let rotary = &shape.rotary;
        Self {
            values: rotary.rotated,
            pairs: match rotary.interleaved {
                true => "neighbours",
                false => "halves",
            },
            base: rotary.base,
            scaling: match &rotary.scaling {
                RotaryScaling::None => "none".to_owned(),
                RotaryScaling::Linear(factor) => format!("linear by {factor}"),
                RotaryScaling::Yarn {
                    factor, trained, ..
                } => format!("yarn by {factor}, from {trained} tokens on"),
                RotaryScaling::Divided(_) => "a divisor for each frequency".to_owned(),
                RotaryScaling::Long { trained, .. } => {
                    format!("long: other divisors beyond {trained} tokens")
                }
            },
        }
    }
}

impl TokenizerFacts {
    fn new(vocabulary: &Vocabulary) -> Self {
        let named = |token: Option<TokenId>| {
            let TokenId(id) = token?;
            let text = vocabulary.tokens.get(token?.row())?.clone();
            Some(NamedToken { id, text })
        };
        Self {
            algorithm: match &vocabulary.algorithm {
                Algorithm::ByteLevel { pre, merges } => {
                    format!(
                        "byte-level BPE, {} merges, words cut as \"{pre}\"",
                        merges.len()
                    )
                }
                Algorithm::CharacterPairs { merges } => {
                    format!("BPE of characters, {} merges", merges.len())
                }
                Algorithm::ScoredPairs { .. } => "SentencePiece's BPE".to_owned(),
                Algorithm::Unigram { .. } => "SentencePiece's Unigram".to_owned(),
                Algorithm::WordPiece(_) => "WordPiece".to_owned(),
                Algorithm::Steps(_) => "as tokenizer.json says".to_owned(),
            },
            tokens: vocabulary.tokens.len(),
            beginning: named(vocabulary.beginning),
            adds_beginning: vocabulary.adds_beginning,
            end: named(vocabulary.end),
            adds_end: vocabulary.adds_end,
        }
    }
}

/// The types in the order in which they first stand in the files.
fn type_counts(tensors: &[TensorLine]) -> Vec<TypeCount> {
    let mut counts: Vec<TypeCount> = Vec::new();
    for name in tensors.iter().map(|tensor| &tensor.kind) {
        if counts.iter().any(|count| count.kind == *name) {
            continue;
        }
        let of_type = || tensors.iter().filter(|tensor| tensor.kind == *name);
        let known = of_type().find_map(|tensor| tensor.known);
        let matrices = || of_type().filter(|tensor| tensor.shape.len() > 1);
        let multiplies = matrices().any(|tensor| !stays_in_file(&tensor.name));
        let experts = matrices().any(|tensor| stays_in_file(&tensor.name));
        counts.push(TypeCount {
            kind: name.clone(),
            tensors: of_type().count(),
            values: of_type()
                .map(TensorLine::values)
                .fold(0, u64::saturating_add),
            bytes: of_type().map(|tensor| tensor.bytes).sum(),
            computed: computed(known, multiplies, experts),
        });
    }
    counts
}

fn computed(kind: Option<TensorType>, multiplies: bool, experts: bool) -> String {
    match kind {
        None => "not supported".to_owned(),
        Some(_) if !multiplies => "in single precision".to_owned(),
        Some(kind) if experts => {
            format!("{}; experts in single precision", Computation::from(kind))
        }
        Some(kind) => Computation::from(kind).to_string(),
    }
}
