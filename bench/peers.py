"""Other libraries judging the same pairs by the same prompts: who is fast, and who is right.

Each is given pairgrade's prompts as token ids, generates text after them and has it parsed, which is how they are used
for grading. An answer in which no label word stands first has no grade. Each has an adapter in a ``peers_*`` module.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from pairgrade.bench.cell_records import CellJob
from pairgrade.bench.peers_genai import OnnxGenai
from pairgrade.bench.peers_llama import LlamaCpp
from pairgrade.bench.peers_openvino import OpenVinoGenai
from pairgrade.bench.peers_server import LlamaServer, server_absent
from pairgrade.bench.peers_transformers import Transformers, TransformersBatched
from pairgrade.bench.peers_vllm import Vllm
from pairgrade.errors import ModelError
from pairgrade.records import Pair
from pairgrade.rubric import Rubric


class Peer(Protocol):
    """Another library with a model loaded."""

    process: int | None  # the id of the process that holds the model, where it is another

    def answers(self, pairs: Sequence[Pair]) -> list[str]:
        """Generate the answer to each pair's prompt."""

    def prompt_tokens(self, pairs: Sequence[Pair]) -> int:
        """Count the tokens of the prompts."""

    def why_unfit(self, pair: Pair) -> str | None:
        """Say why a pair has no prompt, or None where it has one."""

    def identity(self) -> dict[str, str]:
        """Name the library, its version, and what else decides the answers."""

    def close(self) -> None:
        """End what would outlive this process."""


@dataclass(frozen=True, slots=True)
class _Known:
    open: Callable[[CellJob], Peer]
    absent: Callable[[], str | None]  # why it cannot be used here


def _missing(install: str, *modules: str) -> str | None:
    missing = [module for module in modules if importlib.util.find_spec(module) is None]
    return f"not installed; run: pip install {install}" if missing else None


_TRAIN = partial(_missing, "'pairgrade[train]'", "torch", "transformers")
PEERS = {
    "llama-cpp-python": _Known(LlamaCpp, partial(_missing, "llama-cpp-python", "llama_cpp")),
    "llama-server": _Known(LlamaServer, server_absent),
    "transformers": _Known(Transformers, _TRAIN),
    "transformers-batched": _Known(TransformersBatched, _TRAIN),
    "onnxruntime-genai": _Known(OnnxGenai, partial(_missing, "onnxruntime-genai", "onnxruntime_genai")),
    "openvino-genai": _Known(OpenVinoGenai, partial(_missing, "openvino-genai", "openvino_genai")),
    "vllm": _Known(Vllm, partial(_missing, "vllm", "vllm")),
}


def not_measured(engines: Iterable[str]) -> dict[str, str]:
    """Say of the peers that are not among the engines asked for why they are not in the report."""
    return {name: peer.absent() or "not asked for" for name, peer in PEERS.items() if name not in set(engines)}


def open_peer(job: CellJob) -> Peer:
    """Load the job's model with the job's engine; ModelError where that engine is absent or cannot run it."""
    peer = PEERS[job.engine]
    reason = peer.absent()
    if reason:
        raise ModelError(f"{job.engine} is {reason}")
    return peer.open(job)


def parsed(text: str, rubric: Rubric) -> int | None:
    """Return the grade whose label word an answer begins with; the longest, where one begins another."""
    answer = text.lstrip()
    found = [g for g in rubric.grades if answer.startswith(g.label.strip())]
    return max(found, key=lambda g: len(g.label)).grade if found else None
