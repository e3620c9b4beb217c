//! The commands `inspect`, `quantize` and `export`, run as a user runs them.

#![expect(clippy::unwrap_used, reason = "a failed assumption fails the test")]

mod common;
#[path = "common/split.rs"]
mod split;
#[path = "common/standalone_decoder.rs"]
mod standalone_decoder;

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use common::gguf::{self, F16, F32, Tensor, Value};
use common::tiny;
use half::f16;
use ort::session::{Session, SessionInputValue};
use ort::value::Tensor as OnnxTensor;
use ortolan::file_bytes::FileAccess;
use ortolan::gguf::{Gguf, TensorType};
use ortolan::graph::onnx::TensorValues;
use ortolan::graph::panels::Panels;
use ortolan::graph::{MatmulOperator, ModelFile, OperatorMatrices};
use ortolan::runtime::{environment, operators};
use ortolan::token::TokenId;
use serde_json::json;
use standalone_decoder::{StandaloneDecoder, max_difference};

/// Runs the program in a folder. Its environment has server settings that are invalid, which commands must ignore.
fn ortolan(folder: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_ortolan"))
        .current_dir(folder)
        .args(arguments)
        .env("ORTOLAN_CONFIG", "/nowhere/wren.toml")
        .env("LLAMA_ARG_CTX_SIZE", "many")
        .output()
        .unwrap()
}

/// Runs the program, which must succeed; returns its standard output.
#[track_caller]
fn succeeds(folder: &Path, arguments: &[&str]) -> String {
    let output = ortolan(folder, arguments);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {errors}");
    String::from_utf8(output.stdout).unwrap()
}

/// Runs the program, which must exit with this code and print this error.
#[track_caller]
fn fails(folder: &Path, arguments: &[&str], code: i32, cause: &str) {
    let output = ortolan(folder, arguments);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {errors}");
    assert!(errors.contains(cause), "{arguments:?}: {errors}");
    assert!(!errors.contains("panicked"), "{arguments:?}: {errors}");
}

/// Runs `inspect --json`; returns the parsed output.
fn inspected(folder: &Path, arguments: &[&str]) -> serde_json::Value {
    let json = succeeds(folder, &[&["inspect", "--json"], arguments].concat());
    serde_json::from_str(&json).unwrap()
}

fn snapshot(name: &str, text: &str) {
    let mut settings = insta::Settings::clone_current();
    settings.set_snapshot_path("../snapshots");
    settings.set_prepend_module_to_snapshot(false);
    settings.bind(|| insta::assert_snapshot!(name, text));
}

#[test]
fn help_lists_the_commands_and_each_command_has_its_own_help() {
    let folder = tempfile::tempdir().unwrap();
    let help = Command::new(env!("CARGO_BIN_EXE_ortolan"))
        .arg("--help")
        .output();
    let help = String::from_utf8(help.unwrap().stdout).unwrap();
    assert!(help.contains("--ctx-size"), "{help}");
    for command in ["inspect", "quantize", "export"] {
        assert!(help.contains(&format!("\n  {command} ")), "{help}");
        let own = succeeds(folder.path(), &[command, "--help"]);
        assert!(own.contains(&format!("ortolan {command}")), "{own}");
        assert!(!own.contains("LLAMA_ARG"), "{own}");
    }
    fails(folder.path(), &["inspect"], 2, "<FILE>");
    fails(folder.path(), &["inspect", "--port", "1", "a"], 2, "--port");
}

#[test]
fn a_command_must_be_the_first_argument() {
    let output = Command::new(env!("CARGO_BIN_EXE_ortolan"))
        .args(["-m", "a.gguf", "inspect", "b.gguf"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2));
    // After `-m`, the name of a command is the name of a file.
    let folder = tempfile::tempdir().unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_ortolan"))
        .current_dir(folder.path())
        .args(["--onnxruntime", "x", "-m", "inspect"])
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(errors.contains("cannot open inspect"), "{errors}");
}

