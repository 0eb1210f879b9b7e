"""Predicts time, memory and cost of labelling a file, by labelling a sample of it.

The sample is stratified by length: queries in the order of their documents' mean length, taken at equal steps, with
all documents of each, or the most that are asked for. It runs as `pairgrade label` would run it: with the options of
that command, the model in a worker process (but on Linux only, for elsewhere that process's memory cannot be read).
The seconds of its batches are regressed on their pairs and their computed tokens, and the whole file's pairs and
tokens, which are counted without the model, are put in. The interval comes from a bootstrap over the batches.

Memory lies between what both processes held together when the sample was done, and the sum of the most that each held,
which may not have come at the same time; a longer document than the sample's may take more.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from pairgrade.annotator import AnnotatorOptions
from pairgrade.bench.arithmetic import model_bytes
from pairgrade.bench.cell_process import measure_cell
from pairgrade.bench.cell_records import BatchTime, CellJob, CellRun
from pairgrade.bench.lengths import Lengths, measure_lengths
from pairgrade.bench.slice import write_slice
from pairgrade.bootstrap import Floats, interval
from pairgrade.errors import InputError
from pairgrade.hardware import usable_cores
from pairgrade.judgments import read_judgments
from pairgrade.llama import LlamaOptions
from pairgrade.model_choice import choose_model
from pairgrade.onnx_backend import PROVIDERS, OnnxOptions
from pairgrade.readers import Source, read_pairs
from pairgrade.records import Judgment, Pair
from pairgrade.rubric import Rubric
from pairgrade.trained_prompt import RUBRIC, write_rubric

_HOUR = 3600.0
_BYTES_A_ROW = 8  # of memory that a run keeps for each pair
_CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True)
class EstimateOptions:
    """What is sampled, and what an hour costs."""

    model: str
    rubric: Rubric = field(default_factory=lambda: Rubric.load("trec"))
    sample: int = 200  # pairs
    annotator: AnnotatorOptions = field(default_factory=AnnotatorOptions)  # a calibration takes no time and is left out
    llama: LlamaOptions = field(default_factory=LlamaOptions)
    onnx: OnnxOptions = field(default_factory=OnnxOptions)
    isolate: bool = True  # the model in a worker process, as `pairgrade label` runs it
    usd_per_hour: float | None = None
    resamples: int = 1000
    seed: int = 0

    def __post_init__(self) -> None:
        if self.sample < 2:
            raise InputError(f"a sample of {self.sample} pairs; it must hold at least 2")
        if self.usd_per_hour is not None and self.usd_per_hour <= 0:
            raise InputError(f"usd_per_hour is {self.usd_per_hour}; it must be above 0")


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a whole run is expected to take."""

    pairs: int  # usable rows of the input
    rejected: int
    queries: int
    sampled: int
    batches: int  # of the sample, that the regression rests on
    tokens: float  # to be computed
    seconds: float  # from the start to the finished output, loading included
    low: float | None  # ends of its interval; None where the sample had too few batches
    high: float | None
    labelling_seconds: float  # of these, labelling
    pairs_per_second: float
    load_seconds: float
    rss_low: int  # bytes of memory, of the processes together
    rss_high: int
    model_bytes: int | None
    usd: float | None
    usd_low: float | None
    usd_high: float | None
    usd_per_million_pairs: float | None  # as of a run so long that loading does not count

    def to_dict(self) -> dict[str, Any]:
        """Return the estimate as JSON takes it."""
        return asdict(self)


def estimate(source: Source, options: EstimateOptions) -> Estimate:
    """Read the input, label a sample, and predict the rest; InputError for an unusable input, ModelError likewise."""
    cuda = options.onnx.provider == PROVIDERS["cuda"]
    options = replace(options, model=choose_model(options.model, cuda=cuda).model)
    lengths = measure_lengths(source)
    chosen = lengths.sample(options.sample)
    pairs = tuple(_chosen(source, set(chosen.tolist())))
    with tempfile.TemporaryDirectory() as folder:
        path, out = Path(folder) / "sample.jsonl", Path(folder) / "judgments.jsonl"
        write_slice(path, pairs)
        run = measure_cell(cell_job(options, path, out))
        judgments = list(read_judgments(out))
    return _predicted(lengths, pairs, judgments, run, options)


def cell_job(options: EstimateOptions, path: Path, out: Path) -> CellJob:
    """Write the rubric beside ``out`` and return the measurement that labels a file of pairs as the options say."""
    write_rubric(options.rubric, out.parent)
    own = options.annotator
    return CellJob(
        model=options.model,
        engine="pairgrade",
        rubric=str(out.with_name(RUBRIC)),
        threads=options.llama.threads or usable_cores(),
        batch_tokens=own.plan.batch_tokens,
        context=0,  # those of llama and onnx are in force
        pairs=str(path),
        out=str(out),
        isolate=options.isolate and sys.platform == "linux",
        prompt={"chat": own.chat, "too_long": own.too_long, "window": own.window},
        llama=asdict(options.llama),
        onnx=asdict(options.onnx),
    )


