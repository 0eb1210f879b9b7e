"""What a benchmark found, as it is kept in a JSON file; ``SCHEMA`` rises when its meaning changes."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from pairgrade.atomic import write_text
from pairgrade.bench.ceiling import Ceiling
from pairgrade.bench.prices import ApiPrice, MachinePrice
from pairgrade.bench.spread import Spread
from pairgrade.errors import InputError
from pairgrade.rubric_file import problems

SCHEMA = 1
_BUSY = 0.2  # cores of other processes from which on a note is made
_FORMAT = "pairgrade-bench"


@dataclass(frozen=True, slots=True)
class Value:
    """A statistic and the ends of its interval."""

    value: float | None  # None: undefined for these pairs
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, slots=True)
class CellResult:
    """One cell. Seconds, tokens and energy are medians over the rounds; what could not be measured is None."""

    name: str
    model: str
    engine: str
    rubric: str
    threads: int
    batch_tokens: int
    pairs: int
    pairs_per_second: Spread
    total_seconds: float  # from the texts in a file to the judgments in a file
    load_seconds: float
    first_seconds: float  # from the start of the process to the first judgment
    read_seconds: float | None
    tokenize_seconds: float | None
    prefix_seconds: float | None
    documents_seconds: float | None
    write_seconds: float | None
    other_seconds: float | None  # the rest of the total: planning, the journal, arithmetic on the judgments
    document_tokens_per_second: float | None  # computed for documents and cues, by the seconds spent on them
    prefix_tokens_per_second: float | None  # computed for prefixes, by the seconds spent on them
    reused_tokens_per_second: float | None  # found computed, by the total
    prompt_tokens_per_pair: float | None
    unparsed: int  # pairs without a grade, which count in no rate: unfit, or answered without one
    peak_rss_bytes: int
    model_bytes: int | None
    joules_per_pair: float | None  # of the processor's packages
    other_load: float | None  # cores that other processes kept busy; the highest of the rounds
    gops: float | None  # arithmetic of the weights' products by the seconds inside the model
    share_of_fp32: float | None  # of the fp32 ceiling of as many threads
    share_of_int8: float | None
    usd_per_million_pairs: float | None
    pairs_per_usd: float | None
    agreement: dict[str, Value]  # with the human grades; empty where there are none
    reference_agreement: float | None  # share of pairs with the reference's grade
    reference_kl: float | None  # mean divergence from the reference's grade probabilities, nats
    dominated: bool  # another cell costs no more and agrees no less, and one of them truly
    identity: dict[str, str]
    gpu_joules_per_pair: float | None = None  # of the GPUs; results of before have none
    bound: bool | None = None  # whether each process was bound to as many CPUs as threads; results of before do not say


@dataclass(frozen=True, slots=True)
class ApiCost:
    """A hosted model's price for the same prompts, agreement not measured."""

    price: ApiPrice
    usd_per_million_pairs: float


@dataclass(frozen=True, slots=True)
class BenchResult:
    """A whole benchmark."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    date: str  # when it began, ISO 8601
    settings: dict[str, Any]  # the matrix
    data: dict[str, Any]  # what the slice holds, with its sha256
    environment: dict[str, Any]
    ceilings: tuple[Ceiling, ...]
    rounds: int
    stopped: str
    usd_per_hour: float | None
    machine: MachinePrice | None  # whose price was taken
    measure: str  # the agreement that the frontier is drawn by
    cells: tuple[CellResult, ...]
    skipped: dict[str, str]  # what was not measured, and why
    apis: tuple[ApiCost, ...]
    notes: tuple[str, ...]
    schema: int = SCHEMA

    def to_dict(self) -> dict[str, Any]:
        """Return the result as JSON takes it."""
        return {"format": _FORMAT} | asdict(self)

    def save(self, path: Path) -> None:
        """Write the result as JSON."""
        write_text(path, json.dumps(self.to_dict(), indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def load_beside(cells: Sequence[CellResult]) -> float | None:
    """Return the most cores that other processes kept busy, or None where that is too little to be noted."""
    loads = [cell.other_load for cell in cells if cell.other_load is not None and cell.other_load > _BUSY]
    return max(loads, default=None)


def load_result(path: Path) -> BenchResult:
    """Read a result; InputError where the file is none, of another schema, or holds what no benchmark gives."""
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not JSON: {error}") from None
    if not isinstance(table, dict) or table.pop("format", None) != _FORMAT:
        raise InputError(f"{path}: no result of `pairgrade bench`; give its results.json")
    if table.get("schema") != SCHEMA:
        raise InputError(f"{path}: of schema {table.get('schema')}; this version reads {SCHEMA}: measure again")
    try:
        result = TypeAdapter(BenchResult).validate_python(table)
        _Kept.model_validate(table)
    except ValidationError as error:
        raise InputError(f"{path}: damaged: " + "; ".join(problems(error)[:5])) from None
    wrong = next(_wrong(result), None)
    if wrong:
        raise InputError(f"{path}: damaged: {wrong}")
    return result


class _Slice(BaseModel):
    pairs: str
    max_queries: int
    per_query: int
    seed: int


class _Settings(BaseModel):
    models: list[str]
    engines: list[str]
    rubrics: list[str]
    threads: list[int]
    batch_tokens: list[int]
    peer_models: list[str] = []
    context: int
    reference: str | None
    data: _Slice
    rounds: dict[str, float]


class _Measured(BaseModel):
    pairs: int
    queries: int
    graded: int
    sha256: str


class _Machine(BaseModel):
    cpu: str
    cores: int
    system: str
    python: str
    packages: dict[str, str]


class _Kept(BaseModel):
    """What the reports and comparisons read of a result's free tables."""

    settings: _Settings
    data: _Measured
    environment: _Machine


def _wrong(result: BenchResult) -> Iterator[str]:
    """Say what of a result's figures cannot be."""
    if not result.cells:
        yield "it holds no cell"
    usd = result.usd_per_hour
    if usd is not None and not 0 < usd < math.inf:
        yield f"usd_per_hour is {usd}"
    for cell in result.cells:
        rate = cell.pairs_per_second
        above_zero = {
            "total_seconds": cell.total_seconds, "peak_rss_bytes": cell.peak_rss_bytes, "pairs": cell.pairs,
            "the median": rate.median, "the interval's low end": rate.low,
        }  # fmt: skip
        yield from (f"{cell.name}: {name} is {value}" for name, value in above_zero.items() if not 0 < value < math.inf)
        if not rate.values or not all(0 < value < math.inf for value in rate.values):
            yield f"{cell.name}: its rates are {list(rate.values)}"
        numbers = [getattr(cell, field.name) for field in fields(cell)]
        numbers += [part for value in cell.agreement.values() for part in (value.value, value.low, value.high)]
        if not all(math.isfinite(x) for x in (*numbers, rate.high, rate.coverage) if isinstance(x, float)):
            yield f"{cell.name}: a figure is infinite or not a number"
