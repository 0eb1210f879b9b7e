"""The engine's own prompts for a transformers folder."""

from __future__ import annotations

from pathlib import Path

from pairgrade.folder_tokenizer import FolderTokenizer, has_chat_template
from pairgrade.prompt import PromptBuilder, chat_in_force
from pairgrade.rubric import Rubric
from pairgrade.train.options import TrainOptions


def builder_of(folder: Path, rubric: Rubric, options: TrainOptions) -> PromptBuilder:
    """Return the prompt builder that the engine would use for the model of a folder."""
    tokenizer = FolderTokenizer(folder)
    chat = chat_in_force(options.chat, tokenizer, has_chat_template(folder))
    return PromptBuilder(rubric, tokenizer, options.context, chat)
