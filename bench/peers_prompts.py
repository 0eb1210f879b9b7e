"""What the adapters of other engines share: pairgrade's own prompts as token ids, and what most of them lack."""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pairgrade.bench.cell_records import CellJob
from pairgrade.errors import InputError, ModelError
from pairgrade.file_hashes import remembered_sha256
from pairgrade.folder_tokenizer import FolderTokenizer, has_chat_template
from pairgrade.llama_model import LlamaModel
from pairgrade.models import resolve
from pairgrade.prompt import PromptBuilder, detect_chat_format
from pairgrade.records import Pair
from pairgrade.rubric import Rubric

NEW_TOKENS = 4  # the longest answer of any engine, for which each has room behind the longest prompt


class Prompts:
    """Builds prompts as pairgrade does, and gives them as lists of ids."""

    def __init__(self, job: CellJob, tokenizer: Any, is_chat_model: bool, model: Path) -> None:
        chat = detect_chat_format(tokenizer, is_chat_model)
        self._tokenizer, self._model = tokenizer, model
        self._rubric = Rubric.load(job.rubric)
        self._builder = PromptBuilder(self._rubric, tokenizer, job.context, chat)

    def ids(self, pairs: Sequence[Pair]) -> Iterator[list[int]]:
        """Yield the ids of each pair's prompt."""
        for pair in pairs:
            yield self._builder.build(pair).ids.tolist()

    def why_unfit(self, pair: Pair) -> str | None:
        """Say why a pair has no prompt, or None where it has one."""
        try:
            self._builder.build(pair)
        except InputError as error:
            return str(error)
        return None

    def identity(self) -> dict[str, str]:
        """Name what decides the answers besides the engine, by the names that pairgrade's own cells have."""
        own = {"rubric": self._rubric.digest, "chat": self._builder.format.name}
        return own | {"model_sha256": _digest(self._model)}

    def text(self, tokens: Sequence[int]) -> str:
        """Return the text of an answer."""
        return "".join(map(self._tokenizer.piece, tokens))

    def tokens(self, pairs: Sequence[Pair]) -> int:
        """Count the tokens of the prompts."""
        return sum(map(len, self.ids(pairs)))


class PromptedPeer:
    """An engine that takes prompts as ids and runs in this process."""

    process: int | None = None  # the id of the process that holds the model, where it is another

    def __init__(self, prompts: Prompts) -> None:
        self.prompts = prompts

    def prompt_tokens(self, pairs: Sequence[Pair]) -> int:
        """Count the tokens of the prompts."""
        return self.prompts.tokens(pairs)

    def why_unfit(self, pair: Pair) -> str | None:
        """Say why a pair has no prompt, or None where it has one."""
        return self.prompts.why_unfit(pair)

    def close(self) -> None:
        """End what would outlive this process: nothing."""


def gguf_prompts(job: CellJob, engine: str) -> tuple[Path, Prompts]:
    """Return the job's GGUF file and prompts by its own tokenizer; ModelError for a folder."""
    if Path(job.model).is_dir():
        raise ModelError(f"{engine} runs GGUF files, and this model is a folder")
    path = resolve(job.model)
    vocabulary = LlamaModel(path, vocab_only=True)
    return path, Prompts(job, vocabulary.tokenizer, vocabulary.is_chat_model, path)


def folder_prompts(job: CellJob, folder: Path) -> Prompts:
    """Return prompts by the tokenizer.json of a folder."""
    return Prompts(job, FolderTokenizer(folder), has_chat_template(folder), _origin(job.model, folder))


def _origin(reference: str, folder: Path) -> Path:
    """Return the GGUF that a folder was dequantized from, else the folder."""
    try:
        return resolve(reference)
    except ModelError:
        return folder


def _digest(model: Path) -> str:
    """Return the sha256 of a model file, or one of all the files of a folder."""
    if model.is_file():
        return remembered_sha256(model)
    files = sorted(path for path in model.iterdir() if path.is_file())
    lines = "".join(f"{path.name} {remembered_sha256(path)}\n" for path in files)
    return hashlib.sha256(lines.encode()).hexdigest()


def imported(module: str, package: str) -> Any:
    """Import a library; ModelError where it is not there or does not run here."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ModelError(f"{package} cannot be imported ({error}); run: pip install {package}") from None
