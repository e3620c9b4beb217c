//! Where sessions compute: ONNX Runtime's execution providers, and which layers of a model each has.

use std::fmt;
use std::ops::Range;
use std::path::Path;

use anyhow::{Context, bail, ensure};
use ort::ep::{self, ExecutionProvider, ExecutionProviderDispatch};
use ort::session::Session;

use super::environment;
use super::operators::simd::Instructions;
use crate::graph::{AttentionOperator, ProductOperator};

/// A device that computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Device {
    /// The processor.
    Cpu,
    /// A GPU of NVIDIA's, by its number.
    Cuda(u16),
    /// What CoreML chooses of a Mac's devices.
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
    /// The execution provider beside that of the CPU, which every session has.
    pub(super) fn provider(self) -> Option<ExecutionProviderDispatch> {
        let provider = match self {
            Self::Cpu => return None,
            Self::Cuda(number) => ep::CUDA::default().with_device_id(number.into()).build(),
            Self::CoreMl => ep::CoreML::default().build(),
        };
        Some(provider.error_on_failure())
    }

    /// Whose attention computes there.
    pub(super) fn attention(self) -> AttentionOperator {
        match self {
            Self::Cuda(_) => AttentionOperator::Contrib,
            // CoreML knows no such operator: the CPU computes attention beside it.
            Self::Cpu | Self::CoreMl => AttentionOperator::Ortolan,
        }
    }

    /// Whose products with quantised matrices compute there.
    pub fn products(self) -> ProductOperator {
        match self {
            Self::Cpu if Instructions::detect().multiplies_bytes() => ProductOperator::Ortolan,
            Self::Cpu | Self::Cuda(_) | Self::CoreMl => ProductOperator::Contrib,
        }
    }

    /// Looks whether it can be had with the library at `library`.
    ///
    /// # Errors
    /// Why not.
    pub fn check(self, library: &Path) -> anyhow::Result<()> {
        let environment = environment(library)?;
        let (is_built_in, hint) = match self {
            Self::Cpu => return Ok(()),
            Self::Cuda(_) => (
                ep::CUDA::is_available()?,
                "; the Python package onnxruntime-gpu has a library with it, which --onnxruntime may name",
            ),
            Self::CoreMl => (ep::CoreML::is_available()?, "; it is there on macOS alone"),
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
            .with_context(|| format!("ONNX Runtime cannot use {name} here"))
    }
}

/// Which devices are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DeviceChoice {
    /// The first that can be had of CUDA, CoreML, CPU.
    Auto,
    /// The CPU.
    #[default]
    Cpu,
    /// GPUs of NVIDIA's.
    Cuda,
    /// CoreML.
    CoreMl,
}

/// How a model's layers are to be divided among devices.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct DeviceOptions {
    /// Which devices.
    pub choice: DeviceChoice,
    /// How many of the last layers they have, if not all; the CPU has the others.
    pub layers: Option<usize>,
    /// Each device's share of its layers, in the order of their numbers; all are device 0's without shares.
    pub shares: Vec<f32>,
    /// The number of the device that has the last layers and computes the logits; the only one without shares.
    pub main: Option<usize>,
}

/// Layers that a device computes in one session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceLayers {
    /// Where.
    pub device: Device,
    /// Which.
    pub layers: Range<usize>,
}

impl DeviceOptions {
    /// Checks what can be known without a model, so that nobody waits for one in vain.
    ///
    /// # Errors
    /// Shares or numbers that cannot be; a device that was asked for and cannot be had.
    pub fn check(&self, library: &Path) -> anyhow::Result<()> {
        let numbers = self.numbers()?;
        match self.choice {
            DeviceChoice::Auto | DeviceChoice::Cpu => Ok(()),
            DeviceChoice::CoreMl | DeviceChoice::Cuda if self.layers == Some(0) => Ok(()),
            DeviceChoice::CoreMl | DeviceChoice::Cuda => {
                numbers.into_iter().try_for_each(|(number, _)| {
                    let device = self.device(number);
                    let checked = device.check(library);
                    checked.with_context(|| format!("--device {device}"))
                })
            }
        }
    }

    /// Which device computes which of a model's `layers` layers, of which there is at least one, in their order.
    ///
    /// # Errors
    /// As of [`Self::check`].
    pub fn divide(&self, library: &Path, layers: usize) -> anyhow::Result<Vec<DeviceLayers>> {
        let resolved = Self {
            choice: self.resolved(library)?,
            ..self.clone()
        };
        resolved.check(library)?;
        let on_devices = match resolved.choice {
            DeviceChoice::Cpu => layers,
            _ => resolved.layers.map_or(layers, |count| count.min(layers)),
        };
        let before = layers - on_devices;
        let numbers = resolved.numbers()?;
        let total: f64 = numbers.iter().map(|(_, share)| share).sum();
        let (mut parts, mut start, mut sum) = (Vec::new(), before, 0.0);
        if before > 0 {
            parts.push(DeviceLayers {
                device: Device::Cpu,
                layers: 0..before,
            });
        }
        for (number, share) in numbers {
            sum += share;
            let end = before + (sum / total * on_devices as f64).round() as usize;
            if end > start {
                parts.push(DeviceLayers {
                    device: resolved.device(number),
                    layers: start..end,
                });
            }
            start = end;
        }
        Ok(parts)
    }