#[test]
fn inspect_shows_a_model() {
    let folder = tempfile::tempdir().unwrap();
    tiny::model(folder.path(), &[]);
    let arguments = ["inspect", "tiny.gguf", "--tensors", "-c", "128", "-np", "2"];
    snapshot("inspect", &succeeds(folder.path(), &arguments));
    let json = inspected(folder.path(), &["tiny.gguf"]);
    assert_eq!(json["served"], true);
    assert_eq!(json["sizes"]["layers"], 2);
    assert_eq!(json["metadata"]["llama.context_length"], 256);
    assert_eq!(json["metadata"]["tokenizer.ggml.tokens"]["length"], 261);
    assert_eq!(json["memory"]["ctx_size"], 512);
    assert!(json.get("tensors").is_none());
}

#[test]
fn a_mixture_of_experts_is_inspected_but_not_exported() {
    let folder = tempfile::tempdir().unwrap();
    let experts = ["llama.expert_count", "llama.expert_used_count"];
    tiny::model(folder.path(), &experts.map(|key| (key, Value::U32(2))));
    let json = inspected(folder.path(), &["tiny.gguf"]);
    assert_eq!(json["served"], true);
    assert_eq!(json["memory"]["experts"], 2 * 2 * 3 * 64 * 128 * 4);
    let parts = ["2 experts of width 128 per layer, 2 per token"];
    assert_eq!(json["sizes"]["parts"], json!(parts));
    let arguments = ["export", "-m", "tiny.gguf", "out"];
    let cause = "tiny.gguf: a mixture of experts is not supported";
    fails(folder.path(), &arguments, 1, cause);
}

#[test]
fn weights_take_the_reported_memory() {
    let folder = tempfile::tempdir().unwrap();
    let tiny = tiny::model(folder.path(), &[]);
    let other = tempfile::tempdir().unwrap();
    let experts = ["llama.expert_count", "llama.expert_used_count"];
    let experts = tiny::model(other.path(), &experts.map(|key| (key, Value::U32(2))));
    for path in [tiny, experts, common::model(), common::gemma()] {
        let gguf = Gguf::open(&path, FileAccess::Map).unwrap();
        let file = ModelFile::new(path, gguf).unwrap();
        for matmul in [MatmulOperator::Ortolan, MatmulOperator::Contrib] {
            let graph = file.graph(matmul, 128, &|_| ());
            let panels = graph.matrices.panels.iter().map(Panels::bytes);
            let bytes = graph
                .initializers
                .iter()
                .map(|initializer| match &initializer.values {
                    TensorValues::F32(values) => size_of_val(&values[..]),
                    TensorValues::U8(values) => values.len(),
                });
            let actual = bytes.chain(panels).sum::<usize>();
            let reported = file.weight_bytes(matmul, 128).total;
            // A few constant factors are not counted.
            assert!(
                (reported..reported + 64).contains(&actual),
                "{actual} {reported}"
            );
        }
    }
}

#[test]
fn inspect_shows_an_unsupported_model_with_the_reason() {
    let folder = tempfile::tempdir().unwrap();
    let other = [("general.architecture", Value::Text("mamba"))];
    tiny::model(folder.path(), &other);
    let json = inspected(folder.path(), &["tiny.gguf"]);
    assert_eq!(json["served"], false);
    let problem = json["problem"].as_str().unwrap();
    assert!(problem.contains("\"mamba\" is not supported"), "{problem}");
    assert_eq!(json["family"], "mamba");
    assert_eq!(json["tensor_types"][0]["tensors"], 20);

    // An unsupported tokenizer: everything else is still shown.
    let other = [("tokenizer.ggml.model", Value::Text("wren"))];
    tiny::model(folder.path(), &other);
    let json = inspected(folder.path(), &["tiny.gguf"]);
    assert!(json["problem"].as_str().unwrap().contains("wren"), "{json}");
    assert_eq!(json["sizes"]["hidden"], 64);

    // An unknown tensor type, then a truncated file.
    let path = tiny::model(folder.path(), &[]);
    let whole = fs::read(&path).unwrap();
    let name = b"blk.1.ffn_down.weight";
    let offset = whole.windows(name.len()).position(|part| part == name);
    let kind = offset.unwrap() + name.len() + 4 + 2 * 8;
    let mut unknown_type = whole.clone();
    unknown_type[kind] = 40;
    fs::write(&path, unknown_type).unwrap();
    let json = inspected(folder.path(), &["tiny.gguf", "--tensors"]);
    assert!(
        json["problem"].as_str().unwrap().contains("NVFP4"),
        "{json}"
    );
    assert_eq!(json["tensors"].as_array().unwrap().len(), 20);
    assert_eq!(json["tensor_types"][1]["computed"], "not supported");
    fs::write(&path, &whole[..whole.len() - 1000]).unwrap();
    let text = succeeds(folder.path(), &["inspect", "tiny.gguf"]);
    assert!(text.contains("is truncated"), "{text}");
    fs::write(&path, &whole[..300]).unwrap();
    let text = succeeds(folder.path(), &["inspect", "tiny.gguf"]);
    assert!(text.contains("llama.block_count = 2"), "{text}");

    fs::write(&path, b"no model").unwrap();
    fails(folder.path(), &["inspect", "tiny.gguf"], 1, "\"GGUF\"");
    fails(folder.path(), &["inspect", "wren.gguf"], 1, "No such file");
    fails(folder.path(), &["inspect", "."], 1, "config.json not found");
}

