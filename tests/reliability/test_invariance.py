"""What runs beside a pair moves no bit of it: neighbours, order, kept prefixes, threads, fresh processes.

Whole runs of tiny models on both engines; the same on the real SmolLM2 is marked slow.
"""

from __future__ import annotations

import json
import os
import random
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from helpers import make_pairs, write_jsonl
from pairgrade import Annotator, AnnotatorOptions, Judgment, LlamaOptions, PlanOptions, Rubric
from pairgrade.backend import Backend
from pairgrade.hardware import cpu_features
from pairgrade.llama import LlamaBackend
from pairgrade.native_library import native_kind
from pairgrade.onnx_backend import OnnxBackend, OnnxOptions
from pairgrade.prompt import Prompt, PromptBuilder

TREC = Rubric.load("trec")
PAIRS = make_pairs(5, 40)  # 200 pairs, 40 documents a query
CONTEXT = 1024
ENGINES = ("llama", "onnx fp32", "onnx int8")


@pytest.fixture(params=ENGINES)
def engine(
    request: pytest.FixtureRequest, tiny_gguf_path: Path, tiny_onnx_folder: Callable[[str], Path]
) -> Callable[..., Backend]:
    """Return a function that opens a backend, ``reuse`` telling whether it keeps prefixes."""
    kind, _, quant = request.param.partition(" ")
    if kind == "llama":
        return lambda reuse=True: LlamaBackend(tiny_gguf_path, LlamaOptions(context=CONTEXT, threads=1, reuse=reuse))
    return lambda reuse=True: OnnxBackend(tiny_onnx_folder(quant), OnnxOptions(CONTEXT, threads=1, reuse=reuse))


def prompts(backend: Backend) -> tuple[list[Prompt], npt.NDArray[np.int32]]:
    builder = PromptBuilder(TREC, backend.tokenizer, CONTEXT, "plain")
    return [builder.build(pair) for pair in PAIRS], builder.label_ids


def scores(backend: Backend, batch: int) -> npt.NDArray[np.float32]:
    """Return the label logits of every pair, in batches of at most so many documents of one query."""
    items, labels = prompts(backend)
    rows = []
    for query in range(0, len(items), 40):
        for first in range(query, query + 40, batch):
            members = items[first : min(first + batch, query + 40)]
            rows.append(backend.score(members[0].prefix, [p.suffix for p in members], labels).logits)
    return np.concatenate(rows)


def test_200_pairs_alone_and_in_batches_of_8_and_32(engine: Callable[..., Backend]) -> None:
    with closing(engine()) as backend:
        assert backend.exact
        alone = scores(backend, 1)
        assert len(np.unique(alone, axis=0)) > 190  # else anything would agree
        for batch in (8, 32):
            np.testing.assert_array_equal(scores(backend, batch), alone)


def _labelled(backend: Backend, seed: int | None) -> list[Judgment]:
    order = PAIRS if seed is None else random.Random(seed).sample(PAIRS, len(PAIRS))
    options = AnnotatorOptions(window=64, plan=PlanOptions(batch_tokens=700), chat="plain")
    return sorted(Annotator(backend, TREC, options).label(order), key=lambda j: (j.query_id, j.doc_id))


def test_200_pairs_shuffled_in_3_ways(engine: Callable[..., Backend]) -> None:
    with closing(engine()) as backend:
        expected = _labelled(backend, None)
        for seed in (1, 2, 3):
            assert _labelled(backend, seed) == expected


def test_a_cache_that_documents_share_fails_these_tests(tiny_gguf_path: Path) -> None:
    """The inverse: several documents in one decode over one KV buffer move each other's logits."""
    options = LlamaOptions(context=CONTEXT, threads=1, sequences=8, kv_unified=True)
    with closing(LlamaBackend(tiny_gguf_path, options)) as backend:
        assert not backend.exact
        assert (scores(backend, 8) != scores(backend, 1)).any()


def test_200_pairs_with_and_without_kept_prefixes(engine: Callable[..., Backend]) -> None:
    with closing(engine(reuse=False)) as calm, closing(engine()) as backend:
        np.testing.assert_array_equal(scores(backend, 8), scores(calm, 8))
        assert backend.counters.prefix_computed < calm.counters.prefix_computed


