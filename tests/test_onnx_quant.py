"""Rounded graphs stay near the full-precision one, and their products are exact on this processor."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers import make_pairs
from onnx_helpers import LABELS, calibration, export, opened, prompts, relative
from pairgrade import InputError
from pairgrade.export.measure import Task, measure
from pairgrade.export.onnx_export import export_onnx
from pairgrade.export.onnx_folder import OnnxSettings
from pairgrade.export.onnx_linear import (
    Channels,
    Linear,
    Static8Linear,
    TailLinear,
    Tensor8Linear,
    Token8Linear,
    Weight4Linear,
    Weight8Linear,
    round4,
    round8,
)
from pairgrade.export.onnx_recipe import RECIPES, Recipe
from pairgrade.export.onnx_writer import Graph
from pairgrade.onnx_manifest import CORRECTION
from pairgrade.onnx_session import open_session
from pairgrade.rubric import Rubric
from tiny_models import FAMILIES

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")


# How far logits move, relative to their length, as measured (2026-11-29). The weights of random models are no gentle
# ones: real ones move by a hundredth of this.
_DISTANCES = {
    "int8": {"llama": 0.060, "qwen2": 0.107, "qwen3": 0.029, "gemma2": 0.0239, "gemma3": 0.0085},
    "int4": {"llama": 0.560, "qwen2": 0.696, "qwen3": 0.368, "gemma2": 0.167, "gemma3": 0.114},
}
_OTHERS = [  # a recipe, and the distances of qwen2 and gemma3
    (Recipe(8, "token", rotate="all"), (0.160, 0.0098)),
    (Recipe(8, "token", rotate="all", down_block=512), (0.150, 0.0096)),
    (Recipe(8, "tensor", rotate="all"), (0.126, 0.0161)),
    (Recipe(8, "static", smooth_down=0.75), (0.100, 0.276)),
    (Recipe(8, "static", rotate="all", smooth_down=0.75), (0.117, 0.280)),
    (Recipe(8, "static", "same", rotate="all", down_block=32), (0.144, 0.0115)),
    (Recipe(8, prefix="same"), (0.095, 0.0065)),
    (Recipe(8, "static", "weights", rotate="all", down_block=512), (0.125, 0.0116)),
    (replace(RECIPES["int8"], activations="static", norm_block=0, tail=0, fit=False), (0.113, 0.0159)),
]
_SPREAD = 1.5  # another processor rounds other sums


@pytest.fixture(scope="module")
def plain(tiny_folder: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], np.ndarray]:
    """Return a function from a family to its logits in full precision."""
    root = tmp_path_factory.mktemp("plain")

    @cache
    def logits(family: str) -> np.ndarray:
        return opened(export(tiny_folder(family), root / family)).score(*prompts(), LABELS).logits

    return logits


@pytest.mark.parametrize(
    ("family", "quant", "recipe", "measured"),
    [(family, quant, None, _DISTANCES[quant][family]) for family in FAMILIES for quant in _DISTANCES]
    + [(f, "int8", recipe, far[i]) for i, f in enumerate(("qwen2", "gemma3")) for recipe, far in _OTHERS],
)
def test_rounding_moves_logits_a_little(
    family: str,
    quant: str,
    recipe: Recipe | None,
    measured: float,
    plain: Callable[[str], np.ndarray],
    tiny_folder: Callable[[str], Path],
    tmp_path: Path,
) -> None:
    out = export(tiny_folder(family), tmp_path / "out", quant, recipe)
    distance = relative(opened(out).score(*prompts(), LABELS).logits, plain(family))
    assert measured / _SPREAD < distance < measured * _SPREAD


@pytest.mark.parametrize("family", FAMILIES)
def test_a_prefix_moves_int8_by_no_more_than_int8_moves(
    family: str, tiny_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    """The prefix graph is nearly exact, the documents' is not: the same tokens in the latter are within its noise."""
    backend = opened(export(tiny_folder(family), tmp_path / "out", "int8"))
    prefix, documents = prompts()
    behind = backend.score(prefix, documents, LABELS).logits
    alone = backend.score([], [np.concatenate((*prefix, document)) for document in documents], LABELS).logits
    assert 0 < relative(alone, behind) < _DISTANCES["int8"][family] * _SPREAD


def test_the_product_of_bytes_is_exact_here(tiny_folder: Callable[[str], Path], tmp_path: Path) -> None:
    import onnxruntime

    out = export(tiny_folder("llama"), tmp_path / "out", "int8", Recipe(8, "tensor"))
    kind = opened(out).identity()["product"]
    rounded = {name: _sums(onnxruntime, out / "probe.onnx", setting) for name, setting in _SETTINGS.items()}
    assert rounded[kind] == {255 * 127 * 64}
    if kind == "u8u8":  # the probe would have told
        assert rounded["u8s8"] != rounded["u8u8"]


