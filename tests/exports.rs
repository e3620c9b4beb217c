//! Graphs that others exported, against what transformers computed of the same weights (`tests/golden/exports.py`): logits
//! and greedy texts, and that neighbours, chunks and what the cache holds do not change a bit.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

#[path = "common/bare.rs"]
mod bare;
mod common;
#[path = "common/imported.rs"]
mod imported;

use std::fs;
use std::path::{Path, PathBuf};

use bare::{bits, chunk};
use common::recorded;
use imported::{Imported, best};
use ortolan::engine::WantedRows;
use ortolan::file_bytes::FileAccess;
use ortolan::graph::imported::ImportedAttention;
use ortolan::model::load::{ModelFiles, ModelSource};
use ortolan::token::TokenId;
use serde_json::Value;

/// The most that logits of each kind may be from what was recorded.
const MOST_DIFFERENCES: [(&str, f32); 3] = [
    // Where attention is ours, keys and values are kept in half precision,
    ("logits", 0.01),
    // which turns some of the activations that are rounded to int8.
    ("logits_int4", 0.15),
    // As it was run, on one processor or the other.
    ("logits_int8", 1e-5),
];

fn folder(name: &str) -> PathBuf {
    let exports = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/exports");
    exports.join(name)
}

fn tokens(value: &Value) -> Vec<TokenId> {
    serde_json::from_value(value.clone()).unwrap()
}

/// The recorded exports: a folder, its cases, and which of their logits are its own.
fn all() -> Vec<(String, Vec<Value>, &'static str)> {
    let recorded = recorded("exports/exports.json");
    let mut all = Vec::new();
    for model in recorded["models"].as_array().unwrap() {
        let cases = model["cases"].as_array().unwrap();
        for name in model["folders"].as_array().unwrap() {
            all.push((name.as_str().unwrap().to_owned(), cases.clone(), "logits"));
        }
        let rounded = model["int4"].as_str().unwrap().to_owned();
        all.push((rounded, cases.clone(), "logits_int4"));
        if let Some(scaled) = model["int8"].as_str() {
            all.push((scaled.to_owned(), cases.clone(), "logits_int8"));
        }
    }
    assert_eq!(all.len(), 7);
    all
}

#[test]
fn logits_and_texts_are_those_of_transformers() {
    for (name, cases, logits) in all() {
        let mut model = Imported::open(&folder(&name));
        for case in cases {
            let prompt = tokens(&case["tokens"]);
            let wanted: Vec<Vec<f32>> = match &case[logits] {
                Value::Array(runs) if runs[0].is_array() => {
                    serde_json::from_value(case[logits].clone()).unwrap()
                }
                one => vec![serde_json::from_value(one.clone()).unwrap()],
            };
            let found = model.logits(&prompt, &[64]).pop().unwrap();
            let difference = |wanted: &Vec<f32>| {
                let differences = found.iter().zip(wanted);
                differences
                    .map(|(left, right)| (left - right).abs())
                    .fold(0.0, f32::max)
            };
            let most = wanted.iter().map(difference).fold(f32::INFINITY, f32::min);
            let mut differences = MOST_DIFFERENCES.iter();
            let (_, allowed) = differences.find(|(kind, _)| *kind == logits).unwrap();
            println!("{name}: {most}");
            assert!(most <= *allowed, "{name}: {most}");
            if logits == "logits" {
                let mut text = prompt.clone();
                for token in tokens(&case["greedy"]) {
                    let row = model.logits(&text, &[64]).pop().unwrap();
                    assert_eq!(best(&row), token, "{name} after {text:?}");
                    text.push(token);
                }
            }
        }
    }
}

#[test]
fn only_group_query_attention_becomes_ours() {
    for (name, _, _) in all() {
        let files = ModelFiles::open_any(&folder(&name), FileAccess::Map).unwrap();
        let ModelSource::Imported(model) = files.file else {
            panic!("{name} is a graph");
        };
        let is_paged = model.attention == ImportedAttention::Paged;
        assert_eq!(is_paged, name.starts_with("genai"), "{name}");
    }
}

#[test]
fn chunks_do_not_change_a_bit() {
    for (name, _, _) in all() {
        let mut model = Imported::open(&folder(&name));
        let text: Vec<TokenId> = (0..90).map(|place| TokenId(place * 7 % 300)).collect();
        let whole = model.logits(&text, &[text.len()]);
        let cuts: [&[usize]; 6] = [
            &[1],
            &[2],
            &[3, 1, 7, 5],
            &[17, 1],
            &[15, 1, 16],
            &[31, 33, 1],
        ];
        for chunks in cuts {
            let cut = model.logits(&text, chunks);
            for (row, (left, right)) in whole.iter().zip(&cut).enumerate() {
                assert!(bits(left) == bits(right), "{name}: row {row} in {chunks:?}");
            }
        }
    }
}

