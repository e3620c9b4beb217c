//! Devices that run sessions (ONNX Runtime's execution providers), and the assignment of a model's layers to devices.

use std::fmt;
use std::ops::Range;
use std::path::Path;

use anyhow::{Context, bail, ensure};
use ort::ep::{self, ExecutionProvider, ExecutionProviderDispatch};
use ort::session::Session;

use super::environment;
use super::operators::simd::Instructions;
use crate::graph::{AttentionOperator, MatmulOperator};

/// A device that runs a session, displayed as `cpu`, `cuda:0` or `coreml`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Device {
    /// The CPU, with ONNX Runtime's default execution provider.
    Cpu,
    /// An NVIDIA GPU, by its CUDA device number.
    Cuda(u16),
    /// The CPU, GPU or Neural Engine of an Apple device, as CoreML selects.
    CoreMl,
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(number) => write!(f, "cuda:{number}"),
            Self::CoreMl => f.write_str("coreml"),
        }
    }
}

impl Device {
    /// Returns the execution provider of this device; `None` for the CPU, because every session has the CPU provider.
    pub(super) fn provider(self) -> Option<ExecutionProviderDispatch> {
        let provider = match self {
            Self::Cpu => return None,
            Self::Cuda(number) => ep::CUDA::default().with_device_id(number.into()).build(),
            Self::CoreMl => ep::CoreML::default().build(),
        };
        Some(provider.error_on_failure())
    }

    /// Returns the attention operator for this device.
    pub(super) fn attention_operator(self) -> AttentionOperator {
        match self {
            Self::Cuda(_) => AttentionOperator::Contrib,
            // CoreML has no paged attention operator, so attention runs on the CPU.
            Self::Cpu | Self::CoreMl => AttentionOperator::Ortolan,
        }
    }

    /// Returns the default operator for matmuls with quantized weights on this device.
    pub fn matmul_operator(self) -> MatmulOperator {
        match self {
            Self::Cpu if Instructions::detect().has_int8_dot_product() => MatmulOperator::Ortolan,
            Self::Cpu | Self::Cuda(_) | Self::CoreMl => MatmulOperator::Contrib,
        }
    }

    /// Checks that the ONNX Runtime at `library` can use this device.
    ///
    /// # Errors
    /// If the library was built without the execution provider, or if the provider fails to start.
    pub fn check(self, library: &Path) -> anyhow::Result<()> {
        let environment = environment(library)?;
        let (is_built_in, hint) = match self {
            Self::Cpu => return Ok(()),
            Self::Cuda(_) => (
                ep::CUDA::is_available()?,
                "; set --onnxruntime to the library of the Python package onnxruntime-gpu",
            ),
            Self::CoreMl => (ep::CoreML::is_available()?, "; it requires macOS"),
        };
        let name = match self {
            Self::CoreMl => "CoreML",
            Self::Cpu | Self::Cuda(_) => "CUDA",
        };
        ensure!(
            is_built_in,
            "the ONNX Runtime at {} was built without {name}{hint}",
            library.display()
        );
        let builder = Session::builder(&environment)?;
        let registered = builder.with_execution_providers(self.provider().as_slice());
        registered
            .map(drop)
            .map_err(|error| anyhow::Error::msg(error.to_string()))
            .with_context(|| format!("ONNX Runtime cannot use {name} on this host"))
    }
}

/// The kind of device to offload layers to (`--device`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DeviceChoice {
    /// The first available of CUDA, CoreML and CPU.
    Auto,
    /// No offloading: all layers run on the CPU.
    #[default]
    Cpu,
    /// NVIDIA GPUs.
    Cuda,
    /// Apple's CoreML.
    CoreMl,
}

/// How to assign a model's layers to devices.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct DeviceOptions {
    /// Kind of device to offload layers to.
    pub choice: DeviceChoice,
    /// Number of layers to offload, counted from the last layer (`--n-gpu-layers`). `None` offloads all layers.
    pub offloaded_layers: Option<usize>,
    /// Share of the offloaded layers for each device number (`--tensor-split`). If empty, one device has all layers.
    pub tensor_split: Vec<f32>,
    /// Number of the device that has the last layers and computes the logits (`--main-gpu`). Without `tensor_split`,
    /// this device has all offloaded layers.
    pub main_gpu: Option<usize>,
}

