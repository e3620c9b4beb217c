//! A folder as the hub has them: `config.json`, `model.safetensors` or an index of several such files, `tokenizer.json`, and
//! what sentence-transformers says about embeddings.

mod imported;
mod text;

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::path::Path;

use anyhow::{Context, bail, ensure};
pub(super) use imported::{graph, open as open_graph};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::ModelFiles;
use crate::engine::Pooling;
use crate::file_bytes::{FileAccess, read_regular_limited};
use crate::graph::ModelFile;
use crate::safetensors::Safetensors;

/// Most bytes of a JSON file; the largest known `tokenizer.json` has 33 million.
const MOST_JSON_BYTES: u64 = 256 << 20;

/// Names of the files with weights.
const WEIGHTS: &str = "model.safetensors";
const WEIGHT_INDEX: &str = "model.safetensors.index.json";

/// Opens the model in the folder at `path`.
pub(super) fn open(path: &Path, access: FileAccess) -> anyhow::Result<ModelFiles> {
    let (name, config) = needed(path, "config.json")?;
    let weights = weights(path, access)?;
    let file = ModelFile::from_folder(path.to_owned(), &config, weights).context(name)?;
    let (vocabulary, chat_template) = text::read(path)?;
    Ok(ModelFiles {
        file,
        vocabulary,
        chat_template,
        pooling: pooling(path)?,
    })
}

/// Which file has which tensor.
#[derive(Deserialize)]
struct WeightIndex {
    weight_map: HashMap<String, String>,
}

/// The files with the weights: those of the index, if there is one.
fn weights(folder: &Path, access: FileAccess) -> anyhow::Result<Vec<Safetensors>> {
    let mut names = BTreeSet::from([WEIGHTS.to_owned()]);
    if let Some(index) = parsed::<WeightIndex>(folder, WEIGHT_INDEX)? {
        names = index.weight_map.into_values().collect();
    }
    let open = |name: String| {
        ensure!(
            Path::new(&name).file_name() == Some(name.as_ref()),
            "{}: \"{name}\" is no file beside it",
            folder.join(WEIGHT_INDEX).display()
        );
        Ok(Safetensors::open(&folder.join(name), access)?)
    };
    names.into_iter().map(open).collect()
}

/// A file's bytes, with its name for errors.
fn needed(folder: &Path, name: &str) -> anyhow::Result<(String, Vec<u8>)> {
    let path = folder.join(name);
    let shown = path.display().to_string();
    match optional(folder, name)? {
        Some(bytes) => Ok((shown, bytes)),
        None => bail!("{shown} is missing; a model's folder has it"),
    }
}

pub(super) fn optional(folder: &Path, name: &str) -> anyhow::Result<Option<Vec<u8>>> {
    let path = folder.join(name);
    let shown = || path.display().to_string();
    match read_regular_limited(&path, MOST_JSON_BYTES) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(shown),
    }
}

fn parsed<T: DeserializeOwned>(folder: &Path, name: &str) -> anyhow::Result<Option<T>> {
    let Some(bytes) = optional(folder, name)? else {
        return Ok(None);
    };
    let parsed = serde_json::from_slice(&bytes);
    parsed
        .with_context(|| folder.join(name).display().to_string())
        .map(Some)
}

/// One of sentence-transformers' modules, which are applied one after the other.
#[derive(Deserialize)]
struct Module {
    path: String,
    r#type: String,
}

/// sentence-transformers' `Pooling`.
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

/// How sentence-transformers makes embeddings of this model, if it is told.
fn pooling(folder: &Path) -> anyhow::Result<Option<Pooling>> {
    const MODULES: &str = "modules.json";
    const POOLING: &str = "1_Pooling";

    for module in parsed::<Vec<Module>>(folder, MODULES)?.unwrap_or_default() {
        let kind = module.r#type.rsplit('.').next().unwrap_or_default();
        let known = match kind {
            // An embedding is of length 1 in any case.
            "Transformer" | "Normalize" => true,
            "Pooling" => module.path == POOLING,
            _ => false,
        };
        ensure!(
            known,
            "{}: the module \"{kind}\" in \"{}\" is not supported",
            folder.join(MODULES).display(),
            module.path
        );
    }
    let name = format!("{POOLING}/config.json");
    let Some(config) = parsed::<PoolingConfig>(folder, &name)? else {
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
    let mut wanted = modes.into_iter().filter(|(wanted, _)| *wanted);
    match (wanted.next(), wanted.next()) {
        (Some((_, Some(pooling))), None) => Ok(Some(pooling)),
        _ => bail!(
            "{}: the pooling is none, several, or one that is not supported",
            folder.join(name).display()
        ),
    }
}