_SETTINGS = {"u8s8": "0", "u8u8": "1"}


def _sums(library: Any, path: Path, setting: str) -> set[float]:
    options = library.SessionOptions()
    options.add_session_config_entry("session.x64quantprecision", setting)
    session = library.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return set(session.run(None, {"x": np.full((3, 64), 255, np.uint8)})[0].ravel().tolist())


@pytest.mark.parametrize("has_bias", [False, True])
@pytest.mark.parametrize("kind", ["weight8", "static8", "tensor8", "token8", "weight4"])
def test_a_product_is_that_of_the_rounded_numbers(kind: str, has_bias: bool, tmp_path: Path) -> None:
    """One product by the graph and by numpy, from the same whole numbers."""
    random = np.random.default_rng(2)
    weight = random.standard_normal((96, 40)).astype(np.float32)
    bias = random.standard_normal(40).astype(np.float32) if has_bias else None
    value = (random.standard_normal((7, 96)) * random.uniform(0.1, 3, (7, 1))).astype(np.float32)
    original = value
    channels = {"w": Channels(np.full(96, -4, np.float32), np.full(96, 6, np.float32))}
    linears: dict[str, Linear] = {
        "weight8": Weight8Linear(), "static8": Static8Linear(channels), "tensor8": Tensor8Linear(),
        "token8": Token8Linear(), "weight4": Weight4Linear(),
    }  # fmt: skip
    graph = Graph("product")
    product = linears[kind].add(graph, "w", graph.input("x", np.float32, ["n", 96]), weight, bias)
    graph.output(product, "y", np.float32, ["n", 40])
    graph.write(tmp_path / "graph.onnx")
    is_byte = kind in ("weight8", "static8", "tensor8", "token8")
    kind_here = "u8u8" if is_byte else "float"
    session = open_session(tmp_path / "graph.onnx", 1, "CPUExecutionProvider", product=kind_here, fuses=False)
    if kind == "weight4":
        packed, scales = round4(weight)
        numbers = np.stack((packed & 15, packed >> 4), -1).reshape(40, 3, 32) - np.float32(8)
        rounded = (numbers * scales.reshape(40, 3, 1)).reshape(40, 96).T
    else:
        rounded = np.multiply(*round8(weight))
    if kind == "static8":
        low, high = np.float32(-4), np.float32(6)
    elif kind == "tensor8":
        low, high = value.min(), value.max()
    if kind in ("static8", "tensor8"):
        step = (high - low) / np.float32(255)
        zero = np.rint(-low / step)
        value = (np.clip(np.rint(value / step) + zero, 0, 255) - zero) * step
    elif kind in ("token8", "weight8"):
        step = np.abs(value).max(1, keepdims=True) / np.float32(127 if kind == "token8" else 127 * 256)
        value = np.rint(value / step) * step
    wanted = value @ rounded + (0 if bias is None else bias)
    np.testing.assert_allclose(session.run(None, {"x": original})[0], wanted, atol=1e-3)


@pytest.mark.parametrize("tail", [1, 2, 5])
def test_a_product_takes_16_bits_of_last_tokens(tail: int, tmp_path: Path) -> None:
    """Of documents of three tokens, of one and of five; none takes those of the one before."""
    random = np.random.default_rng(3)
    weight = random.standard_normal((96, 40)).astype(np.float32)
    bias = random.standard_normal(40).astype(np.float32)
    value = (random.standard_normal((9, 96)) * random.uniform(0.1, 3, (9, 1))).astype(np.float32)
    graph = Graph("product")
    x, last = graph.input("x", np.float32, ["tokens", 96]), graph.input("last", np.int64, ["B"])
    linear = TailLinear(graph, last, graph.input("places", np.int64, ["tokens"]), tail)
    graph.output(linear.add(graph, "w", x, weight, bias), "y", np.float32, ["tokens", 40])
    graph.write(tmp_path / "graph.onnx")
    session = open_session(tmp_path / "graph.onnx", 1, "CPUExecutionProvider", product="u8u8", fuses=False)
    found = session.run(None, {"x": value, "last": np.array([2, 3, 8]), "places": np.arange(9)[::-1].copy()})[0]
    lasts = {1: {2, 3, 8}, 2: {1, 2, 3, 7, 8}, 5: set(range(9))}[tail]
    widest = np.array([[127 * 256 if row in lasts else 127] for row in range(9)], np.float32)
    step = np.abs(value).max(1, keepdims=True) / widest
    np.testing.assert_allclose(found, np.rint(value / step) * step @ np.multiply(*round8(weight)) + bias, atol=1e-3)


