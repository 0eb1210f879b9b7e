"""The llama.cpp backend: one pass a pair over a kept prefix, label logits read where they lie.

On a CPU one document at a time is both the fastest way and the exact one: the prefix's cells stay in the KV cache,
the last document's are removed, the next is decoded. Several documents in one decode (``sequences`` > 1, for GPUs)
share the prefix by ``llama_memory_seq_cp``; their logits then depend slightly on what runs beside them.
Figures: docs/decisions/llama-settings.md.
"""

from __future__ import annotations

import ctypes
import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pairgrade.backend import Counters, Scores, require_fit, segments_in_common
from pairgrade.core_share import CoreShare
from pairgrade.errors import InputError, ModelError
from pairgrade.hardware import nvidia_gpus, usable_cores
from pairgrade.llama_model import LlamaModel, LlamaTokenizer, freed_with
from pairgrade.option_checks import require_whole
from pairgrade.tokenizer import Ids

_DEFAULT_CONTEXT = 2048
_LONGEST_CONTEXT = 2**20
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class LlamaOptions:
    """Settings of the llama.cpp backend."""

    context: int | None = None  # longest prompt in tokens; None: 2,048 or what the model was trained with, if less
    threads: int | None = None  # None: the physical cores that this process may use
    gpu_layers: int = 0  # layers on the GPU; -1 for all; needs a llama-cpp-python built for it
    sequences: int = 1  # documents in one decode; 1 is exact
    kv_unified: bool | None = None  # one KV buffer for all sequences of a decode; None: on a GPU
    flash_attention: bool = False
    micro_batch: int = 512  # tokens that llama.cpp computes at a time
    reuse: bool = True  # keep the prefix's KV cells; off only to compare

    def __post_init__(self) -> None:
        require_whole(self, "context", "threads", "gpu_layers", "sequences", "micro_batch")
        if self.context is not None and not 64 <= self.context <= _LONGEST_CONTEXT:
            raise InputError(
                f"the context is {self.context} tokens; it must be at least 64 and at most {_LONGEST_CONTEXT:,}"
            )
        if self.threads is not None and self.threads < 1:
            raise InputError(f"{self.threads} threads; at least 1 is needed")
        if self.gpu_layers < -1:
            raise InputError(f"{self.gpu_layers} layers on the GPU; from 0 on, or -1 for all")
        if self.micro_batch < 1:
            raise InputError(f"a micro-batch of {self.micro_batch} tokens; at least 1 is needed")
        if not 1 <= self.sequences <= 63:
            raise InputError(f"{self.sequences} sequences in a decode; from 1 to 63 are possible")