#[test]
fn inspect_escapes_control_characters() {
    let folder = tempfile::tempdir().unwrap();
    let hostile = [(
        "general.name\u{1b}[2J",
        Value::Text("a\u{9b}31m\n\u{202e}b"),
    )];
    tiny::model(folder.path(), &hostile);
    for more in [&[][..], &["--json"]] {
        let arguments = [&["inspect", "tiny.gguf"], more].concat();
        let text = succeeds(folder.path(), &arguments);
        let is_unsafe = |char: char| char.is_control() && char != '\n' || char == '\u{202e}';
        assert!(!text.contains(is_unsafe), "{text}");
        assert!(
            text.contains("u{202e}b") || text.contains("u202eb"),
            "{text}"
        );
    }
}

#[test]
fn inspect_shows_a_folder_and_a_sharded_model() {
    let folder = tempfile::tempdir().unwrap();
    let embeddings = common::embedding_model();
    let json = inspected(folder.path(), &[embeddings.to_str().unwrap()]);
    assert_eq!(json["served"], true, "{}", json["problem"]);
    assert_eq!(json["family"], "bert");
    assert_eq!(json["metadata"]["hidden_size"], 384);
    assert_eq!(json["memory"]["cache"], 0);

    let model = common::model();
    let set = split::split(&model, folder.path(), 3);
    let whole = inspected(folder.path(), &[model.to_str().unwrap()]);
    let first = set[0].to_str().unwrap();
    let parts = inspected(folder.path(), &[first]);
    for field in ["parameters", "tensor_types", "sizes", "served"] {
        assert_eq!(parts[field], whole[field], "{field}");
    }
    assert_eq!(parts["files"], 3);
    fs::remove_file(&set[2]).unwrap();
    let alone = inspected(folder.path(), &[first]);
    assert_eq!(
        (&alone["served"], &alone["files"]),
        (&false.into(), &1.into())
    );
}

/// Names and types of a file's tensors, sorted by name.
fn kinds(path: &Path) -> Vec<(String, TensorType)> {
    let gguf = Gguf::open(path, FileAccess::Map).unwrap();
    let kinds = gguf.tensors();
    let mut kinds: Vec<_> = kinds
        .map(|(name, tensor)| (name.to_owned(), tensor.kind))
        .collect();
    kinds.sort_by(|left, right| left.0.cmp(&right.0));
    kinds
}

