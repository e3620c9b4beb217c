//! Opens an exported ONNX graph and its folder: in onnxruntime-genai's format with `genai_config.json`, or in Hugging
//! Face's format, where graphs may be in the subfolder `onnx`.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use serde::Deserialize;

use super::text::{self, EosTokenIds};
use super::{OpenedModel, WEIGHT_INDEX, WEIGHTS, read_json, read_required};
use crate::file_bytes::FileAccess;
use crate::graph::imported::{ImportSettings, ImportedAttention, ImportedModel};
use crate::model::files::ModelSource;

const GENAI_CONFIG: &str = "genai_config.json";
const CONFIG: &str = "config.json";
const TOKENIZER: &str = "tokenizer.json";
/// Subfolder of graphs in Hugging Face repositories.
const GRAPH_FOLDER: &str = "onnx";
/// File name of the graph to choose if there are several.
const DEFAULT_GRAPH: &str = "model.onnx";

/// The parts of onnxruntime-genai's `genai_config.json` that are used.
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
    eos_token_id: Option<EosTokenIds>,
    decoder: GenaiDecoder,
}

#[derive(Deserialize)]
struct GenaiDecoder {
    filename: String,
    hidden_size: usize,
    head_size: Option<usize>,
}

/// Hugging Face's `config.json`, with the field names of old and new model families.
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

/// Returns the exported graph at a path: the `.onnx` file itself, or the graph in the folder. Returns `None` for other
/// files, and for folders with safetensors files.
///
/// # Errors
/// If a folder has several graphs but no `model.onnx`, or the configuration is invalid.
pub(in crate::model::files) fn graph(path: &Path) -> anyhow::Result<Option<PathBuf>> {
    if !path.is_dir() {
        let is_graph = path
            .extension()
            .is_some_and(|extension| extension == "onnx");
        return Ok(is_graph.then(|| path.to_owned()));
    }
    if let Some(GenaiConfig { model }) = read_json(path, GENAI_CONFIG)? {
        let name = model.decoder.filename;
        ensure!(
            Path::new(&name).file_name() == Some(name.as_ref()),
            "{}: \"{name}\" is not a plain file name",
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
    for folder in [path.to_owned(), path.join(GRAPH_FOLDER)] {
        let Ok(entries) = fs::read_dir(folder) else {
            continue;
        };
        let entries = entries.filter_map(|entry| entry.ok().map(|entry| entry.path()));
        graphs.extend(entries.filter(|path| {
            path.extension()
                .is_some_and(|extension| extension == "onnx")
        }));
    }
    graphs.sort();
    let mut preferred = graphs.iter().filter(|graph| graph.ends_with(DEFAULT_GRAPH));
    match (preferred.next(), &graphs[..]) {
        (Some(graph), _) | (None, [graph]) => Ok(Some(graph.clone())),
        (None, []) => Ok(None),
        (None, several) => {
            let names: Vec<String> = several
                .iter()
                .map(|path| path.display().to_string())
                .collect();
            bail!(
                "{} has several graphs but no {DEFAULT_GRAPH}; choose one of: {}",
                path.display(),
                names.join(", ")
            )
        }
    }
}

/// Opens the graph at `path`. The configuration is in the same folder, or in the parent folder if the graph is in
/// [`GRAPH_FOLDER`].
pub(in crate::model::files) fn open(
    path: PathBuf,
    access: FileAccess,
) -> anyhow::Result<OpenedModel<ModelSource>> {
    let folder = config_folder(&path);
    let genai = read_json::<GenaiConfig>(&folder, GENAI_CONFIG)?;
    let mut eos_token_ids = None;
    let settings = match genai {
        Some(GenaiConfig { model }) => {
            eos_token_ids = model.eos_token_id;
            ImportSettings {
                family: model.r#type,
                vocabulary: model.vocab_size,
                hidden: model.decoder.hidden_size,
                head_size: model.decoder.head_size,
                trained_context: model.context_length,
            }
        }
        None => hub_config_settings(&folder)?,
    };
    let display_path = path.display().to_string();
    let model = ImportedModel::open(path, access, settings).context(display_path)?;
    if let ImportedAttention::PastPresent { reason, .. } = &model.attention {
        tracing::info!(
            reason,
            "the exported graph keeps its attention operators: sequences run one by one"
        );
    }
    let (mut vocabulary, chat_template) = text::read(&folder)?;
    vocabulary
        .eog_tokens
        .extend(eos_token_ids.into_iter().flat_map(EosTokenIds::tokens));
    Ok(OpenedModel {
        file: ModelSource::Imported(model),
        vocabulary,
        chat_template,
        pooling: super::pooling(&folder)?,
    })
}

fn config_folder(path: &Path) -> PathBuf {
    let folder = path.parent().unwrap_or(Path::new(""));
    match folder.parent() {
        Some(parent) if folder.ends_with(GRAPH_FOLDER) && !folder.join(TOKENIZER).exists() => {
            parent.to_owned()
        }
        _ => folder.to_owned(),
    }
}

fn hub_config_settings(folder: &Path) -> anyhow::Result<ImportSettings> {
    let (name, config) = read_required(folder, CONFIG)?;
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
