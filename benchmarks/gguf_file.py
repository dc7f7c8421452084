"""A checkpoint in the hub's layout as the file that llama.cpp reads, in float16 or with its matrices in 8 bits (Q8_0)."""

from __future__ import annotations

from pathlib import Path

import gguf
from safetensors import safe_open

from ministeer.model import GPT2Config

KINDS = {"float16": gguf.GGMLQuantizationType.F16, "q8_0": gguf.GGMLQuantizationType.Q8_0}
PARTS = {
    "ln_1": "attn_norm", "attn.c_attn": "attn_qkv", "attn.c_proj": "attn_output",
    "ln_2": "ffn_norm", "mlp.c_fc": "ffn_up", "mlp.c_proj": "ffn_down",
}  # fmt: skip
TOP = {"wte": "token_embd", "wpe": "position_embd", "ln_f": "output_norm"}


def file_of(folder: Path, kind: str) -> Path:
    return folder / f"{kind}.gguf"


def write(folder: Path, config: GPT2Config, kind: str) -> Path:
    """The file, without a vocabulary: whoever uses it gives ids. Norms, biases and positions stay in float32, as llama.cpp's own converter has it."""
    writer = gguf.GGUFWriter(file_of(folder, kind), "gpt2")
    writer.add_block_count(config.n_layer)
    writer.add_context_length(config.n_positions)
    writer.add_embedding_length(config.n_embd)
    writer.add_feed_forward_length(4 * config.n_embd)
    writer.add_head_count(config.n_head)
    writer.add_layer_norm_eps(config.layer_norm_epsilon)
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model("none")
    with safe_open(folder / "model.safetensors", framework="np") as file:
        for name in file.keys():  # noqa: SIM118  it is no dictionary
            plain = name.removeprefix("transformer.")
            stem, end = plain.rsplit(".", 1)
            x = file.get_tensor(name)
            if stem in TOP:
                target = TOP[stem]
            else:
                _, layer, part = stem.split(".", 2)
                target = f"blk.{layer}.{PARTS[part]}"
                x = x.T if x.ndim == 2 else x  # the hub's are (in, out)
            if x.ndim == 2 and stem != "wpe":
                x = gguf.quants.quantize(x, KINDS[kind])
                writer.add_tensor(f"{target}.{end}", x, raw_dtype=KINDS[kind])
            else:
                writer.add_tensor(f"{target}.{end}", x)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file_of(folder, kind)
