//! Opens a model folder in Hugging Face's format: `config.json`, `tokenizer.json`, weights in `model.safetensors` or in
//! the shards of an index, and the pooling configuration of sentence-transformers.

mod imported;
mod text;

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::path::Path;

use anyhow::{Context, bail, ensure};
pub(super) use imported::{graph, open as open_graph};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::OpenedModel;
use crate::engine::Pooling;
use crate::file_bytes::{FileAccess, read_regular_limited};
use crate::graph::ModelFile;
use crate::safetensors::Safetensors;

/// Maximum size of a JSON file. The largest known `tokenizer.json` has 33 million bytes.
const MAX_JSON_BYTES: u64 = 256 << 20;

/// Names of the weight file and of the index of weight shards.
const WEIGHTS: &str = "model.safetensors";
const WEIGHT_INDEX: &str = "model.safetensors.index.json";

/// Opens the weights and reads the configuration, vocabulary, chat template and pooling.
pub(super) fn open(path: &Path, access: FileAccess) -> anyhow::Result<OpenedModel> {
    let (name, config) = read_required(path, "config.json")?;
    let weights = weights(path, access)?;
    let file = ModelFile::from_folder(path.to_owned(), &config, weights).context(name)?;
    let (vocabulary, chat_template) = text::read(path)?;
    Ok(OpenedModel {
        file,
        vocabulary,
        chat_template,
        pooling: pooling(path)?,
    })
}

/// Index of weight shards. Maps tensor names to file names.
#[derive(Deserialize)]
struct WeightIndex {
    weight_map: HashMap<String, String>,
}

/// Opens the files of the index, or `model.safetensors` without an index.
fn weights(folder: &Path, access: FileAccess) -> anyhow::Result<Vec<Safetensors>> {
    let mut names = BTreeSet::from([WEIGHTS.to_owned()]);
    if let Some(index) = read_json::<WeightIndex>(folder, WEIGHT_INDEX)? {
        names = index.weight_map.into_values().collect();
    }
    let open = |name: String| {
        ensure!(
            Path::new(&name).file_name() == Some(name.as_ref()),
            "{}: \"{name}\" is not a plain file name",
            folder.join(WEIGHT_INDEX).display()
        );
        Ok(Safetensors::open(&folder.join(name), access)?)
    };
    names.into_iter().map(open).collect()
}

/// Reads a required file. Returns the path, for error messages, and the bytes.
fn read_required(folder: &Path, name: &str) -> anyhow::Result<(String, Vec<u8>)> {
    let path = folder.join(name);
    let display_path = path.display().to_string();
    match read_optional(folder, name)? {
        Some(bytes) => Ok((display_path, bytes)),
        None => bail!("{display_path} not found: a model folder must contain it"),
    }
}

/// Reads a file. Returns `None` if the file does not exist.
pub(super) fn read_optional(folder: &Path, name: &str) -> anyhow::Result<Option<Vec<u8>>> {
    let path = folder.join(name);
    let display_path = || path.display().to_string();
    match read_regular_limited(&path, MAX_JSON_BYTES) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(display_path),
    }
}

fn read_json<T: DeserializeOwned>(folder: &Path, name: &str) -> anyhow::Result<Option<T>> {
    let Some(bytes) = read_optional(folder, name)? else {
        return Ok(None);
    };
    let value = serde_json::from_slice(&bytes);
    value
        .with_context(|| folder.join(name).display().to_string())
        .map(Some)
}

/// A module in the `modules.json` of sentence-transformers, which applies modules in order.
#[derive(Deserialize)]
struct Module {
    path: String,
    r#type: String,
}

/// Configuration of sentence-transformers' `Pooling` module.
#[derive(Deserialize, Default)]
#[serde(default)]
struct PoolingConfig {
    pooling_mode_cls_token: bool,
    pooling_mode_mean_tokens: bool,
    pooling_mode_lasttoken: bool,
    pooling_mode_max_tokens: bool,
    pooling_mode_mean_sqrt_len_tokens: bool,
    pooling_mode_weightedmean_tokens: bool,
}

/// Returns the pooling that the sentence-transformers configuration specifies.
fn pooling(folder: &Path) -> anyhow::Result<Option<Pooling>> {
    const MODULES: &str = "modules.json";
    const POOLING: &str = "1_Pooling";

    for module in read_json::<Vec<Module>>(folder, MODULES)?.unwrap_or_default() {
        let kind = module.r#type.rsplit('.').next().unwrap_or_default();
        let is_supported = match kind {
            // The API layer normalizes embeddings.
            "Transformer" | "Normalize" => true,
            "Pooling" => module.path == POOLING,
            _ => false,
        };
        ensure!(
            is_supported,
            "{}: module \"{kind}\" in \"{}\" is not supported",
            folder.join(MODULES).display(),
            module.path
        );
    }
    let name = format!("{POOLING}/config.json");
    let Some(config) = read_json::<PoolingConfig>(folder, &name)? else {
        return Ok(None);
    };
    let modes = [
        (config.pooling_mode_mean_tokens, Some(Pooling::Mean)),
        (config.pooling_mode_cls_token, Some(Pooling::First)),
        (config.pooling_mode_lasttoken, Some(Pooling::Last)),
        (config.pooling_mode_max_tokens, None),
        (config.pooling_mode_mean_sqrt_len_tokens, None),
        (config.pooling_mode_weightedmean_tokens, None),
    ];
    let mut enabled = modes.into_iter().filter(|(is_enabled, _)| *is_enabled);
    match (enabled.next(), enabled.next()) {
        (Some((_, Some(pooling))), None) => Ok(Some(pooling)),
        _ => bail!(
            "{}: exactly one pooling mode of mean, cls and lasttoken must be enabled",
            folder.join(name).display()
        ),
    }
}
