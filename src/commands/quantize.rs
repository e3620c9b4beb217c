//! `ortolan quantize`: a GGUF file's matrices become blocks of 4 or 8 bits; all else is copied.

use std::fs;
use std::io::Write;
use std::path::Path;

use anyhow::{Context, ensure};
use bytesize::ByteSize;

use super::new_file;
use crate::atomic_file::AtomicFile;
use crate::cli::{MatrixType, QuantizeArgs, QuantizedType};
use crate::file_bytes::FileAccess;
use crate::gguf::quant::{Target, is_quantisable};
use crate::gguf::{Gguf, GgufWriter, ListedTensor, TensorType, WrittenPair, WrittenTensor};
use crate::terminal::{ByteBar, printable};

const FILE_TYPE: &str = "general.file_type";
const QUANTIZATION_VERSION: &str = "general.quantization_version";
/// What blocks are made by now (ggml's `GGML_QNT_VERSION`).
const QUANTIZATION_VERSION_NOW: u32 = 2;
/// Keys of a file of a set begin with this.
const OF_A_SET: &str = "split.";

const EMBEDDING: &str = "token_embd.weight";
const OUTPUT: &str = "output.weight";

/// Values between two writes: whole blocks of every type.
const PIECE_VALUES: usize = 1 << 22;

/// Names of tensors that are told.
const SHOWN_NAMES: usize = 4;

/// Writes the file, and says what became of what.
///
/// # Errors
/// What is wrong, with the file's path.
pub(super) fn run(args: &QuantizeArgs) -> anyhow::Result<String> {
    new_file::free(&args.output, args.force)?;
    let gguf = Gguf::open(&args.input, FileAccess::Map)?;
    not_the_input(&args.input, gguf.contents().count(), &args.output)?;
    let plan = Plan::new(&gguf, args)?;
    let bytes: usize = plan.tensors.iter().map(WrittenTensor::bytes).sum();
    let file = new_file::create(&args.output)?;
    let bar = ByteBar::new(&format!("writing {}", args.output.display()), bytes as u64);
    let file = plan.write(&gguf, file, &bar).with_context(|| {
        let size = ByteSize(bytes as u64).display().iec();
        format!("cannot write {}, {size}", args.output.display())
    })?;
    new_file::finish(file, args.force)?;
    drop(bar);
    Ok(plan.summary(&gguf, args))
}

/// What the file will be.
struct Plan<'a> {
    pairs: Vec<WrittenPair<'a>>,
    tensors: Vec<WrittenTensor>,
    /// What of the tensors changes, in their order.
    targets: Vec<Option<Target>>,
    alignment: usize,
    /// Names of matrices that are no whole number of blocks wide.
    odd: Vec<String>,
    /// How many were blocks of another type already.
    requantised: usize,
}

impl<'a> Plan<'a> {
    fn new(gguf: &'a Gguf, args: &QuantizeArgs) -> anyhow::Result<Self> {
        let mut plan = Self {
            pairs: Vec::new(),
            tensors: Vec::new(),
            targets: Vec::new(),
            alignment: 0,
            odd: Vec::new(),
            requantised: 0,
        };
        let tied = gguf.tensor(OUTPUT).is_none();
        for (number, (listing, bytes)) in gguf.listings().zip(gguf.contents()).enumerate() {
            // Of a set the first file has the pairs.
            if number == 0 {
                plan.alignment = listing.alignment;
                let pairs = listing.pairs.iter();
                let pairs = pairs.filter(|pair| !pair.key.starts_with(OF_A_SET));
                plan.pairs.extend(pairs.map(|pair| match &*pair.key {
                    FILE_TYPE => WrittenPair::U32(FILE_TYPE, file_type(args.kind)),
                    _ => WrittenPair::Copied(&bytes[pair.place.clone()]),
                }));
                let said = |key: &str| listing.pairs.iter().any(|pair| pair.key == key);
                for (key, number) in [
                    (FILE_TYPE, file_type(args.kind)),
                    (QUANTIZATION_VERSION, QUANTIZATION_VERSION_NOW),
                ] {
                    if !said(key) {
                        plan.pairs.push(WrittenPair::U32(key, number));
                    }
                }
            }
            for tensor in listing.tensors {
                plan.add(tensor, args, tied)?;
            }
        }
        Ok(plan)
    }

