"""What the tests of the ONNX engine share: tiny exports, random prompts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from helpers import make_pairs
from pairgrade.backend import Scores
from pairgrade.export.measure import Task
from pairgrade.export.onnx_export import export_onnx
from pairgrade.export.onnx_folder import OnnxSettings
from pairgrade.export.onnx_recipe import Recipe
from pairgrade.onnx_backend import OnnxBackend, OnnxOptions
from pairgrade.rubric import Rubric
from pairgrade.tokenizer import Ids

pytest.importorskip("onnxruntime")  # what imports this runs such models; there is no onnxruntime for Python 3.10

LABELS = np.array([5, 9, 11, 40], np.int32)
LENGTHS = (7, 30, 1, 17, 44, 16, 33, 70, 18, 2)  # one more than a step of the rectangle, one less, a single token


def calibration() -> Task:
    """A few made pairs.

    Their documents are of random characters of one byte and of two: ranges from a few words would not hold for the
    random ids of ``prompts``, whose every token has outliers of its own in a random model.
    """
    random = np.random.default_rng(1)
    texts = ["".join(map(chr, random.integers(32, 0x800, 150).tolist())) for _ in range(12)]
    pairs = [replace(pair, document=text) for pair, text in zip(make_pairs(2, 6), texts, strict=True)]
    return Task(pairs, Rubric.load("trec"), "plain")


def export(source: Path, out: Path, quant: str = "fp32", recipe: Recipe | None = None) -> Path:
    """Export a folder, calibrated on a few made pairs where its recipe wants some."""
    export_onnx(source, out, OnnxSettings(quant, recipe, calibration(), threads=1))
    return out


def opened(folder: Path, **options: int | bool) -> OnnxBackend:
    return OnnxBackend(folder, OnnxOptions(**({"threads": 1} | options)))  # type: ignore[arg-type]


def prompts(seed: int = 0, vocabulary: int = 250) -> tuple[list[Ids], list[Ids]]:
    """Two prefix segments and documents of many lengths, random ids."""
    random = np.random.default_rng(seed)
    prefix = [random.integers(0, vocabulary, n).astype(np.int32) for n in (41, 9)]
    return prefix, [random.integers(0, vocabulary, n).astype(np.int32) for n in LENGTHS]


def state_of(backend: OnnxBackend, prefix: list[Ids]) -> np.ndarray:
    """A prefix's keys and values, (2, layers, kv_heads, tokens, head_dim)."""
    arrays = backend._runner.hold(prefix).arrays
    if isinstance(arrays, np.ndarray):
        return arrays
    layers = range(backend.manifest.layers)
    return np.stack([np.concatenate([arrays[f"{side}.{i}"].numpy() for i in layers]) for side in ("key", "value")])


def relative(found: np.ndarray, wanted: np.ndarray) -> float:
    """How far numbers are from others, of the others' length."""
    return float(np.linalg.norm(found - wanted) / np.linalg.norm(wanted))


def difference(a: Scores, b: Scores) -> float:
    return float(np.abs(a.logits - b.logits).max())
