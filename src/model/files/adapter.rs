//! Opens a LoRA adapter: a GGUF file, a folder in PEFT's format, or that folder's safetensors file.

use std::path::Path;

use anyhow::Context;
use ring::digest::{self, SHA256};

use super::folder;
use crate::file_bytes::FileAccess;
use crate::gguf::Gguf;
use crate::graph::{Adapter, ModelFile};
use crate::safetensors::Safetensors;

/// File names in PEFT's format.
const CONFIG: &str = "adapter_config.json";
const WEIGHTS: &str = "adapter_model.safetensors";

/// Opens the adapter at `path` for `model`. Returns the adapter and the hexadecimal SHA-256 digest of its files.
///
/// # Errors
/// If a file is invalid or does not fit the model. The message has the path.
pub(in crate::model) fn open(
    path: &Path,
    access: FileAccess,
    model: &ModelFile,
) -> anyhow::Result<(Adapter, String)> {
    let display_path = || path.display().to_string();
    let is_safetensors = path
        .extension()
        .is_some_and(|extension| extension == "safetensors");
    let (folder, weights) = match path.is_dir() {
        true => (path, path.join(WEIGHTS)),
        false if is_safetensors => (path.parent().unwrap_or(Path::new("")), path.to_owned()),
        false => {
            let gguf = Gguf::open(path, access)?;
            let adapter = Adapter::from_gguf(&gguf, model).with_context(display_path)?;
            return Ok((adapter, digest(gguf.contents().map(|bytes| &**bytes))));
        }
    };
    let config = folder::read_optional(folder, CONFIG)?;
    let config = config.with_context(|| {
        let config = folder.join(CONFIG);
        format!(
            "{} not found: an adapter folder must contain it",
            config.display()
        )
    })?;
    let weights = Safetensors::open(&weights, access)?;
    let adapter = Adapter::from_peft(&config, &weights, model).with_context(display_path)?;
    let parts = [config.as_slice(), weights.contents()];
    Ok((adapter, digest(parts.into_iter())))
}

fn digest<'a>(parts: impl Iterator<Item = &'a [u8]>) -> String {
    let mut digest = digest::Context::new(&SHA256);
    parts.for_each(|part| digest.update(part));
    let digest = digest.finish();
    digest
        .as_ref()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}
