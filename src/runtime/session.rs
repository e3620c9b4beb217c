//! Making a session from a graph and its weights.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context;
use ort::session::Session;
use ort::session::builder::GraphOptimizationLevel;
use ort::value::Tensor;

use super::device::{Device, DeviceOptions};
use super::library::one_session_at_a_time;
use super::{RuntimeError, environment, operators};
use crate::graph::onnx::{Initializer, TensorValues};
use crate::graph::{ModelGraph, ProductOperator};
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

    /// Whose products with quantised matrices `device` computes.
    pub(super) fn products(&self, device: Device) -> ProductOperator {
        match (device, self.products) {
            (Device::Cpu, Some(products)) => products,
            _ => device.products(),
        }
    }
}

/// A session for `graph` on `device`, with so many threads of the CPU. `progress` hears the share that is done, from 0 to 1.
pub(super) fn build(
    graph: ModelGraph,
    device: Device,
    options: &SessionOptions,
    threads: Option<usize>,
    progress: &dyn Fn(f32),
) -> anyhow::Result<Session> {
    /// Handing the weights over is quick; packing them, within the last step, is most of the time.
    const SHARE_OF_HANDING_OVER: f32 = 0.2;
    /// Where files of weights are looked for that a graph names (`onnxruntime_session_options_config_keys.h`).
    const WEIGHTS_FOLDER: &str = "session.model_external_initializers_file_folder_path";

    let mut builder = Session::builder(&environment(&options.library)?)?
        .with_execution_providers(device.provider().as_slice())
        .map_err(RuntimeError::from)?
        .with_optimization_level(GraphOptimizationLevel::All)
        .map_err(RuntimeError::from)?
        // Shapes change at every step: patterns remembered for each would grow without bound.
        .with_memory_pattern(false)
        .map_err(RuntimeError::from)?
        .with_operators(operators::domain(graph.experts)?)
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
    if let Some(folder) = &graph.weights_folder {
        let folder = folder.to_str();
        let folder = folder.context("the path of the model's folder is not in Unicode")?;
        builder = builder
            .with_config_entry(WEIGHTS_FOLDER, folder)
            .map_err(RuntimeError::from)?;
    }
    let count = graph.initializers.len() as f32;
    for (index, initializer) in graph.initializers.into_iter().enumerate() {
        let Initializer {
            name,
            shape,
            values,
        } = initializer;
        let tensor = match values {
            TensorValues::F32(values) => Tensor::from_array((shape, values))?.into_dyn(),
            TensorValues::U8(values) => Tensor::from_array((shape, values))?.into_dyn(),
        };
        let tensor = Arc::new(tensor);
        builder = builder
            .with_external_initializer(&name, tensor.clone())
            .map_err(RuntimeError::from)?;
        if device == Device::Cpu {
            // By the one above the graph knows the values while it is optimised; by this one the session takes the tensor as
            // it is, where it would make a copy. Elsewhere it has to.
            builder = builder
                .with_initializer(&name, tensor)
                .map_err(RuntimeError::from)?;
        }
        progress(index as f32 / count * SHARE_OF_HANDING_OVER);
    }
    let session = {
        let _alone = one_session_at_a_time();
        builder.commit_from_memory(&graph.model)?
    };
    progress(1.0);
    Ok(session)
}

/// A session for all steps, or one more for those with a part of a prompt, if other threads compute them.
pub(super) struct Sessions {
    session: Session,
    batch_session: Option<Session>,
}

impl Sessions {
    /// Sessions on `device` for the graph that `graph` makes; both hear of the share that is done, from 0 to 1.
    pub(super) fn build(
        graph: impl Fn(&dyn Fn(f32)) -> ModelGraph,
        device: Device,
        options: &SessionOptions,
        progress: &dyn Fn(f32),
    ) -> anyhow::Result<Self> {
        /// Making the graph, with the weights repacked, takes about as long as the session.
        const SHARE_OF_GRAPH: f32 = 0.5;

        let build = |threads, progress: &dyn Fn(f32)| {
            let graph = graph(&|share| progress(share * SHARE_OF_GRAPH));
            build(graph, device, options, threads, &|share| {
                progress(SHARE_OF_GRAPH + share * (1.0 - SHARE_OF_GRAPH));
            })
        };
        let batch_threads = options
            .batch_threads
            .filter(|_| options.batch_threads != options.threads);
        let sessions = 1.0 + batch_threads.iter().len() as f32;
        let session = build(options.threads, &|share| progress(share / sessions))?;
        let batch_session = batch_threads
            .map(|threads| build(Some(threads), &|share| progress((1.0 + share) / sessions)))
            .transpose()?;
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
