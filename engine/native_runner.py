"""An int8 folder run by the engine's own pass alone, prefixes and documents."""

from __future__ import annotations

import time
from collections.abc import Sequence

from pairgrade.native_pass import NativePass
from pairgrade.onnx_table import Floats
from pairgrade.runner import Runner, State
from pairgrade.tokenizer import Ids


class NativeRunner(Runner[Floats]):
    """Holds the pass, and the last prefix's keys and values as ``NativePass.extend`` gives them."""

    def __init__(self, native: NativePass) -> None:
        super().__init__(native.nothing)
        self._native = native

    def hidden(self, documents: Sequence[Ids], state: State[Floats]) -> Floats:
        """Run documents behind a prefix: the hidden state of each one's last token, (documents, hidden)."""
        start = time.perf_counter()
        hidden = self._native.run(documents, state.arrays)
        self._count(time.perf_counter() - start, sum(map(len, documents)))
        self._count_reused(state, len(documents))
        return hidden

    def close(self) -> None:
        """Free the weights."""
        self._native.close()
        self.forget()

    def _extend(self, segment: Ids, before: State[Floats]) -> Floats:
        start = time.perf_counter()
        arrays = self._native.extend(segment, before.arrays)
        self._count(time.perf_counter() - start, len(segment))
        return arrays
