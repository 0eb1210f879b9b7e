"""What one model says of the pairs, and what its tokenizer makes of texts: all that a comparison needs."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pairgrade.backend import Backend
from pairgrade.errors import ModelError, NonFiniteError
from pairgrade.export.hostile_strings import hostile_strings
from pairgrade.folder_tokenizer import FolderTokenizer
from pairgrade.llama_model import LlamaTokenizer
from pairgrade.plan import PlanOptions, plan
from pairgrade.progress import Progress
from pairgrade.prompt import Prompt, PromptBuilder, chat_in_force, fitting_prompts
from pairgrade.records import Pair
from pairgrade.rubric import Rubric
from pairgrade.tokenizer import Tokenizer

_CONTROL = ("<|im_start|>", "<|im_end|>", "<bos>", "<start_of_turn>", "<|eot_id|>", "</s>", "[INST]", "<think>")


@dataclass(frozen=True, slots=True)
class Task:
    """What models are compared on."""

    pairs: Sequence[Pair]
    rubric: Rubric
    chat: str = "auto"  # chat format by name, or what the vocabulary tells
    strings: Sequence[str] = ()  # texts whose ids are compared


@dataclass(frozen=True, slots=True)
class Measured:
    """One model on a task."""

    name: str
    logits: npt.NDArray[np.float32]  # (pairs, grades); NaN where a pair does not fit the context
    prompts: tuple[str, ...]  # a digest of each pair's ids; empty where it does not fit
    strings: tuple[tuple[int, ...], ...]  # the ids of each string


def measure(name: str, backend: Backend, task: Task, progress: Progress | None = None) -> Measured:
    """Run every pair; NonFiniteError where logits are not numbers, RubricError where the rubric does not fit.

    ModelError where one cannot be computed.
    """
    progress = progress or Progress()
    builder, prompts = prompts_of(backend, task)
    progress.start(len(prompts), 0)
    places = list(prompts)
    logits = np.full((len(task.pairs), len(builder.label_ids)), np.nan, np.float32)
    for batch in plan(list(prompts.values()), PlanOptions()):
        scores = backend.score(batch.prefix, batch.suffixes, builder.label_ids)
        if scores.failed:
            raise ModelError(f"{name}: a pair cannot be computed: {next(iter(scores.failed.values()))}")
        if not np.isfinite(scores.logits).all():
            raise NonFiniteError(f"{name}: the logits of a pair are not numbers; this model cannot be used")
        for row, indices in enumerate(batch.indices):
            logits[[places[index] for index in indices]] = scores.logits[row]
        progress.advance(sum(map(len, batch.indices)), backend.counters)
    digests = tuple(_digest(prompts[place]) if place in prompts else "" for place in range(len(task.pairs)))
    return Measured(
        name, logits, digests, tuple(tuple(backend.tokenizer.plain(text).tolist()) for text in task.strings)
    )


def prompts_of(backend: Backend, task: Task) -> tuple[PromptBuilder, dict[int, Prompt]]:
    """Build the prompts of a task's pairs, by their places; pairs whose query is too long have none."""
    chat = chat_in_force(task.chat, backend.tokenizer, backend.is_chat_model)
    builder = PromptBuilder(task.rubric, backend.tokenizer, backend.context, chat)
    return builder, fitting_prompts(builder, task.pairs)


def texts_for(tokenizer: Tokenizer, count: int) -> list[str]:
    """Return hostile strings that hold the tokenizer's own control tokens."""
    special: Sequence[str] = _CONTROL
    if isinstance(tokenizer, FolderTokenizer | LlamaTokenizer):
        special = [*tokenizer.special_texts.values(), *_CONTROL]
    return hostile_strings(count, special)


def _digest(prompt: Prompt) -> str:
    return hashlib.sha256(prompt.ids.tobytes()).hexdigest()
