//! Graphs that others exported, altered anywhere.

use ortolan::file_bytes::FileAccess;
use ortolan::model::load::ModelFiles;

use super::changes::altered;
use super::folder;
use super::guard::fuzz;

/// A graph of a few kilobytes may take it; it is copied once when it is rewritten.
const MOST_BYTES: usize = 64 << 20;

#[test]
fn a_graph() {
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
        MOST_BYTES,
        altered(valid.into()),
        |bytes| {
            std::fs::write(&path, bytes).unwrap();
            if let Ok(files) = ModelFiles::open_any(folder.path(), FileAccess::Read) {
                assert!(files.file.vocabulary() > 0);
            }
        },
    );
}
