"""llama-cpp-python's high-level call as a peer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pairgrade.bench.cell_records import CellJob
from pairgrade.bench.peers_prompts import NEW_TOKENS, PromptedPeer, gguf_prompts
from pairgrade.environment import package_version
from pairgrade.llama_model import require_gpu
from pairgrade.records import Pair


class LlamaCpp(PromptedPeer):
    """llama-cpp-python's ``create_completion`` of one token; it keeps the longest common prefix by itself."""

    def __init__(self, job: CellJob) -> None:
        import llama_cpp

        path, prompts = gguf_prompts(job, "llama-cpp-python")
        super().__init__(prompts)
        require_gpu(llama_cpp, job.gpu_layers)
        self._gpu_layers = job.gpu_layers
        self._llama: Any = llama_cpp.Llama(
            str(path), n_ctx=job.context + NEW_TOKENS, n_threads=job.threads, n_threads_batch=job.threads,
            n_gpu_layers=job.gpu_layers, offload_kqv=job.gpu_layers != 0, op_offload=job.gpu_layers != 0, verbose=False,
        )  # fmt: skip

    def answers(self, pairs: Sequence[Pair]) -> list[str]:
        """Complete each prompt by one token, given as ids, which spares the library the tokenizing."""
        prompts = self.prompts.ids(pairs)
        done = (self._llama.create_completion(ids, max_tokens=1, temperature=0.0) for ids in prompts)
        return [answer["choices"][0]["text"] for answer in done]

    def identity(self) -> dict[str, str]:
        """Name the library."""
        own = {"kind": "llama-cpp-python, create_completion", "llama_cpp_python": package_version("llama-cpp-python")}
        return self.prompts.identity() | own | ({"gpu_layers": str(self._gpu_layers)} if self._gpu_layers else {})