#[test]
fn quantize_changes_matrices_and_keeps_everything_else() {
    let folder = tempfile::tempdir().unwrap();
    let metadata = [
        ("general.file_type", Value::U32(0)),
        ("general.name", Value::Text("wren")),
    ];
    let tiny = tiny::model(folder.path(), &metadata);
    let output = succeeds(folder.path(), &["quantize", "tiny.gguf", "q4.gguf", "Q4_0"]);
    assert!(
        output.contains("15 of 20 tensors were quantized"),
        "{output}"
    );
    let (before, after) = (
        Gguf::open(&tiny, FileAccess::Map).unwrap(),
        Gguf::open(&folder.path().join("q4.gguf"), FileAccess::Map).unwrap(),
    );
    for (name, tensor) in before.tensors() {
        let quantized = after.tensor(name).unwrap();
        assert_eq!(quantized.shape, tensor.shape);
        let is_vector = tensor.shape.len() == 1;
        assert_eq!(quantized.kind == TensorType::F32, is_vector, "{name}");
        let mut values = vec![0.0; tensor.values()];
        quantized
            .kind
            .dequantize(after.bytes(quantized), &mut values);
        let mut expected = values.clone();
        tensor.kind.dequantize(before.bytes(tensor), &mut expected);
        let is_near = |(value, expected): (&f32, &f32)| (value - expected).abs() <= 0.04;
        assert!(values.iter().zip(&expected).all(is_near), "{name}");
    }
    let pairs = |gguf: &Gguf| {
        let listing = gguf.listings().next().unwrap();
        let bytes = gguf.contents().next().unwrap();
        let entries = listing.metadata.into_iter();
        entries
            .map(|entry| (entry.key, bytes[entry.byte_range].to_vec()))
            .collect::<Vec<_>>()
    };
    let (mut before, mut after) = (pairs(&before), pairs(&after));
    assert_eq!(after.pop().unwrap().0, "general.quantization_version");
    let take_file_type = |pairs: &mut Vec<(String, Vec<u8>)>| {
        let index = pairs.iter().position(|(key, _)| key == "general.file_type");
        pairs.remove(index.unwrap()).1
    };
    assert_eq!(take_file_type(&mut before)[29], 0);
    assert_eq!(take_file_type(&mut after)[29], 2);
    assert_eq!(after, before);

    let json = inspected(folder.path(), &["q4.gguf"]);
    assert_eq!(json["served"], true, "{}", json["problem"]);
    assert!(!fs::read_dir(folder.path()).unwrap().any(|entry| {
        entry
            .unwrap()
            .file_name()
            .to_string_lossy()
            .contains(".part")
    }));
}

#[test]
fn output_and_embedding_matrices_may_have_their_own_types() {
    let folder = tempfile::tempdir().unwrap();
    tiny::model(folder.path(), &[]);
    let check = |options: &[&str], expected: TensorType| {
        let arguments = [
            &["quantize", "--force", "tiny.gguf", "out.gguf", "q4_0"],
            options,
        ]
        .concat();
        succeeds(folder.path(), &arguments);
        let kinds = kinds(&folder.path().join("out.gguf"));
        let kind = kinds.iter().find(|(name, _)| name == "token_embd.weight");
        assert_eq!(kind.unwrap().1, expected, "{options:?}");
    };
    check(&[], TensorType::Q4_0);
    check(&["--output-tensor-type", "q8_0"], TensorType::Q8_0);
    check(
        &["--output-type", "q8_0", "--token-embedding-type", "f16"],
        TensorType::F16,
    );
    check(&["--token-embedding-type", "f32"], TensorType::F32);
}

#[test]
fn quantize_merges_shards_into_one_file() {
    let folder = tempfile::tempdir().unwrap();
    let set = split::split(&common::model(), folder.path(), 3);
    let first = set[0].to_str().unwrap();
    let output = succeeds(folder.path(), &["quantize", first, "one.gguf", "q8_0"]);
    assert!(output.contains("were already quantized"), "{output}");
    let one = folder.path().join("one.gguf");
    let json = inspected(folder.path(), &["one.gguf"]);
    assert_eq!(
        (&json["served"], &json["files"]),
        (&true.into(), &1.into()),
        "{}",
        json["problem"]
    );
    assert!(json["metadata"].get("split.count").is_none());
    assert_eq!(kinds(&one).len(), kinds(&common::model()).len());
    fails(
        folder.path(),
        &[
            "quantize",
            "--force",
            first,
            set[1].to_str().unwrap(),
            "q8_0",
        ],
        1,
        "is an input file and cannot be overwritten",
    );
}

