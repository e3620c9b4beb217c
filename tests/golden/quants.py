"""Writes reference data for quantized tensor types, computed by the package `gguf` (0.19.0, with NumPy):

    python quants.py values > quants.json          # random blocks of every type and their values, Base64 of bytes and of f32
    python quants.py quantize > quantized.json     # random values and their blocks of the supported target types
    python quants.py grids > ../../src/gguf/quant/grids.bin

The grids are the codebooks of the IQ types (`ggml-common.h`, MIT license): for IQ2_XXS, IQ2_XS, IQ2_S and IQ1_S eight values
of two bits each in a little-endian u16, for IQ3_XXS and IQ3_S four values of four bits each.
"""

import base64
import json
import sys

import numpy as np
from gguf import quants
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

TYPES = (
    "Q4_0 Q4_1 Q5_0 Q5_1 Q8_0 Q2_K Q3_K Q4_K Q5_K Q6_K IQ1_S IQ1_M IQ2_XXS IQ2_XS IQ2_S IQ3_XXS IQ3_S IQ4_NL IQ4_XS "
    "TQ1_0 TQ2_0 MXFP4"
).split()
# Offsets of the half-precision scales in a block.
SCALES = {
    "Q4_1": [0, 2], "Q5_1": [0, 2], "Q2_K": [80, 82], "Q3_K": [108], "Q4_K": [0, 2], "Q5_K": [0, 2], "Q6_K": [208],
    "TQ1_0": [52], "TQ2_0": [64], "IQ1_M": [], "MXFP4": [],
}
BLOCKS = 3
GRIDS = [("IQ2_XXS", 2), ("IQ2_XS", 2), ("IQ2_S", 2), ("IQ1_S", 2), ("IQ3_XXS", 4), ("IQ3_S", 4)]


def values():
    random = np.random.default_rng(1)
    kinds = {}
    for name in TYPES:
        kind = GGMLQuantizationType[name]
        _, size = GGML_QUANT_SIZES[kind]
        blocks = random.integers(0, 256, (BLOCKS, size), dtype=np.uint8)
        for offset in SCALES.get(name, [0]):
            scales = random.normal(0, 0.1, (BLOCKS, 1)).astype(np.float16)
            blocks[:, offset : offset + 2] = scales.view(np.uint8)
        if name == "MXFP4":
            blocks[:, 0] = [0, 1, 125]
        if name == "IQ1_M":  # the scale is stored in the upper halves of four bytes; this keeps it below 1
            blocks[:, 55] &= 0x3F
        numbers = quants.dequantize(blocks, kind).astype(np.float32)
        assert np.isfinite(numbers).all(), name
        encoded = {"blocks": blocks, "values": numbers}
        kinds[name] = {key: base64.b64encode(array.tobytes()).decode() for key, array in encoded.items()}
    json.dump(kinds, sys.stdout, indent=0)
    print()


def quantize():
    random = np.random.default_rng(2)
    rows = [random.normal(0, scale, 64) for scale in (1e-9, 1e-6, 0.02, 1, 300)]
    rows += [random.integers(-16, 17, 64) / 2, np.zeros(64), np.linspace(-8, 7.5, 64), np.full(64, -0.25)]
    # Rows whose largest magnitude occurs twice, with both signs.
    rows += [np.tile([side * 4, -side * 4, 0.5, -0.5], 16) for side in (1, -1)]
    numbers = np.array(rows, dtype=np.float32)
    encoded = {"values": numbers}
    for name in ("F16", "Q4_0", "Q8_0"):
        encoded[name] = quants.quantize(numbers, GGMLQuantizationType[name])
    json.dump({key: base64.b64encode(array.tobytes()).decode() for key, array in encoded.items()}, sys.stdout, indent=0)
    print()


def grids():
    for name, bits in GRIDS:
        kind = getattr(quants, name)
        kind.init_grid()
        points = kind.grid.reshape(kind.grid_shape)
        indices = np.searchsorted(np.array(kind.grid_map), points).astype(np.uint16)
        shifts = np.arange(points.shape[1], dtype=np.uint16) * np.uint16(bits)
        packed = (indices << shifts).sum(axis=1).astype("<u2")
        sys.stdout.buffer.write(packed.tobytes())


{"values": values, "quantize": quantize, "grids": grids}[sys.argv[1]]()
