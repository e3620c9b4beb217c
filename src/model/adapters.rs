//! The model's low-rank (LoRA) adapters, which are loaded with the model. Their scales come from the command line, from
//! an operator's later request, or from the generation request.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{PoisonError, RwLock};

use anyhow::{Context, ensure};

use super::LoadedModel;
use super::files::{self, OpenedModel};
use super::request::GenerateError;
use crate::engine::AdapterScales;
use crate::file_bytes::FileAccess;
use crate::graph::ModelFile;

/// Maximum number of adapters per model.
const MAX_ADAPTERS: usize = 256;

/// Low-rank adapters to load, with their scales.
#[derive(Debug, Clone, Default)]
pub struct AdapterOptions {
    /// Path and scale of each adapter, which is a file or a folder.
    pub files: Vec<(PathBuf, f32)>,
    /// Base model. Its weights replace the model's weights in all matrices that an adapter changes.
    pub base: Option<PathBuf>,
    /// Whether all scales are 0 until an operator or a request sets them.
    pub init_without_apply: bool,
}

/// An adapter of the model. The adapter number is the index in [`LoadedModel::adapters`].
#[derive(Debug, Clone, PartialEq)]
pub struct AdapterState {
    /// Path as the operator gave it.
    pub path: PathBuf,
    /// Scale for requests that set no scales.
    pub scale: f32,
}

/// All adapters of a model, with the scales for requests that set none.
#[derive(Debug, Default)]
pub(super) struct Adapters {
    loaded: Vec<LoadedAdapter>,
    scales: RwLock<AdapterScales>,
}

#[derive(Debug)]
struct LoadedAdapter {
    path: PathBuf,
    /// Hexadecimal digest of the adapter's files, which saved slots contain.
    digest: String,
}

/// Opens the adapters and adds them to the model.
///
/// # Errors
/// If a file is invalid or does not fit the model. The message has the path of the file.
pub(super) fn open(
    file: ModelFile,
    options: &AdapterOptions,
    access: FileAccess,
) -> anyhow::Result<(ModelFile, Adapters)> {
    let count = options.files.len();
    ensure!(
        count <= MAX_ADAPTERS,
        "too many adapters: {count}; the maximum is {MAX_ADAPTERS}"
    );
    let display = |path: &Path| path.display().to_string();
    let base = match &options.base {
        Some(_) if count == 0 => {
            anyhow::bail!("a base model for adapters is given, but no adapter")
        }
        Some(path) => Some((display(path), OpenedModel::open(path, access)?.file)),
        None => None,
    };
    let (mut adapters, mut loaded) = (Vec::new(), Vec::new());
    for (path, _) in &options.files {
        let (adapter, digest) = files::adapter(path, access, &file)?;
        adapters.push(adapter);
        loaded.push(LoadedAdapter {
            path: path.clone(),
            digest,
        });
    }
    let base_path = base
        .as_ref()
        .map_or_else(String::new, |(path, _)| path.clone());
    let file = file.with_adapters(adapters, base.as_ref().map(|(_, base)| base));
    let scales = options.files.iter().map(|(_, scale)| *scale).enumerate();
    let scales = AdapterScales::new(scales.filter(|_| !options.init_without_apply));
    let adapters = Adapters {
        loaded,
        scales: RwLock::new(scales),
    };
    Ok((file.context(base_path)?, adapters))
}

impl Adapters {
    /// Returns the scales for requests that set none.
    pub(super) fn default_scales(&self) -> AdapterScales {
        let scales = self.scales.read();
        scales.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Returns the scales of a request: the requested scales, or the default scales.
    pub(super) fn resolve_scales(
        &self,
        requested: Option<&[(usize, f32)]>,
    ) -> Result<AdapterScales, GenerateError> {
        let Some(requested) = requested else {
            return Ok(self.default_scales());
        };
        let adapters = self.loaded.len();
        let mut seen = BTreeSet::new();
        for (adapter, _) in requested.iter().copied() {
            if adapter >= adapters {
                return Err(GenerateError::UnknownAdapter { adapter, adapters });
            }
            if !seen.insert(adapter) {
                return Err(GenerateError::DuplicateAdapter(adapter));
            }
        }
        Ok(AdapterScales::new(requested.iter().copied()))
    }

    /// Replaces each adapter number by the adapter's digest.
    pub(super) fn scales_by_digest(&self, scales: &AdapterScales) -> Vec<(String, f32)> {
        let scales = scales.iter();
        let with_digest =
            |(adapter, scale): (usize, f32)| (self.loaded[adapter].digest.clone(), scale);
        scales.map(with_digest).collect()
    }

    /// Replaces each digest by the adapter's number. Returns `None` if an adapter is not loaded.
    pub(super) fn scales_from_digests(&self, scales: &[(String, f32)]) -> Option<AdapterScales> {
        let numbered = scales.iter().map(|(digest, scale)| {
            let number = self
                .loaded
                .iter()
                .position(|adapter| adapter.digest == *digest);
            Some((number?, *scale))
        });
        numbered.collect::<Option<Vec<_>>>().map(AdapterScales::new)
    }
}

impl LoadedModel {
    /// Returns all adapters, ordered by adapter number.
    pub fn adapters(&self) -> Vec<AdapterState> {
        let scales = self.adapters.default_scales();
        let state = |(number, loaded): (usize, &LoadedAdapter)| AdapterState {
            path: loaded.path.clone(),
            scale: scales
                .iter()
                .find_map(|(adapter, scale)| (adapter == number).then_some(scale))
                .unwrap_or(0.0),
        };
        self.adapters.loaded.iter().enumerate().map(state).collect()
    }

    /// Sets the scales for requests that set none. Adapters that are not listed get scale 0.
    pub fn set_adapter_scales(&self, scales: &[(usize, f32)]) -> Result<(), GenerateError> {
        let scales = self.adapters.resolve_scales(Some(scales))?;
        let current = self.adapters.scales.write();
        *current.unwrap_or_else(PoisonError::into_inner) = scales;
        Ok(())
    }
}