#[test]
fn existing_files_are_not_overwritten() {
    let folder = tempfile::tempdir().unwrap();
    let tiny = tiny::model(folder.path(), &[]);
    let before = fs::read(&tiny).unwrap();
    fs::write(folder.path().join("out.gguf"), "precious").unwrap();
    let check = |arguments: &[&str], code, cause| fails(folder.path(), arguments, code, cause);
    check(&["quantize", "tiny.gguf", "out.gguf", "q8_0"], 1, "--force");
    check(
        &["quantize", "--force", "tiny.gguf", "./tiny.gguf", "q8_0"],
        1,
        "is an input file",
    );
    check(
        &["quantize", "tiny.gguf", "nowhere/out.gguf", "q8_0"],
        1,
        "nowhere",
    );
    check(&["quantize", "tiny.gguf", ".", "q8_0"], 1, "a folder");
    check(&["quantize", "tiny.gguf", "other.gguf", "q9_0"], 2, "q9_0");
    check(
        &["quantize", "out.gguf", "other.gguf", "q8_0"],
        1,
        "\"GGUF\"",
    );
    assert_eq!(fs::read(&tiny).unwrap(), before);
    assert_eq!(
        fs::read(folder.path().join("out.gguf")).unwrap(),
        b"precious"
    );
}

#[test]
fn quantize_reports_tensors_that_it_cannot_quantize() {
    let folder = tempfile::tempdir().unwrap();
    let half = |name: &str, shape: &[u64], bytes: Vec<u8>| Tensor {
        name: name.to_owned(),
        shape: shape.to_vec(),
        kind: F16,
        bytes,
    };
    let header = [("general.architecture", Value::Text("wren"))];
    let tensors = [
        half("narrow.weight", &[8, 4], vec![0; 64]),
        half("three.weight", &[32, 2, 2], vec![0x11; 256]),
        half("ffn_norm.weight", &[32, 1], vec![0; 64]),
        half("bias", &[32, 1], vec![0; 64]),
    ];
    let path = folder.path().join("wren.gguf");
    gguf::write(&path, &header, &tensors);
    let output = succeeds(
        folder.path(),
        &["quantize", "wren.gguf", "out.gguf", "q8_0"],
    );
    assert!(
        output.contains(
            "1 of them have rows that are not a multiple of the block size: narrow.weight"
        ),
        "{output}"
    );
    let expected = [
        ("bias", TensorType::F16),
        ("ffn_norm.weight", TensorType::F16),
        ("narrow.weight", TensorType::F16),
        ("three.weight", TensorType::Q8_0),
    ];
    let expected = expected.map(|(name, kind)| (name.to_owned(), kind));
    assert_eq!(kinds(&folder.path().join("out.gguf")), expected);

    let infinite = Tensor {
        name: "a\u{1b}.weight".to_owned(),
        shape: vec![32, 1],
        kind: F32,
        bytes: f32::INFINITY.to_le_bytes().repeat(32),
    };
    gguf::write(&path, &header, &[infinite]);
    let arguments = ["quantize", "wren.gguf", "other.gguf", "q8_0"];
    fails(
        folder.path(),
        &arguments,
        1,
        "tensor \"a\\u{1b}.weight\": the value inf",
    );
    assert!(!folder.path().join("other.gguf").exists());
}

fn json_file(path: &Path) -> serde_json::Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

#[test]
fn an_exported_graph_computes_the_same_logits_as_the_server() {
    let folder = tempfile::tempdir().unwrap();
    let tiny = tiny::model(folder.path(), &[]);
    succeeds(folder.path(), &["quantize", "tiny.gguf", "q4.gguf", "q4_0"]);
    for model in [tiny, folder.path().join("q4.gguf")] {
        let arguments = ["export", "--force", "-c", "128", "-m"];
        succeeds(
            folder.path(),
            &[&arguments[..], &[model.to_str().unwrap(), "out"]].concat(),
        );
        let out = folder.path().join("out");
        let description = json_file(&out.join("ortolan.json"));
        assert_eq!(description["context_tokens"], 128);
        let shape = json!(["blocks", "block_tokens", 2, 16]);
        assert_eq!(description["cache"]["shape"], shape);
        let tokens: Vec<i64> = b"Once upon a time"
            .iter()
            .map(|byte| i64::from(*byte))
            .collect();
        let actual = exported_logits(&out, &tokens);

        let mut decoder = StandaloneDecoder::with_contrib_matmul(&model);
        let ids: Vec<TokenId> = tokens.iter().map(|id| TokenId(*id as u32)).collect();
        let expected = decoder.logits(&ids, &[64]);
        let difference = max_difference(&actual, &expected.concat());
        assert!(difference <= 1e-4, "{difference}");
    }
}

