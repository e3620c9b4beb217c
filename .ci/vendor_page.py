"""Writes src/web/vendor/: the libraries of the chat page, from pinned npm packages.

Run this script after changing a version below, and commit the result. It requires Python 3.9, npm and the npm registry;
building and serving the page require none of them. `SHA256SUMS` lists the hashes of the files; `tests/page.rs` checks that
they are served unchanged.
"""

import hashlib
import re
import subprocess
import tarfile
import tempfile
from pathlib import Path

VENDOR = Path(__file__).resolve().parent.parent / "src" / "web" / "vendor"

MARKDOWN_IT = "markdown-it@15.0.3"
DOMPURIFY = "dompurify@3.5.0"
TEMML = "temml@0.13.5"

# Packages whose code is in a file of another package, with their licenses.
BUNDLED = {
    MARKDOWN_IT: ["entities@8.1.0", "linkify-it@6.1.0", "mdurl@2.1.0", "punycode.js@2.3.1", "uc.micro@3.0.0"],
}


def package(name, folder):
    """Downloads a package. npm checks it against the registry's hash. Returns the folder of its files."""
    target = folder / name.replace("/", "_")
    target.mkdir()
    subprocess.run(["npm", "pack", "--silent", "--ignore-scripts", name], cwd=target, check=True, stdout=subprocess.DEVNULL)
    (archive,) = target.glob("*.tgz")
    with tarfile.open(archive) as files:
        files.extractall(target, filter="data")
    return target / "package"


def without_source_map(text):
    """Removes the reference to the source map, which is not served: it would be a 404 in a browser's developer tools."""
    return re.sub(r"\n*//# sourceMappingURL=\S+\s*$", "\n", text)


def without_font(text):
    """Removes Temml's font with script capitals, which system fonts contain."""
    changed, count = re.subn(r"\A/\*.*?\*/\s*@font-face \{.*?\}\s*", "", text, flags=re.DOTALL)
    assert count == 1, "Temml's style sheet no longer begins with its font"
    return changed


def licenses(packages, fetch):
    parts = []
    for name in packages:
        for entry in [name, *BUNDLED.get(name, [])]:
            folder = fetch(entry)
            (text,) = [path for path in folder.glob("LICENSE*") if path.name != "LICENSE-MPL"]
            used_in = f" (in {name})" if entry != name else ""
            parts.append(f"{'=' * 100}\n{entry}{used_in}\n{'=' * 100}\n\n{text.read_text().strip()}\n")
    return "The licenses of the libraries in this folder. DOMPurify is used under the Apache License 2.0.\n\n" + "\n".join(parts)


def main():
    with tempfile.TemporaryDirectory() as scratch:
        fetched = {}

        def fetch(name):
            if name not in fetched:
                fetched[name] = package(name, Path(scratch))
            return fetched[name]

        def read(name, path):
            return (fetch(name) / path).read_text(encoding="utf-8-sig")

        # DOMPurify and Temml define global variables; the page imports modules.
        purify = without_source_map(read(DOMPURIFY, "dist/purify.min.js")) + "export default globalThis.DOMPurify;\n"
        temml_license = f"/*! Temml {TEMML.split('@')[1]} | (c) 2020 Ron Kok | MIT License */\n"
        files = {
            "markdown-it.js": without_source_map(read(MARKDOWN_IT, "dist/browser/markdown-it.esm.min.mjs")),
            "purify.js": purify,
            "temml.js": temml_license + read(TEMML, "dist/temml.min.js").rstrip() + "\nexport default temml;\n",
            "temml.css": temml_license + without_font(read(TEMML, "dist/Temml-Local.css")),
            "LICENSES.txt": licenses([MARKDOWN_IT, DOMPURIFY, TEMML], fetch),
        }
    for name, text in files.items():
        (VENDOR / name).write_text(text, encoding="utf-8")
    sums = [f"{hashlib.sha256((VENDOR / name).read_bytes()).hexdigest()}  {name}\n" for name in sorted(files)]
    (VENDOR / "SHA256SUMS").write_text("".join(sums))


if __name__ == "__main__":
    main()
