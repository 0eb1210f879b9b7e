"""From graded pairs to what a step runs: the engine's own prompts, and targets over the grades."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from pairgrade.errors import InputError
from pairgrade.prompt import Prompt, PromptBuilder
from pairgrade.records import Pair

Targets = dict[tuple[str, str], tuple[float, ...]]  # grade probabilities by (query_id, doc_id)


@dataclass(frozen=True, slots=True)
class Example:
    """One pair to learn from."""

    query_id: str
    doc_id: str
    prompt: Prompt
    target: tuple[float, ...]  # probability of each grade, ascending; sums to 1
    grade: int  # the human grade, or that of the judgment that is the soft target


@dataclass(frozen=True, slots=True)
class Blend:
    """How human grades and soft targets make one target; ``weight`` is the share of the soft one where both are."""

    grades: tuple[int, ...]
    soft: Targets
    soft_grades: dict[tuple[str, str], int] = field(default_factory=dict)  # of the same judgments
    weight: float = 1.0

    def target(self, pair: Pair) -> tuple[float, ...] | None:
        """Return the pair's target distribution, or None where nothing is known of its grade."""
        soft = self.soft.get((pair.query_id, pair.doc_id))
        if pair.grade is None:
            return soft
        if pair.grade not in self.grades:
            raise InputError(
                f"pair ({pair.query_id}, {pair.doc_id}) has grade {pair.grade}; the rubric's grades are "
                f"{', '.join(map(str, self.grades))}"
            )
        hard = tuple(float(grade == pair.grade) for grade in self.grades)
        if soft is None:
            return hard
        return tuple(self.weight * s + (1 - self.weight) * h for s, h in zip(soft, hard, strict=True))

    def grade(self, pair: Pair) -> int | None:
        """Return the grade by which the pair is balanced: the human one, or that of its judgment."""
        return pair.grade if pair.grade is not None else self.soft_grades.get((pair.query_id, pair.doc_id))


def examples(pairs: Iterable[Pair], blend: Blend, builder: PromptBuilder) -> Iterator[Example]:
    """Build the example of each pair; one whose query does not fit the context is an InputError."""
    for pair in pairs:
        target, grade = blend.target(pair), blend.grade(pair)
        if target is None or grade is None:
            raise InputError(f"pair ({pair.query_id}, {pair.doc_id}) has no grade and no soft target")
        try:
            prompt = builder.build(pair)
        except InputError as error:
            raise InputError(
                f"pair ({pair.query_id}, {pair.doc_id}): {error}; give a larger --context or leave the query out"
            ) from None
        yield Example(pair.query_id, pair.doc_id, prompt, target, grade)


def micro_batches(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Cut places into batches of similar lengths whose padded size stays within ``budget`` tokens.

    The longest come first, so that a run that does not fit the memory fails at its start. A single example longer
    than the budget is a batch alone.
    """
    batches: list[list[int]] = []
    for place in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if batches and lengths[batches[-1][0]] * (len(batches[-1]) + 1) <= budget:
            batches[-1].append(place)
        else:
            batches.append([place])
    return batches


def suffix_of(example: Example, shared: bool) -> npt.NDArray[np.int32]:
    """Return the ids that a step runs for one example: what follows the instruction, or the whole prompt."""
    prompt = example.prompt
    return np.concatenate((*prompt.prefix[1:], prompt.suffix)) if shared else prompt.ids
