"""Prompts as token ids, ordered for reuse: [instruction and grades] [query] | [document] [cue].

What stands before the document is the prefix. It comes in two segments, the instruction (the same in the whole
run) and the query (the same for all of its documents), and a backend computes each once for as long as it does
not change. Only the document is ever cut to fit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pairgrade.chat import FORMAT_NAMES, FORMATS, PLAIN, ChatFormat
from pairgrade.errors import InputError, RubricError
from pairgrade.records import Pair
from pairgrade.rubric import Rubric
from pairgrade.tokenizer import Ids, Tokenizer

PROMPT_VERSION = 1  # part of a run's identity: raise it with any change to the ids that come out of here

MIN_DOCUMENT_TOKENS = 8  # a prompt with room for fewer is refused: the query is too long
_PIECE = 65_536  # characters of a document that are tokenized at a time


@dataclass(frozen=True, slots=True)
class Prompt:
    """The token ids of one pair."""

    prefix: tuple[Ids, ...]  # segments, each shared with other prompts
    suffix: Ids  # document and cue
    document_tokens: int
    cut_tokens: int

    @property
    def tokens(self) -> int:
        """Tokens of the whole prompt."""
        return sum(len(s) for s in self.prefix) + len(self.suffix)

    @property
    def ids(self) -> Ids:
        """The whole prompt in one array."""
        return np.concatenate((*self.prefix, self.suffix))


class PromptBuilder:
    """Builds the prompts of one rubric for one tokenizer; ``limit`` is the longest prompt in tokens."""

    def __init__(self, rubric: Rubric, tokenizer: Tokenizer, limit: int, chat: str = "plain") -> None:
        self.format = chat_format(chat, tokenizer)
        self._tokenizer = tokenizer
        self._limit = limit
        self._instruction = self._instruction_ids(rubric)
        self._query_space, query_header = _split_space(rubric.query_header)
        self._document_space, document_header = _split_space(rubric.document_header)
        self._query_open = tokenizer.plain("\n" + query_header)
        self._document_open = tokenizer.plain("\n" + document_header)
        self._cue = self._cue_ids(rubric)
        self.label_ids = label_ids(rubric, tokenizer)
        self._last_query: tuple[str, Ids] | None = None
        if len(self._instruction) + len(self._cue) + MIN_DOCUMENT_TOKENS > limit:
            raise InputError(
                f"rubric '{rubric.name}' takes {len(self._instruction) + len(self._cue)} tokens and the context "
                f"holds {limit}: raise the context size (--ctx, of `train` --context) or shorten the rubric"
            )

    def build(self, pair: Pair) -> Prompt:
        """Return the pair's prompt; InputError where the query leaves no room for a document."""
        query = self._query_ids(pair.query)
        room = self._limit - len(self._instruction) - len(query) - len(self._cue)
        if room < MIN_DOCUMENT_TOKENS:
            raise InputError(
                f"the query takes {len(query)} tokens; with the instruction and the cue that leaves {max(0, room)} of "
                f"the {self._limit} tokens of context for the document, and at least {MIN_DOCUMENT_TOKENS} are needed"
            )
        text = f"{pair.title}\n{pair.document}" if pair.title else pair.document
        kept, tokens = self._document_ids(self._document_space + text, room)
        suffix = np.concatenate((kept, self._cue))
        return Prompt((self._instruction, query), suffix, len(kept), tokens - len(kept))

    def _document_ids(self, text: str, room: int) -> tuple[Ids, int]:
        """Return the document's first ``room`` ids, and how many it has; a very long one is tokenized in pieces."""
        kept: list[Ids] = []
        tokens = 0
        for start in range(0, len(text), _PIECE):
            ids = self._tokenizer.plain(text[start : start + _PIECE])
            if tokens < room:
                kept.append(ids[: room - tokens])
            tokens += len(ids)
        return np.concatenate(kept) if kept else np.empty(0, np.int32), tokens

    def _query_ids(self, query: str) -> Ids:
        """Tokenize one query; the last is kept, for pairs mostly come grouped by query."""
        if self._last_query is None or self._last_query[0] != query:
            text = self._query_space + query
            ids = np.concatenate((self._query_open, self._tokenizer.plain(text), self._document_open))
            self._last_query = (query, ids)
        return self._last_query[1]

    def _instruction_ids(self, rubric: Rubric) -> Ids:
        tokenizer, chat = self._tokenizer, self.format
        ids = [np.array([tokenizer.bos], np.int32)] if tokenizer.bos is not None else []
        user = _task_text(rubric)
        if chat.system_open and rubric.system:
            ids += [tokenizer.scaffold(chat.system_open), tokenizer.plain(rubric.system)]
            ids.append(tokenizer.scaffold(chat.system_close))
        elif chat is not PLAIN and rubric.system:
            user = f"{rubric.system}\n\n{user}"
        if chat.user_open:
            ids.append(tokenizer.scaffold(chat.user_open))
        ids.append(tokenizer.plain(user))
        return np.concatenate(ids)

    def _cue_ids(self, rubric: Rubric) -> Ids:
        tokenizer, chat = self._tokenizer, self.format
        if chat is PLAIN:
            return tokenizer.plain("\n" + rubric.cue)
        turn = tokenizer.scaffold(chat.user_close + chat.assistant_open)
        return np.concatenate((turn, tokenizer.plain(rubric.cue)))


