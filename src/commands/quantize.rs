//! `ortolan quantize`: quantizes the matrices of a GGUF file to 4 or 8 bits and copies all other tensors and metadata.

use std::fs;
use std::io::Write;
use std::path::Path;

use anyhow::{Context, ensure};
use bytesize::ByteSize;

use super::output_file;
use crate::atomic_file::AtomicFile;
use crate::cli::QuantizeArgs;
use crate::file_bytes::FileAccess;
use crate::gguf::quant::{QuantizeTarget, is_quantizable};
use crate::gguf::{Gguf, GgufWriter, OutputEntry, OutputTensor, TensorInfo, TensorType};
use crate::terminal::{ByteBar, printable};

const FILE_TYPE: &str = "general.file_type";
const QUANTIZATION_VERSION: &str = "general.quantization_version";
/// Version of the block formats (ggml's `GGML_QNT_VERSION`).
const CURRENT_QUANTIZATION_VERSION: u32 = 2;
/// Prefix of the metadata keys that describe shards; the output is a single file.
const SHARD_KEY_PREFIX: &str = "split.";

const EMBEDDING: &str = "token_embd.weight";
const OUTPUT: &str = "output.weight";

/// Elements per write, a multiple of every type's block size. When copying, bytes per write.
const CHUNK_VALUES: usize = 1 << 22;

/// Maximum number of misaligned tensors that the summary names.
const MAX_SHOWN_NAMES: usize = 4;

/// Writes the quantized file and returns a summary.
///
/// # Errors
/// If a file cannot be read or written, or a tensor cannot be quantized.
pub(super) fn run(args: &QuantizeArgs) -> anyhow::Result<String> {
    output_file::check_available(&args.output, args.force)?;
    let gguf = Gguf::open(&args.input, FileAccess::Map)?;
    check_not_input(&args.input, gguf.contents().count(), &args.output)?;
    let plan = Plan::new(&gguf, args)?;
    let bytes: usize = plan.tensors.iter().map(OutputTensor::bytes).sum();
    let file = output_file::create(&args.output)?;
    let bar = ByteBar::new(&format!("writing {}", args.output.display()), bytes as u64);
    let file = plan.write(&gguf, file, &bar).with_context(|| {
        let size = ByteSize(bytes as u64).display().iec();
        format!("cannot write {}, {size}", args.output.display())
    })?;
    output_file::finish(file, args.force)?;
    drop(bar);
    Ok(plan.summary(&gguf, args))
}

/// The metadata and tensors of the output file.
struct Plan<'a> {
    pairs: Vec<OutputEntry<'a>>,
    tensors: Vec<OutputTensor>,
    /// Target type of each tensor; `None` copies it.
    targets: Vec<Option<QuantizeTarget>>,
    alignment: usize,
    /// Names of matrices that cannot be quantized, because their row length is not a multiple of the block size.
    misaligned: Vec<String>,
    /// Number of tensors that are converted from another quantized type.
    requantized: usize,
}

impl<'a> Plan<'a> {
    fn new(gguf: &'a Gguf, args: &QuantizeArgs) -> anyhow::Result<Self> {
        let mut plan = Self {
            pairs: Vec::new(),
            tensors: Vec::new(),
            targets: Vec::new(),
            alignment: 0,
            misaligned: Vec::new(),
            requantized: 0,
        };
        let tied = gguf.tensor(OUTPUT).is_none();
        for (number, (listing, bytes)) in gguf.listings().zip(gguf.contents()).enumerate() {
            // The first shard has the metadata.
            if number == 0 {
                plan.alignment = listing.alignment;
                let pairs = listing.metadata.iter();
                let pairs = pairs.filter(|pair| !pair.key.starts_with(SHARD_KEY_PREFIX));
                plan.pairs.extend(pairs.map(|pair| match &*pair.key {
                    FILE_TYPE => OutputEntry::U32(FILE_TYPE, file_type(args.target_type)),
                    _ => OutputEntry::Copied(&bytes[pair.byte_range.clone()]),
                }));
                let has_key = |key: &str| listing.metadata.iter().any(|pair| pair.key == key);
                for (key, number) in [
                    (FILE_TYPE, file_type(args.target_type)),
                    (QUANTIZATION_VERSION, CURRENT_QUANTIZATION_VERSION),
                ] {
                    if !has_key(key) {
                        plan.pairs.push(OutputEntry::U32(key, number));
                    }
                }
            }
            for tensor in listing.tensors {
                plan.add(tensor, args, tied)?;
            }
        }
        Ok(plan)
    }

    fn add(&mut self, tensor: TensorInfo, args: &QuantizeArgs, tied: bool) -> anyhow::Result<()> {
        let TensorInfo {
            name, kind, shape, ..
        } = tensor;
        let kind = kind.map_err(anyhow::Error::msg)?;
        let requested = requested_type(&name, &shape, args, tied);
        let fits = |target: &QuantizeTarget| target.divides_rows_of(&shape);
        if requested.is_some_and(|target| !fits(&target)) {
            self.misaligned.push(name.clone());
        }
        let target = requested
            .filter(fits)
            .filter(|target| TensorType::from(*target) != kind);
        if target.is_some() && kind.quant_format().is_some() {
            self.requantized += 1;
        }
        self.targets.push(target);
        self.tensors.push(OutputTensor {
            name,
            kind: target.map_or(kind, TensorType::from),
            shape,
        });
        Ok(())
    }