def _chosen(source: Source, places: set[int]) -> Iterator[Pair]:
    """Yield the pairs at these places; of equal ids the first, for no run takes both."""
    place = 0
    seen: set[tuple[str, str]] = set()
    for row in read_pairs(source):
        if isinstance(row, Pair):
            ids = (row.query_id, row.doc_id)
            if place in places and ids not in seen:
                seen.add(ids)
                yield row
            place += 1


def _predicted(
    lengths: Lengths, pairs: Sequence[Pair], judgments: Sequence[Judgment], run: CellRun, options: EstimateOptions
) -> Estimate:
    tokens = _tokens(lengths, pairs, judgments, run)
    batches = run.batches[1:] if len(run.batches) > 4 else run.batches  # the first holds what is done once
    wanted = np.array([lengths.pairs, tokens])
    labelling, low, high = _regressed(batches, wanted, options)
    sampled = run.pairs + run.unparsed
    scale = lengths.pairs / sampled
    fixed = run.load_seconds + scale * ((run.read_seconds or 0.0) + (run.write_seconds or 0.0))
    seconds = fixed + labelling
    ends = [None if end is None else end + fixed for end in (low, high)]
    usd = [None if options.usd_per_hour is None or s is None else s / _HOUR * options.usd_per_hour
           for s in (seconds, *ends)]  # fmt: skip
    return Estimate(
        pairs=lengths.pairs,
        rejected=lengths.rejected,
        queries=lengths.queries,
        sampled=sampled,
        batches=len(batches),
        tokens=tokens,
        seconds=seconds,
        low=ends[0],
        high=ends[1],
        labelling_seconds=labelling,
        pairs_per_second=lengths.pairs / labelling,
        load_seconds=run.load_seconds,
        rss_low=(run.rss_bytes or run.peak_rss_bytes) + _BYTES_A_ROW * lengths.pairs,
        rss_high=run.peak_rss_bytes + _BYTES_A_ROW * lengths.pairs,
        model_bytes=model_bytes(options.model),
        usd=usd[0],
        usd_low=usd[1],
        usd_high=usd[2],
        usd_per_million_pairs=options.usd_per_hour
        and (seconds - run.load_seconds) / _HOUR * options.usd_per_hour / lengths.pairs * 1e6,
    )


def _tokens(lengths: Lengths, pairs: Sequence[Pair], judgments: Sequence[Judgment], run: CellRun) -> float:
    """Return the tokens that the whole input will have computed.

    Documents: by the sample's tokens a character, no longer than the longest that was kept where any was cut.
    Prefixes: those computed for the sample, by its queries, times the queries of the whole.
    """
    characters = sum(len(pair.title) + len(pair.document) for pair in pairs)
    whole = sum(j.document_tokens + j.cut_tokens for j in judgments)
    rate = whole / max(1, characters)
    longest = max((j.document_tokens for j in judgments if j.truncated), default=None)
    documents = lengths.documents * rate
    cue = ((run.document_tokens or 0) - sum(j.document_tokens for j in judgments)) / len(judgments)
    queries = len({pair.query_id for pair in pairs})
    total = float(np.minimum(documents, longest).sum() if longest else documents.sum())
    return total + max(0.0, cue) * lengths.pairs + (run.prefix_tokens or 0) / queries * lengths.queries


def _regressed(
    batches: Sequence[BatchTime], wanted: Floats, options: EstimateOptions
) -> tuple[float, float | None, float | None]:
    """Return the seconds for so many pairs and tokens, and the interval's ends where there are enough batches."""
    work = np.array([[batch.pairs, batch.computed] for batch in batches], dtype=np.float64)
    seconds = np.array([batch.seconds for batch in batches])
    value = _fit(work, seconds) @ wanted
    if len(batches) < 5:
        return float(value), None, None
    random = np.random.default_rng(options.seed)
    drawn = np.array([
        _fit(work[rows], seconds[rows]) @ wanted
        for rows in (random.integers(len(batches), size=len(batches)) for _ in range(options.resamples))
    ])  # fmt: skip
    ends = interval(drawn, _CONFIDENCE) or (None, None)
    return float(value), *ends


def _fit(work: Floats, seconds: Floats) -> Floats:
    """Return the seconds of a pair and of a token, neither below 0, scaled so that the sample's total is met."""
    from scipy.optimize import nnls

    size = work.sum(axis=0)
    size[size == 0] = 1.0
    found: Floats = nnls(work / size, seconds)[0] / size
    total = float((work @ found).sum())
    if total > 0:
        found = found * (seconds.sum() / total)
    return found
