"""``pairgrade pretrain-reranker``: an encoder of single texts learns to read pairs, from its own cosine.

What comes of it approaches that encoder's order without a label having been read, and is what ``train-reranker``
starts from (``pairgrade.train.span_set`` says how the pairs are made). While it works the pairs lie in ``OUT.run/``.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from pairgrade.errors import InputError, ModelError
from pairgrade.export.decoder import read_config
from pairgrade.file_hashes import file_sha256
from pairgrade.ranking_set import read_groups, write_ranking_set
from pairgrade.reranker_manifest import read_reranker_manifest
from pairgrade.stop import PoliteStop
from pairgrade.train.base_model import folder_digest
from pairgrade.train.encoder import DEFAULT_ENCODER, resolve_encoder
from pairgrade.train.fitting import TrainProgress
from pairgrade.train.reranker_options import PRETRAINING_QUERIES, RerankerOptions
from pairgrade.train.reranker_run import RerankerJob, TrainedReranker, train_in
from pairgrade.train.run_folder import at_work, refuse_existing
from pairgrade.train.span_set import SLATE, span_sets

# the differences of a slate's labels are learnt, four slates a step, all of it once
PRETRAINING = RerankerOptions(loss="marginmse", epochs=1, batch=4, slate=SLATE, patience=0)
_DEV = 40  # queries that choose the step


@dataclass(frozen=True, slots=True)
class PretrainJob:
    """One pretraining."""

    set: Path  # a ranking set, of which the texts alone are read
    out: Path  # the folder that train-reranker takes as its base
    base: str = DEFAULT_ENCODER  # a folder, pkg:PACKAGE or hf:org/repo@revision, with the pooling of a bi-encoder
    queries: int = PRETRAINING_QUERIES  # to be made of the texts, with 16 pieces of documents each
    overwrite: bool = False

    def __post_init__(self) -> None:
        if not 1 <= self.queries <= 10_000_000:
            raise InputError(f"{self.queries} queries; 1 to 10,000,000 can be made")


def pretrain_reranker(
    job: PretrainJob,
    options: RerankerOptions = PRETRAINING,
    progress: TrainProgress | None = None,
    stop: PoliteStop | None = None,
) -> TrainedReranker:
    """Make the pairs and train on them, or go on where an earlier run of the same job stopped.

    Errors are those of ``train_reranker``; InputError, too, where the texts are too few for so many queries.
    """
    refuse_existing(job.out, job.overwrite, read_reranker_manifest)
    progress, stop = progress or TrainProgress(), stop or PoliteStop()
    with at_work(job.out, progress, stop) as (folder, told):
        files = _pairs(job, options, folder, told)
        return train_in(folder, RerankerJob(files[0], job.out, job.base, files[1], job.overwrite), options, told, stop)


def _pairs(job: PretrainJob, options: RerankerOptions, folder: Path, progress: TrainProgress) -> list[Path]:
    """Return the files of the pairs to learn and to be judged by, made unless an earlier run of the job made them."""
    progress.phase("reading")
    base = resolve_encoder(job.base)
    _refuse_cross_encoder(base)
    decides = [file_sha256(job.set), folder_digest(base), str(job.queries), str(options.seed)]
    name = hashlib.sha256(" ".join(decides).encode()).hexdigest()[:16]
    files = [folder / f"{side}-{name}.jsonl" for side in ("train", "dev")]
    if not all(path.exists() for path in files):
        progress.phase("making pairs")
        sets = span_sets(read_groups(job.set), job.base, job.queries, _DEV, options.seed, options.threads)
        for path, rows in zip(files, sets, strict=True):
            write_ranking_set(path, rows)
    return files


def _refuse_cross_encoder(folder: Path) -> None:
    names = read_config(folder).get("architectures") or ()
    if any(str(name).endswith("ForSequenceClassification") for name in names):
        raise ModelError(
            f"{folder} reads pairs already; `pairgrade train-reranker --base` takes it as it is. To pretrain give an "
            "encoder of single texts"
        )
