"""Writes a GGUF model of given dimensions with random weights (Q4_K and Q6_K, as in Q4_K_M). Its steps cost the same as
those of a trained model of these dimensions. The vocabulary is copied from another GGUF file. Requires the packages
gguf and numpy."""

import argparse

import gguf
import numpy as np

TYPES = gguf.GGMLQuantizationType


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("vocabulary", help="GGUF file to take the tokenizer from")
    parser.add_argument("out", help="file to write")
    for size in ["layers", "hidden", "heads", "kv-heads", "ffn"]:
        parser.add_argument("--" + size, type=int, required=True)
    args = parser.parse_args()

    reader = gguf.GGUFReader(args.vocabulary)
    writer = gguf.GGUFWriter(args.out, "llama")
    for key, field in reader.fields.items():
        if not key.startswith("tokenizer."):
            continue
        if field.types[0] == gguf.GGUFValueType.ARRAY:
            writer.add_array(key, field.contents())
        else:
            writer.add_key_value(key, field.contents(), field.types[0])
    vocabulary = len(reader.fields["tokenizer.ggml.tokens"].data)
    head_size = args.hidden // args.heads
    writer.add_name("random")
    writer.add_block_count(args.layers)
    writer.add_context_length(8192)
    writer.add_embedding_length(args.hidden)
    writer.add_feed_forward_length(args.ffn)
    writer.add_head_count(args.heads)
    writer.add_head_count_kv(args.kv_heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(500000.0)
    writer.add_rope_dimension_count(head_size)
    writer.add_vocab_size(vocabulary)

    random = np.random.default_rng(1)

    def matrix(name, rows, columns, more_bits=False):
        make = q6_k if more_bits else q4_k
        data, kind = make(random, rows, columns)
        writer.add_tensor(name, data, raw_dtype=kind)

    def norm(name):
        writer.add_tensor(name, np.ones(args.hidden, dtype=np.float32))

    hidden, kv = args.hidden, args.kv_heads * head_size
    matrix("token_embd.weight", vocabulary, hidden, more_bits=True)
    eighth = args.layers // 8
    for layer in range(args.layers):
        # llama.cpp's Q4_K_M has more bits in these layers.
        more = layer < eighth or layer >= 7 * args.layers // 8 or (layer - eighth) % 3 == 2
        prefix = f"blk.{layer}."
        norm(prefix + "attn_norm.weight")
        norm(prefix + "ffn_norm.weight")
        matrix(prefix + "attn_q.weight", hidden, hidden)
        matrix(prefix + "attn_k.weight", kv, hidden)
        matrix(prefix + "attn_v.weight", kv, hidden, more_bits=more)
        matrix(prefix + "attn_output.weight", hidden, hidden)
        matrix(prefix + "ffn_gate.weight", args.ffn, hidden)
        matrix(prefix + "ffn_up.weight", args.ffn, hidden)
        matrix(prefix + "ffn_down.weight", hidden, args.ffn, more_bits=more)
    norm("output_norm.weight")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def half(value, count):
    return np.full(count, value, dtype=np.float16).view(np.uint8).reshape(count, 2)


def q4_k(random, rows, columns):
    """Blocks of 256 weights, of a standard deviation of 1 / sqrt(columns)."""
    count = rows * columns // 256
    blocks = np.empty((count, 144), dtype=np.uint8)
    # All scales and mins are 32.
    scale = 1.0 / np.sqrt(columns) / (32 * 4.6)
    blocks[:, 0:2] = half(scale, count)
    blocks[:, 2:4] = half(7.5 * scale, count)
    blocks[:, 4:12] = 32 | (2 << 6)
    blocks[:, 12:16] = 0
    blocks[:, 16:] = random.integers(0, 256, (count, 128), dtype=np.uint8)
    return blocks.reshape(rows, -1), TYPES.Q4_K


def q6_k(random, rows, columns):
    """Blocks of 256 weights, of a standard deviation of 1 / sqrt(columns)."""
    count = rows * columns // 256
    blocks = np.empty((count, 210), dtype=np.uint8)
    blocks[:, :192] = random.integers(0, 256, (count, 192), dtype=np.uint8)
    blocks[:, 192:208] = 8
    blocks[:, 208:210] = half(1.0 / np.sqrt(columns) / (8 * 18.5), count)
    return blocks.reshape(rows, -1), TYPES.Q6_K


if __name__ == "__main__":
    main()