class LlamaBackend:
    """A GGUF model behind the backend seam."""

    def __init__(self, path: Path, options: LlamaOptions | None = None) -> None:
        self.options = options = options or LlamaOptions()
        self._model = LlamaModel(path, options.gpu_layers)
        self.counters = Counters()
        self.context = options.context or min(_DEFAULT_CONTEXT, self._model.trained_context)
        if self.context > self._model.trained_context:
            trained = self._model.trained_context
            _log.warning("the context of %d tokens is longer than the %d of the training", self.context, trained)
        self.threads = options.threads or usable_cores()
        # on a CPU own buffers are faster and more exact, on a GPU twice as slow: docs/decisions/llama-settings.md
        self._unified = options.gpu_layers != 0 if options.kv_unified is None else options.kv_unified
        self._cached: list[bytes] = []  # the prefix segments that lie in sequence 0
        self._lib = self._model.library
        self._share = CoreShare(self.threads if self._spins() else 1)
        self._context = self._open_context()
        self._release = freed_with(self, self._lib.llama_free, self._context, self._model)
        self._memory = self._lib.llama_get_memory(self._context)
        self._batch = _TokenBatch(self._lib, self.context * (1 if options.sequences == 1 else 2))

    def _spins(self) -> bool:
        """Whether all threads work all the time: not on a GPU, nor where a BLAS library does the products."""
        features = self._lib.llama_print_system_info().decode()
        return self.options.gpu_layers == 0 and not any(name in features for name in ("BLAS = 1", "ACCELERATE = 1"))

    @property
    def tokenizer(self) -> LlamaTokenizer:
        """The model's tokenizer."""
        return self._model.tokenizer

    @property
    def exact(self) -> bool:
        """Whether documents run one at a time."""
        return self.options.sequences == 1

    @property
    def is_chat_model(self) -> bool:
        """Whether the model file carries a chat template."""
        return self._model.is_chat_model

    def identity(self) -> dict[str, str]:
        """Name the library, the instruction set it runs on and the settings that can move a logit."""
        options = self.options
        own = {"gpus": nvidia_gpus()} if options.gpu_layers else {}
        return own | {
            "kind": "llama",
            "llama_cpp_python": self._lib.__version__,
            "features": self._lib.llama_print_system_info().decode().strip(" |"),
            "context": str(self.context),
            "gpu_layers": str(options.gpu_layers),
            "sequences": str(options.sequences),
            "kv_unified": str(self._unified),
            "flash_attention": str(options.flash_attention),
            "micro_batch": str(options.micro_batch),
        }

    def score(self, prefix: Sequence[Ids], suffixes: Sequence[Ids], labels: Ids) -> Scores:
        """Decode each suffix after the prefix and read the label logits at its last token."""
        size = self.tokenizer.size
        logits = np.empty((len(suffixes), len(labels)), np.float32)
        totals = np.empty(len(suffixes), np.float64)
        row = 0
        try:
            for output in self._outputs(prefix, suffixes):
                vocabulary = np.ctypeslib.as_array(output, (size,))  # a view, not a copy
                logits[row] = vocabulary[labels]
                totals[row] = _log_sum_exp(vocabulary)
                row += 1
        except ModelError:
            self._forget()
            raise
        return Scores(logits, totals)

    def close(self) -> None:
        """Free the context and the weights."""
        self._release()
        self._context = None
        self._model.close()

    def _outputs(self, prefix: Sequence[Ids], suffixes: Sequence[Ids]) -> Iterator[Any]:
        """Yield the pointer to the vocabulary's logits for each suffix, valid until the next."""
        length = sum(len(segment) for segment in prefix)
        require_fit(self.context, length, suffixes)
        if self.options.sequences > 1:
            yield from self._together(prefix, length, suffixes)
            return
        for suffix in suffixes:
            if not self.options.reuse:
                self._forget()
            self._hold(prefix)
            self._remove(0, length)
            self._decode([(suffix, length, 0)])
            yield self._lib.llama_get_logits_ith(self._context, len(suffix) - 1)

    def _together(self, prefix: Sequence[Ids], length: int, suffixes: Sequence[Ids]) -> Iterator[Any]:
        for chunk in self._chunks(suffixes):
            self._hold(prefix)
            self._remove(0, length)
            for sequence in range(1, len(chunk) + 1):
                self._remove(sequence, 0)
                self._lib.llama_memory_seq_cp(self._memory, 0, sequence, 0, -1)
            self._decode([(suffix, length, i) for i, suffix in enumerate(chunk, 1)])
            self.counters.reused += length * (len(chunk) - 1)
            ends = np.cumsum([len(suffix) for suffix in chunk]) - 1
            for end in ends:
                yield self._lib.llama_get_logits_ith(self._context, int(end))
            for sequence in range(1, len(chunk) + 1):
                self._remove(sequence, 0)

    def _chunks(self, suffixes: Sequence[Ids]) -> Iterator[list[Ids]]:
        chunk: list[Ids] = []
        for suffix in suffixes:
            full = len(chunk) == self.options.sequences
            if chunk and (full or sum(map(len, chunk)) + len(suffix) > self.context):
                yield chunk
                chunk = []
            chunk.append(suffix)
        if chunk:
            yield chunk

    def _hold(self, prefix: Sequence[Ids]) -> None:
        """Bring the prefix's segments into sequence 0, computing only those that are not there.

        Each segment is a decode of its own whether or not the one before it was cached, so that the arithmetic
        of a prompt is the same in both cases.
        """
        wanted = [segment.tobytes() for segment in prefix]
        kept = segments_in_common(wanted, self._cached)
        position = sum(len(segment) for segment in prefix[:kept])
        self.counters.reused += position
        if kept == len(wanted) == len(self._cached):
            return
        del self._cached[kept:]  # first: what is cut short between the two is computed again
        self._remove(0, position)
        for segment, name in zip(prefix[kept:], wanted[kept:], strict=True):
            if len(segment):
                self._decode([(segment, position, 0)], want_logits=False)
            self._cached.append(name)
            position += len(segment)

    def _decode(self, items: list[tuple[Ids, int, int]], want_logits: bool = True) -> None:
        batch = self._batch.fill(items, want_logits)
        start, used = time.perf_counter(), time.process_time()
        code = self._lib.llama_decode(self._context, batch)
        if want_logits and code == 0:
            self._lib.llama_synchronize(self._context)
        seconds = time.perf_counter() - start
        self._share.add(seconds, time.process_time() - used)
        self.counters.seconds += seconds
        self.counters.computed += batch.n_tokens
        if not want_logits:
            self.counters.prefix_seconds += seconds
            self.counters.prefix_computed += batch.n_tokens
        if code != 0:
            raise ModelError(
                f"{self._model.path}: llama_decode of {batch.n_tokens} tokens failed with code {code}"
                + (" (no room in the KV cache)" if code == 1 else "")
            )

    def _remove(self, sequence: int, position: int) -> None:
        if not self._lib.llama_memory_seq_rm(self._memory, sequence, position, -1):
            raise ModelError(f"{self._model.path}: its KV cache cannot be rewound to position {position}")

    def _forget(self) -> None:
        self._lib.llama_memory_clear(self._memory, False)
        self._cached.clear()

    def _open_context(self) -> Any:
        lib, options = self._lib, self.options
        params = lib.llama_context_default_params()
        streams = options.sequences + 1 if options.sequences > 1 else 1
        params.n_ctx = self.context * (2 if self._unified and streams > 1 else streams)
        params.n_batch = self.context * (1 if streams == 1 else 2)
        params.n_ubatch = min(self.options.micro_batch, params.n_batch)
        params.n_seq_max = streams
        params.n_threads = params.n_threads_batch = self.threads
        params.kv_unified = self._unified
        params.flash_attn_type = int(options.flash_attention)
        params.op_offload = params.offload_kqv = options.gpu_layers != 0  # none on the GPU: all of it on the CPU
        params.swa_full = True  # sliding-window models: keep what a rewound prefix needs
        params.no_perf = True
        context = lib.llama_init_from_model(self._model.handle, params)
        if not context:
            self._model.close()
            raise ModelError(
                f"{self._model.path}: llama.cpp cannot open a context of {params.n_ctx} tokens; "
                "lower it with --ctx, or run with -v to see its own log"
            )
        return context