/// The logits after each token, computed by running only the exported graphs.
fn exported_logits(out: &Path, tokens: &[i64]) -> Vec<f32> {
    let runtime = environment(&common::onnxruntime()).unwrap();
    let session = |name: &str| {
        let builder = Session::builder(&runtime).unwrap();
        // SAFETY: `export` wrote the graph, so each cache is an input of the session and of one node. The caches below
        // are tensors that this function owns.
        let domain = unsafe { operators::domain(OperatorMatrices::default()) };
        let builder = builder.with_operators(domain.unwrap());
        builder.unwrap().commit_from_file(out.join(name)).unwrap()
    };
    let count = tokens.len();
    let mut embeddings = session("embeddings.onnx");
    let ids = OnnxTensor::from_array(([count], tokens.to_vec())).unwrap();
    let embedded = embeddings.run(ort::inputs!["input_ids" => ids]).unwrap();
    let (shape, rows) = embedded["inputs_embeds"]
        .try_extract_tensor::<f32>()
        .unwrap();
    let (hidden, rows) = (shape[1] as usize, rows.to_vec());

    let i32s = |values: Vec<i32>| OnnxTensor::from_array(([values.len()], values)).unwrap();
    let all: Vec<i64> = (0..count as i64).collect();
    let all_rows = || OnnxTensor::from_array(([count], all.clone())).unwrap();
    let table = OnnxTensor::from_array(([1, 1], vec![0_i32])).unwrap();
    let mut inputs: Vec<(String, SessionInputValue<'_>)> = vec![
        (
            "inputs_embeds".to_owned(),
            OnnxTensor::from_array(([count, hidden], rows))
                .unwrap()
                .into(),
        ),
        (
            "cumulative_sequence_length".to_owned(),
            i32s(vec![0, count as i32]).into(),
        ),
        ("past_seqlens".to_owned(), i32s(vec![0]).into()),
        ("block_table".to_owned(), table.into()),
        ("logit_rows".to_owned(), all_rows().into()),
        ("hidden_rows".to_owned(), all_rows().into()),
    ];
    for layer in 0..2 {
        for part in ["key", "value"] {
            let zeros = vec![f16::ZERO; 32 * 2 * 16];
            let cache = OnnxTensor::from_array(([1, 32, 2, 16], zeros)).unwrap();
            inputs.push((format!("{part}_cache.{layer}"), cache.into()));
        }
    }
    let mut model = session("model.onnx");
    let computed = model.run(inputs).unwrap();
    let (_, logits) = computed["logits"].try_extract_tensor::<f32>().unwrap();
    logits.to_vec()
}

#[test]
fn export_writes_an_encoder_and_does_not_write_into_a_folder_with_files() {
    let folder = tempfile::tempdir().unwrap();
    let embeddings = common::embedding_model();
    let embeddings = embeddings.to_str().unwrap();
    succeeds(folder.path(), &["export", "-m", embeddings, "a/b"]);
    let description = json_file(&folder.path().join("a/b/ortolan.json"));
    assert_eq!(
        (&description["family"], description.get("cache")),
        (&json!("bert"), None)
    );
    let inputs = description["model"]["inputs"].as_array().unwrap();
    assert!(inputs.iter().any(|input| input["name"] == "positions"));
    let weights = fs::metadata(folder.path().join("a/b/embeddings.onnx.data"));
    assert_eq!(weights.unwrap().len(), 30_522 * 384 * 4);

    fs::write(folder.path().join("precious"), "x").unwrap();
    let arguments = ["export", "-m", embeddings, "."];
    fails(folder.path(), &arguments, 1, "is not empty; --force");
    fails(folder.path(), &["export", "."], 2, "--model");
    fails(folder.path(), &["export", "-m", "wren", "c"], 1, "wren");
    assert!(!folder.path().join("c").exists());
}

