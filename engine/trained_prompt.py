"""The prompt that an annotator was trained with: carried on from the adapter to the merged model and its exports.

Each of these folders holds the rubric as rubric.toml. The digest of the rubric, the turns of the chat and the context
are part of the training's identity in manifest.json; an export tells them as its "prompt", there (GGUF) or in
provenance.json (ONNX).
"""

from __future__ import annotations

import json
import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pairgrade.atomic import write_text
from pairgrade.errors import ModelError, RubricError
from pairgrade.file_hashes import MANIFEST
from pairgrade.rubric import BUILT_IN, Rubric

RUBRIC, PROVENANCE = "rubric.toml", "provenance.json"
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class TrainedPrompt:
    """What made the prompts of a training."""

    digest: str  # of the rubric
    rubric: Rubric | None  # None: the folder does not hold it, and it is none of the built-in ones
    chat: str  # the turns around the prompt, by name
    context: int  # longest prompt in tokens

    def write(self, folder: Path) -> None:
        """Write the rubric into a folder."""
        if self.rubric is not None:
            write_rubric(self.rubric, folder)

    def to_dict(self) -> dict[str, Any]:
        """Return it for a manifest."""
        rubric = {"name": self.rubric.name if self.rubric else None, "sha256": self.digest}
        return {"rubric": rubric, "chat": self.chat, "context": self.context}


def write_rubric(rubric: Rubric, folder: Path) -> None:
    """Write the rubric that a model is trained with beside it."""
    from pairgrade.rubric_file import rubric_toml  # here, for it brings pydantic, which no worker needs

    write_text(folder / RUBRIC, rubric_toml(rubric))


def read_trained_prompt(model: Path) -> TrainedPrompt | None:
    """Read it of the folder of an adapter, a merged model or an ONNX export, or of a GGUF file in an export's folder.

    None for a model, or what is none, that tells of no training. ModelError where rubric.toml is not the rubric of the
    training.
    """
    folder = model
    if os.path.isdir(model):
        told = _trained(_table(model / MANIFEST)) or _exported(_table(model / PROVENANCE))
    elif os.path.isfile(model):
        folder = model.parent
        table = _table(folder / MANIFEST)
        told = _exported(table) if _lists(table, model.name) else None
    else:
        return None
    if told is None:
        return None
    digest, chat, context = told
    file = folder / RUBRIC
    if file.is_file():
        rubric: Rubric | None = Rubric.load(file)
        if rubric is not None and rubric.digest != digest:
            raise ModelError(
                f"{file} is not the rubric that the model was trained with: its digest is {rubric.digest}, "
                f"expected is {digest}"
            )
    else:
        rubric = next((known for known in map(Rubric.load, BUILT_IN) if known.digest == digest), None)
    return TrainedPrompt(digest, rubric, chat, context)


def _table(file: Path) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None


def _lists(table: Any, name: str) -> bool:
    files = table.get("files") if isinstance(table, dict) else None
    return isinstance(files, dict) and name in files


def _trained(table: Any) -> tuple[str, str, int] | None:
    """Return the rubric's digest, turns and context of an adapter's or a merged model's manifest."""
    try:
        identity = table["identity"]
        return str(identity["rubric"]), str(identity["chat_format"]), int(identity["option.context"])
    except (ValueError, KeyError, TypeError):
        return None


def _exported(table: Any) -> tuple[str, str, int] | None:
    """Return the same of what an export tells."""
    try:
        prompt = table["prompt"]
        return str(prompt["rubric"]["sha256"]), str(prompt["chat"]), int(prompt["context"])
    except (ValueError, KeyError, TypeError):
        return None


def prompt_in_force(
    model: str | Path, rubric: Rubric | str | Path | None, chat: str, context: int | None
) -> tuple[Rubric, str, int | None]:
    """Return rubric, turns and longest prompt of what labels: as given, else (None, "auto", None) as of its training.

    ``model`` is a file or a folder of one model; see ``rubric_in_force``.
    """
    trained = read_trained_prompt(Path(model))
    given = rubric if isinstance(rubric, Rubric) or rubric is None else Rubric.load(rubric)
    found = rubric_in_force(given, Path(model), trained)
    if trained is None:
        return found, chat, context
    return found, trained.chat if chat == "auto" else chat, context or trained.context


def rubric_in_force(given: Rubric | None, model: Path, trained: TrainedPrompt | None) -> Rubric:
    """Return the rubric that was given, else the one of the training, and trec for a model without one.

    A given one that is not that of the training is warned of.
    """
    if given is None:
        if trained is None:
            return Rubric.load("trec")
        if trained.rubric is None:
            raise RubricError(
                f"{model} comes without the rubric that it was trained with, and none of the built-in ones has its "
                f"digest ({trained.digest}); give it with --rubric"
            )
        return trained.rubric
    if trained is not None and given.digest != trained.digest:
        _log.warning(
            "%s was trained with another rubric than the '%s' that was given: its digest is %s, the other's %s. "
            "A model grades by the rubric of its training; leave --rubric out to take that one",
            model, given.name, trained.digest, given.digest,
        )  # fmt: skip
    return given
