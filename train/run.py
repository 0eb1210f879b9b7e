"""``pairgrade train``: from graded pairs to a LoRA adapter, its report and its manifest.

Beside the adapter OUT lies, while it trains, ``OUT.run/`` (lock, manifest, checkpoints). OUT appears whole or not
at all.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from pairgrade import readers
from pairgrade.agreement import check_scale
from pairgrade.environment import package_version
from pairgrade.errors import InputError
from pairgrade.export.decoder import why_not_exported
from pairgrade.file_hashes import file_sha256
from pairgrade.judgments import read_judgments
from pairgrade.manifest import Identity
from pairgrade.pair_checks import repeated_pairs
from pairgrade.prompt import PROMPT_VERSION, PromptBuilder
from pairgrade.readers import Source
from pairgrade.records import Pair, Rejection
from pairgrade.rubric import Rubric
from pairgrade.run_folder import named
from pairgrade.stop import PoliteStop
from pairgrade.train.adapter import read_manifest, save_adapter
from pairgrade.train.base_model import add_lora, base_dtype, folder_digest, load_model, resolve_folder, usual_dtype
from pairgrade.train.checkpoint import Checkpoints
from pairgrade.train.examples import Blend, Targets, examples
from pairgrade.train.fitting import TrainProgress
from pairgrade.train.label_model import LabelModel
from pairgrade.train.loop import Data, fit
from pairgrade.train.metrics import Evaluation, is_better
from pairgrade.train.options import TrainOptions
from pairgrade.train.prompts import builder_of
from pairgrade.train.run_folder import at_work, claim, refuse_existing
from pairgrade.train.sampling import Row, SameTexts, Split, split

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class TrainJob:
    """One training run."""

    source: Source
    base: str  # a transformers folder, hf:org/repo@revision, or a GGUF by path, pkg: or hf:
    out: Path  # the adapter's folder
    rubric: Rubric
    soft: Path | None = None  # a judgments file whose probabilities are learnt
    overwrite: bool = False
    finish: bool = False  # train no further: what an unfinished run found best is the result


@dataclass(frozen=True, slots=True)
class Trained:
    """What came of a run; the first of the evaluations is of the model before training."""

    adapter: Path
    base: Path
    given: str  # the base, as the job names it
    split: Split
    rejected: int  # rows of the input that are no usable pairs, or have no grade
    rejection: str | None  # the first that is no usable pair, with its line and the reason
    softened: int  # usable pairs that have a soft target
    steps: int
    losses: list[float]
    evaluations: list[Evaluation]
    best: Evaluation
    stopped_early: bool
    seconds: float  # of training and its looks, by all processes that worked on it
    held_queries: list[str]  # the validation queries
    held_out: list[tuple[str, str, int]]  # query id, document id and grade of each of their pairs that people graded
    helped: bool  # whether the best step beats the model before training


def train(
    job: TrainJob, options: TrainOptions, progress: TrainProgress | None = None, stop: PoliteStop | None = None
) -> Trained:
    """Train an annotator, or go on where an earlier run of the same job stopped.

    Raises InputError for unusable pairs, ModelError for an unusable base, ResumeError where OUT belongs to another
    job, LockedError where another process works on it, StopRequested after a signal; what was done is kept.
    """
    if job.soft is None and options.soft_weight != TrainOptions().soft_weight:
        raise InputError("--soft-weight is of the soft targets: give --soft with the judgments that hold them")
    job = replace(job, out=named(job.out))
    progress, stop = progress or TrainProgress(), stop or PoliteStop()
    refuse_existing(job.out, job.overwrite, read_manifest)
    with at_work(job.out, progress, stop) as (folder, told):
        return _train(job, options, folder, told, stop)


def _train(job: TrainJob, options: TrainOptions, folder: Path, progress: TrainProgress, stop: PoliteStop) -> Trained:
    checkpoints = Checkpoints(folder)
    if job.finish and not checkpoints.has_best():
        raise checkpoints.nothing_to_finish_with()
    check_scale(job.rubric.values[0], job.rubric.values[-1])  # else the first look at the validation would tell
    progress.phase("reading")
    stamps = _stamps(job)
    blend = Blend(job.rubric.values, *_soft_targets(job.soft, job.rubric), options.soft_weight)
    found, rejected, rejection = _rows(job.source, blend)
    softened = sum((row.query_id, row.doc_id) in blend.soft for row in found)
    if job.soft is not None and not softened:
        raise InputError(
            f"{job.soft} has judgments of none of the {len(found):,} pairs of {job.source.pairs}: are their ids others?"
        )
    chosen = split(found, options.train_pairs, options.validation_pairs, options.seed)
    pairs = _pairs(job.source, {*chosen.train, *chosen.validation})
    digests = readers.digest(job.source), file_sha256(job.soft) if job.soft else "none"
    readers.require_same(stamps, _stamps(job))
    progress.phase("loading")
    options = replace(options, dtype=base_dtype(options))  # what the report and the identity tell
    base = resolve_folder(job.base, job.out.with_name(f"{job.out.name}.base"))
    reason = why_not_exported(base)
    if reason:
        _log.warning("this base can be trained and merged, and what comes of it not exported: %s", reason)
    builder = builder_of(base, job.rubric, options)
    identity = _identity(job, options, base, builder, digests)
    claim(folder, identity, job.overwrite, job.finish)
    data = Data(
        train=list(examples((pairs[place] for place in chosen.train), blend, builder)),
        validation=list(examples((pairs[place] for place in chosen.validation), blend, builder)),
        grades=job.rubric.values,
    )
    model = add_lora(load_model(base, options), options)
    label_model = LabelModel(model, builder.label_ids, options.layers)
    progress.phase("training")
    state = fit(label_model, data, options, checkpoints, stop, progress, job.finish)
    assert state.best is not None  # fit looks at the validation pairs after its last step
    trained_weights = {name: p for name, p in model.named_parameters() if p.requires_grad}
    checkpoints.load_best(trained_weights, state.best.step)
    progress.phase("writing")
    places = set(chosen.held_out)
    held = [row for row in found if row.place in places]
    held_out = [(row.query_id, row.doc_id, row.grade) for row in held if row.by_people]
    trained = Trained(
        job.out, base, job.base, chosen, rejected, rejection, softened, state.step, state.losses, state.evaluations,
        state.best, state.stopped_early, state.seconds, list(dict.fromkeys(row.query_id for row in held)), held_out,
        is_better(state.best, state.evaluations[0], options.select_by),
    )  # fmt: skip
    save_adapter(model, trained, identity, asdict(options), job.rubric, replace=job.overwrite)
    return trained


def _rows(source: Source, blend: Blend) -> tuple[list[Row], int, str | None]:
    """Return the place, query and grade of each usable pair, how many rows are none, and why the first is no pair."""
    rows: list[Row] = []
    rejected, rejection = 0, None
    lines: dict[tuple[str, str], list[int]] = {}
    texts = SameTexts()
    for place, line, pair in _numbered(source):
        if isinstance(pair, Pair):
            lines.setdefault((pair.query_id, pair.doc_id), []).append(line)
        grade = None if isinstance(pair, Rejection) else blend.grade(pair)
        if isinstance(pair, Rejection) or grade is None:
            rejected += 1
            if isinstance(pair, Rejection) and rejection is None:
                rejection = pair.told
        else:
            blend.target(pair)  # a grade that the rubric lacks is told here
            first = texts.first_id(pair.query_id, pair.query)
            rows.append(Row(place, pair.query_id, grade, pair.doc_id, pair.grade is not None, first))
    repeated = [(ids, places) for ids, places in lines.items() if len(places) > 1]
    if repeated:
        raise repeated_pairs(source.pairs, repeated, len(repeated), "Make the ids distinct")
    if not rows:
        reason = f"; the first that is no pair: {rejection}" if rejection else ""
        raise InputError(
            f"{source.pairs}: none of its {rejected} rows is a pair with a grade; training needs a grade column "
            f"(--grade-column), a qrels file, or --soft with the judgments of another annotator{reason}"
        )
    return rows, rejected, rejection


def _pairs(source: Source, places: set[int]) -> dict[int, Pair]:
    return {place: pair for place, _, pair in _numbered(source) if place in places and isinstance(pair, Pair)}


def _numbered(source: Source) -> Iterator[tuple[int, int, Pair | Rejection]]:
    """Yield each row's place, line and pair."""
    with closing(readers.numbered_pairs(source)) as rows:
        for place, (line, pair) in enumerate(rows):
            yield place, line, pair


