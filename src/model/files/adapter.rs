//! A path becomes an adapter: a GGUF file, a folder as PEFT saves them, or the safetensors file in such a folder.

use std::path::Path;

use anyhow::Context;
use ring::digest::{self, SHA256};

use super::folder;
use crate::file_bytes::FileAccess;
use crate::gguf::Gguf;
use crate::graph::{Adapter, ModelFile};
use crate::safetensors::Safetensors;

/// PEFT's names.
const CONFIG: &str = "adapter_config.json";
const WEIGHTS: &str = "adapter_model.safetensors";

/// Opens the adapter at `path` for a model. Answers a digest of its files, too, in hexadecimal digits.
///
/// # Errors
/// What is wrong, with the file's path.
pub(in crate::model) fn open(
    path: &Path,
    access: FileAccess,
    model: &ModelFile,
) -> anyhow::Result<(Adapter, String)> {
    let shown = || path.display().to_string();
    let is_safetensors = path.extension().is_some_and(|end| end == "safetensors");
    let (folder, weights) = match path.is_dir() {
        true => (path, path.join(WEIGHTS)),
        false if is_safetensors => (path.parent().unwrap_or(Path::new("")), path.to_owned()),
        false => {
            let gguf = Gguf::open(path, access)?;
            let adapter = Adapter::of_gguf(&gguf, model).with_context(shown)?;
            return Ok((adapter, digest(gguf.contents().map(|bytes| &**bytes))));
        }
    };
    let config = folder::optional(folder, CONFIG)?;
    let config = config.with_context(|| {
        let config = folder.join(CONFIG);
        format!(
            "{} is missing; an adapter's folder has it",
            config.display()
        )
    })?;
    let weights = Safetensors::open(&weights, access)?;
    let adapter = Adapter::of_peft(&config, &weights, model).with_context(shown)?;
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
