"""The two graphs of an exported folder, run: prefixes with their kept states, and batches of documents."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pairgrade.backend import Counters, segments_in_common
from pairgrade.denormals import flushed_denormals
from pairgrade.errors import ModelError
from pairgrade.native_pass import NativePass
from pairgrade.onnx_layout import Layout, pack
from pairgrade.onnx_manifest import DOCUMENTS, PREFIX, WEIGHTS
from pairgrade.onnx_session import open_session, runtime
from pairgrade.onnx_table import Floats, TokenTable
from pairgrade.tokenizer import Ids

_NO_MEMORY = re.compile("allocate memory|bad.alloc|out of memory|available memory", re.IGNORECASE)
_SIZE = re.compile(r"(?:size|bytes)\D{0,5}(\d+)")
_FATAL = 4  # log level: what is told by an exception is not printed as well
_PACKED = 3 << 28  # bytes of weights; up to it the prefix's are packed: as much memory, but none that can be given back


@dataclass(frozen=True, slots=True)
class State:
    """Keys and values of a prefix up to the end of one of its segments."""

    name: bytes  # the segment's ids
    length: int  # tokens up to its end
    arrays: dict[str, Any]  # key.I, value.I: OrtValues (1, kv_heads, length, head_dim)


class OnnxRunner:
    """The sessions of one folder, and the states of the last prefix's segments.

    What runs a graph raises MemoryError where there is none left for it, and ModelError for any other reason.
    """

    def __init__(
        self,
        folder: Path,
        embedding: TokenTable,
        threads: int,
        provider: str,
        products: tuple[str, str] = ("float", "float"),  # of documents and of prefixes, see product_kind
        least_rows: int = 1,  # see onnx_layout
        profile: Path | None = None,  # the folder for a profile of each session
        native: NativePass | None = None,  # computes documents instead of their graph
    ) -> None:
        self.counters = Counters()
        self._library = runtime()
        self._options = self._library.RunOptions()
        self._options.log_severity_level = _FATAL
        self._embedding, self._least = embedding, least_rows
        self.is_large = (folder / WEIGHTS).stat().st_size > _PACKED  # then the prefix's weights are not packed
        self._native = native

        def opened(name: str, product: str, shares_weights: bool) -> Any:
            return open_session(
                folder / name, threads, provider, shares_weights=shares_weights, product=product, fuses=False,
                profile=profile / Path(name).stem if profile else None,
            )  # fmt: skip

        self._documents: Any = None if native else opened(DOCUMENTS, products[0], False)
        self._prefix: Any = opened(PREFIX, products[1], self.is_large)
        self._new = [o.name for o in self._prefix.get_outputs() if o.name.startswith("new_")]
        self._nothing = self._empty_state()
        self._states: list[State] = []
        self._fresh = 0  # tokens that the last hold computed and no document has been counted behind

    def hold(self, prefix: Sequence[Ids]) -> State:
        """Return the prefix's state, computing only the segments that are not kept."""
        segments = [segment for segment in prefix if len(segment)]
        kept = segments_in_common((segment.tobytes() for segment in segments), (state.name for state in self._states))
        del self._states[kept:]
        self._fresh = 0
        for segment in segments[kept:]:
            before = self._states[-1] if self._states else self._nothing
            layout = pack([segment], step=1)  # no padding among keys and values
            values = self._timed(self._prefix, self._new, layout, self._feeds(layout, before))
            arrays = {name.removeprefix("new_"): value for name, value in zip(self._new, values, strict=True)}
            self._states.append(State(segment.tobytes(), before.length + len(segment), arrays))
            self._fresh += len(segment)
        return self._states[-1] if self._states else self._nothing

    @property
    def held(self) -> int:
        """How many segments' states are kept."""
        return len(self._states)

    def forget(self) -> None:
        """Drop the kept states."""
        self._states.clear()

    def run(self, documents: Sequence[Ids], state: State, outputs: Sequence[str] = ("hidden",)) -> list[Floats]:
        """Run documents behind a prefix; ``hidden`` is (documents, hidden)."""
        layout = pack(documents, least=self._least)
        feeds = self._feeds(layout, state) | {"last": self._value(layout.last)}
        values = self._timed(self._documents, list(outputs), layout, feeds)
        self._count_reused(state, len(documents))
        return [value.numpy() for value in values]

    def run_native(self, documents: Sequence[Ids], state: State) -> Floats:
        """Run documents behind a prefix by the engine's own pass; what comes of it is (documents, hidden)."""
        assert self._native is not None
        start = time.perf_counter()
        keys, values = (self._addresses(kind, state) for kind in ("key", "value"))
        hidden = self._native.run(documents, state.length, keys, values)
        self.counters.seconds += time.perf_counter() - start
        self.counters.computed += sum(map(len, documents))
        self._count_reused(state, len(documents))
        return hidden

    def run_prefix(self, segment: Ids, state: State, outputs: Sequence[str]) -> list[Floats]:
        """Run a segment behind a prefix for other outputs than its state, such as the ranges of a calibration."""
        layout = pack([segment], step=1)
        values = self._timed(self._prefix, list(outputs), layout, self._feeds(layout, state))
        return [value.numpy() for value in values]

    def outputs(self) -> tuple[list[str], list[str]]:
        """Return the names of what the document graph and the prefix graph give besides hidden states and states."""
        extra = [[o.name for o in session.get_outputs()] for session in (self._documents, self._prefix)]
        return [n for n in extra[0] if n != "hidden"], [n for n in extra[1] if n not in self._new]

    def close(self) -> None:
        """Free the sessions."""
        if self._native is not None:
            self._native.close()
        self.forget()
        self._documents = self._prefix = None

    def _addresses(self, kind: str, state: State) -> list[int]:
        """Return where a state's keys or values lie; ModelError where they are not what native code takes them for."""
        assert self._native is not None
        arrays = [state.arrays.get(f"{kind}.{i}") for i in range(self._native.layers)]
        wanted = self._native.state_shape(state.length)
        if any(a is None or a.shape() != wanted or a.data_type() != "tensor(float)" for a in arrays):
            raise ModelError(f"the prefix graph gives {kind}s of another shape than its manifest says; export it again")
        return [array.data_ptr() for array in arrays if array is not None]

    def _count_reused(self, state: State, documents: int) -> None:
        self.counters.reused += state.length * documents - self._fresh
        self._fresh = 0

    def _timed(self, session: Any, outputs: list[str], layout: Layout, feeds: dict[str, Any]) -> list[Any]:
        start = time.perf_counter()
        try:
            with flushed_denormals():
                values: list[Any] = session.run_with_ort_values(outputs, feeds, self._options)
        except Exception as error:  # the library raises its own kinds, which have no common root but this
            raise _failure(error) from None
        seconds = time.perf_counter() - start
        self.counters.seconds += seconds
        self.counters.computed += len(layout.ids)
        if session is self._prefix:
            self.counters.prefix_seconds += seconds
            self.counters.prefix_computed += len(layout.ids)
        return values

    def _feeds(self, layout: Layout, state: State) -> dict[str, Any]:
        own = {"embedded": self._embedding.rows(layout.ids), "rows": layout.rows, "places": layout.places}
        return {name: self._value(array) for name, array in own.items()} | state.arrays

    def _value(self, array: Any) -> Any:
        return self._library.OrtValue.ortvalue_from_numpy(array)

    def _empty_state(self) -> State:
        arrays = {}
        for given in self._prefix.get_inputs():
            if given.name.startswith(("key.", "value.")):
                _, heads, _, width = given.shape
                arrays[given.name] = self._value(np.empty((1, heads, 0, width), np.float32))
        return State(b"", 0, arrays)


def _failure(error: Exception) -> Exception:
    """Turn what ONNX Runtime raised into MemoryError or ModelError."""
    text = str(error)
    if isinstance(error, MemoryError) or _NO_MEMORY.search(text):
        sizes = _SIZE.findall(text)
        return MemoryError(f"ONNX Runtime asked for {int(sizes[-1]):,} bytes" if sizes else "ONNX Runtime got none")
    return ModelError(f"ONNX Runtime cannot run the model ({text})")