def _stamps(job: TrainJob) -> dict[str, tuple[int, int]]:
    return readers.stamps(job.source) | readers.file_stamps(job.soft)


def _soft_targets(path: Path | None, rubric: Rubric) -> tuple[Targets, dict[tuple[str, str], int]]:
    """Return probabilities and grade of each judged pair."""
    if path is None:
        return {}, {}
    file = read_judgments(path)
    file.require(rubric.values)
    judged = {(j.query_id, j.doc_id): (j.probabilities, j.grade) for j in file}
    return {ids: p for ids, (p, _) in judged.items()}, {ids: grade for ids, (_, grade) in judged.items()}


def _identity(
    job: TrainJob, options: TrainOptions, base: Path, builder: PromptBuilder, digests: tuple[str, str]
) -> Identity:
    """Name what decides the adapter."""
    own = {
        "pairgrade": package_version(),
        "base": folder_digest(base),
        "input": digests[0],
        "soft": digests[1],
        "rubric": job.rubric.digest,
        "prompt_version": str(PROMPT_VERSION),
        "chat_format": builder.format.name,
    }
    settings: dict[str, Any] = asdict(options)
    del settings["threads"]  # may move the last bits, as another machine does
    if options.dtype == usual_dtype():  # untold, so that runs and adapters of before it could be chosen stay the same
        del settings["dtype"]
    if not options.dropout:  # of which each micro-batch draws its own; without it, as above
        del settings["micro_batch_tokens"]
    versions = {name: package_version(name) for name in ("torch", "transformers", "peft")}
    return own | versions | {f"option.{name}": str(value) for name, value in settings.items()}