#[test]
fn neighbours_and_found_prefixes_do_not_change_a_bit() {
    for (name, cases, _) in all() {
        let mut model = Imported::open(&folder(&name));
        let texts: Vec<Vec<TokenId>> = cases.iter().map(|case| tokens(&case["tokens"])).collect();
        let alone: Vec<_> = texts
            .iter()
            .map(|text| bits(&model.logits(text, &[64]).pop().unwrap()))
            .collect();
        // All in one step, and then the last token of each beside the others, over what the cache holds.
        let blocks: Vec<_> = texts.iter().map(|text| model.take(text.len())).collect();
        let chunk = |number: usize, past: usize| {
            chunk(number, &texts[number][past..], past, &blocks[number])
        };
        let together = model.step((0..texts.len()).map(|number| chunk(number, 0)).collect());
        assert!(together == alone, "{name}: together");
        let last = |number: usize| chunk(number, texts[number].len() - 1);
        let continued = model.step((0..texts.len()).map(last).collect());
        assert!(continued == alone, "{name}: continued");
    }
}

#[test]
fn hidden_states_are_given_for_the_rows_that_are_wanted() {
    for (name, cases, _) in all() {
        let mut model = Imported::open(&folder(&name));
        let text = tokens(&cases[1]["tokens"]);
        let blocks = model.take(text.len());
        let mut chunk = chunk(0, &text, 0, &blocks);
        (chunk.logits, chunk.hidden) = (WantedRows::None, WantedRows::All);
        model.run(vec![chunk]);
        assert_eq!(model.outputs.logits.rows().len(), 0, "{name}");
        let rows: Vec<&[f32]> = model.outputs.hidden.rows().collect();
        assert_eq!(rows.len(), text.len(), "{name}");
        let norm = |row: &&[f32]| row.iter().map(|x| x * x).sum::<f32>();
        assert!(rows.iter().all(|row| norm(row) > 1.0), "{name}");
    }
}