def test_weights_round_to_the_nearest() -> None:
    weight = np.random.default_rng(0).standard_normal((70, 9)).astype(np.float32)
    whole, scales = round8(weight)
    assert np.abs(weight - whole * scales).max() <= scales.max() / 2 * 1.0001
    assert np.abs(whole).max() == 127
    packed, blocks = round4(weight)
    assert packed.shape == (9, 3, 16)
    numbers = np.stack((packed & 15, packed >> 4), -1).reshape(9, 3, 32).astype(np.float32) - 8
    back = (numbers * blocks.reshape(9, 3, 1)).reshape(9, 96)[:, :70].T
    assert np.abs(weight - back).max() <= np.abs(blocks).max() * 1.001
    assert np.abs(weight - back).mean() < 0.1 * np.abs(weight).mean()


@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_what_rounding_takes_from_the_mean_is_added_back(
    family: str, tiny_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    """On the calibration's prompts the mean logits are full precision's, those of documents are as far as before."""
    whole, corrected, not_corrected = (
        measure(name, opened(export(tiny_folder(family), tmp_path / name, quant, recipe), native=False), calibration())
        for name, quant, recipe in (
            ("whole", "fp32", None),
            ("corrected", "int8", None),
            ("not", "int8", replace(RECIPES["int8"], correct=False)),
        )
    )
    shift, before = ((rounded.logits - whole.logits).mean(0) for rounded in (corrected, not_corrected))
    assert np.abs(shift).max() < 1e-3
    assert np.abs(before).max() > 0.01
    assert np.abs(corrected.logits - whole.logits).max() > 0.01


def test_only_what_is_rounded_is_corrected(tiny_folder: Callable[[str], Path], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="something to correct"):
        Recipe(correct=True)
    for quant in ("fp32", "int4"):
        assert not (export(tiny_folder("llama"), tmp_path / quant, quant) / CORRECTION).exists()


def test_a_calibration_needs_pairs() -> None:
    with pytest.raises(InputError, match="calibrate"):
        OnnxSettings("int8")
    with pytest.raises(InputError, match="fp32, int8, int4"):
        OnnxSettings("int3")


def test_the_calibrations_prompts_have_the_context_that_is_given(
    tiny_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    rubric = Rubric.load("trec")
    task = Task(make_pairs(1, 2), replace(rubric, instruction=rubric.instruction + " word" * 900), "plain")
    with pytest.raises(InputError, match=r"takes [\d,]+ tokens and the context holds 2048"):
        export_onnx(tiny_folder("llama"), tmp_path / "usual", OnnxSettings("int8", None, task, threads=1))
    wide = OnnxSettings("int8", None, task, threads=1, context=4096)
    assert export_onnx(tiny_folder("llama"), tmp_path / "wide", wide).manifest.quant == "int8"


def test_behind_the_last_attention_tokens_have_scales_of_their_own(
    tiny_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    """Only documents' last tokens are left there, too few to calibrate on."""
    import onnx

    recipe = replace(RECIPES["int8"], activations="static", norm_block=0, tail=0)
    graph = onnx.load(export(tiny_folder("llama"), tmp_path / "out", "int8", recipe) / "documents.onnx").graph
    constants = {i.name for i in graph.initializer}
    scales = {node.output[0]: node.input[1] for node in graph.node if node.op_type == "QuantizeLinear"}
    found = {
        node.input[1].removesuffix(".int8"): scales[node.input[0]] in constants
        for node in graph.node
        if node.op_type == "MatMulIntegerToFloat"
    }
    layers = max(int(name.split(".")[1]) for name in found)
    assert layers > 0
    for name, is_calibrated in found.items():
        _, layer, part = name.split(".")
        assert is_calibrated == (part == "qkv" or int(layer) < layers), name


def test_the_prefix_shares_the_rounded_weights(tiny_folder: Callable[[str], Path], tmp_path: Path) -> None:
    """All but the smoothed down product's, whose outliers the prefix has elsewhere."""
    import onnx

    recipe = Recipe(8, "static", "weights", rotate="all", smooth_down=0.75, smooth_powers=True)
    out = export(tiny_folder("llama"), tmp_path / "out", "int8", recipe)
    places = {}
    for name in ("documents.onnx", "prefix.onnx"):
        graph = onnx.load(out / name, load_external_data=False).graph
        places[name] = {
            i.name: next(e.value for e in i.external_data if e.key == "offset")
            for i in graph.initializer
            if i.name.endswith(".int8") and i.name.startswith("layer.0")
        }
    differing = {name for name, place in places["documents.onnx"].items() if places["prefix.onnx"][name] != place}
    assert len(places["documents.onnx"]) == 5
    assert differing == {"layer.0.down.int8"}