class _TokenBatch:
    """A llama_batch over numpy arrays, filled without a loop over tokens."""

    def __init__(self, lib: Any, capacity: int) -> None:
        self._token = np.empty(capacity, np.int32)
        self._position = np.empty(capacity, np.int32)
        self._count = np.ones(capacity, np.int32)
        self._names = np.arange(64, dtype=np.int32)  # what the sequence pointers point at
        self._sequence = np.empty(capacity, np.uintp)
        self._wanted = np.zeros(capacity, np.int8)
        self.batch = lib.llama_batch(
            n_tokens=0,
            token=self._token.ctypes.data_as(ctypes.POINTER(ctypes.c_int32)),
            embd=None,
            pos=self._position.ctypes.data_as(ctypes.POINTER(ctypes.c_int32)),
            n_seq_id=self._count.ctypes.data_as(ctypes.POINTER(ctypes.c_int32)),
            seq_id=self._sequence.ctypes.data_as(ctypes.POINTER(ctypes.POINTER(ctypes.c_int32))),
            logits=self._wanted.ctypes.data_as(ctypes.POINTER(ctypes.c_int8)),
        )

    def fill(self, items: list[tuple[Ids, int, int]], want_logits: bool) -> Any:
        """Lay out (ids, first position, sequence) one after the other; logits at the last token of each."""
        end = 0
        for ids, position, sequence in items:
            start, end = end, end + len(ids)
            self._token[start:end] = ids
            self._position[start:end] = np.arange(position, position + len(ids))
            self._sequence[start:end] = self._names.ctypes.data + 4 * sequence
            self._wanted[start:end] = 0
            self._wanted[end - 1] = want_logits
        self.batch.n_tokens = end
        return self.batch


def _log_sum_exp(values: npt.NDArray[np.float32]) -> float:
    peak = values.max()
    return float(peak) + float(np.log(np.exp(values - peak).sum(dtype=np.float64)))
