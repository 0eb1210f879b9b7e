"""OpenVINO GenAI as a peer, with its prefix caching; it reads a GGUF by itself, or a folder made for it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pairgrade.bench.cell_records import CellJob
from pairgrade.bench.peers_prompts import PromptedPeer, Prompts, folder_prompts, gguf_prompts, imported
from pairgrade.environment import package_version
from pairgrade.errors import ModelError
from pairgrade.records import Pair

_CACHE_GB = 1  # of keys and values, kept from prompt to prompt
_GRAPH = "openvino_model.xml"


class OpenVinoGenai(PromptedPeer):
    """``LLMPipeline`` on the CPU, one prompt after the other, so that each finds the last one's blocks."""

    def __init__(self, job: CellJob) -> None:
        path, prompts = _located(job)
        super().__init__(prompts)
        self._genai = genai = imported("openvino_genai", "openvino-genai")
        self._openvino = imported("openvino", "openvino")
        scheduler = genai.SchedulerConfig()
        scheduler.enable_prefix_caching = True
        scheduler.cache_size = _CACHE_GB
        try:
            self._pipeline: Any = genai.LLMPipeline(
                str(path), "CPU", scheduler_config=scheduler, INFERENCE_NUM_THREADS=job.threads
            )
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[-1]
            raise ModelError(f"{path}: OpenVINO GenAI cannot load it ({reason})") from None

    def answers(self, pairs: Sequence[Pair]) -> list[str]:
        """Generate one token after each prompt."""
        config = self._genai.GenerationConfig()
        config.max_new_tokens = 1
        config.do_sample = False
        config.ignore_eos = True
        found = []
        for ids in self.prompts.ids(pairs):
            result = self._pipeline.generate(self._openvino.Tensor(np.array([ids], np.int64)), config)
            found.append(self.prompts.text(result.tokens[0]))
        return found

    def identity(self) -> dict[str, str]:
        """Name the library."""
        return self.prompts.identity() | {
            "kind": "OpenVINO GenAI LLMPipeline, prefix caching",
            "openvino-genai": package_version("openvino-genai"),
            "openvino": package_version("openvino"),
        }


def _located(job: CellJob) -> tuple[Path, Prompts]:
    folder = Path(job.model)
    if not folder.is_dir():
        return gguf_prompts(job, "OpenVINO GenAI")
    if not (folder / _GRAPH).is_file():
        raise ModelError(
            f"OpenVINO GenAI runs GGUF files and folders with {_GRAPH}, as `optimum-cli export openvino` writes them; "
            "this folder has none: give the model's GGUF"
        )
    return folder, folder_prompts(job, folder)
