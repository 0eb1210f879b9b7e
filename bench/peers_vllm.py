"""vLLM as a peer: all prompts at once, its own batching and prefix caching."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pairgrade.bench.cell_records import CellJob
from pairgrade.bench.peers_prompts import NEW_TOKENS, PromptedPeer, folder_prompts, imported
from pairgrade.environment import package_version
from pairgrade.errors import ModelError
from pairgrade.records import Pair


class Vllm(PromptedPeer):
    """``LLM.generate`` of one token; a GGUF is dequantized to a folder first."""

    def __init__(self, job: CellJob) -> None:
        os.environ["VLLM_NO_USAGE_STATS"] = "1"  # it would send them to its makers
        # its engine in this process, so that memory and load are this process's own
        os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
        vllm = imported("vllm", "vllm")
        from pairgrade.train.base_model import resolve_folder

        self._scratch = tempfile.TemporaryDirectory()
        folder = resolve_folder(job.model, Path(self._scratch.name) / "model")
        super().__init__(folder_prompts(job, folder))
        self._sampling: Any = vllm.SamplingParams(temperature=0.0, max_tokens=1, detokenize=False)
        try:
            self._llm: Any = vllm.LLM(
                model=str(folder), skip_tokenizer_init=True, max_model_len=job.context + NEW_TOKENS,
                enable_prefix_caching=True, trust_remote_code=False, seed=0,
            )  # fmt: skip
        except (RuntimeError, ValueError, OSError) as error:
            self.close()
            raise ModelError(f"{job.model}: vLLM cannot load it ({error})") from None

    def answers(self, pairs: Sequence[Pair]) -> list[str]:
        """Generate one token after each prompt."""
        prompts = [{"prompt_token_ids": ids} for ids in self.prompts.ids(pairs)]
        results = self._llm.generate(prompts, self._sampling, use_tqdm=False)
        return [self.prompts.text(result.outputs[0].token_ids) for result in results]

    def close(self) -> None:
        """Remove the dequantized folder, if there is one."""
        self._scratch.cleanup()

    def identity(self) -> dict[str, str]:
        """Name the library."""
        return self.prompts.identity() | {
            "kind": "vLLM LLM.generate, prefix caching",
            "vllm": package_version("vllm"),
            "torch": package_version("torch"),
        }
