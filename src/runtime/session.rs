//! Creates ONNX Runtime sessions from a graph and its weights.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;
use ort::environment::Environment;
use ort::session::Session;
use ort::session::builder::GraphOptimizationLevel;
use ort::value::{DynValue, Tensor};

use super::device::{Device, DeviceOptions};
use super::library::lock_session_creation;
use super::{LibraryError, RuntimeError, environment, operators};
use crate::graph::onnx::{Initializer, TensorValues};
use crate::graph::{MatmulOperator, ModelGraph, OperatorMatrices};
use crate::platform::Cores;

/// Options for the ONNX Runtime sessions of a model.
#[derive(Debug, Clone)]
pub struct SessionOptions {
    /// Path of ONNX Runtime's shared library.
    pub library: PathBuf,
    /// Number of compute threads; `None` means one per physical core.
    pub threads: Option<usize>,
    /// Number of compute threads for steps with prefill chunks; `None` means the same as `threads`. With a different
    /// number, these steps run in a second session.
    pub batch_threads: Option<usize>,
    /// Core sets of the compute threads after the first, assigned round-robin. Empty: the operating system decides.
    pub thread_cores: Vec<Cores>,
    /// Assignment of a decoder's layers to devices.
    pub devices: DeviceOptions,
    /// Operator for matmuls with quantized weights on the CPU; `None` means [`Device::matmul_operator`].
    pub matmul_operator: Option<MatmulOperator>,
}

impl SessionOptions {
    /// Returns the default options: one compute thread for each physical core, without CPU affinity.
    pub fn new(library: PathBuf) -> Self {
        Self {
            library,
            threads: None,
            batch_threads: None,
            thread_cores: Vec::new(),
            devices: DeviceOptions::default(),
            matmul_operator: None,
        }
    }

    /// Loads ONNX Runtime's library, unless the process has already loaded it.
    ///
    /// # Errors
    /// If the file is missing, is not an ONNX Runtime library, or is too old.
    pub fn check_library(&self) -> Result<(), LibraryError> {
        environment(&self.library).map(drop)
    }

    /// Returns the operator for matmuls with quantized weights on `device`.
    pub(super) fn matmul_operator(&self, device: Device) -> MatmulOperator {
        match (device, self.matmul_operator) {
            (Device::Cpu, Some(operator)) => operator,
            _ => device.matmul_operator(),
        }
    }
}

/// A graph, and its weights as ONNX Runtime values that several sessions can share.
struct SharedGraph {
    environment: Environment,
    model: Vec<u8>,
    initializers: Vec<(String, Arc<DynValue>)>,
    matrices: OperatorMatrices,
    weights_folder: Option<PathBuf>,
}

