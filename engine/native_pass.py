"""pairgrade's own pass over an int8 export: how ``engine/native/pass.cpp`` is called.

It takes the place of ``prefix.onnx`` and ``documents.onnx`` on x86-64 Linux with AVX-512 VNNI, and computes the same:
whole-number sums to the bit, the rest in float32, or nearly so where AMX tiles do attention, summed in another order
(docs/decisions/native-pass.md). Each thread computes documents of its own; a segment of the prefix is computed by all
of them together, and every sum in it by one alone. So no bit depends on the number of threads.
"""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pairgrade.document_facts import NORMS, PARTS, DocumentFacts, norm_sizes
from pairgrade.errors import ModelError
from pairgrade.native_library import address, addresses, native_kind, native_library, native_sizes
from pairgrade.onnx_manifest import WEIGHTS, OnnxManifest
from pairgrade.onnx_table import Floats, TokenTable
from pairgrade.tokenizer import Ids

TOKENS = 256  # of a thread at a time, about: their values stay near the core

STAGES = ("norms, rounding", "qkv product", "attention", "output product", "gate, up, activation, turn", "down product")
_MOST_TOGETHER = 256  # threads that compute a segment of the prefix: more have no piece of work
_ARITHMETIC = 3  # of what is computed: another one where a bit of it changes


