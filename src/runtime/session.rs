//! Making a session from a graph and its weights.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;
use ort::environment::Environment;
use ort::session::Session;
use ort::session::builder::GraphOptimizationLevel;
use ort::value::{DynValue, Tensor};

use super::device::{Device, DeviceOptions};
use super::library::one_session_at_a_time;
use super::{LibraryError, RuntimeError, environment, operators};
use crate::graph::onnx::{Initializer, TensorValues};
use crate::graph::{ModelGraph, OperatorMatrices, ProductOperator};
use crate::machine::Cores;

/// How a session computes.
#[derive(Debug, Clone)]
pub struct SessionOptions {
    /// ONNX Runtime's shared library.
    pub library: PathBuf,
    /// Threads that share each step; `None` is one per physical core.
    pub threads: Option<usize>,
    /// Threads that share the steps with a part of a prompt, in a session of their own; `None` is as the others.
    pub batch_threads: Option<usize>,
    /// Where the threads are from the second on, in turn. Empty: the system decides.
    pub thread_cores: Vec<Cores>,
    /// Which devices compute a decoder's layers.
    pub devices: DeviceOptions,
    /// Whose products with quantised matrices the CPU computes; `None` is ours, if it has the instructions for them.
    pub products: Option<ProductOperator>,
}

impl SessionOptions {
    /// One thread for each physical core of the CPU, anywhere.
    pub fn new(library: PathBuf) -> Self {
        Self {
            library,
            threads: None,
            batch_threads: None,
            thread_cores: Vec::new(),
            devices: DeviceOptions::default(),
            products: None,
        }
    }

    /// Loads ONNX Runtime's library, unless the process has one already.
    ///
    /// # Errors
    /// The file is missing, is no such library, or is too old.
    pub fn check_library(&self) -> Result<(), LibraryError> {
        environment(&self.library).map(drop)
    }

    /// Whose products with quantised matrices `device` computes.
    pub(super) fn products(&self, device: Device) -> ProductOperator {
        match (device, self.products) {
            (Device::Cpu, Some(products)) => products,
            _ => device.products(),
        }
    }
}

/// A graph whose weights are values of the runtime's: sessions share them.
struct SharedGraph {
    environment: Environment,
    model: Vec<u8>,
    initializers: Vec<(String, Arc<DynValue>)>,
    matrices: OperatorMatrices,
    weights_folder: Option<PathBuf>,
}

impl SharedGraph {
    /// The one that `graph` makes; `progress` hears the share that is done of all until a session is there, from 0 to 1.
    fn new(
        graph: impl FnOnce(&dyn Fn(f32)) -> ModelGraph,
        library: &Path,
        progress: &dyn Fn(f32),
    ) -> anyhow::Result<Self> {
        /// The weights are repacked, which takes longer than making a session.
        const SHARE: f32 = 0.7;

        // Values are the library's.
        let environment = environment(library)?;
        let graph = graph(&|share| progress(share * SHARE));
        let shared = |initializer| {
            let Initializer {
                name,
                shape,
                values,
            } = initializer;
            let tensor = match values {
                TensorValues::F32(values) => Tensor::from_array((shape, values))?.into_dyn(),
                TensorValues::U8(values) => Tensor::from_array((shape, values))?.into_dyn(),
            };
            Ok((name, Arc::new(tensor)))
        };
        let initializers = graph.initializers.into_iter().map(shared);
        Ok(Self {
            environment,
            model: graph.model,
            initializers: initializers.collect::<ort::Result<_>>()?,
            matrices: graph.matrices,
            weights_folder: graph.weights_folder,
        })
    }

