"""The engine's own pass: what the graphs compute, whatever runs beside, and of sound facts alone."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from onnx_helpers import LABELS, export, opened, prompts, state_of
from pairgrade import ModelError, native_pass
from pairgrade.document_facts import read_document_facts
from pairgrade.export.onnx_recipe import RECIPES
from pairgrade.native_library import native_kind
from pairgrade.native_pass import share_out
from pairgrade.onnx_backend import OnnxBackend
from pairgrade.onnx_manifest import FACTS, read_facts
from pairgrade.tokenizer import Ids
from tiny_models import FAMILIES, make_folder

pytest.importorskip("onnx")

_SHAPES: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "heads of 128": ("llama", {"head_dim": 128}, {}),
    "heads of 256 with a window": ("gemma3", {"head_dim": 256}, {}),
    "channels that fill no tile": ("qwen2", {"hidden_size": 88, "intermediate_size": 200}, {}),
    "down input not turned": ("qwen3", {}, {"down_block": 0}),
    "nothing turned": ("qwen2", {}, {"norm_block": 0, "down_block": 0}),
    "turned by blocks of eight": ("llama", {}, {"norm_block": 8, "down_block": 8}),
    "turned by blocks of 512": ("llama", {"hidden_size": 512, "intermediate_size": 512}, {"norm_block": 512}),
    "no smoothing": ("gemma2", {}, {"smooth_norms": 0.0}),
}


def _set(*path: str | int, value: object) -> Callable[[dict[str, Any]], object]:
    def change(table: Any) -> None:
        for step in path[:-1]:
            table = table[step]
        table[path[-1]] = value

    return change


_QKV = ("layers", 0, "products", "qkv")
_UNSOUND = [
    (_set("version", value=9), "not of format"),
    (_set("layers", value=7), "cannot be read"),
    (_set("extra", value=7), "cannot be read"),
    (_set("layers", value=[]), "the number of layers"),
    (_set("intermediate", value=10**9), "intermediate"),
    (_set("intermediate", value=True), "intermediate"),
    (_set("norm_eps", value=float("nan")), "norm_eps"),
    (_set("embedding_scale", value=0), "embedding_scale"),
    (_set("attention_cap", value=-1), "attention_cap"),
    (_set("activation", value="relu"), "activation"),
    (_set("turn", value=3), "turn"),
    (_set("turn", value=1024), "turn"),
    (_set("norm_turn", value=1024), "turn"),
    (_set("tail", value=-1), "tail"),
    (_set("tail", value=1025), "tail"),
    (_set(*_QKV, "step", value=0.1), "the tail of calibrated steps"),
    (_set("ropes", value=[]), "ropes"),
    (_set("ropes", 0, value=[1.0]), "a rotation"),
    (_set("final_norm", value=2**40), "the place of final_norm"),
    (_set("final_norm", value=-4), "the place of final_norm"),
    (_set("final_norm", value=2), "the place of final_norm"),
    (_set("layers", 0, "window", value=0), "window"),
    (_set("layers", 0, "rope", value=2), "rope"),
    (_set("layers", 0, "norms", value={}), "the norms"),
    (_set("layers", 0, "norms", "query", value=2**40), "the place of query"),
    (_set("layers", 0, "products", value={}), "the products"),
    (_set(*_QKV, "weight", value=2**40), "the place of qkv"),
    (_set(*_QKV, "scale", value=2**40), "the place of qkv's scales"),
    (_set(*_QKV, "bias", value=2**40), "the place of qkv's bias"),
    (_set(*_QKV, "step", value=0.0), "the step of qkv"),
    (_set(*_QKV, "zero", value=256), "the zero of qkv"),
    (_set("layers", 0, "products", "gate", "zero", value=1), "the step of gate and up"),
]

# Such a share of the rows is so near to the graph's: but for float32's last bits, and with tiles, whose attention has
# 16 bits of a number, but for the seventeenth; more of the other rows lie on the other side of a rounding then.
_NEAR = {"vnni": (0.5, 1e-6), "amx": (0.25, 1e-5)}
_KINDS = [kind for kind in dict.fromkeys(("vnni", native_kind())) if native_kind() != "none"]

needs_pass = pytest.mark.skipif(not _KINDS, reason="no AVX-512 VNNI here, or no compiler was")
each_kind = pytest.mark.parametrize("kind", _KINDS)


@pytest.fixture(scope="module")
def folders(tiny_folder: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    root = tmp_path_factory.mktemp("native")

    def folder(family: str, **changes: Any) -> Path:
        out = root / "-".join((family, *(f"{name}={value}" for name, value in changes.items())))
        return out if out.is_dir() else export(tiny_folder(family), out, "int8", replace(RECIPES["int8"], **changes))

    return folder


def distances(found: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """How far each row is, relative to its length."""
    far: np.ndarray = np.linalg.norm(found - wanted, axis=-1) / np.linalg.norm(wanted, axis=-1)
    return far


def same(found: np.ndarray, wanted: np.ndarray, kind: str | None = None) -> bool:
    """Whether all rows are near, many of them but for the last bits of the pass's arithmetic.

    Where a number lies between two whole ones, its last bit decides which it becomes: such a row goes as far as
    rounding moves it at all.
    """
    far = distances(found, wanted)
    share, near = _NEAR[kind or native_kind()]
    return bool(np.quantile(far, share) < near and far.max() < 0.1)


def same_but_for_rounding(found: np.ndarray, wanted: np.ndarray, most: float = 0.1) -> bool:
    """Whether no row is farther than roundings to the other side take it."""
    far = distances(found, wanted)
    return bool(far.max() < most)


def mostly_16_bits(found: np.ndarray, wanted: np.ndarray) -> bool:
    """Whether half of the rows, or more, are nearer than 8 bits' roundings to the other side, and none is farther."""
    far = distances(found, wanted)
    return bool(np.median(far) < 3e-4 and far.max() < 0.1)