impl SharedGraph {
    /// Calls `graph` to build the graph. `progress` receives the completed fraction of the whole session creation.
    fn new(
        graph: impl FnOnce(&dyn Fn(f32)) -> ModelGraph,
        library: &Path,
        progress: &dyn Fn(f32),
    ) -> anyhow::Result<Self> {
        /// Estimated share of the graph in the total time: packing weights is slower than creating a session.
        const GRAPH_FRACTION: f32 = 0.7;

        // ONNX Runtime values cannot be created before the library is loaded.
        let environment = environment(library)?;
        let graph = graph(&|fraction| progress(fraction * GRAPH_FRACTION));
        let shared_value = |initializer| {
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
        let initializers = graph.initializers.into_iter().map(shared_value);
        Ok(Self {
            environment,
            model: graph.model,
            initializers: initializers.collect::<ort::Result<_>>()?,
            matrices: graph.matrices,
            weights_folder: graph.weights_folder,
        })
    }

    /// Creates a session on `device` with `threads` CPU threads.
    fn session(
        &self,
        device: Device,
        options: &SessionOptions,
        threads: Option<usize>,
    ) -> anyhow::Result<Session> {
        /// Session option for the folder of external data files (`onnxruntime_session_options_config_keys.h`).
        const WEIGHTS_FOLDER: &str = "session.model_external_initializers_file_folder_path";

        // SAFETY: `crate::graph` builds all graphs. In these, each cache is an input of the session and of one
        // attention node; imported graphs with nodes of this domain are refused. `Stage::run` binds these inputs to
        // the tensors of a cache that it borrows mutably. The builder below does not change the execution mode.
        let operators = unsafe { operators::domain(self.matrices.clone()) }?;
        let mut builder = Session::builder(&self.environment)?
            .with_execution_providers(device.provider().as_slice())
            .map_err(RuntimeError::from)?
            .with_optimization_level(GraphOptimizationLevel::All)
            .map_err(RuntimeError::from)?
            // Tensor shapes change with every step, so cached memory patterns would grow without bound.
            .with_memory_pattern(false)
            .map_err(RuntimeError::from)?
            .with_operators(operators)
            .map_err(RuntimeError::from)?
            // Threads spin within a step, where waits take microseconds, and sleep between steps.
            .with_config_entry("session.force_spinning_stop", "1")
            .map_err(RuntimeError::from)?;
        if let Some(threads) = threads {
            builder = builder
                .with_intra_threads(threads)
                .map_err(RuntimeError::from)?;
            if threads > 1 && !options.thread_cores.is_empty() {
                let affinities = thread_affinities(&options.thread_cores, threads);
                builder = builder
                    .with_config_entry("session.intra_op_thread_affinities", affinities)
                    .map_err(RuntimeError::from)?;
            }
        }
        if let Some(folder) = &self.weights_folder {
            let folder = folder.to_str();
            let folder = folder.context("invalid path of the model folder: it is not Unicode")?;
            builder = builder
                .with_config_entry(WEIGHTS_FOLDER, folder)
                .map_err(RuntimeError::from)?;
        }
        for (name, tensor) in &self.initializers {
            builder = builder
                .with_external_initializer(name, Arc::clone(tensor))
                .map_err(RuntimeError::from)?;
            if device == Device::Cpu {
                // The graph optimizer reads the external initializer above. The initializer below makes the session
                // use the same tensor without a copy. Other devices need a copy in their own memory.
                builder = builder
                    .with_initializer(name, Arc::clone(tensor))
                    .map_err(RuntimeError::from)?;
            }
        }
        let _guard = lock_session_creation();
        Ok(builder.commit_from_memory(&self.model)?)
    }
}

/// Calls `graph` to build a graph, and creates a session for the graph on `device` with `threads` CPU threads.
/// `progress` and the callback of `graph` receive the completed fraction, from 0 to 1.
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

/// The session of a graph, and a second session for steps with prefill chunks if these use another number of threads.
pub(super) struct Sessions {
    session: Session,
    batch_session: Option<Session>,
}

impl Sessions {
    /// Creates the sessions on `device`. For `graph` and `progress` see [`build`].
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

    /// Returns the session for a step. `decode_only` is true if the step has no prefill chunk.
    pub(super) fn for_step(&mut self, decode_only: bool) -> &mut Session {
        match &mut self.batch_session {
            Some(session) if !decode_only => session,
            _ => &mut self.session,
        }
    }
}

/// Formats the core sets of all threads after the first for ONNX Runtime, which numbers cores from 1.
fn thread_affinities(thread_cores: &[Cores], threads: usize) -> String {
    let affinity = |cores: &Cores| {
        let numbers: Vec<String> = cores.0.iter().map(|core| (core + 1).to_string()).collect();
        numbers.join(",")
    };
    let other_threads = thread_cores.iter().cycle().take(threads - 1);
    let affinities: Vec<String> = other_threads.map(affinity).collect();
    affinities.join(";")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thread_cores_are_reused_cyclically() {
        let thread_cores = [[2, 3], [0, 1]].map(|cores| Cores(cores.into()));
        assert_eq!(thread_affinities(&thread_cores, 4), "3,4;1,2;3,4");
    }
}