class NativePass:
    """The pass over one folder's prefixes and documents, its weights packed in memory."""

    def __init__(
        self, folder: Path, manifest: OnnxManifest, facts: DocumentFacts, embedding: TokenTable, threads: int
    ) -> None:
        self._library, self._manifest, self._facts, self._embedding = native_library(), manifest, facts, embedding
        kind = native_kind()
        self.arithmetic = f"{kind} {_ARITHMETIC}"  # what decides the bits, beside the model
        self._handle = ctypes.c_void_p(self._library.pairgrade_new(native_sizes(manifest, facts), kind == "amx"))
        if not self._handle:
            raise MemoryError("there is none for the model's layers")
        self._seconds = np.zeros(len(STAGES))
        self._frequencies = [np.array(rope, np.float32) for rope in facts.ropes]
        self._pool = ThreadPoolExecutor(threads, "pairgrade")
        self._threads = threads
        self._release = weakref.finalize(self, _free, self._library, self._handle, self._pool)
        self._release.atexit = False
        try:
            self._take_layers(folder / WEIGHTS)
        except BaseException:
            self.close()
            raise

    @property
    def nothing(self) -> Floats:
        """What ``extend`` gives of an empty prefix."""
        return self._state(0)

    def extend(self, segment: Ids, before: Floats) -> Floats:
        """Return keys and values of a prefix, (2, layers, kv_heads, tokens, head_dim), and of a segment behind it.

        All threads compute it together. MemoryError where there is not enough for it.
        """
        length = before.shape[3]
        after = self._state(length + len(segment))
        embedded = self._embedding.rows(segment)
        sides = [addresses(layers) for layers in (*before, *after)]
        tables = self._rotations(length, len(segment))
        turns = [addresses(table) for table in tables]
        threads = min(self._threads, _MOST_TOGETHER)
        self._call("extend", address(embedded), len(segment), length, *sides, *turns, threads)
        return after

    def run(self, documents: Sequence[Ids], state: Floats) -> Floats:
        """Run documents behind a prefix, whose keys and values ``extend`` gave, each thread some of them at a time.

        Returned is (documents, hidden). MemoryError where there is not enough for what the threads compute at a time.
        """
        prefix = state.shape[3]
        tables = self._rotations(prefix, max(map(len, documents)))
        given = [addresses(each) for each in (*state, *tables)]
        one = partial(self._share, documents, prefix, given)
        shares = share_out([len(document) for document in documents], self._threads)
        hidden = np.empty((len(documents), self._manifest.hidden), np.float32)
        pending: list[Future[tuple[Floats, npt.NDArray[np.float64]]]] = []
        try:
            for share in shares:
                pending.append(self._pool.submit(one, share))
            for places, own in zip(shares, pending, strict=True):
                hidden[places], seconds = own.result()
                self._seconds += seconds
        finally:  # none may go on when the tables and the prefix are freed
            for own in pending:
                own.cancel()
            wait(pending)
        return hidden

    @property
    def seconds(self) -> dict[str, float]:
        """What each stage took since the folder was opened, the threads' added up."""
        return dict(zip(STAGES, self._seconds.tolist(), strict=True))

    def close(self) -> None:
        """Free the weights and end the threads."""
        self._release()

    def _share(
        self, documents: Sequence[Ids], prefix: int, tables: Sequence[Any], places: Sequence[int]
    ) -> tuple[Floats, npt.NDArray[np.float64]]:
        embedded = self._embedding.rows(np.concatenate([documents[place] for place in places]))
        lengths = np.array([len(documents[place]) for place in places], np.int64)
        hidden = np.empty((len(places), self._manifest.hidden), np.float32)
        seconds = np.zeros(len(STAGES))
        self._call(
            "run", address(embedded), address(lengths), len(places), prefix, *tables, address(hidden), address(seconds)
        )
        return hidden, seconds

    def _state(self, tokens: int) -> Floats:
        manifest = self._manifest
        return np.empty((2, manifest.layers, manifest.kv_heads, tokens, manifest.head_dim), np.float32)

    def _rotations(self, first: int, count: int) -> tuple[list[Floats], list[Floats]]:
        """Return cosines and sines of so many places from the first on, (count, head_dim / 2) for each rotation."""
        angles = [np.arange(first, first + count, dtype=np.float32)[:, None] * own for own in self._frequencies]
        return [np.cos(each) for each in angles], [np.sin(each) for each in angles]

    def _take_layers(self, path: Path) -> None:
        sizes = norm_sizes(self._manifest)
        for index, layer in enumerate(self._facts.layers):
            self._call("layer", index, layer.window or 0, layer.rope)
            for name, offset in layer.norms.items():
                self._take_norm(path, index, NORMS.index(name), sizes[name], offset)
        self._take_norm(path, -1, 0, self._manifest.hidden, self._facts.final_norm)
        products = [(index, name) for index in range(self._manifest.layers) for name in PARTS]
        for _ in self._pool.map(lambda place: self._take_product(path, *place), products):
            pass

    def _take_norm(self, path: Path, layer: int, norm: int, size: int, offset: int) -> None:
        gain = _read(path, np.float32, size, offset)
        self._call("norm", layer, norm, size, address(gain))

    def _take_product(self, path: Path, layer: int, name: str) -> None:
        """Pack a weight; it is read by itself, so that no more of the file is ever in memory than is being packed."""
        own = self._facts.layers[layer].products[name]
        rows, columns = self._facts.shapes(self._manifest)[name]
        weight = _read(path, np.int8, rows * columns, own.weight)
        scale = _read(path, np.float32, columns, own.scale)
        bias = None if own.bias is None else _read(path, np.float32, columns, own.bias)
        step, by_token = ctypes.c_float(own.step or 1), own.step is None
        tensors = address(weight), address(scale), None if bias is None else address(bias)
        self._call("product", layer, PARTS.index(name), rows, columns, *tensors, step, own.zero, by_token)

    def _call(self, name: str, *arguments: Any) -> None:
        if not self._release.alive:
            raise ModelError("the model is closed")
        if getattr(self._library, f"pairgrade_{name}")(self._handle, *arguments):
            raise MemoryError("the pass got none")


def share_out(lengths: Sequence[int], threads: int, tokens: int = TOKENS) -> list[list[int]]:
    """Part documents into shares of about equal length, a multiple of the threads where there are enough.

    The longest first, each into the share that has the least so far.
    """
    rounds = -(-sum(lengths) // (threads * tokens))
    shares: list[list[int]] = [[] for _ in range(min(len(lengths), rounds * threads))]
    filled = [0] * len(shares)
    for place in sorted(range(len(lengths)), key=lambda place: (-lengths[place], place)):
        least = filled.index(min(filled))
        shares[least].append(place)
        filled[least] += lengths[place]
    return shares


def _read(path: Path, dtype: type[np.generic], count: int, offset: int) -> npt.NDArray[Any]:
    array = np.fromfile(path, dtype, count, offset=offset)
    if len(array) != count:  # it was longer when its facts were checked
        raise ModelError(f"{path} ends within a tensor; export the model again")
    return array


def _free(library: Any, handle: ctypes.c_void_p, pool: ThreadPoolExecutor) -> None:
    try:
        pool.shutdown()
    except RuntimeError:  # in one of its own threads, where others may still compute: the weights stay in memory
        return
    library.pairgrade_free(handle)
