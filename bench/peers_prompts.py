"""What the adapters of other engines share: pairgrade's own prompts as token ids, and what most of them lack."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pairgrade.bench.cell_records import CellJob
from pairgrade.errors import InputError, ModelError
from pairgrade.folder_tokenizer import FolderTokenizer, has_chat_template
from pairgrade.llama_model import LlamaModel
from pairgrade.models import resolve
from pairgrade.prompt import PromptBuilder, detect_chat_format
from pairgrade.records import Pair
from pairgrade.rubric import Rubric

NEW_TOKENS = 4  # the longest answer of any engine, for which each has room behind the longest prompt


class Prompts:
    """Builds prompts as pairgrade does, and gives them as lists of ids."""

    def __init__(self, job: CellJob, tokenizer: Any, is_chat_model: bool) -> None:
        chat = detect_chat_format(tokenizer, is_chat_model)
        self._tokenizer = tokenizer
        self._builder = PromptBuilder(Rubric.load(job.rubric), tokenizer, job.context, chat)

    def ids(self, pairs: Sequence[Pair]) -> Iterator[list[int]]:
        """Yield the ids of each pair's prompt."""
        for pair in pairs:
            yield self._builder.build(pair).ids.tolist()

    def text(self, tokens: Sequence[int]) -> str:
        """Return the text of an answer."""
        return "".join(map(self._tokenizer.piece, tokens))

    def tokens(self, pairs: Sequence[Pair]) -> int:
        """Count the tokens of the prompts."""
        try:
            return sum(map(len, self.ids(pairs)))
        except InputError as error:
            raise ModelError(f"a pair of the slice does not fit: {error}") from None


class PromptedPeer:
    """An engine that takes prompts as ids and runs in this process."""

    process: int | None = None  # the id of the process that holds the model, where it is another

    def __init__(self, prompts: Prompts) -> None:
        self.prompts = prompts

    def prompt_tokens(self, pairs: Sequence[Pair]) -> int:
        """Count the tokens of the prompts."""
        return self.prompts.tokens(pairs)

    def close(self) -> None:
        """End what would outlive this process: nothing."""


def gguf_prompts(job: CellJob, engine: str) -> tuple[Path, Prompts]:
    """Return the job's GGUF file and prompts by its own tokenizer; ModelError for a folder."""
    if Path(job.model).is_dir():
        raise ModelError(f"{engine} runs GGUF files, and this model is a folder")
    path = resolve(job.model)
    vocabulary = LlamaModel(path, vocab_only=True)
    return path, Prompts(job, vocabulary.tokenizer, vocabulary.is_chat_model)


def folder_prompts(job: CellJob, folder: Path) -> Prompts:
    """Return prompts by the tokenizer.json of a folder."""
    return Prompts(job, FolderTokenizer(folder), has_chat_template(folder))


def imported(module: str, package: str) -> Any:
    """Import a library; ModelError where it is not there or does not run here."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ModelError(f"{package} cannot be imported ({error}); run: pip install {package}") from None
