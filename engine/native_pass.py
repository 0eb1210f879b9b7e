"""pairgrade's own pass over documents of an int8 export: ``engine/native/documents.cpp`` and how it is called.

It takes the place of ``documents.onnx`` on x86-64 Linux with AVX-512 VNNI, and computes the same: whole-number sums to
the bit, the rest in float32, or nearly so where AMX tiles do attention, summed in another order
(docs/decisions/native-pass.md). Each thread computes documents of its own, so that no bit depends on the number of
threads.
"""

from __future__ import annotations

import ctypes
import importlib.util
import logging
import weakref
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pairgrade.document_facts import NORMS, PARTS, DocumentFacts, norm_sizes
from pairgrade.onnx_manifest import WEIGHTS, OnnxManifest
from pairgrade.onnx_table import Floats, TokenTable
from pairgrade.tokenizer import Ids

TOKENS = 256  # of a thread at a time, about: their values stay near the core

STAGES = ("norms, rounding", "qkv product", "attention", "output product", "gate, up, activation, turn", "down product")
_KINDS = {1: "vnni", 3: "amx"}
_VERSION = 2  # of what is called; documents.cpp has the same
_ARITHMETIC = 1  # of what is computed: another one where a bit of it changes
_log = logging.getLogger(__name__)


@cache
def native_kind() -> str:
    """Return by which instructions the pass multiplies here: "amx", "vnni", or "none" where it is not to be had."""
    library = _library()
    return _KINDS[library.pairgrade_features()] if library is not None else "none"


class NativePass:
    """The pass over one folder's documents, its weights packed in memory."""

    def __init__(
        self, folder: Path, manifest: OnnxManifest, facts: DocumentFacts, embedding: TokenTable, threads: int
    ) -> None:
        self._library, self._manifest, self._facts, self._embedding = _library(), manifest, facts, embedding
        kind = native_kind()
        self.arithmetic = f"{kind} {_ARITHMETIC}"  # what decides the bits, beside the model
        self._handle = ctypes.c_void_p(self._library.pairgrade_new(_sizes(manifest, facts), kind == "amx"))
        if not self._handle:
            raise MemoryError("there is none for the model's layers")
        self._seconds = np.zeros(len(STAGES))
        self._frequencies = [np.array(rope, np.float32) for rope in facts.ropes]
        self._pool = ThreadPoolExecutor(threads, "pairgrade")
        self._threads = threads
        self._release = weakref.finalize(self, _free, self._library, self._handle, self._pool)
        self._release.atexit = False
        data = np.memmap(folder / WEIGHTS, np.uint8, "r")
        try:
            self._take_layers(data)
        except BaseException:
            self.close()
            raise

    def run(self, documents: Sequence[Ids], prefix: int, keys: Sequence[int], values: Sequence[int]) -> Floats:
        """Run documents behind a prefix of so many tokens, each thread some of them at a time.

        ``keys``, ``values``: the addresses of a layer's each, (kv_heads, prefix, head_dim) float32. Returned is
        (documents, hidden). MemoryError where there is not enough for what the threads compute at a time.
        """
        longest = max(map(len, documents))
        angles = [np.arange(prefix, prefix + longest, dtype=np.float32)[:, None] * own for own in self._frequencies]
        tables = [np.cos(each) for each in angles], [np.sin(each) for each in angles]
        rotations = [_addresses([array.ctypes.data for array in table]) for table in tables]
        one = partial(self._share, documents, prefix, (_addresses(keys), _addresses(values), *rotations))
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

    @property
    def layers(self) -> int:
        """How many layers' keys and values a prefix has."""
        return self._manifest.layers

    def state_shape(self, prefix: int) -> list[int]:
        """Return the shape of a layer's keys, and of its values, for a prefix of so many tokens."""
        return [1, self._manifest.kv_heads, prefix, self._manifest.head_dim]

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
        self._call("run", _at(embedded), _at(lengths), len(places), prefix, *tables, _at(hidden), _at(seconds))
        return hidden, seconds

    def _take_layers(self, data: npt.NDArray[np.uint8]) -> None:
        sizes = norm_sizes(self._manifest)
        jobs = []
        for index, layer in enumerate(self._facts.layers):
            self._call("layer", index, layer.window or 0, layer.rope)
            for name, offset in layer.norms.items():
                self._call("norm", index, NORMS.index(name), sizes[name], _at(data, offset))
            for name, (rows, columns) in self._facts.shapes(self._manifest).items():
                own = layer.products[name]
                bias = None if own.bias is None else _at(data, own.bias)
                step = ctypes.c_float(own.step or 1)
                weight, scale = _at(data, own.weight), _at(data, own.scale)
                job = (index, PARTS.index(name), rows, columns, weight, scale, bias, step, own.zero, own.step is None)
                jobs.append(job)
        self._call("norm", -1, 0, self._manifest.hidden, _at(data, self._facts.final_norm))
        for _ in self._pool.map(lambda job: self._call("product", *job), jobs):
            pass

    def _call(self, name: str, *arguments: Any) -> None:
        if getattr(self._library, f"pairgrade_{name}")(self._handle, *arguments):
            raise MemoryError("the documents' pass got none")


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


@cache
def _library() -> Any:
    """Load the compiled pass; None where this installation has none."""
    spec = importlib.util.find_spec("pairgrade._native")
    if spec is None or spec.origin is None:
        return None
    try:
        library = ctypes.CDLL(spec.origin)
        if library.pairgrade_version() != _VERSION or not library.pairgrade_features():
            return None
        library.pairgrade_new.restype = ctypes.c_void_p
    except (OSError, AttributeError) as error:  # built for another system, or by another version
        _log.warning("%s cannot be used, and ONNX Runtime computes documents: %s", spec.origin, error)
        return None
    return library


class _Sizes(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_int32) for name in ("layers", "hidden", "intermediate", "heads", "kv_heads", "head_dim")),
        *((name, ctypes.c_int32) for name in ("gelu", "turn")),
        *((name, ctypes.c_float) for name in ("norm_eps", "attention_cap", "embedding_scale")),
    )


def _sizes(manifest: OnnxManifest, facts: DocumentFacts) -> Any:
    sizes = _Sizes(
        **{name: getattr(manifest, name) for name in ("layers", "hidden", "heads", "kv_heads", "head_dim")},
        **{name: getattr(facts, name) for name in ("intermediate", "turn", "norm_eps", "embedding_scale")},
        gelu=facts.activation == "gelu_tanh",
        attention_cap=facts.attention_cap or 0,
    )
    return ctypes.byref(sizes)


def _addresses(numbers: Sequence[int]) -> Any:
    return (ctypes.c_void_p * len(numbers))(*numbers)


def _at(array: npt.NDArray[Any], offset: int = 0) -> ctypes.c_void_p:
    return ctypes.c_void_p(array.ctypes.data + offset)


def _free(library: Any, handle: ctypes.c_void_p, pool: ThreadPoolExecutor) -> None:
    try:
        pool.shutdown()
    except RuntimeError:  # in one of its own threads, where others may still compute: the weights stay in memory
        return
    library.pairgrade_free(handle)
