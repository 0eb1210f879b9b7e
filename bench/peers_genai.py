"""onnxruntime-genai as a peer: a folder that its own model builder wrote.

::

    python -m onnxruntime_genai.models.builder -i FOLDER -o OUT -p fp32 -e cpu
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pairgrade.bench.cell_records import CellJob
from pairgrade.bench.peers_prompts import NEW_TOKENS, PromptedPeer, folder_prompts, imported
from pairgrade.environment import package_version
from pairgrade.errors import ModelError
from pairgrade.records import Pair

_BUILD = "python -m onnxruntime_genai.models.builder -i FOLDER -o OUT -p fp32 -e cpu"


class OnnxGenai(PromptedPeer):
    """A ``Generator`` that gives one token, goes back to the prefix that the next prompt shares, and goes on."""

    def __init__(self, job: CellJob) -> None:
        folder = Path(job.model)
        if not (folder / "genai_config.json").is_file():
            raise ModelError(f"onnxruntime-genai runs folders that its model builder wrote; make one by: {_BUILD}")
        genai = imported("onnxruntime_genai", "onnxruntime-genai")
        super().__init__(folder_prompts(job, folder))
        config = genai.Config(str(folder))
        threads = {"session_options": {"intra_op_num_threads": job.threads}}
        config.overlay(json.dumps({"model": {"decoder": threads}}))
        try:
            self._model: Any = genai.Model(config)
        except RuntimeError as error:
            raise ModelError(f"{folder}: onnxruntime-genai cannot load it ({error})") from None
        params = genai.GeneratorParams(self._model)
        params.set_search_options(max_length=job.context + NEW_TOKENS, do_sample=False, batch_size=1)
        self._generator: Any = genai.Generator(self._model, params)
        self._held: list[int] = []  # tokens whose keys and values the generator holds

    def answers(self, pairs: Sequence[Pair]) -> list[str]:
        """Generate one token after each prompt."""
        return [self.prompts.text([self._answer(ids)]) for ids in self.prompts.ids(pairs)]

    def _answer(self, ids: list[int]) -> int:
        shared = 0
        while shared < min(len(self._held), len(ids) - 1) and self._held[shared] == ids[shared]:
            shared += 1  # the last token is computed anew, for its logits are needed
        if self._held:
            self._generator.rewind_to(shared)
        self._generator.append_tokens(np.array(ids[shared:], np.int32))
        self._generator.generate_next_token()
        self._held = ids
        return int(self._generator.get_next_tokens()[0])

    def identity(self) -> dict[str, str]:
        """Name the library."""
        return self.prompts.identity() | {
            "kind": "onnxruntime-genai, the common prefix kept",
            "onnxruntime-genai": package_version("onnxruntime-genai"),
            "onnxruntime": package_version("onnxruntime"),
        }
