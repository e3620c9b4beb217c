//! A folder with a graph that others exported: onnxruntime-genai's, which `genai_config.json` describes, or the hub's, whose
//! graphs may be in the folder `onnx`.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use serde::Deserialize;

use super::text::{self, Ends};
use super::{ModelFiles, WEIGHT_INDEX, WEIGHTS, needed, parsed};
use crate::file_bytes::FileAccess;
use crate::graph::imported::{ImportSettings, ImportedAttention, ImportedModel};
use crate::model::files::ModelSource;

const GENAI_CONFIG: &str = "genai_config.json";
const CONFIG: &str = "config.json";
const TOKENIZER: &str = "tokenizer.json";
/// The folder of graphs in the hub's repositories.
const GRAPHS: &str = "onnx";
/// Of several graphs the one with this name.
const GRAPH: &str = "model.onnx";

/// What onnxruntime-genai says of a model.
#[derive(Deserialize)]
struct GenaiConfig {
    model: GenaiModel,
}

#[derive(Deserialize)]
struct GenaiModel {
    r#type: String,
    vocab_size: usize,
    context_length: usize,
    #[serde(default)]
    eos_token_id: Option<Ends>,
    decoder: GenaiDecoder,
}

#[derive(Deserialize)]
struct GenaiDecoder {
    filename: String,
    hidden_size: usize,
    head_size: Option<usize>,
}

/// What the hub's configuration says, in the spellings of old and new families.
#[derive(Deserialize)]
struct HubConfig {
    #[serde(default)]
    model_type: String,
    vocab_size: usize,
    #[serde(alias = "n_embd")]
    hidden_size: usize,
    #[serde(alias = "n_positions")]
    max_position_embeddings: usize,
    #[serde(default)]
    head_dim: Option<usize>,
    #[serde(default, alias = "n_head")]
    num_attention_heads: Option<usize>,
}

/// The graph that a path means: itself, or the one in the folder, if it has no weights that a graph is made of here.
///
/// # Errors
/// There are several and none is the first choice; the configuration is none.
pub(in crate::model::files) fn graph(path: &Path) -> anyhow::Result<Option<PathBuf>> {
    if !path.is_dir() {
        let is_graph = path.extension().is_some_and(|end| end == "onnx");
        return Ok(is_graph.then(|| path.to_owned()));
    }
    if let Some(GenaiConfig { model }) = parsed(path, GENAI_CONFIG)? {
        let name = model.decoder.filename;
        ensure!(
            Path::new(&name).file_name() == Some(name.as_ref()),
            "{}: \"{name}\" is no file beside it",
            path.join(GENAI_CONFIG).display()
        );
        return Ok(Some(path.join(name)));
    }
    if [WEIGHTS, WEIGHT_INDEX]
        .iter()
        .any(|name| path.join(name).exists())
    {
        return Ok(None);
    }
    let mut graphs = Vec::new();
    for folder in [path.to_owned(), path.join(GRAPHS)] {
        let Ok(entries) = fs::read_dir(folder) else {
            continue;
        };
        let entries = entries.filter_map(|entry| entry.ok().map(|entry| entry.path()));
        graphs.extend(entries.filter(|path| path.extension().is_some_and(|end| end == "onnx")));
    }
    graphs.sort();
    let mut named = graphs.iter().filter(|graph| graph.ends_with(GRAPH));
    match (named.next(), &graphs[..]) {
        (Some(graph), _) | (None, [graph]) => Ok(Some(graph.clone())),
        (None, []) => Ok(None),
        (None, several) => {
            let names: Vec<String> = several
                .iter()
                .map(|path| path.display().to_string())
                .collect();
            bail!(
                "{} has several graphs, and none is {GRAPH}: name one of {}",
                path.display(),
                names.join(", ")
            )
        }
    }
}

/// Opens the graph at `path` with what stands beside it, or above it where its folder is [`GRAPHS`].
pub(in crate::model::files) fn open(
    path: PathBuf,
    access: FileAccess,
) -> anyhow::Result<ModelFiles<ModelSource>> {
    let folder = folder(&path);
    let genai = parsed::<GenaiConfig>(&folder, GENAI_CONFIG)?;
    let mut ends = None;
    let settings = match genai {
        Some(GenaiConfig { model }) => {
            ends = model.eos_token_id;
            ImportSettings {
                family: model.r#type,
                vocabulary: model.vocab_size,
                hidden: model.decoder.hidden_size,
                head_size: model.decoder.head_size,
                trained_context: model.context_length,
            }
        }
        None => hub_settings(&folder)?,
    };
    let named = path.display().to_string();
    let model = ImportedModel::open(path, access, settings).context(named)?;
    if let ImportedAttention::PastPresent { reason, .. } = &model.attention {
        tracing::info!(
            reason,
            "the export keeps its own attention: sequences run one by one"
        );
    }
    let (mut vocabulary, chat_template) = text::read(&folder)?;
    vocabulary
        .ends
        .extend(ends.into_iter().flat_map(Ends::tokens));
    Ok(ModelFiles {
        file: ModelSource::Imported(model),
        vocabulary,
        chat_template,
        pooling: super::pooling(&folder)?,
    })
}

fn folder(path: &Path) -> PathBuf {
    let folder = path.parent().unwrap_or(Path::new(""));
    match folder.parent() {
        Some(above) if folder.ends_with(GRAPHS) && !folder.join(TOKENIZER).exists() => {
            above.to_owned()
        }
        _ => folder.to_owned(),
    }
}

fn hub_settings(folder: &Path) -> anyhow::Result<ImportSettings> {
    let (name, config) = needed(folder, CONFIG)?;
    let config: HubConfig = serde_json::from_slice(&config).context(name)?;
    let heads = config.num_attention_heads.filter(|heads| *heads > 0);
    Ok(ImportSettings {
        family: config.model_type,
        vocabulary: config.vocab_size,
        hidden: config.hidden_size,
        head_size: config
            .head_dim
            .or(heads.map(|heads| config.hidden_size / heads)),
        trained_context: config.max_position_embeddings,
    })
}