    fn write(&self, gguf: &Gguf, file: AtomicFile, bar: &ByteBar) -> anyhow::Result<AtomicFile> {
        let mut writer = GgufWriter::begin(file, &self.pairs, &self.tensors, self.alignment)?;
        for (tensor, target) in self.tensors.iter().zip(&self.targets) {
            let source = gguf.tensor(&tensor.name);
            let source = source.context("a listed tensor is missing")?;
            let blocks = gguf.bytes(source);
            let written = match target {
                None => copy(blocks, &mut writer, bar),
                Some(target) => convert(source.kind, blocks, *target, &mut writer, bar),
            };
            written.with_context(|| format!("tensor \"{}\"", printable(&tensor.name)))?;
        }
        Ok(writer.finish()?)
    }

    /// Returns a text for the terminal: file sizes and the numbers of changed tensors.
    fn summary(&self, gguf: &Gguf, args: &QuantizeArgs) -> String {
        let size = |bytes: u64| ByteSize(bytes).display().iec().to_string();
        let before = gguf.file_bytes();
        let after = fs::metadata(&args.output).map_or(0, |file| file.len());
        let percent = after as f64 / before.max(1) as f64 * 100.0;
        let changed = self.targets.iter().flatten().count();
        let mut lines = vec![
            format!("{}  {}", printable_path(&args.input), size(before)),
            format!(
                "{}  {}, {percent:.0} %",
                printable_path(&args.output),
                size(after)
            ),
            format!(
                "{changed} of {} tensors were quantized, the others were copied",
                self.tensors.len()
            ),
        ];
        if !self.misaligned.is_empty() {
            let names: Vec<String> = self.misaligned.iter().map(|name| printable(name)).collect();
            let more = match self.misaligned.len() > MAX_SHOWN_NAMES {
                true => ", …",
                false => "",
            };
            let names = names[..names.len().min(MAX_SHOWN_NAMES)].join(", ");
            lines.push(format!(
                "{} of them have rows that are not a multiple of the block size: {names}{more}",
                self.misaligned.len()
            ));
        }
        if self.requantized > 0 {
            lines.push(format!(
                "{} were already quantized, which loses precision again; an F16, BF16 or F32 file gives better results",
                self.requantized
            ));
        }
        lines.join("\n") + "\n"
    }
}

/// Checks that `output` is not a shard of the input model, which has `files` shards, the first of them `input`.
fn check_not_input(input: &Path, files: usize, output: &Path) -> anyhow::Result<()> {
    let Ok(output) = fs::canonicalize(output) else {
        return Ok(());
    };
    let name = input.file_name().unwrap_or_default().to_string_lossy();
    for number in 1..=files {
        let shard = name.replace("-00001-of-", &format!("-{number:05}-of-"));
        let shard = input.with_file_name(shard);
        ensure!(
            fs::canonicalize(shard).ok().as_ref() != Some(&output),
            "{} is an input file and cannot be overwritten",
            output.display()
        );
    }
    Ok(())
}

fn printable_path(path: &Path) -> String {
    printable(&path.display().to_string())
}

/// Returns the requested type of a tensor, or `None` to copy it. `tied` means that the output matrix is the embedding
/// matrix.
fn requested_type(
    name: &str,
    shape: &[usize],
    args: &QuantizeArgs,
    tied: bool,
) -> Option<QuantizeTarget> {
    if !is_quantizable(name, shape) {
        return None;
    }
    let output = args.output_tensor_type;
    let special_type = match name {
        OUTPUT => output,
        EMBEDDING => args.token_embedding_type.or(output.filter(|_| tied)),
        _ => None,
    };
    Some(special_type.unwrap_or(args.target_type))
}

/// Returns llama.cpp's `llama_ftype` value: the type of most matrices of a file.
fn file_type(kind: QuantizeTarget) -> u32 {
    match kind {
        QuantizeTarget::F32 => 0,
        QuantizeTarget::F16 => 1,
        QuantizeTarget::Q4_0 => 2,
        QuantizeTarget::Q8_0 => 7,
    }
}

fn copy<W: Write>(blocks: &[u8], writer: &mut GgufWriter<W>, bar: &ByteBar) -> anyhow::Result<()> {
    for chunk in blocks.chunks(CHUNK_VALUES) {
        writer.write_blocks(chunk)?;
        bar.add(chunk.len());
    }
    Ok(())
}

fn convert<W: Write>(
    kind: TensorType,
    blocks: &[u8],
    target: QuantizeTarget,
    writer: &mut GgufWriter<W>,
    bar: &ByteBar,
) -> anyhow::Result<()> {
    let chunk_bytes = CHUNK_VALUES / kind.block_values() * kind.block_bytes();
    for chunk in blocks.chunks(chunk_bytes) {
        let converted = target.requantize(kind, chunk)?;
        writer.write_blocks(&converted)?;
        bar.add(converted.len());
    }
    Ok(())
}
