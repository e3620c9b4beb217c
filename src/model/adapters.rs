//! The model's adapters: opened with it, as strong as was said at the start, or is said since, or by a request.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{PoisonError, RwLock};

use anyhow::{Context, ensure};

use super::LoadedModel;
use super::files::{self, ModelFiles};
use super::request::GenerateError;
use crate::engine::AdapterScales;
use crate::file_bytes::FileAccess;
use crate::graph::ModelFile;

/// Most adapters of a model.
const MOST_ADAPTERS: usize = 256;

/// Which adapters a model is to have.
#[derive(Debug, Clone, Default)]
pub struct AdapterOptions {
    /// Their files or folders, each with how strong it counts.
    pub files: Vec<(PathBuf, f32)>,
    /// The model whose weights take the place of those whose products the adapters change.
    pub base: Option<PathBuf>,
    /// Whether they count for nothing until somebody says otherwise.
    pub idle: bool,
}

/// An adapter of a model, its number being its place among them.
#[derive(Debug, Clone, PartialEq)]
pub struct AdapterState {
    /// Where it was read from, as it was named.
    pub path: PathBuf,
    /// How strong it counts for requests that say nothing.
    pub scale: f32,
}

/// A model's adapters.
#[derive(Debug, Default)]
pub(super) struct Adapters {
    opened: Vec<Opened>,
    scales: RwLock<AdapterScales>,
}

#[derive(Debug)]
struct Opened {
    path: PathBuf,
    /// Of its content: by it another process knows it again.
    digest: String,
}

/// Opens the adapters for a model, which has them from then on.
///
/// # Errors
/// What is wrong, with the path.
pub(super) fn open(
    file: ModelFile,
    options: &AdapterOptions,
    access: FileAccess,
) -> anyhow::Result<(ModelFile, Adapters)> {
    let count = options.files.len();
    ensure!(
        count <= MOST_ADAPTERS,
        "{count} adapters are more than {MOST_ADAPTERS}"
    );
    let named = |path: &Path| path.display().to_string();
    let base = match &options.base {
        Some(_) if count == 0 => anyhow::bail!("a base for adapters, and no adapter"),
        Some(path) => Some((named(path), ModelFiles::open(path, access)?.file)),
        None => None,
    };
    let (mut adapters, mut opened) = (Vec::new(), Vec::new());
    for (path, _) in &options.files {
        let (adapter, digest) = files::adapter(path, access, &file)?;
        adapters.push(adapter);
        opened.push(Opened {
            path: path.clone(),
            digest,
        });
    }
    let shown = base
        .as_ref()
        .map_or_else(String::new, |(path, _)| path.clone());
    let file = file.with_adapters(adapters, base.as_ref().map(|(_, base)| base));
    let scales = options.files.iter().map(|(_, scale)| *scale).enumerate();
    let scales = AdapterScales::new(scales.filter(|_| !options.idle));
    let adapters = Adapters {
        opened,
        scales: RwLock::new(scales),
    };
    Ok((file.context(shown)?, adapters))
}

impl Adapters {
    /// What is set for requests that say nothing.
    pub(super) fn set(&self) -> AdapterScales {
        let scales = self.scales.read();
        scales.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What a sequence gets of them that asks for `wanted`, or for nothing in particular.
    pub(super) fn scales(
        &self,
        wanted: Option<&[(usize, f32)]>,
    ) -> Result<AdapterScales, GenerateError> {
        let Some(wanted) = wanted else {
            return Ok(self.set());
        };
        let adapters = self.opened.len();
        let mut seen = BTreeSet::new();
        for (adapter, _) in wanted.iter().copied() {
            if adapter >= adapters {
                return Err(GenerateError::UnknownAdapter { adapter, adapters });
            }
            if !seen.insert(adapter) {
                return Err(GenerateError::AdapterTwice(adapter));
            }
        }
        Ok(AdapterScales::new(wanted.iter().copied()))
    }

    /// The scales by the adapters' digests.
    pub(super) fn by_digest(&self, scales: &AdapterScales) -> Vec<(String, f32)> {
        let scales = scales.iter();
        let told = |(adapter, scale): (usize, f32)| (self.opened[adapter].digest.clone(), scale);
        scales.map(told).collect()
    }

    /// The scales of digests, if all of them are here.
    pub(super) fn of_digests(&self, told: &[(String, f32)]) -> Option<AdapterScales> {
        let found = told.iter().map(|(digest, scale)| {
            let place = self
                .opened
                .iter()
                .position(|opened| opened.digest == *digest);
            Some((place?, *scale))
        });
        found.collect::<Option<Vec<_>>>().map(AdapterScales::new)
    }
}

impl LoadedModel {
    /// The adapters, in the order of their numbers.
    pub fn adapters(&self) -> Vec<AdapterState> {
        let scales = self.adapters.set();
        let state = |(number, opened): (usize, &Opened)| AdapterState {
            path: opened.path.clone(),
            scale: scales
                .iter()
                .find_map(|(adapter, scale)| (adapter == number).then_some(scale))
                .unwrap_or(0.0),
        };
        self.adapters.opened.iter().enumerate().map(state).collect()
    }

    /// From now on the adapters count so much for requests that say nothing; those that are not named do not count.
    pub fn set_adapter_scales(&self, wanted: &[(usize, f32)]) -> Result<(), GenerateError> {
        let scales = self.adapters.scales(Some(wanted))?;
        let place = self.adapters.scales.write();
        *place.unwrap_or_else(PoisonError::into_inner) = scales;
        Ok(())
    }
}