/// A range of layers that one session runs on one device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceLayers {
    /// Device that runs the layers.
    pub device: Device,
    /// Indices of the layers in the model.
    pub layers: Range<usize>,
}

impl DeviceOptions {
    /// Checks the options that do not depend on the model, so that errors are reported before the model is loaded.
    ///
    /// # Errors
    /// If a share or device number is invalid, or if an explicitly requested device is not available.
    pub fn check(&self, library: &Path) -> anyhow::Result<()> {
        let shares = self.device_shares()?;
        match self.choice {
            DeviceChoice::Auto | DeviceChoice::Cpu => Ok(()),
            DeviceChoice::CoreMl | DeviceChoice::Cuda if self.offloaded_layers == Some(0) => Ok(()),
            DeviceChoice::CoreMl | DeviceChoice::Cuda => {
                shares.into_iter().try_for_each(|(number, _)| {
                    let device = self.device(number);
                    let checked = device.check(library);
                    checked.with_context(|| format!("--device {device}"))
                })
            }
        }
    }

    /// Assigns the layers `0..layers` of a model to devices. Returns the ranges in layer order.
    ///
    /// # Errors
    /// Under the conditions of [`Self::check`].
    pub fn assign_layers(
        &self,
        library: &Path,
        layers: usize,
    ) -> anyhow::Result<Vec<DeviceLayers>> {
        let resolved = Self {
            choice: self.resolve_choice(library)?,
            ..self.clone()
        };
        resolved.check(library)?;
        let offloaded = match resolved.choice {
            DeviceChoice::Cpu => layers,
            _ => resolved
                .offloaded_layers
                .map_or(layers, |count| count.min(layers)),
        };
        let on_cpu = layers - offloaded;
        let shares = resolved.device_shares()?;
        let total: f64 = shares.iter().map(|(_, share)| share).sum();
        let (mut stages, mut start, mut sum) = (Vec::new(), on_cpu, 0.0);
        if on_cpu > 0 {
            stages.push(DeviceLayers {
                device: Device::Cpu,
                layers: 0..on_cpu,
            });
        }
        for (number, share) in shares {
            sum += share;
            let end = on_cpu + (sum / total * offloaded as f64).round() as usize;
            if end > start {
                stages.push(DeviceLayers {
                    device: resolved.device(number),
                    layers: start..end,
                });
            }
            start = end;
        }
        Ok(stages)
    }

    /// Returns the CPU as the only device, for a kind of model that does not support other devices. Errors contain
    /// `model_kind`.
    ///
    /// # Errors
    /// If CUDA, CoreML or several devices are explicitly requested.
    pub fn require_cpu(&self, model_kind: &str) -> anyhow::Result<Vec<Device>> {
        let is_explicit = matches!(self.choice, DeviceChoice::Cuda | DeviceChoice::CoreMl);
        ensure!(
            !is_explicit || self.offloaded_layers == Some(0),
            "--device is not supported for {model_kind}, which runs on the CPU only"
        );
        ensure!(
            self.device_shares()?.len() == 1,
            "--tensor-split is not supported for {model_kind}, which runs in one session"
        );
        Ok(vec![Device::Cpu])
    }

    /// Returns the number and share of each device with a share above 0, in layer order: the main device is last.
    fn device_shares(&self) -> anyhow::Result<Vec<(usize, f64)>> {
        let Self {
            choice,
            tensor_split,
            main_gpu,
            ..
        } = self;
        if let Some(share) = tensor_split
            .iter()
            .find(|share| !(share.is_finite() && **share >= 0.0))
        {
            bail!("--tensor-split {share}: a share must be a number of at least 0");
        }
        if tensor_split.is_empty() {
            let number = main_gpu.unwrap_or(0);
            ensure!(
                number == 0 || matches!(choice, DeviceChoice::Cuda | DeviceChoice::Auto),
                "--main-gpu {number}: device not found, only device 0 is available"
            );
            return Ok(vec![(number, 1.0)]);
        }
        let numbered = tensor_split.iter().copied().map(f64::from).enumerate();
        let mut shares: Vec<_> = numbered.filter(|(_, share)| *share > 0.0).collect();
        ensure!(
            !shares.is_empty(),
            "--tensor-split: at least one share must be greater than 0"
        );
        ensure!(
            shares.len() == 1 || *choice != DeviceChoice::CoreMl,
            "--tensor-split is not supported with CoreML, which selects its device itself"
        );
        if let Some(main) = main_gpu {
            let index = shares.iter().position(|(number, _)| number == main);
            let index = index.with_context(|| {
                format!("--main-gpu {main}: its share in --tensor-split must be greater than 0")
            })?;
            let last = shares.remove(index);
            shares.push(last);
        }
        Ok(shares)
    }

