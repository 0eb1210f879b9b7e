"""Does a rubric fit a model? Its label words against the tokenizer, its length against the context."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pairgrade.backends import one_model, open_backend
from pairgrade.llama import LlamaOptions
from pairgrade.onnx_backend import OnnxOptions
from pairgrade.prompt import PromptBuilder, chat_in_force
from pairgrade.records import Pair
from pairgrade.rubric import Rubric
from pairgrade.trained_prompt import prompt_in_force

_EXAMPLE = Pair("q", "d", "how long to boil an egg", "A medium egg needs eight minutes in boiling water.")


def check_rubric(rubric: Rubric, model: str | Path, chat: str = "auto", show_prompt: bool = False) -> dict[str, Any]:
    """Return what was found, JSON-ready; RubricError where a label word is not one token of the model.

    Turns and context are those of the model's training where its folder tells them, as in labelling.
    """
    chosen = one_model(model)
    _, chat, context = prompt_in_force(chosen, rubric, chat, None)
    backend, _ = open_backend(chosen, LlamaOptions(context=context), OnnxOptions(context=context), isolate=True)
    try:
        tokenizer = backend.tokenizer
        builder = PromptBuilder(
            rubric, tokenizer, backend.context, chat_in_force(chat, tokenizer, backend.is_chat_model)
        )
        prompt = builder.build(_EXAMPLE)
        cue = tokenizer.plain(rubric.cue)
        unnatural = [
            grade.label
            for grade, label in zip(rubric.grades, builder.label_ids, strict=True)
            if tokenizer.plain(rubric.cue + grade.label).tolist() != [*cue.tolist(), int(label)]
        ]
        found: dict[str, Any] = {
            "chat": builder.format.name,
            "context": backend.context,
            "instruction_tokens": len(prompt.prefix[0]),
            "cue_tokens": len(prompt.suffix) - prompt.document_tokens,
            "label_tokens": builder.label_ids.tolist(),
            "labels_that_join_the_cue": unnatural,  # in running text the tokenizer would write these otherwise
        }
        if show_prompt:
            ids = prompt.ids.tolist()
            found["prompt"] = [tokenizer.piece(token) for token in ids]
        return found
    finally:
        backend.close()