def test_a_window_shorter_than_the_prompt_keeps_its_prefixes(
    tiny_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    """Gemma's sliding layers see 16 positions: a cache that keeps few more has lost them when a prefix is rewound."""
    from pairgrade.export.gguf_writer import write_gguf

    write_gguf(tiny_folder("gemma3"), tmp_path / "gemma3.gguf")
    pairs = [replace(pair, document=f"{pair.document} " * 12) for pair in make_pairs(2, 2)]
    found = []
    for reuse in (False, True):
        options = LlamaOptions(context=2048, threads=1, reuse=reuse, micro_batch=32)
        with closing(LlamaBackend(tmp_path / "gemma3.gguf", options)) as backend:
            builder = PromptBuilder(TREC, backend.tokenizer, 2048, "plain")
            items = [builder.build(pair) for pair in pairs]
            assert min(len(item.suffix) for item in items) > 256 + 16  # the cells of such a cache, and the window
            order = (0, 1, 2, 3, 0)  # to another query and back
            rows = [backend.score(items[i].prefix, [items[i].suffix], builder.label_ids).logits for i in order]
            found.append(np.concatenate(rows))
            assert (backend.counters.reused > 0) == reuse
    np.testing.assert_array_equal(found[1], found[0])
    assert len(np.unique(found[0], axis=0)) == 4


def test_a_prefix_that_was_given_up_is_computed_to_the_same_bits(engine: Callable[..., Backend]) -> None:
    with closing(engine()) as backend:
        items, labels = prompts(backend)

        def one(pair: int) -> npt.NDArray[np.float32]:
            return backend.score(items[pair].prefix, [items[pair].suffix], labels).logits

        first = one(0)
        for other in (40, 80, 120):  # other queries, each of which takes the place of the one before
            one(other)
        np.testing.assert_array_equal(one(0), first)


def _cuts(length: int) -> Iterator[int]:
    yield from range(16, length, 16)
    yield length - 1


def test_a_prefix_cut_at_every_16th_token(engine: Callable[..., Backend]) -> None:
    """Where a prefix is cut into segments may move a logit by rounding.

    By at most 1e-4 of the largest one. In int8 keys and values keep to that; a number of a document that lies between
    two whole ones of 8 bits may go to the other, which moves a logit as far as attention weighs that token.
    """
    with closing(engine()) as backend:
        items, labels = prompts(backend)
        whole = np.concatenate(items[0].prefix)
        expected = backend.score([whole], [items[0].suffix], labels).logits
        bound = 0.02
        if isinstance(backend, OnnxBackend):
            from onnx_helpers import relative, state_of  # there may be no onnxruntime

            bound = 1e-4 * float(np.abs(expected).max())
            state = state_of(backend, [whole])
        if backend.identity().get("quant") == "int8":
            bound *= 30
        for cut in _cuts(len(whole)):
            found = backend.score([whole[:cut], whole[cut:]], [items[0].suffix], labels).logits
            assert np.abs(found - expected).max() <= bound
            if isinstance(backend, OnnxBackend):
                assert relative(state_of(backend, [whole[:cut], whole[cut:]]), state) <= 1e-4
            again = backend.score([whole[:cut], whole[cut:]], [items[0].suffix], labels).logits
            np.testing.assert_array_equal(again, found)  # now from the cache


@pytest.mark.slow
@pytest.mark.model
def test_pairs_of_the_real_model(smollm2_path: Path) -> None:
    pairs, judged = PAIRS if os.environ.get("PAIRGRADE_LONG") else PAIRS[:40], []
    for options, seed in (
        (AnnotatorOptions(window=1), None),
        (AnnotatorOptions(window=8), None),
        (AnnotatorOptions(window=32), 1),
    ):
        order = pairs if seed is None else random.Random(seed).sample(pairs, len(pairs))
        with Annotator.open(smollm2_path, options=options, llama=LlamaOptions(context=512)) as annotator:
            judged.append(sorted(annotator.label(order), key=lambda j: (j.query_id, j.doc_id)))
    assert judged[0] == judged[1] == judged[2]


LLAMA = {
    *("kind", "llama_cpp_python", "features", "context", "gpu_layers", "sequences", "kv_unified", "flash_attention"),
    "micro_batch",
}
ONNX = {"kind", "onnxruntime", "tokenizers", "features", "provider", "quant", "product", "context", "label_mass"}


def test_an_identity_has_all_that_can_move_a_bit(
    engine: Callable[..., Backend], tiny_onnx_folder: Callable[[str], Path]
) -> None:
    with closing(engine()) as backend:
        identity = backend.identity()
        own = {"documents"} if identity.get("quant") == "int8" and native_kind() != "none" else set()
        assert set(identity) == (LLAMA if isinstance(backend, LlamaBackend) else ONNX) | own
        assert all(isinstance(value, str) for value in identity.values())
        if cpu_features():  # by Linux's names
            assert re.search("avx|neon|asimd", identity["features"], re.IGNORECASE)
    with closing(OnnxBackend(tiny_onnx_folder("fp32"), OnnxOptions(CONTEXT, threads=17))) as many:
        assert set(many.identity()) == ONNX | {"batch_tokens", "threads"}


def test_fresh_processes_and_any_number_of_threads_give_the_same_bytes(tiny_gguf_path: Path, tmp_path: Path) -> None:
    write_jsonl(tmp_path / "pairs.jsonl", PAIRS[:12])
    written = []
    for name, threads in (("a", 1), ("b", 1), ("c", 2), ("d", 3)):
        out = tmp_path / f"{name}.jsonl"
        options = ["--model", str(tiny_gguf_path), "--out", str(out), "--threads", str(threads), "--quiet"]
        command = [sys.executable, "-m", "pairgrade.cli", "label", str(tmp_path / "pairs.jsonl"), *options]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        written.append(out.read_bytes())
    assert written[0].count(b"\n") == 12
    assert written[1:] == written[:1] * 3
    record = json.loads((tmp_path / "a.jsonl.manifest.json").read_text())
    identity, place = record["identity"], record["environment"]
    for sha256 in ("input", "model_sha256", "rubric"):
        assert len(identity[sha256]) == 64
    assert identity["backend.llama_cpp_python"]
    assert "AVX" in identity["backend.features"] or "NEON" in identity["backend.features"]
    assert {"backend.context", "backend.kv_unified", "backend.flash_attention", "label_tokens"} <= identity.keys()
    assert {"cpu", "cores", "python", "packages", "system"} <= place.keys()
    threads = [json.loads((tmp_path / f"{name}.jsonl.manifest.json").read_text()) for name in "abcd"]
    assert [manifest["environment"]["threads"] for manifest in threads] == [1, 1, 2, 3]
    assert record["result"]["out_sha256"]