    /// Returns the choice, with [`DeviceChoice::Auto`] replaced by the first available kind of device.
    fn resolve_choice(&self, library: &Path) -> anyhow::Result<DeviceChoice> {
        if self.offloaded_layers == Some(0) || self.choice == DeviceChoice::Cpu {
            return Ok(DeviceChoice::Cpu);
        }
        if self.choice != DeviceChoice::Auto {
            return Ok(self.choice);
        }
        for choice in [DeviceChoice::Cuda, DeviceChoice::CoreMl] {
            let candidate = Self {
                choice,
                ..self.clone()
            };
            match candidate.check(library) {
                Ok(()) => return Ok(choice),
                Err(error) => tracing::debug!("{choice:?} is not available: {error:#}"),
            }
        }
        Ok(DeviceChoice::Cpu)
    }

    fn device(&self, number: usize) -> Device {
        match self.choice {
            DeviceChoice::Cuda => Device::Cuda(u16::try_from(number).unwrap_or(u16::MAX)),
            DeviceChoice::CoreMl => Device::CoreMl,
            DeviceChoice::Auto | DeviceChoice::Cpu => Device::Cpu,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the first layer and the end of each device's range.
    fn layer_ranges(options: &DeviceOptions, layers: usize) -> Vec<[usize; 2]> {
        // The CPU needs no execution provider, so the library is not loaded.
        let stages = options
            .assign_layers(Path::new("/nowhere"), layers)
            .unwrap();
        let ranges = stages.into_iter().map(|stage| stage.layers);
        ranges.map(|layers| [layers.start, layers.end]).collect()
    }

    #[test]
    fn layers_are_assigned_in_proportion_to_shares() {
        let options = |shares: &[f32], main_gpu| DeviceOptions {
            tensor_split: shares.to_vec(),
            main_gpu,
            ..DeviceOptions::default()
        };
        assert_eq!(layer_ranges(&options(&[], None), 30), [[0, 30]]);
        assert_eq!(
            layer_ranges(&options(&[3.0, 2.0], None), 30),
            [[0, 18], [18, 30]]
        );
        assert_eq!(
            layer_ranges(&options(&[3.0, 2.0], Some(0)), 30),
            [[0, 12], [12, 30]]
        );
        assert_eq!(
            layer_ranges(&options(&[0.0, 1.0, 1.0], None), 3),
            [[0, 2], [2, 3]]
        );
        assert_eq!(layer_ranges(&options(&[1.0, 1000.0], None), 4), [[0, 4]]);
        assert_eq!(
            layer_ranges(&options(&[1.0; 8], None), 3),
            [[0, 1], [1, 2], [2, 3]]
        );
    }

    #[test]
    fn invalid_device_options_are_rejected() {
        for (tensor_split, main_gpu, problem) in [
            (
                vec![0.0, 0.0],
                None,
                "at least one share must be greater than 0",
            ),
            (vec![1.0, -1.0], None, "--tensor-split -1: a share"),
            (vec![1.0, f32::NAN], None, "--tensor-split NaN: a share"),
            (
                vec![1.0, 0.0],
                Some(1),
                "its share in --tensor-split must be greater than 0",
            ),
            (
                vec![],
                Some(1),
                "device not found, only device 0 is available",
            ),
        ] {
            let options = DeviceOptions {
                tensor_split,
                main_gpu,
                ..DeviceOptions::default()
            };
            let error = options.assign_layers(Path::new("/nowhere"), 4).unwrap_err();
            assert!(error.to_string().contains(problem), "{error}");
        }
    }
}
