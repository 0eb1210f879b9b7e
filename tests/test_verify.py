"""Two models compared: the numbers themselves, the torch backend, and models that differ in a known way."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from helpers import make_pairs, write_jsonl
from onnx_helpers import export
from pairgrade import InputError, ModelError, NonFiniteError, Pair, Rubric
from pairgrade.export.fidelity import fidelity
from pairgrade.export.measure import Task, measure
from pairgrade.export.pairs import chosen_pairs
from pairgrade.export.verify import Floor, compare, floor_between, floor_of, model_bits, verify
from pairgrade.fake import FakeBackend
from pairgrade.prompt import PromptBuilder
from pairgrade.readers import Source

torch = pytest.importorskip("torch")
pytest.importorskip("gguf")

from pairgrade.export.gguf_writer import write_gguf  # noqa: E402
from pairgrade.export.quantize import QUANTS, quantize  # noqa: E402
from pairgrade.export.torch_backend import TorchBackend, TorchOptions  # noqa: E402

RUBRIC = Rubric.load("trec")
PAIRS = make_pairs(3, 4)
TASK = Task(PAIRS, RUBRIC)


def test_numbers_by_hand() -> None:
    a = np.log([[0.5, 0.25, 0.125, 0.125], [0.1, 0.2, 0.3, 0.4]])
    b = np.log([[0.25, 0.5, 0.125, 0.125], [0.1, 0.2, 0.3, 0.4]])
    pairs = [Pair("q", "a", "", "", grade=0), Pair("q", "b", "", "", grade=3)]
    found = fidelity(
        a, b + np.array([[0.0], [7.0]]), RUBRIC.values, pairs
    )  # a shift of all of a row's logits changes no label
    divergence = 0.5 * np.log(2) - 0.25 * np.log(2)
    assert found.mean_kl == pytest.approx(divergence / 2)
    assert found.p99_kl == pytest.approx(0.99 * divergence)
    assert found.agreement == 0.5
    assert found.expected_grade_difference == pytest.approx(0.25 / 2)
    assert found.max_logit_difference == pytest.approx(7)
    assert found.quadratic_kappa == (1.0, pytest.approx(6 / 7))
    assert found.auc == (1.0, 1.0)


def test_pairs_that_neither_ran_are_left_out() -> None:
    a = np.array([[1.0, 2, 3, 4], [np.nan] * 4])
    assert fidelity(a, a, RUBRIC.values, PAIRS[:2]).pairs == 1
    with pytest.raises(InputError, match="1 pairs were run by one"):
        fidelity(a, np.ones((2, 4)), RUBRIC.values, PAIRS[:2])
    with pytest.raises(InputError, match="none of the pairs fits"):
        fidelity(a[1:], a[1:], RUBRIC.values, PAIRS[:1])


def test_the_prefix_that_is_kept_changes_nothing(tiny_folder: Callable[[str], Path]) -> None:
    backend = TorchBackend(tiny_folder("gemma3"), TorchOptions(threads=1))
    builder = PromptBuilder(RUBRIC, backend.tokenizer, backend.context)
    prompts = [builder.build(pair) for pair in PAIRS]
    kept = [backend.score(p.prefix, [p.suffix], builder.label_ids) for p in prompts]
    assert backend.counters.reused > backend.counters.computed
    backend.close()
    for prompt, scores in zip(prompts, kept, strict=True):
        fresh = TorchBackend(tiny_folder("gemma3"), TorchOptions(threads=1))
        again = fresh.score(prompt.prefix, [prompt.suffix], builder.label_ids)
        np.testing.assert_array_equal(again.logits, scores.logits)
        ids = np.concatenate((*prompt.prefix, prompt.suffix)).astype(np.int64)
        with torch.inference_mode():
            whole = fresh.model(torch.as_tensor(ids[None])).logits[0, -1].double()
        wanted = whole[builder.label_ids.astype(np.int64)].numpy()
        np.testing.assert_allclose(scores.logits[0], wanted, rtol=1e-4, atol=1e-4)
        assert scores.log_totals is not None
        assert scores.log_totals[0] == pytest.approx(float(torch.logsumexp(whole, 0)), abs=1e-4)


def test_a_prompt_that_is_too_long_is_refused(tiny_folder: Callable[[str], Path]) -> None:
    backend = TorchBackend(tiny_folder("llama"), TorchOptions(context=64, threads=1))
    with pytest.raises(ModelError, match="70 tokens does not fit the context of 64"):
        backend.score([np.arange(50, dtype=np.int32)], [np.arange(20, dtype=np.int32)], np.array([1, 2], np.int32))


def test_the_same_fake_twice_and_one_that_is_broken() -> None:
    texts = replace(TASK, strings=("abc", "é"))
    one = measure("one", FakeBackend(4096), texts)
    assert one.strings == ((97, 98, 99), (195, 169))
    found = compare(one, measure("two", FakeBackend(4096), texts), texts, Floor(1.0, 0.0))
    assert found.problems == []
    with pytest.raises(NonFiniteError, match="not numbers"):
        measure("three", FakeBackend(4096, nonfinite=ord("r")), texts)


def test_queries_that_do_not_fit_are_counted() -> None:
    task = Task([*PAIRS, Pair("long", "d", "x" * 5000, "text")], RUBRIC, strings=("a",))
    one = measure("one", FakeBackend(4096), task)
    found = compare(one, one, task, Floor(1.0, 0.0))
    assert (found.unfit, found.fidelity.pairs) == (1, len(PAIRS))


def test_the_bits_of_a_file_choose_its_floor(tiny_folder: Callable[[str], Path], tmp_path: Path) -> None:
    write_gguf(tiny_folder("llama"), tmp_path / "f32.gguf")
    for name in ("f16", "q8_0", "q4_k_m"):
        quantize(tmp_path / "f32.gguf", tmp_path / f"{name}.gguf", QUANTS[name], threads=1)
    bits = {path.stem: model_bits(path) for path in tmp_path.iterdir()}
    assert bits == {"f32": 32, "f16": 16, "q8_0": 8, "q4_k_m": 4}
    assert model_bits(tiny_folder("llama")) == 8
    assert floor_of(8) == Floor(0.97, 0.01)
    assert floor_of(4).mean_kl > floor_of(8).mean_kl
    for wrong in (
        {"agreement": 1.1, "mean_kl": 0.1},
        {"agreement": 0.9, "mean_kl": -1.0},
        {"agreement": 0.9, "mean_kl": 0.1, "max_logit": -1.0},
    ):
        with pytest.raises(InputError):
            Floor(**wrong)


def test_float32_must_have_the_logits_of_its_folder(tiny_folder: Callable[[str], Path], tmp_path: Path) -> None:
    folder = tiny_folder("gemma3")
    write_gguf(folder, tmp_path / "f32.gguf")
    exact = export(folder, tmp_path / "fp32")
    assert floor_between(folder, exact) == Floor(0.97, 0.01, max_logit=1e-3)
    assert floor_between(folder, tmp_path / "f32.gguf") == Floor(0.97, 0.01, logit_distance=5e-3)
    assert floor_between(exact, tmp_path / "f32.gguf") == Floor(0.97, 0.01)
    task = replace(TASK, strings=("a",))
    for b in (exact, tmp_path / "f32.gguf"):
        assert verify(folder, b, task, threads=1).problems == []
    rounded = verify(exact, export(folder, tmp_path / "int8", "int8"), task, threads=1)
    assert rounded.floor == Floor(0.97, 0.01)
    assert rounded.fidelity.max_logit_difference > 1e-3
    near = replace(
        rounded, fidelity=replace(rounded.fidelity, agreement=1.0, mean_kl=0.001, relative_logit_distance=2e-3)
    )
    assert near.problems == []
    assert len(replace(near, floor=Floor(0.97, 0.01, logit_distance=1e-3)).problems) == 1


def test_a_disturbed_graph_fails_by_its_logits_alone(tiny_folder: Callable[[str], Path], tmp_path: Path) -> None:
    from safetensors.numpy import load_file, save_file

    disturbed = tmp_path / "disturbed"
    shutil.copytree(tiny_folder("llama"), disturbed)
    weights = load_file(disturbed / "model.safetensors")
    weights["model.layers.1.mlp.down_proj.weight"] *= np.float32(1.001)
    save_file(weights, disturbed / "model.safetensors", {"format": "pt"})
    found = verify(tiny_folder("llama"), export(disturbed, tmp_path / "fp32"), replace(TASK, strings=("a",)), threads=1)
    assert found.fidelity.agreement == 1
    (problem,) = found.problems
    assert problem.startswith("a label logit differs by")


def test_pairs_are_drawn_the_same_way_and_grouped(tmp_path: Path) -> None:
    source = Source(str(write_jsonl(tmp_path / "pairs.jsonl", PAIRS[::2] + PAIRS[1::2])))
    assert {pair.doc_id for pair in chosen_pairs(source)} == {pair.doc_id for pair in PAIRS}
    drawn = chosen_pairs(source, 5)
    assert drawn == chosen_pairs(source, 5)
    assert drawn != chosen_pairs(source, 5, seed=1)
    others = chosen_pairs(source, len(PAIRS) - 5, apart_from=drawn)
    assert {pair.doc_id for pair in others} == {pair.doc_id for pair in PAIRS} - {pair.doc_id for pair in drawn}
    assert chosen_pairs(source, len(PAIRS) - 2, apart_from=drawn) == others  # fewer than asked for, and none again
    assert set(chosen_pairs(source, 3, apart_from=drawn)) < set(others)
    assert chosen_pairs(source, 3, apart_from=PAIRS) == chosen_pairs(source, 3)  # there are no others
    assert len(chosen_pairs(source, most=0.5)) == len(chosen_pairs(source, 100, most=0.5)) == len(PAIRS) // 2
    assert len(chosen_pairs(source, most=0.01)) == 1
    queries = [pair.query_id for pair in chosen_pairs(source)]
    assert queries == sorted(queries)
    assert len(chosen_pairs(None)) == 216
    (tmp_path / "empty.jsonl").write_text('{"query_id": "q", "doc_id": "d", "query": "", "document": "x"}\n')
    with pytest.raises(InputError, match="none of its rows"):
        chosen_pairs(Source(str(tmp_path / "empty.jsonl")))


def test_a_folder_that_transformers_cannot_load(tiny_folder: Callable[[str], Path], tmp_path: Path) -> None:
    from safetensors.numpy import load_file, save_file

    shutil.copytree(tiny_folder("llama"), tmp_path / "folder")
    path = tmp_path / "folder" / "model.safetensors"
    stored = load_file(path)
    del stored["model.layers.1.mlp.up_proj.weight"]  # transformers would draw it at random
    save_file(stored, path, {"format": "pt"})
    with pytest.raises(ModelError, match=r"lacks model\.layers\.1\.mlp\.up_proj\.weight"):
        TorchBackend(tmp_path / "folder", TorchOptions(threads=1))
    path.write_bytes(b"no weights")
    with pytest.raises(ModelError, match="claims a header"):
        TorchBackend(tmp_path / "folder", TorchOptions(threads=1))
