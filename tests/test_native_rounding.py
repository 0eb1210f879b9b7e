"""Rounding in the engine's own pass where a number lies far beyond its range."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from onnx_helpers import LABELS, export, opened, prompts
from pairgrade import onnx_backend
from pairgrade.document_facts import DocumentFacts, read_document_facts
from pairgrade.export.onnx_recipe import RECIPES
from pairgrade.native_library import native_kind
from pairgrade.onnx_manifest import OnnxManifest

pytest.importorskip("onnx")


@pytest.mark.skipif(native_kind() == "none", reason="no AVX-512 VNNI here, or no compiler was")
def test_what_is_far_beyond_the_range_is_its_end(
    tiny_folder: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beyond 2 to the 31 steps, too; a norm behind the product takes out what the steps are worth."""
    recipe = replace(RECIPES["int8"], activations="static", norm_block=0, tail=0)  # a token's own range has no beyond
    folder = export(tiny_folder("gemma2"), tmp_path / "onnx", "int8", recipe)
    prefix, documents = prompts()

    def logits(finer: float) -> np.ndarray:
        def read(path: Path, manifest: OnnxManifest) -> DocumentFacts | None:
            facts = read_document_facts(path, manifest)
            assert facts is not None
            out = [layer.products["out"] for layer in facts.layers]
            assert out[0].step is not None
            steps = [None if own.step is None else own.step / finer for own in out]
            layers = [
                replace(layer, products=layer.products | {"out": replace(own, step=step)})
                for layer, own, step in zip(facts.layers, out, steps, strict=True)
            ]
            return replace(facts, layers=layers, norm_eps=1e-36)

        monkeypatch.setattr(onnx_backend, "read_document_facts", read)
        return opened(folder).score(prefix, documents, LABELS).logits

    thousands, billions = logits(1e5), logits(1e12)
    assert np.linalg.norm(billions - thousands) < 0.1 * np.linalg.norm(thousands)
