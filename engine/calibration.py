"""Better grades from the probabilities that a model gives: fitted on pairs with human grades, applied to others.

The most probable grade of a small model is nearly constant, while its expected grade orders the pairs. A calibration
makes grades of that order, in one of two ways:

``cuts``
    Ascending cut points on the expected grade; the grade is the one with as many below it as there are cut points at
    or below the expected grade. Probabilities and expected grade stay as they are.
``scaling``
    A temperature T and a bias b for each grade: p' = softmax(log p / T + b), and the most probable grade of p'. This
    is temperature scaling (Guo et al., "On calibration of modern neural networks", ICML 2017) with biases (Alexandari
    et al., "Maximum likelihood with bias-corrected calibration is hard-to-beat at label shift adaptation", ICML 2020).

``pairgrade.calibration_fit`` fits them, ``pairgrade.calibration_file`` reads them. Here is plain arithmetic, row by
row, so that no neighbour can move a bit.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from operator import index
from pathlib import Path
from typing import Any

from pairgrade.atomic import write_text
from pairgrade.errors import InputError
from pairgrade.file_hashes import remembered_sha256

Graded = tuple[int, tuple[float, ...], float]  # grade, probability of each grade, expected grade

FLOOR = 1e-30  # what a smaller probability counts as, for its logarithm


def softmax(logits: Sequence[float]) -> tuple[tuple[float, ...], float]:
    """Return the probabilities that logits stand for, and the log of the sum of their exponentials."""
    peak = max(logits)
    weights = [math.exp(value - peak) for value in logits]
    whole = math.fsum(weights)
    return tuple(weight / whole for weight in weights), peak + math.log(whole)


def expected_grade(probabilities: Sequence[float], grades: Sequence[int]) -> float:
    """Return the sum of grade times probability."""
    return math.fsum(p * g for p, g in zip(probabilities, grades, strict=True))


@dataclass(frozen=True, slots=True)
class Cuts:
    """Cut points on the expected grade, one fewer than grades; of equal ones the grades between are never given."""

    points: tuple[float, ...]

    def __post_init__(self) -> None:
        if not all(map(math.isfinite, self.points)) or list(self.points) != sorted(self.points):
            raise InputError(f"the cut points are {list(self.points)}; they must be finite and ascending")

    @property
    def grades(self) -> int:
        """How many grades there are."""
        return len(self.points) + 1

    def apply(self, probabilities: tuple[float, ...], grades: Sequence[int]) -> Graded:
        """Count the cut points at or below the expected grade."""
        expected = expected_grade(probabilities, grades)
        return grades[bisect_right(self.points, expected)], probabilities, expected


@dataclass(frozen=True, slots=True)
class Scaling:
    """A temperature, and a bias in nats for each grade, ascending."""

    temperature: float
    biases: tuple[float, ...]

    def __post_init__(self) -> None:
        if not 0 < self.temperature < math.inf:
            raise InputError(f"the temperature is {self.temperature}; it must be above 0 and finite")
        if not all(map(math.isfinite, self.biases)):
            raise InputError(f"the biases are {list(self.biases)}; they must be finite")

    @property
    def grades(self) -> int:
        """How many grades there are."""
        return len(self.biases)

    def apply(self, probabilities: tuple[float, ...], grades: Sequence[int]) -> Graded:
        """Scale the probabilities; ties of the most probable grade go to the lower one."""
        logs = [math.log(max(p, FLOOR)) for p in probabilities]
        top = max(logs)  # before the division, so that no temperature makes all of them infinite
        logits = [(value - top) / self.temperature + bias for value, bias in zip(logs, self.biases, strict=True)]
        scaled, _ = softmax(logits)
        return grades[scaled.index(max(scaled))], scaled, expected_grade(scaled, grades)


METHODS = {"cuts": Cuts, "scaling": Scaling}


@dataclass(frozen=True, slots=True)
class Fitted:
    """How a calibration was fitted; information that changes no grade."""

    pairs: int
    queries: int
    folds: int  # of the cross-fitting
    split: str  # what the folds divide: "queries" or "pairs"
    seed: int
    quadratic_kappa_before: float | None  # None: undefined for these pairs
    quadratic_kappa_after: float | None  # of pairs that the fit has not seen
    judgments_sha256: str
    model_sha256: str | None = None  # of the model that gave the judgments; None: not known
    rubric: str | None = None  # the digest of the rubric that it had


@dataclass(frozen=True, slots=True)
class Calibration:
    """A method with its parameters, for a scale of grades."""

    grades: tuple[int, ...]  # ascending and distinct
    method: Cuts | Scaling
    fitted: Fitted | None = None

    def __post_init__(self) -> None:
        try:
            object.__setattr__(self, "grades", tuple(map(index, self.grades)))
        except TypeError:
            raise InputError(f"the grades are {self.grades!r}; they must be integers") from None
        if len(self.grades) < 2 or list(self.grades) != sorted(set(self.grades)):
            raise InputError(f"the grades are {list(self.grades)}; at least 2 are needed, distinct and ascending")
        if self.method.grades != len(self.grades):
            raise InputError(f"the {self.name} are for {self.method.grades} grades, and there are {len(self.grades)}")

    @property
    def name(self) -> str:
        """The method's name, as the command line has it."""
        return next(name for name, kind in METHODS.items() if isinstance(self.method, kind))

    @property
    def digest(self) -> str:
        """The sha256 of everything that decides a grade."""
        return hashlib.sha256(json.dumps(self._deciding(), sort_keys=True).encode()).hexdigest()

    def require(self, grades: Sequence[int]) -> None:
        """Raise InputError unless the calibration was fitted for these grades."""
        if tuple(grades) != self.grades:
            raise InputError(
                f"the calibration was fitted for the grades {', '.join(map(str, self.grades))}, and the rubric has "
                f"{', '.join(map(str, grades))}; fit one on judgments made with this rubric"
            )

    def doubts(self, model: Path | None, rubric: str) -> list[str]:
        """Say where model and rubric (its digest) are others than those whose judgments it was fitted to."""
        found = []
        if self.fitted and self.fitted.rubric not in (None, rubric):
            found.append("the calibration was fitted to judgments by another rubric")
        known = self.fitted and self.fitted.model_sha256
        if known and model and remembered_sha256(model) != known:
            found.append("the calibration was fitted to judgments of another model or quantization")
        return found

    def apply(self, probabilities: tuple[float, ...], grades: tuple[int, ...]) -> Graded:
        """Return grade, probabilities and expected grade of a pair whose model gave it these probabilities."""
        self.require(grades)
        if not all(map(math.isfinite, probabilities)):
            raise InputError(f"the probabilities are {list(probabilities)}; they must be finite")
        return self.method.apply(probabilities, self.grades)

    def to_dict(self) -> dict[str, Any]:
        """Return the calibration as its file holds it."""
        fitted = {"fitted": asdict(self.fitted)} if self.fitted else {}
        return {"calibration": 1} | self._deciding() | fitted

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the calibration as JSON; the file appears whole or not at all."""
        write_text(path, json.dumps(self.to_dict(), indent=2, allow_nan=False) + "\n")

    @classmethod
    def load(cls, path: str | os.PathLike[str], grades: Sequence[int] | None = None) -> Calibration:
        """Read a calibration, for a rubric with these grades if they are given; InputError says what is wrong."""
        from pairgrade.calibration_file import parse_calibration, read_text

        name = str(Path(path))
        calibration = parse_calibration(read_text(name), name)
        if grades is not None:
            try:
                calibration.require(grades)
            except InputError as error:
                raise InputError(f"{name}: {error}") from None
        return calibration

    def _deciding(self) -> dict[str, Any]:
        if isinstance(self.method, Cuts):
            own: dict[str, Any] = {"points": list(map(float, self.method.points))}
        else:
            own = {"temperature": float(self.method.temperature), "biases": list(map(float, self.method.biases))}
        return {"method": self.name, "grades": list(self.grades)} | own
