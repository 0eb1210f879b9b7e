"""Chat scaffolds: the control strings around a chat model's turns.

A model file's own template is foreign code and is never rendered. A family's scaffold is a handful of fixed
strings, kept here as data; which family a model belongs to is told by the control tokens of its vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ChatFormat:
    """The control strings of one family; the prompt is system turn, user turn, start of the assistant turn."""

    name: str
    system_open: str  # empty with system_close: the system message opens the user turn instead
    system_close: str
    user_open: str
    user_close: str
    assistant_open: str
    markers: tuple[str, ...]  # a vocabulary with all of these as control tokens belongs to the family


_CHATML = ("<|im_start|>", "<|im_end|>")

PLAIN = ChatFormat("plain", "", "", "", "", "", ())

FORMATS = (
    ChatFormat(
        name="qwen3",  # ChatML, with the empty thought that switches its reasoning off
        system_open="<|im_start|>system\n",
        system_close="<|im_end|>\n",
        user_open="<|im_start|>user\n",
        user_close="<|im_end|>\n",
        assistant_open="<|im_start|>assistant\n<think>\n\n</think>\n\n",
        markers=(*_CHATML, "<think>", "</think>"),
    ),
    ChatFormat(
        name="chatml",
        system_open="<|im_start|>system\n",
        system_close="<|im_end|>\n",
        user_open="<|im_start|>user\n",
        user_close="<|im_end|>\n",
        assistant_open="<|im_start|>assistant\n",
        markers=_CHATML,
    ),
    ChatFormat(
        name="llama3",
        system_open="<|start_header_id|>system<|end_header_id|>\n\n",
        system_close="<|eot_id|>",
        user_open="<|start_header_id|>user<|end_header_id|>\n\n",
        user_close="<|eot_id|>",
        assistant_open="<|start_header_id|>assistant<|end_header_id|>\n\n",
        markers=("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
    ),
    ChatFormat(
        name="gemma",
        system_open="",
        system_close="",
        user_open="<start_of_turn>user\n",
        user_close="<end_of_turn>\n",
        assistant_open="<start_of_turn>model\n",
        markers=("<start_of_turn>", "<end_of_turn>"),
    ),
    PLAIN,
)
FORMAT_NAMES = tuple(f.name for f in FORMATS)