def behind_one_prefix(
    own: OnnxBackend, graph: OnnxBackend, prefix: list[Ids], documents: list[Ids]
) -> tuple[np.ndarray, np.ndarray]:
    """The documents' hidden states by the pass and by the graph, behind the keys and values of the prefix graph."""
    assert own._native is not None
    wanted = graph._runner.hidden(documents, graph._runner.hold(prefix))
    return own._native.run(documents, state_of(graph, prefix)), wanted


def assert_near(own: OnnxBackend, graph: OnnxBackend, prefix: list[Ids]) -> None:
    """Keys and values are the prefix graph's.

    But for float32's last bits; a number that lies between two whole ones of 16 bits goes as far as one of them. In the
    first layer few do, of turned values, whose last bits differ more, one of some rows; behind it one of most.
    """
    found, wanted = state_of(own, prefix), state_of(graph, prefix)
    far = distances(found, wanted)
    assert own._native is not None
    assert np.quantile(far[:, 0], 0 if own._native._facts.norm_turn else 0.9) < 1e-6
    assert far[:, 0].max() < 1e-4
    assert far.max() < 1e-3


def use(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the pass multiply by these instructions."""
    monkeypatch.setattr(native_pass, "native_kind", lambda: kind)


@each_kind
@pytest.mark.parametrize("family", FAMILIES)
def test_it_computes_what_the_graph_computes(
    family: str, kind: str, folders: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    use(kind, monkeypatch)
    own, graph = opened(folders(family)), opened(folders(family), native=False)
    prefix, documents = prompts()
    found, wanted = own.score(prefix, documents, LABELS).logits, graph.score(prefix, documents, LABELS).logits
    assert mostly_16_bits(found, wanted)
    for name in ("computed", "reused", "prefix_computed"):
        assert getattr(own.counters, name) == getattr(graph.counters, name)
    # numbers of 16 bits always lie between two somewhere, so rows that differ in no rounding are had without a tail;
    # tiles sum attention otherwise: turned otherwise, too, few such rows would be left
    eight_bits = folders(family, tail=0, **({"norm_block": 0} if kind == "amx" else {}))
    own, graph = (opened(eight_bits, native=native) for native in (True, False))
    assert same(*behind_one_prefix(own, graph, prefix, documents), kind)
    nothing = [own.score([], documents, LABELS).logits, graph.score([], documents, LABELS).logits]
    assert same(*nothing, kind)
    assert own.identity()["documents"].split()[:2] == ["native", kind]
    assert "documents" not in graph.identity()


@each_kind
@pytest.mark.parametrize("tail", [0, 1, 8, 1000])
@pytest.mark.parametrize("family", FAMILIES)
def test_last_tokens_have_16_bits(
    family: str, tail: int, kind: str, folders: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in the graph; where all have, it is no matter which tokens are the prefix: all are nearly exact."""
    use(kind, monkeypatch)
    folder = folders(family, tail=tail)
    facts = read_document_facts(folder, read_facts(folder))
    assert facts is not None
    assert facts.tail == tail
    own, graph = opened(folder), opened(folder, native=False)
    found, wanted = behind_one_prefix(own, graph, *prompts())
    assert same_but_for_rounding(found, wanted, 1e-3 if tail == 1000 else 0.1)
    if tail:
        assert mostly_16_bits(found, wanted)
    if tail == 1000:
        prefix, documents = prompts()
        found = own.score(prefix, documents, LABELS).logits
        whole = own.score([], [np.concatenate((*prefix, document)) for document in documents], LABELS).logits
        assert same_but_for_rounding(found, whole, 1e-3)


@each_kind
@pytest.mark.parametrize("activations", ["static", "token", "tail"])
@pytest.mark.parametrize("shape", _SHAPES)
def test_odd_shapes_are_computed_too(
    shape: str, activations: str, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By calibrated steps and by each token's, a last bit of whose largest number decides many roundings."""
    use(kind, monkeypatch)
    family, sizes, changes = _SHAPES[shape]
    own_changes: dict[str, dict[str, Any]] = {
        "static": {"activations": "static", "norm_block": 0, "tail": 0},
        "token": {"tail": 0},
        "tail": {},
    }
    recipe = replace(RECIPES["int8"], **(changes | own_changes[activations]))
    folder = export(make_folder(family, tmp_path / "source", **sizes), tmp_path / "onnx", "int8", recipe)
    prefix, documents = prompts()
    own, graph = opened(folder), opened(folder, native=False)
    assert own.identity()["documents"].startswith("native ")
    found, wanted = behind_one_prefix(own, graph, prefix, documents)
    if activations == "tail":
        assert mostly_16_bits(found, wanted)
    else:
        assert same_but_for_rounding(found, wanted)
        assert (activations, kind) == ("token", "amx") or same(found, wanted, kind)
    assert_near(own, graph, prefix)


@each_kind
@pytest.mark.parametrize("changes", [{}, {"norm_block": 0}])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_prefix_is_what_its_graph_computes(
    family: str, changes: dict[str, int], kind: str, folders: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    use(kind, monkeypatch)
    folder = folders(family, **changes)
    own, graph = opened(folder, threads=2), opened(folder, native=False)
    for sizes in ((41, 9), (1, 1), (16,), (17, 70, 33)):
        random = np.random.default_rng(len(sizes))
        assert_near(own, graph, [random.integers(0, 250, size).astype(np.int32) for size in sizes])


@each_kind
@pytest.mark.parametrize("family", ["qwen2", "gemma3"])
def test_threads_move_no_bit_of_a_prefix(
    family: str, kind: str, folders: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    use(kind, monkeypatch)
    random = np.random.default_rng(4)
    prefix = [random.integers(0, 250, size).astype(np.int32) for size in (75, 38)]
    reference = state_of(opened(folders(family)), prefix)
    for threads in (2, 3, 16):
        backend = opened(folders(family), threads=threads)
        for _ in range(5):
            np.testing.assert_array_equal(state_of(backend, prefix), reference)
            backend._runner.forget()
        backend.close()


@needs_pass
def test_a_prefix_that_there_is_no_memory_for_is_told(
    folders: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = opened(folders("llama"))
    prefix, documents = prompts()
    real = native_pass.NativePass.extend
    longest = [60]

    def extend(self: Any, segment: Any, before: Any) -> Any:
        if len(segment) + before.shape[3] > longest[0]:
            raise MemoryError("the pass got none")
        return real(self, segment, before)

    monkeypatch.setattr(native_pass.NativePass, "extend", extend)
    assert not backend.score(prefix, documents, LABELS).failed
    longest[0] = 45
    scores = backend.score([prefix[0], prefix[1] + 1], documents, LABELS)
    assert set(scores.failed) == set(range(len(documents)))
    longest[0] = 20
    with pytest.raises(ModelError, match="for the instruction alone \\(the pass got none\\)"):
        backend.score([prefix[0] + 1], documents, LABELS)


@needs_pass
def test_weights_that_are_cut_while_they_are_read_are_refused(
    folders: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = copied(folders("llama"), tmp_path)
    real = native_pass.NativePass._take_layers

    def take(self: Any, path: Path) -> None:
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        real(self, path)

    monkeypatch.setattr(native_pass.NativePass, "_take_layers", take)
    with pytest.raises(ModelError, match=r"weights\.bin ends within a tensor"):
        opened(folder)


@each_kind
@pytest.mark.parametrize("family", ["qwen2", "gemma3"])
def test_neighbours_and_threads_move_no_bit(
    family: str, kind: str, folders: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    use(kind, monkeypatch)
    prefix, documents = prompts()
    folder = folders(family)
    reference = opened(folder).score(prefix, documents, LABELS).logits
    for threads in (1, 2, 3, 16):
        backend = opened(folder, threads=threads)
        order = np.random.default_rng(threads).permutation(len(documents))
        shuffled = backend.score(prefix, [documents[i] for i in order], LABELS).logits
        np.testing.assert_array_equal(shuffled, reference[order])
        np.testing.assert_array_equal(backend.score(prefix, documents[6:7], LABELS).logits, reference[6:7])
        backend.close()


def test_documents_are_shared_out_evenly_and_once() -> None:
    random = np.random.default_rng(3)
    for threads in (1, 2, 5):
        for count in (1, 2, 7, 40):
            lengths = random.integers(1, 120, count).tolist()
            shares = share_out(lengths, threads, 100)
            assert sorted(place for share in shares for place in share) == list(range(count))
            assert all(shares)
            assert len(shares) == min(count, -(-sum(lengths) // (threads * 100)) * threads)
            filled = [sum(lengths[place] for place in share) for share in shares]
            assert max(filled) - min(filled) <= max(lengths)


@needs_pass
def test_a_folder_without_facts_is_computed_by_its_graph(folders: Callable[..., Path], tmp_path: Path) -> None:
    folder = copied(folders("llama"), tmp_path)
    (folder / FACTS).unlink()
    manifest = read_facts(folder)
    replace(manifest, files={name: own for name, own in manifest.files.items() if name != FACTS}).write(folder)
    backend = opened(folder)
    assert "documents" not in backend.identity()
    prefix, documents = prompts()
    others = opened(folders("llama"), native=False), opened(folders("llama"))
    found, graph, own = (each.score(prefix, documents, LABELS).logits for each in (backend, *others))
    np.testing.assert_array_equal(found, graph)
    assert same_but_for_rounding(found, own)


@needs_pass
def test_a_recipe_with_other_weights_in_its_prefix_goes_by_its_graphs(
    tiny_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    changes = {"activations": "static", "norm_block": 0, "tail": 0, "down_block": 0, "smooth_down": 0.5, "fit": False}
    recipe = replace(RECIPES["int8"], **changes)
    folder = export(tiny_folder("llama"), tmp_path / "onnx", "int8", recipe)
    assert (folder / FACTS).exists()
    assert "documents" not in opened(folder).identity()


@needs_pass
def test_what_there_is_no_memory_for_is_told_of_the_pass_too(
    folders: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = opened(folders("llama"))
    prefix, documents = prompts()
    expected = backend.score(prefix, documents, LABELS).logits
    real = native_pass.NativePass._share

    def share(self: Any, all_: Any, length: int, tables: Any, places: list[int]) -> Any:
        if max(len(all_[place]) for place in places) > 60:
            raise MemoryError("the documents' pass got none")
        return real(self, all_, length, tables, places)

    monkeypatch.setattr(native_pass.NativePass, "_share", share)
    scores = backend.score(prefix, documents, LABELS)
    assert list(scores.failed) == [7]
    assert "not enough memory for a prompt of 120 tokens (the documents' pass got none)" in scores.failed[7]
    kept = [i for i in range(len(documents)) if i != 7]
    np.testing.assert_array_equal(scores.logits[kept], expected[kept])


@needs_pass
def test_a_pass_that_nobody_holds_is_freed(folders: Callable[..., Path]) -> None:
    backend = opened(folders("llama"))
    release = backend._native._release  # type: ignore[union-attr]
    assert release.alive
    del backend
    assert not release.alive


@pytest.mark.parametrize(("change", "why"), _UNSOUND)
def test_facts_that_are_not_sound_are_refused(
    change: Callable[[dict[str, Any]], object], why: str, folders: Callable[..., Path], tmp_path: Path
) -> None:
    folder = copied(folders("gemma3"), tmp_path)
    table = json.loads((folder / FACTS).read_text())
    change(table)
    (folder / FACTS).write_text(json.dumps(table))
    with pytest.raises(ModelError, match=f"documents.json: .*{why}"):
        read_document_facts(folder, read_facts(folder))


def test_products_that_take_far_more_than_their_file_are_refused(folders: Callable[..., Path], tmp_path: Path) -> None:
    folder = copied(folders("llama"), tmp_path)
    table, manifest = json.loads((folder / FACTS).read_text()), read_facts(folder)
    layers = table["layers"]
    for times, fits in ((4, True), (1000, False)):  # the same bytes for all of them
        (folder / FACTS).write_text(json.dumps(table | {"layers": layers * times}))
        many = replace(manifest, layers=len(layers) * times)
        if fits:
            assert read_document_facts(folder, many) is not None
        else:
            with pytest.raises(ModelError, match="the size of all products"):
                read_document_facts(folder, many)


@needs_pass
def test_no_thread_goes_on_behind_an_interrupt(folders: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    backend = opened(folders("llama"), threads=2)
    native = backend._native
    assert native is not None
    begun, ended, submitted = [], [], []
    real, submit = native_pass.NativePass._share, native._pool.submit

    def share(self: Any, *arguments: Any) -> Any:
        begun.append(1)
        time.sleep(0.3)
        ended.append(1)
        return real(self, *arguments)

    def interrupted(*arguments: Any) -> Any:
        if submitted:
            raise KeyboardInterrupt
        submitted.append(1)
        future = submit(*arguments)
        while not begun:
            time.sleep(0.01)
        return future

    monkeypatch.setattr(native_pass.NativePass, "_share", share)
    monkeypatch.setattr(native._pool, "submit", interrupted)
    prefix, documents = prompts()
    with pytest.raises(KeyboardInterrupt):
        backend.score(prefix, documents, LABELS)
    assert (begun, ended) == ([1], [1])


def copied(folder: Path, to: Path) -> Path:
    out = to / "copy"
    out.mkdir()
    for path in folder.iterdir():
        (out / path.name).write_bytes(path.read_bytes())
    return out