fn copy_files(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

/// Where a text stands among bytes.
fn places(bytes: &[u8], text: &str) -> Vec<usize> {
    let starts = 0..bytes.len().saturating_sub(text.len());
    starts
        .filter(|place| bytes[*place..].starts_with(text.as_bytes()))
        .collect()
}

/// Copies an export, changes its graph's bytes, and answers why it is refused.
#[track_caller]
fn refused(name: &str, change: impl FnOnce(&Path, Vec<u8>) -> Vec<u8>) -> String {
    let copy = tempfile::tempdir().unwrap();
    copy_files(&folder(name), copy.path());
    let graph = copy.path().join("model.onnx");
    let bytes = change(copy.path(), fs::read(&graph).unwrap());
    fs::write(&graph, bytes).unwrap();
    match ModelFiles::open_any(copy.path(), FileAccess::Map) {
        Ok(_) => panic!("it was taken"),
        Err(error) => format!("{error:#}").replace(&copy.path().display().to_string(), "…"),
    }
}

/// Writes `new` wherever `old`, of the same length, stands.
fn replaced(mut bytes: Vec<u8>, old: &str, new: &str) -> Vec<u8> {
    assert_eq!(old.len(), new.len());
    let places = places(&bytes, old);
    assert!(!places.is_empty());
    for place in places {
        bytes[place..place + old.len()].copy_from_slice(new.as_bytes());
    }
    bytes
}

#[test]
fn what_is_not_known_is_named() {
    assert_eq!(
        refused("optimum", |_, graph| replaced(
            graph,
            "position_ids",
            "token_types_"
        )),
        "…/model.onnx: the graph's input \"token_types_\" is not supported"
    );
    assert_eq!(
        refused("genai", |_, graph| replaced(
            graph,
            "past_key_values.1.value",
            "past_key_values.1.velue"
        )),
        "…/model.onnx: the graph's input \"past_key_values.1.key\" is not supported"
    );
    assert_eq!(
        refused("optimum", |_, graph| replaced(graph, "logits", "lagits")),
        "…/model.onnx: the graph has no output \"logits\""
    );
}

#[test]
fn weights_stay_beside_the_graph() {
    for location in ["../../../secret", "/etc/passwords."] {
        assert_eq!(
            refused("genai", |_, graph| replaced(
                graph,
                "model.onnx.data",
                location
            )),
            format!(
                "…/model.onnx: the weights of \"model.embed_tokens.weight\" are to be in \"{location}\", which is no file \
                 beside the graph"
            )
        );
    }
    let missing = refused("genai", |folder, graph| {
        fs::remove_file(folder.join("model.onnx.data")).unwrap();
        graph
    });
    assert!(
        missing.starts_with("…/model.onnx: cannot open …/model.onnx.data: "),
        "{missing}"
    );
    let short = refused("genai", |folder, graph| {
        fs::write(folder.join("model.onnx.data"), [0; 100]).unwrap();
        graph
    });
    assert_eq!(
        short,
        "…/model.onnx: the weights of \"model.embed_tokens.weight\" are to be 76800 bytes from 0 on in \
         …/model.onnx.data, which has 100"
    );
}

#[test]
fn bytes_that_are_no_graph_are_refused() {
    for length in [1, 10, 1000, 10_000] {
        let cut = refused("genai", |_, graph| graph[..length].to_vec());
        assert!(cut.starts_with("…/model.onnx: no ONNX model: "), "{cut}");
    }
    assert_eq!(
        refused("genai", |_, _| Vec::new()),
        "…/model.onnx: no ONNX model: it has no graph"
    );
    // Nodes without anything in them: two bytes here, hundreds in memory.
    let many = refused("genai", |_, _| {
        let nodes = [0x0a, 0x00].repeat(20 << 20);
        let mut model = vec![0x3a];
        prost_length(&mut model, nodes.len());
        [model, nodes].concat()
    });
    assert!(many.ends_with("33554432 are the most"), "{many}");
}

/// A length as protocol buffers write it.
fn prost_length(bytes: &mut Vec<u8>, mut length: usize) {
    while length >= 0x80 {
        bytes.push(length as u8 | 0x80);
        length >>= 7;
    }
    bytes.push(length as u8);
}

#[test]
fn a_graph_that_reads_itself_is_refused_by_the_runtime() {
    let copy = tempfile::tempdir().unwrap();
    copy_files(&folder("genai"), copy.path());
    let graph = copy.path().join("model.onnx");
    let mut bytes = fs::read(&graph).unwrap();
    // What the first layer's product reads comes of the second one.
    let name = "/model/layers.0/post_attention_layernorm/output_0";
    let place = places(&bytes, name)[1];
    bytes[place + "/model/layers.".len()] = b'1';
    fs::write(&graph, bytes).unwrap();
    let refused = Imported::try_open(copy.path()).map(drop).unwrap_err();
    assert!(
        refused.to_string().ends_with("the graph is not acyclic."),
        "{refused}"
    );
}

#[test]
fn a_graph_is_chosen_by_its_name() {
    let hub = tempfile::tempdir().unwrap();
    let graphs = hub.path().join("onnx");
    fs::create_dir(&graphs).unwrap();
    for entry in fs::read_dir(folder("optimum")).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name();
        let is_graph = name == "model.onnx";
        let to = if is_graph {
            graphs.join("model_q4.onnx")
        } else {
            hub.path().join(name)
        };
        fs::copy(entry.path(), to).unwrap();
    }
    let opened = |path: &Path| {
        let files = ModelFiles::open_any(path, FileAccess::Map);
        files.map(|files| files.file.path().to_owned())
    };
    assert!(opened(hub.path()).unwrap().ends_with("onnx/model_q4.onnx"));
    fs::copy(graphs.join("model_q4.onnx"), graphs.join("model_fp16.onnx")).unwrap();
    let several = opened(hub.path()).unwrap_err().to_string();
    assert!(
        several.contains("several graphs, and none is model.onnx"),
        "{several}"
    );
    assert!(several.contains("model_fp16.onnx, ") && several.contains("model_q4.onnx"));
    assert!(opened(&graphs.join("model_q4.onnx")).is_ok());
    fs::copy(graphs.join("model_q4.onnx"), graphs.join("model.onnx")).unwrap();
    assert!(opened(hub.path()).unwrap().ends_with("onnx/model.onnx"));
}

#[test]
fn a_graph_with_two_entries_for_a_field_of_one_value_is_refused() {
    let copy = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(folder("genai")).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), copy.path().join(entry.file_name())).unwrap();
    }
    let path = copy.path().join("model.onnx");
    assert!(Imported::try_open(&path).is_ok());
    // The field `graph` of the model once more, empty: protobuf's decoders take both for one.
    let mut bytes = fs::read(&path).unwrap();
    bytes.extend([7 << 3 | 2, 0]);
    fs::write(&path, bytes).unwrap();
    let error = Imported::try_open(&path).err().unwrap();
    let error = format!("{error:#}");
    assert!(
        error.contains("the field 7 of a ModelProto has two entries"),
        "{error}"
    );
}