    /// The devices of a model that is not divided, `what` in words.
    ///
    /// # Errors
    /// Another than the CPU was asked for by its name, or several.
    pub fn only_cpu(&self, what: &str) -> anyhow::Result<Vec<Device>> {
        let by_name = matches!(self.choice, DeviceChoice::Cuda | DeviceChoice::CoreMl);
        ensure!(
            !by_name || self.layers == Some(0),
            "{what} is computed on the CPU alone: leave out --device"
        );
        ensure!(
            self.numbers()?.len() == 1,
            "the layers of {what} are not divided: leave out --tensor-split"
        );
        Ok(vec![Device::Cpu])
    }

    /// The numbers of the devices and their shares, in the order in which they compute.
    fn numbers(&self) -> anyhow::Result<Vec<(usize, f64)>> {
        let Self {
            choice,
            shares,
            main,
            ..
        } = self;
        if let Some(share) = shares
            .iter()
            .find(|share| !(share.is_finite() && **share >= 0.0))
        {
            bail!("--tensor-split {share}: a share is a number from 0 on");
        }
        if shares.is_empty() {
            let number = main.unwrap_or(0);
            ensure!(
                number == 0 || matches!(choice, DeviceChoice::Cuda | DeviceChoice::Auto),
                "--main-gpu {number}: there is no such device, only 0"
            );
            return Ok(vec![(number, 1.0)]);
        }
        let numbered = shares.iter().map(|share| f64::from(*share)).enumerate();
        let mut numbers: Vec<_> = numbered.filter(|(_, share)| *share > 0.0).collect();
        ensure!(!numbers.is_empty(), "--tensor-split: nobody has a share");
        ensure!(
            numbers.len() == 1 || *choice != DeviceChoice::CoreMl,
            "--tensor-split: CoreML chooses its devices itself"
        );
        if let Some(main) = main {
            let place = numbers.iter().position(|(number, _)| number == main);
            let place = place
                .with_context(|| format!("--main-gpu {main}: --tensor-split gives it no share"))?;
            let last = numbers.remove(place);
            numbers.push(last);
        }
        Ok(numbers)
    }

    /// What a choice comes to where the library is.
    fn resolved(&self, library: &Path) -> anyhow::Result<DeviceChoice> {
        if self.layers == Some(0) || self.choice == DeviceChoice::Cpu {
            return Ok(DeviceChoice::Cpu);
        }
        if self.choice != DeviceChoice::Auto {
            return Ok(self.choice);
        }
        for choice in [DeviceChoice::Cuda, DeviceChoice::CoreMl] {
            let wanted = Self {
                choice,
                ..self.clone()
            };
            match wanted.check(library) {
                Ok(()) => return Ok(choice),
                Err(error) => tracing::debug!("not on {choice:?}: {error:#}"),
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

    /// Where each part's layers begin and end.
    fn divided(options: &DeviceOptions, layers: usize) -> Vec<[usize; 2]> {
        // The CPU needs no library.
        let parts = options.divide(Path::new("/nowhere"), layers).unwrap();
        let parts = parts.into_iter().map(|part| part.layers);
        parts.map(|layers| [layers.start, layers.end]).collect()
    }

    #[test]
    fn layers_are_divided_by_shares_and_none_is_left_out() {
        let shares = |shares: &[f32], main| DeviceOptions {
            shares: shares.to_vec(),
            main,
            ..DeviceOptions::default()
        };
        assert_eq!(divided(&shares(&[], None), 30), [[0, 30]]);
        assert_eq!(divided(&shares(&[3.0, 2.0], None), 30), [[0, 18], [18, 30]]);
        assert_eq!(
            divided(&shares(&[3.0, 2.0], Some(0)), 30),
            [[0, 12], [12, 30]]
        );
        assert_eq!(
            divided(&shares(&[0.0, 1.0, 1.0], None), 3),
            [[0, 2], [2, 3]]
        );
        assert_eq!(divided(&shares(&[1.0, 1000.0], None), 4), [[0, 4]]);
        assert_eq!(
            divided(&shares(&[1.0; 8], None), 3),
            [[0, 1], [1, 2], [2, 3]]
        );
    }

    #[test]
    fn what_cannot_be_divided_is_refused() {
        for (shares, main, problem) in [
            (vec![0.0, 0.0], None, "nobody has a share"),
            (vec![1.0, -1.0], None, "--tensor-split -1: a share"),
            (vec![1.0, f32::NAN], None, "--tensor-split NaN: a share"),
            (vec![1.0, 0.0], Some(1), "gives it no share"),
            (vec![], Some(1), "there is no such device, only 0"),
        ] {
            let options = DeviceOptions {
                shares,
                main,
                ..DeviceOptions::default()
            };
            let error = options.divide(Path::new("/nowhere"), 4).unwrap_err();
            assert!(error.to_string().contains(problem), "{error}");
        }
    }
}