    /// A session on `device`, with so many threads of the CPU.
    fn session(
        &self,
        device: Device,
        options: &SessionOptions,
        threads: Option<usize>,
    ) -> anyhow::Result<Session> {
        /// Where files of weights are looked for that a graph names (`onnxruntime_session_options_config_keys.h`).
        const WEIGHTS_FOLDER: &str = "session.model_external_initializers_file_folder_path";

        let mut builder = Session::builder(&self.environment)?
            .with_execution_providers(device.provider().as_slice())
            .map_err(RuntimeError::from)?
            .with_optimization_level(GraphOptimizationLevel::All)
            .map_err(RuntimeError::from)?
            // Shapes change at every step: patterns remembered for each would grow without bound.
            .with_memory_pattern(false)
            .map_err(RuntimeError::from)?
            .with_operators(operators::domain(self.matrices.clone())?)
            .map_err(RuntimeError::from)?
            // Threads spin within a step, where they wait for microseconds, and sleep between steps.
            .with_config_entry("session.force_spinning_stop", "1")
            .map_err(RuntimeError::from)?;
        if let Some(threads) = threads {
            builder = builder
                .with_intra_threads(threads)
                .map_err(RuntimeError::from)?;
            if threads > 1 && !options.thread_cores.is_empty() {
                let places = affinities(&options.thread_cores, threads);
                builder = builder
                    .with_config_entry("session.intra_op_thread_affinities", places)
                    .map_err(RuntimeError::from)?;
            }
        }
        if let Some(folder) = &self.weights_folder {
            let folder = folder.to_str();
            let folder = folder.context("the path of the model's folder is not in Unicode")?;
            builder = builder
                .with_config_entry(WEIGHTS_FOLDER, folder)
                .map_err(RuntimeError::from)?;
        }
        for (name, tensor) in &self.initializers {
            builder = builder
                .with_external_initializer(name, Arc::clone(tensor))
                .map_err(RuntimeError::from)?;
            if device == Device::Cpu {
                // By the one above the graph knows the values while it is optimised; by this one the session takes the tensor as
                // it is, where it would make a copy. Elsewhere it has to.
                builder = builder
                    .with_initializer(name, Arc::clone(tensor))
                    .map_err(RuntimeError::from)?;
            }
        }
        let _alone = one_session_at_a_time();
        Ok(builder.commit_from_memory(&self.model)?)
    }
}

/// A session on `device` for the graph that `graph` makes, with so many threads of the CPU. `progress` hears the share that is
/// done, from 0 to 1, and so does `graph`'s own.
pub(super) fn build(
    graph: impl FnOnce(&dyn Fn(f32)) -> ModelGraph,
    device: Device,
    options: &SessionOptions,
    threads: Option<usize>,
    progress: &dyn Fn(f32),
) -> anyhow::Result<Session> {
    let graph = SharedGraph::new(graph, &options.library, progress)?;
    let session = graph.session(device, options, threads)?;
    progress(1.0);
    Ok(session)
}

/// A session for all steps, or one more for those with a part of a prompt, if other threads compute them.
pub(super) struct Sessions {
    session: Session,
    batch_session: Option<Session>,
}

impl Sessions {
    /// Sessions on `device` for the graph that `graph` makes; both hear as with [`build`].
    pub(super) fn build(
        graph: impl FnOnce(&dyn Fn(f32)) -> ModelGraph,
        device: Device,
        options: &SessionOptions,
        progress: &dyn Fn(f32),
    ) -> anyhow::Result<Self> {
        let graph = SharedGraph::new(graph, &options.library, progress)?;
        let session = graph.session(device, options, options.threads)?;
        let batch_threads = options
            .batch_threads
            .filter(|_| options.batch_threads != options.threads);
        let batch_session = batch_threads
            .map(|threads| graph.session(device, options, Some(threads)))
            .transpose()?;
        progress(1.0);
        Ok(Self {
            session,
            batch_session,
        })
    }

    /// The one for a step that only `decodes`, or has a part of a prompt.
    pub(super) fn for_step(&mut self, decodes: bool) -> &mut Session {
        match &mut self.batch_session {
            Some(session) if !decodes => session,
            _ => &mut self.session,
        }
    }
}

/// Where each thread from the second on is, as ONNX Runtime reads it: cores from 1.
fn affinities(turns: &[Cores], threads: usize) -> String {
    let place = |cores: &Cores| {
        let numbers: Vec<String> = cores.0.iter().map(|core| (core + 1).to_string()).collect();
        numbers.join(",")
    };
    let places: Vec<String> = turns.iter().cycle().take(threads - 1).map(place).collect();
    places.join(";")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_take_the_places_in_turn() {
        let turns = [[2, 3], [0, 1]].map(|cores| Cores(cores.into()));
        assert_eq!(affinities(&turns, 4), "3,4;1,2;3,4");
    }
}