#[test]
fn an_imported_graph_is_inspected_but_not_exported_again() {
    let exports = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/exports");
    let json = inspected(&exports, &["genai"]);
    assert_eq!(json["format"], "ONNX");
    assert_eq!(json["served"], true);
    assert_eq!(json["family"], "llama");
    assert_eq!(json["files"], 2);
    assert_eq!(json["tokenizer"]["tokens"], 300);
    let folder = tempfile::tempdir().unwrap();
    let model = exports.join("genai");
    let arguments = ["export", "-m", model.to_str().unwrap(), "again"];
    fails(folder.path(), &arguments, 1, "is an exported graph");
}

#[cfg(unix)]
#[test]
fn only_regular_files_are_overwritten() {
    use std::os::unix::fs::{FileTypeExt, symlink};

    let folder = tempfile::tempdir().unwrap();
    tiny::model(folder.path(), &[]);
    let at = |name: &str| folder.path().join(name);
    fs::write(at("target"), "kept").unwrap();
    symlink(at("target"), at("link.gguf")).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(at("socket.gguf")).unwrap();
    for (output, cause) in [
        ("/dev/full", "a device"),
        ("socket.gguf", "a device"),
        ("link.gguf", "a symbolic link"),
    ] {
        let arguments = ["quantize", "--force", "tiny.gguf", output, "q8_0"];
        fails(folder.path(), &arguments, 1, cause);
    }
    let full = fs::symlink_metadata("/dev/full").unwrap();
    assert!(full.file_type().is_char_device());
    assert_eq!(fs::read(at("target")).unwrap(), b"kept");
    fs::create_dir(at("graph")).unwrap();
    symlink("/dev/full", at("graph/model.onnx.data")).unwrap();
    let arguments = ["export", "--force", "-m", "tiny.gguf", "graph"];
    fails(folder.path(), &arguments, 1, "a symbolic link");
    assert_eq!(fs::read_dir(at("graph")).unwrap().count(), 1);
}

#[cfg(unix)]
#[test]
fn a_file_size_limit_is_an_error_that_leaves_no_files() {
    let folder = tempfile::tempdir().unwrap();
    tiny::model(folder.path(), &[]);
    // The partial file of a killed process is removed.
    let part = folder.path().join(".out.gguf.0123456789abcdef.part");
    fs::write(&part, "").unwrap();
    for command in [
        "quantize tiny.gguf out.gguf q8_0",
        "export -m tiny.gguf graph",
    ] {
        let script = format!("ulimit -f 2; exec \"$0\" {command}");
        let output = Command::new("sh")
            .current_dir(folder.path())
            .args(["-c", &script, env!("CARGO_BIN_EXE_ortolan")])
            .output()
            .unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{command}: {errors}");
        assert!(errors.contains("File too large"), "{command}: {errors}");
    }
    assert!(!part.exists());
    assert!(!folder.path().join("out.gguf").exists());
    let left = fs::read_dir(folder.path().join("graph")).unwrap();
    assert_eq!(left.count(), 0);
}

#[cfg(unix)]
#[test]
fn a_model_must_be_a_regular_file() {
    let folder = tempfile::tempdir().unwrap();
    let arguments = ["inspect", "/dev/zero"];
    fails(folder.path(), &arguments, 1, "not a regular file");
    fs::create_dir(folder.path().join("model")).unwrap();
    let pipe = Command::new("mkfifo")
        .current_dir(folder.path())
        .args(["model/config.json", "model.gguf"])
        .status();
    assert!(pipe.unwrap().success());
    // Opening a pipe would block until it has a writer.
    for model in ["model", "model.gguf"] {
        fails(folder.path(), &["inspect", model], 1, "not a regular file");
    }
}
