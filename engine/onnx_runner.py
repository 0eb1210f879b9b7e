"""The two graphs of an exported folder, run: prefixes with their kept states, and batches of documents."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pairgrade.denormals import flushed_denormals
from pairgrade.errors import ModelError
from pairgrade.onnx_layout import Layout, pack
from pairgrade.onnx_manifest import DOCUMENTS, PREFIX, WEIGHTS
from pairgrade.onnx_session import open_session, runtime
from pairgrade.onnx_table import Floats, TokenTable
from pairgrade.runner import Runner, State
from pairgrade.tokenizer import Ids

_NO_MEMORY = re.compile("allocate memory|bad.alloc|out of memory|available memory", re.IGNORECASE)
_SIZE = re.compile(r"(?:size|bytes)\D{0,5}(\d+)")
_FATAL = 4  # log level: what is told by an exception is not printed as well
_PACKED = 3 << 28  # bytes of weights; up to it the prefix's are packed: as much memory, but none that can be given back


_Held = State[dict[str, Any]]  # key.I, value.I: OrtValues (1, kv_heads, length, head_dim)


class OnnxRunner(Runner[dict[str, Any]]):
    """The sessions of one folder, and the states of the last prefix's segments."""

    def __init__(
        self,
        folder: Path,
        embedding: TokenTable,
        threads: int,
        provider: str,
        products: tuple[str, str] = ("float", "float"),  # of documents and of prefixes, see product_kind
        least_rows: int = 1,  # see onnx_layout
        profile: Path | None = None,  # the folder for a profile of each session
    ) -> None:
        self._library = runtime()
        self._options = self._library.RunOptions()
        self._options.log_severity_level = _FATAL
        self._embedding, self._least = embedding, least_rows
        self.is_large = (folder / WEIGHTS).stat().st_size > _PACKED  # then the prefix's weights are not packed

        def opened(name: str, product: str, shares_weights: bool) -> Any:
            return open_session(
                folder / name, threads, provider, shares_weights=shares_weights, product=product, fuses=False,
                profile=profile / Path(name).stem if profile else None,
            )  # fmt: skip

        self._documents: Any = opened(DOCUMENTS, products[0], False)
        self._prefix: Any = opened(PREFIX, products[1], self.is_large)
        self._new = [o.name for o in self._prefix.get_outputs() if o.name.startswith("new_")]
        super().__init__(self._empty_state())

    def hidden(self, documents: Sequence[Ids], state: _Held) -> Floats:
        """Run documents behind a prefix: the hidden state of each one's last token, (documents, hidden)."""
        return self.run(documents, state)[0]

    def run(self, documents: Sequence[Ids], state: _Held, outputs: Sequence[str] = ("hidden",)) -> list[Floats]:
        """Run documents behind a prefix for some of the graph's outputs."""
        layout = pack(documents, least=self._least)
        feeds = self._feeds(layout, state) | {"last": self._value(layout.last)}
        values = self._timed(self._documents, list(outputs), layout, feeds)
        self._count_reused(state, len(documents))
        return [value.numpy() for value in values]

    def run_prefix(self, segment: Ids, state: _Held, outputs: Sequence[str]) -> list[Floats]:
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
        self.forget()
        self._documents = self._prefix = None

    def _extend(self, segment: Ids, before: _Held) -> dict[str, Any]:
        layout = pack([segment], step=1)  # no padding among keys and values
        values = self._timed(self._prefix, self._new, layout, self._feeds(layout, before))
        return {name.removeprefix("new_"): value for name, value in zip(self._new, values, strict=True)}

    def _timed(self, session: Any, outputs: list[str], layout: Layout, feeds: dict[str, Any]) -> list[Any]:
        start = time.perf_counter()
        try:
            with flushed_denormals():
                values: list[Any] = session.run_with_ort_values(outputs, feeds, self._options)
        except Exception as error:  # the library raises its own kinds, which have no common root but this
            raise _failure(error) from None
        self._count(time.perf_counter() - start, len(layout.ids))
        return values

    def _feeds(self, layout: Layout, state: _Held) -> dict[str, Any]:
        own = {"embedded": self._embedding.rows(layout.ids), "rows": layout.rows, "places": layout.places}
        return {name: self._value(array) for name, array in own.items()} | state.arrays

    def _value(self, array: Any) -> Any:
        return self._library.OrtValue.ortvalue_from_numpy(array)

    def _empty_state(self) -> dict[str, Any]:
        arrays = {}
        for given in self._prefix.get_inputs():
            if given.name.startswith(("key.", "value.")):
                _, heads, _, width = given.shape
                arrays[given.name] = self._value(np.empty((1, heads, 0, width), np.float32))
        return arrays


def _failure(error: Exception) -> Exception:
    """Turn what ONNX Runtime raised into MemoryError or ModelError."""
    text = str(error)
    if isinstance(error, MemoryError) or _NO_MEMORY.search(text):
        sizes = _SIZE.findall(text)
        return MemoryError(f"ONNX Runtime asked for {int(sizes[-1]):,} bytes" if sizes else "ONNX Runtime got none")
    return ModelError(f"ONNX Runtime cannot run the model ({text})")