    fn add(&mut self, tensor: ListedTensor, args: &QuantizeArgs, tied: bool) -> anyhow::Result<()> {
        let ListedTensor {
            name, kind, shape, ..
        } = tensor;
        let kind = kind.map_err(anyhow::Error::msg)?;
        let wanted = wanted(&name, &shape, args, tied);
        let fits = |target: &Target| target.fits(&shape);
        if wanted.is_some_and(|target| !fits(&target)) {
            self.odd.push(name.clone());
        }
        let target = wanted
            .filter(fits)
            .filter(|target| TensorType::from(*target) != kind);
        if target.is_some() && kind.codes().is_some() {
            self.requantised += 1;
        }
        self.targets.push(target);
        self.tensors.push(WrittenTensor {
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
            let source = source.context("a tensor that is listed is there")?;
            let blocks = gguf.bytes(source);
            let written = match target {
                None => copy(blocks, &mut writer, bar),
                Some(target) => convert(source.kind, blocks, *target, &mut writer, bar),
            };
            written.with_context(|| format!("tensor \"{}\"", printable(&tensor.name)))?;
        }
        Ok(writer.finish()?)
    }

    /// What became of what, for people.
    fn summary(&self, gguf: &Gguf, args: &QuantizeArgs) -> String {
        let size = |bytes: u64| ByteSize(bytes).display().iec().to_string();
        let before = gguf.file_bytes();
        let after = fs::metadata(&args.output).map_or(0, |file| file.len());
        let percent = after as f64 / before.max(1) as f64 * 100.0;
        let changed = self.targets.iter().flatten().count();
        let mut lines = vec![
            format!("{}  {}", shown(&args.input), size(before)),
            format!("{}  {}, {percent:.0} %", shown(&args.output), size(after)),
            format!(
                "{changed} of {} tensors were quantised, the others are as they were",
                self.tensors.len()
            ),
        ];
        if !self.odd.is_empty() {
            let names: Vec<String> = self.odd.iter().map(|name| printable(name)).collect();
            let more = match self.odd.len() > SHOWN_NAMES {
                true => ", …",
                false => "",
            };
            let names = names[..names.len().min(SHOWN_NAMES)].join(", ");
            lines.push(format!(
                "{} of them are no whole number of blocks wide: {names}{more}",
                self.odd.len()
            ));
        }
        if self.requantised > 0 {
            lines.push(format!(
                "{} were quantised before: what that lost stays lost; a file of F16, BF16 or F32 gives better ones",
                self.requantised
            ));
        }
        lines.join("\n") + "\n"
    }
}

/// That `output` is none of the set of so many files whose first is `input`.
fn not_the_input(input: &Path, files: usize, output: &Path) -> anyhow::Result<()> {
    let Ok(output) = fs::canonicalize(output) else {
        return Ok(());
    };
    let name = input.file_name().unwrap_or_default().to_string_lossy();
    for number in 1..=files {
        let sibling = name.replace("-00001-of-", &format!("-{number:05}-of-"));
        let sibling = input.with_file_name(sibling);
        ensure!(
            fs::canonicalize(sibling).ok().as_ref() != Some(&output),
            "{} is read, and cannot be written over",
            output.display()
        );
    }
    Ok(())
}

fn shown(path: &Path) -> String {
    printable(&path.display().to_string())
}

/// What a tensor is to become, if it is a matrix that may.
fn wanted(name: &str, shape: &[usize], args: &QuantizeArgs, tied: bool) -> Option<Target> {
    if !is_quantisable(name, shape) {
        return None;
    }
    let output = args.output_tensor_type;
    let own = match name {
        OUTPUT => output,
        EMBEDDING => args.token_embedding_type.or(output.filter(|_| tied)),
        _ => None,
    };
    Some(match (own, args.kind) {
        (Some(MatrixType::F32), _) => Target::F32,
        (Some(MatrixType::F16), _) => Target::F16,
        (Some(MatrixType::Q4_0), _) | (None, QuantizedType::Q4_0) => Target::Q4_0,
        (Some(MatrixType::Q8_0), _) | (None, QuantizedType::Q8_0) => Target::Q8_0,
    })
}

/// What a file's matrices mostly are (llama.cpp's `llama_ftype`).
fn file_type(kind: QuantizedType) -> u32 {
    match kind {
        QuantizedType::Q4_0 => 2,
        QuantizedType::Q8_0 => 7,
    }
}

fn copy<W: Write>(blocks: &[u8], writer: &mut GgufWriter<W>, bar: &ByteBar) -> anyhow::Result<()> {
    for piece in blocks.chunks(PIECE_VALUES) {
        writer.blocks(piece)?;
        bar.add(piece.len());
    }
    Ok(())
}

fn convert<W: Write>(
    kind: TensorType,
    blocks: &[u8],
    target: Target,
    writer: &mut GgufWriter<W>,
    bar: &ByteBar,
) -> anyhow::Result<()> {
    let piece_bytes = PIECE_VALUES / kind.block_values() * kind.block_bytes();
    for piece in blocks.chunks(piece_bytes) {
        let made = target.requantise(kind, piece)?;
        writer.blocks(&made)?;
        bar.add(made.len());
    }
    Ok(())
}
