//! ONNX graphs of other exporters.

use ortolan::file_bytes::FileAccess;
use ortolan::model::load::OpenedModel;

use super::folder;
use super::fuzzer::fuzz;
use super::mutations::mutated;

/// Memory limit for graphs of a few kilobytes, which are copied once when they are rewritten.
const MAX_BYTES: usize = 64 << 20;

#[test]
fn modified_graphs_cause_no_panic() {
    let exports = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/exports");
    let folder = folder();
    for entry in std::fs::read_dir(exports.join("genai")).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), folder.path().join(entry.file_name())).unwrap();
    }
    let names = ["genai", "genai-tied", "genai-int4", "optimum-int8"];
    let valid = names.map(|name| std::fs::read(exports.join(name).join("model.onnx")).unwrap());
    let path = folder.path().join("model.onnx");
    fuzz(
        "an exported graph",
        200,
        MAX_BYTES,
        mutated(valid.into()),
        |bytes| {
            std::fs::write(&path, bytes).unwrap();
            if let Ok(files) = OpenedModel::open_any(folder.path(), FileAccess::Read) {
                assert!(files.file.vocabulary_size() > 0);
            }
        },
    );
}
