"""``pairgrade train-reranker``: from a ranking set to a folder that ``Reranker.open`` reads.

Beside the re-ranker OUT lies, while it trains, ``OUT.run/`` (lock, manifest, checkpoints). OUT appears whole or not
at all.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pairgrade import readers
from pairgrade.environment import package_version
from pairgrade.errors import InputError
from pairgrade.export.causal_model import quiet_transformers
from pairgrade.export.output import new_folder
from pairgrade.file_hashes import file_sha256
from pairgrade.hardware import usable_cores
from pairgrade.manifest import Identity
from pairgrade.pair_encoder import Row
from pairgrade.ranking_set import RankingGroup, read_groups
from pairgrade.reranker_manifest import TOKENIZER, RerankerManifest, read_reranker_manifest
from pairgrade.stop import PoliteStop
from pairgrade.train.base_model import folder_digest
from pairgrade.train.checkpoint import Checkpoints, State
from pairgrade.train.encoder import DEFAULT_ENCODER, resolve_encoder
from pairgrade.train.fitting import TrainProgress
from pairgrade.train.ranking_metrics import RankingEvaluation
from pairgrade.train.reranker_data import DevQuery, Slates, dev_queries, sample_pairs, split_groups
from pairgrade.train.reranker_loop import RerankerData, fit_reranker
from pairgrade.train.reranker_model import RerankerModel, load_reranker
from pairgrade.train.reranker_options import RerankerOptions
from pairgrade.train.run_folder import at_work, claim, refuse_existing

_EXAMPLES = 256  # pairs that the ranges of int8 are calibrated on


@dataclass(frozen=True, slots=True)
class RerankerJob:
    """One training run."""

    set: Path  # a ranking set
    out: Path  # the re-ranker's folder
    base: str = DEFAULT_ENCODER  # a folder, pkg:PACKAGE or hf:org/repo@revision
    dev: Path | None = None  # a ranking set whose queries the re-ranker is judged by; else some of the first one's
    overwrite: bool = False


@dataclass(frozen=True, slots=True)
class Counts:
    """What it learnt from, and what it was judged by."""

    train_queries: int
    train_documents: int
    dev_queries: int
    dev_documents: int


@dataclass(frozen=True, slots=True)
class TrainedReranker:
    """What came of a run."""

    out: Path
    counts: Counts
    steps: int
    stopped_early: bool
    evaluations: list[RankingEvaluation]
    best: RankingEvaluation
    metrics: dict[str, Any]  # of the exported graphs on the dev queries, by precision
    seconds: float  # of training and its looks, by all processes that worked on it


def train_reranker(
    job: RerankerJob,
    options: RerankerOptions | None = None,
    progress: TrainProgress | None = None,
    stop: PoliteStop | None = None,
) -> TrainedReranker:
    """Train and export a re-ranker, or go on where an earlier run of the same job stopped.

    Raises InputError for an unusable set, ModelError for an unusable encoder, ResumeError where OUT belongs to another
    job, LockedError where another process works on it, StopRequested after a signal; what was done is kept.
    """
    options, progress = options or RerankerOptions(), progress or TrainProgress()
    stop = stop or PoliteStop()
    refuse_existing(job.out, job.overwrite, read_reranker_manifest)
    with at_work(job.out, progress, stop) as (folder, told):
        return train_in(folder, job, options, told, stop)


def train_in(
    folder: Path, job: RerankerJob, options: RerankerOptions, progress: TrainProgress, stop: PoliteStop
) -> TrainedReranker:
    """Do what ``train_reranker`` does, in the folder of a run that ``at_work`` holds."""
    progress.phase("reading")
    stamps = readers.file_stamps(job.set, job.dev)
    groups, dev = _queries(job, options)
    slates = Slates(groups, options)
    progress.phase("loading")
    base = resolve_encoder(job.base)
    identity = _identity(job, options, base)
    readers.require_same(stamps, readers.file_stamps(job.set, job.dev))
    claim(folder, identity, job.overwrite)
    model = load_reranker(base, options)
    # now, and not at the step that meets it
    model.encoder.check_queries([group.query for group in groups] + [query.query for query in dev])
    examples = model.encoder.rows(sample_pairs(groups, _EXAMPLES))
    checkpoints = Checkpoints(folder, lambda table: RankingEvaluation(**table))
    progress.phase("training")
    state = fit_reranker(model, RerankerData(slates, dev), options, checkpoints, stop, progress)
    trained = {name: p for name, p in model.model.named_parameters() if p.requires_grad}
    checkpoints.load_best(trained, state.best.step)
    progress.phase("exporting")
    counts = Counts(
        train_queries=len(groups),
        train_documents=sum(len(group.rows) for group in groups),
        dev_queries=len(dev),
        dev_documents=sum(len(query.documents) for query in dev),
    )
    facts = {"name": job.out.name, "base": job.base, "pairgrade": package_version(), "options": asdict(options)}
    facts |= asdict(counts)
    metrics = _write(job, model, dev, examples, state, identity, facts)
    return TrainedReranker(
        out=job.out,
        counts=counts,
        steps=state.step,
        stopped_early=state.stopped_early,
        evaluations=state.evaluations,
        best=state.best,
        metrics=metrics,
        seconds=state.seconds,
    )


def _queries(job: RerankerJob, options: RerankerOptions) -> tuple[list[RankingGroup], list[DevQuery]]:
    groups = read_groups(job.set)
    if not groups:
        raise InputError(f"{job.set}: holds no rows; there is nothing to learn from")
    if job.dev is not None and options.dev_share != RerankerOptions().dev_share:
        raise InputError("--dev-share is of the set's own queries, and --dev brings others: give one of them")
    if job.dev is None:
        return split_groups(groups, options.dev_share, options.seed)
    dev = read_groups(job.dev)
    texts = {group.query for group in groups}
    if shared := [group.query_id for group in dev if group.query in texts]:
        raise InputError(
            f"{job.dev}: {len(shared)} of its queries are in {job.set} too (such as {shared[0]}); a re-ranker must be "
            "judged by queries that it does not learn from"
        )
    return groups, dev_queries(dev)


def _write(
    job: RerankerJob,
    model: RerankerModel,
    dev: list[DevQuery],
    examples: list[Row],
    state: State,
    identity: Identity,
    facts: dict[str, Any],
) -> dict[str, Any]:
    """Write the folder, which appears whole or not at all; return how the graphs rank."""
    from pairgrade.export.reranker import export_reranker
    from pairgrade.train.reranker_report import write_report

    options = facts["options"]
    with new_folder(job.out, replace=job.overwrite) as work:
        with quiet_transformers():
            model.model.save_pretrained(str(work), create_model_card=False)
        (work / TOKENIZER).write_text(model.encoder_json, encoding="utf-8")
        metrics = export_reranker(model, dev, examples, work, options["threads"] or usable_cores())
        write_report(work, state, facts, metrics)
        RerankerManifest(options["max_length"], model.model.tokenizer.pad_token_id, identity, metrics).write(work)
    return metrics


def _identity(job: RerankerJob, options: RerankerOptions, base: Path) -> Identity:
    """Name what decides the re-ranker."""
    own = {
        "pairgrade": package_version(),
        "base": folder_digest(base),
        "set": file_sha256(job.set),
        "dev": file_sha256(job.dev) if job.dev else "none",
    }
    settings: dict[str, Any] = asdict(options)
    del settings["threads"]  # may move the last bits, as another machine does
    versions = {name: package_version(name) for name in ("torch", "transformers", "sentence-transformers")}
    return own | versions | {f"option.{name}": str(value) for name, value in settings.items()}