def fitting_prompts(builder: PromptBuilder, pairs: Sequence[Pair], needed: str | None = None) -> dict[int, Prompt]:
    """Return the prompts of those pairs whose query leaves room for a document, by their places.

    ``needed``: what the pairs do, for the InputError where none is left.
    """
    found: dict[int, Prompt] = {}
    reason = "there is no pair"
    for place, pair in enumerate(pairs):
        try:
            found[place] = builder.build(pair)
        except InputError as error:
            reason = str(error)
    if needed and not found:
        raise InputError(f"none of {len(pairs):,} {needed}: {reason}")
    return found


def chat_format(name: str, tokenizer: Tokenizer) -> ChatFormat:
    """Look up a chat format by name; one whose control tokens the vocabulary lacks is refused."""
    for candidate in FORMATS:
        if candidate.name == name:
            missing = [m for m in candidate.markers if tokenizer.special(m) is None]
            if missing:
                raise InputError(
                    f"chat format '{name}' needs the control token {missing[0]}, which this model's vocabulary "
                    f"lacks; the formats that fit it: {', '.join(_fitting(tokenizer))}"
                )
            return candidate
    raise InputError(f"no chat format '{name}'; there are: auto, {', '.join(FORMAT_NAMES)}")


def detect_chat_format(tokenizer: Tokenizer, is_chat_model: bool) -> str:
    """Return the name of the chat format of a vocabulary; plain for models that are not made for chat."""
    return _fitting(tokenizer)[0] if is_chat_model else PLAIN.name


def chat_in_force(name: str, tokenizer: Tokenizer, is_chat_model: bool) -> str:
    """Return the name of a chat format; for "auto" that of the vocabulary."""
    return detect_chat_format(tokenizer, is_chat_model) if name == "auto" else name


def _fitting(tokenizer: Tokenizer) -> Sequence[str]:
    return [f.name for f in FORMATS if all(tokenizer.special(m) is not None for m in f.markers)]


def label_ids(rubric: Rubric, tokenizer: Tokenizer) -> Ids:
    """Return the token of each grade's label word, ascending by grade.

    RubricError where a label word is not one token of this tokenizer or two words share a token.
    """
    found: list[int] = []
    for grade in rubric.grades:
        ids = tokenizer.plain(grade.label)
        if len(ids) != 1:
            hint = "; put the space at the end of the cue" if grade.label.startswith(" ") else ""
            raise RubricError(
                f"rubric '{rubric.name}': label word '{grade.label}' of grade {grade.grade} is {len(ids)} tokens "
                f"for this model; it must be exactly one{hint}"
            )
        found.append(int(ids[0]))
    if len(set(found)) < len(found):
        raise RubricError(f"rubric '{rubric.name}': two label words are the same token for this model")
    return np.array(found, np.int32)


def _split_space(header: str) -> tuple[str, str]:
    """Part a header from its last space, which is tokenized with the text that follows, as in running text."""
    return (" ", header[:-1]) if header.endswith(" ") else ("", header)


def _task_text(rubric: Rubric) -> str:
    """Return everything before the query's header, ending with a line break."""
    lines = [rubric.instruction]
    lines += [f"{g.label.strip()}: {g.meaning}" for g in rubric.grades]
    labels = dict(zip(rubric.values, rubric.labels, strict=True))
    for example in rubric.examples:
        lines += ["", f"{rubric.query_header}{example.query}", f"{rubric.document_header}{example.document}"]
        lines.append(f"{rubric.cue}{labels[example.grade]}")
    return "\n".join(lines) + "\n"
