"""The experiment at tiny size: every stage, its tables, what is done again and what is not."""

from __future__ import annotations

import importlib
import json
import os
import re
import shlex
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("bm25s")
pytest.importorskip("sentence_transformers")
pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")

from pairgrade import InputError, Judgment, LlamaOptions, ResumeError
from pairgrade.bench.experiment import main, option_parser, run
from pairgrade.bench.experiment_elsewhere import judgments_of
from pairgrade.bench.experiment_figures import compare_rankings
from pairgrade.bench.experiment_judgments import calibrated, judge_steps, relabel_steps
from pairgrade.bench.experiment_options import STAGES, TRAINING, ExperimentOptions
from pairgrade.bench.experiment_ranking import _rerank
from pairgrade.bench.experiment_sets import Layout, arms_of, by_rank, read_split
from pairgrade.bench.experiment_steps import Step, Steps, shown_time
from pairgrade.calibration import Calibration, Cuts
from pairgrade.judgments import open_writer, read_judgments
from pairgrade.qrels import read_qrels
from pairgrade.ranking_set import RankingGroup, RankingRow, read_ranking_set, write_ranking_set
from pairgrade.readers import Source
from pairgrade.run_files import read_ranking
from pairgrade.train.base_model import folder_digest
from pairgrade.train.options import TrainOptions
from pairgrade.train.sampling import Row, split
from tiny_encoder import WORDS, make_encoder

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning", "ignore::UserWarning")

DOCUMENTS = 8


def write_collection(folder: Path, name: str, queries: int, seed: int) -> None:
    """Make documents that people grade by how often they speak of bread, and BM25 by the query's word."""
    random = np.random.default_rng(seed)
    own = folder / name
    own.mkdir(parents=True)
    files: dict[str, list[dict[str, str]]] = {"queries": [], "docs": []}
    qrels = []
    for q in range(queries):
        word = WORDS[q % (len(WORDS) - 1)]
        files["queries"].append({"query_id": f"{name}{q}", "text": f"what is the {word} {q}"})
        for d in range(DOCUMENTS):
            words = ["bread"] * (d % 4) + random.choice(WORDS[:-1], 4).tolist()
            words += [word] * (3 - d % 4)  # so that what BM25 likes people do not
            random.shuffle(words)
            files["docs"].append({"doc_id": f"{name}{q}-{d}", "text": " ".join(words)})
            qrels.append(f"{name}{q} 0 {name}{q}-{d} {d % 4}\n")
    for file, rows in files.items():
        (own / f"{file}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    (own / "qrels.txt").write_text("".join(qrels), encoding="utf-8")


@pytest.fixture(scope="module")
def collections(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("collections")
    write_collection(folder, "learn", 12, 0)
    write_collection(folder, "try", 6, 1)
    return folder


@pytest.fixture(scope="module")
def options(collections: Path, tmp_path_factory: pytest.TempPathFactory) -> ExperimentOptions:
    folder = tmp_path_factory.mktemp("experiment")
    training = replace(TRAINING, epochs=12, slate=8, batch=2, max_length=48, learning_rate=3e-3, evaluate_every=30)
    return ExperimentOptions(
        data=collections,
        out=folder / "out",
        train="learn",
        test="try",
        encoder=str(make_encoder(folder / "encoder")),
        pretrain=24,
        zero_shot="fake:",
        tuned="fake:#tuned",
        annotator_as_ranker=True,
        positive_share=0.25,
        seeds=(0,),
        threads=1,
        training=training,
    )


@pytest.fixture(scope="module")
def done(options: ExperimentOptions) -> list[str]:
    return run(options)


@pytest.fixture
def result(options: ExperimentOptions, done: list[str]) -> dict[str, Any]:
    assert done
    table: dict[str, Any] = json.loads((options.out / "experiment.json").read_text(encoding="utf-8"))
    return table


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def ndcg(result: dict[str, Any]) -> dict[str, float]:
    (ranked,) = result["ways"][0]["tested"]
    return {found["name"]: found["mean"] for found in ranked["qualities"] if found["measure"] == "nDCG@10"}


def test_the_tables_hold_every_ranking(options: ExperimentOptions, result: dict[str, Any]) -> None:
    (way,) = result["ways"]
    found = ndcg(result)
    assert list(found) == ["bm25", "cosine", "pretrained", "a", "b", "c", "d", "zero-shot", "tuned"]
    assert all(0 < value <= 1 for value in found.values())
    (ranked,) = way["tested"]
    assert (ranked["collection"], ranked["queries"], ranked["pairs"]) == ("try", 6, 48)
    asked = [(c["run"], c["baseline"]) for c in ranked["comparisons"] if c["measure"] == "nDCG@10"]
    assert asked == [("c", "a"), ("b", "a"), ("d", "a"), ("c", "b"), ("d", "c")]
    assert {key: set(sides) for key, sides in way["agreement"].items()} == {
        "a": {"all", "dev"}, "b": {"all", "dev", "test"}, "c": {"all", "dev", "test"},
    }  # fmt: skip
    assert way["changes"]["b"]["total"]["rows"] == 96
    page = (options.out / "experiment.md").read_text(encoding="utf-8")
    assert "## Trained on learn, tested on try" in page
    assert page.count("| (c) labels of the tuned annotator | 1 |") == 1
    assert (options.out / "experiment.png").read_bytes().startswith(b"\x89PNG")


def test_people_s_labels_make_a_better_re_ranker_where_bm25_s_are_wrong(result: dict[str, Any]) -> None:
    found = ndcg(result)
    assert found["d"] > found["a"] + 0.2
    (ranked,) = result["ways"][0]["tested"]
    of_ndcg = {(c["run"], c["baseline"]): c for c in ranked["comparisons"] if c["measure"] == "nDCG@10"}
    comparison = of_ndcg["d", "a"]
    assert comparison["difference"] == pytest.approx(found["d"] - found["a"])
    assert comparison["t_test"] < 0.05


def test_the_same_pairs_are_in_every_arm_and_no_grade_of_people_in_the_first(
    options: ExperimentOptions, result: dict[str, Any]
) -> None:
    folder = options.out / "learn-try" / "sets"
    dev, calibration = read_split(folder / "split.json")
    pairs = {}
    for arm in "abcd":
        for side in ("train", "dev"):
            rows = list(read_ranking_set(folder / f"{arm}-{side}.jsonl"))
            pairs[arm, side] = {(row.query_id, row.doc_id) for row in rows}
            assert {row.query_id in dev for row in rows} == {side == "dev"}
        assert pairs[arm, "train"] == pairs["a", "train"]
        assert pairs[arm, "dev"] == pairs["a", "dev"]
    labels = {arm: [row.label for row in read_ranking_set(folder / f"{arm}.jsonl")] for arm in "abcd"}
    grades = {(q.query_id, q.doc_id): q.grade for q in read_qrels(options.data / "learn" / "qrels.txt")}
    rows = list(read_ranking_set(folder / "d.jsonl"))
    assert labels["d"] == [grades[row.query_id, row.doc_id] for row in rows]
    assert sum(labels["a"]) == 12 * 2
    assert set(labels["a"]) == {0.0, 1.0}
    assert labels["b"] != labels["c"]
    for arm, judge in (("b", "zero-shot"), ("c", "tuned-on-learn")):
        judged = read_judgments(options.out / "judgments" / f"learn-by-{judge}.jsonl")
        found = calibrated(judged, Calibration.load(options.out / "learn-try" / f"calibration-{arm}.json"))
        own = {(judgment.query_id, judgment.doc_id): judgment.grade for judgment in found}
        assert labels[arm] == [own[row.query_id, row.doc_id] for row in rows], arm
    assert {query for query, _ in calibration} <= dev
    assert len(dev) == 2
    assert {d["queries"] for d in result["ways"][0]["sets"]["a"].values()} == {10, 2}


def test_settings_of_a_gpu_are_those_of_gguf_annotators_alone(options: ExperimentOptions) -> None:
    assert options.llama() == LlamaOptions(options.context, 1)
    asked = replace(options, gpu_layers=-1, sequences=8)
    assert asked.llama() == LlamaOptions(options.context, 1, -1, 8)
    settings = [[step.settings for step in judge_steps(each)] for each in (options, asked)]
    assert settings[0] == settings[1]  # these annotators have none
    assert "gpu_layers" not in settings[0][0]


def test_an_annotator_may_be_given_by_its_judgments(
    options: ExperimentOptions, done: list[str], tmp_path: Path
) -> None:
    made = tmp_path / "made"
    made.mkdir()
    for name in ("learn", "try"):
        shutil.copy(options.out / "judgments" / f"{name}-by-zero-shot.jsonl", made / f"{name}.jsonl")
    given = replace(options, out=tmp_path / "out", zero_shot=str(made), stages=("sets", "judge", "relabel"))
    assert "judgments try-by-zero-shot" in run(given)
    for name in ("learn", "try"):
        (one, other) = (folder / "judgments" / f"{name}-by-zero-shot.jsonl" for folder in (options.out, given.out))
        assert list(read_judgments(one)) == list(read_judgments(other))
    assert (given.out / "learn-try" / "changes-b.json").read_bytes() == (
        options.out / "learn-try" / "changes-b.json"
    ).read_bytes()
    assert run(given) == []
    lines = (made / "try.jsonl").read_text().splitlines(keepends=True)
    (made / "try.jsonl").write_text("".join(lines[:-2]))
    with pytest.raises(InputError, match=r"try\.jsonl lacks 2 of the pairs, such as query try\d"):
        run(replace(given, out=tmp_path / "short"))
    (made / "try.jsonl").unlink()
    with pytest.raises(InputError, match=r"holds judgments, and not try\.jsonl"):
        run(replace(given, out=tmp_path / "none"))
    assert run(replace(given, out=tmp_path / "enough", annotator_as_ranker=False))
    (made / "model-q8_0.gguf").touch()
    assert judgments_of(str(made), "learn") is None  # exports that lie beside some pairs


def test_a_second_call_does_nothing_and_an_absent_piece_is_made_alone(
    options: ExperimentOptions, done: list[str]
) -> None:
    assert len(done) == len(set(done))
    before = contents(options.out)
    assert run(options) == []
    assert contents(options.out) == before
    (options.out / "learn-try" / "runs" / "try" / "d-0.run").unlink()
    (options.out / "learn-try" / "changes-b.png").write_bytes(b"damaged")
    assert run(options) == ["relabel learn-try b", "run learn-try try d-0"]
    assert contents(options.out) == before


def test_the_queries_that_were_held_out_calibrate(options: ExperimentOptions, tmp_path: Path) -> None:
    held_out = {}
    for name in ("learn", "try"):
        held_out[name] = tmp_path / f"{name}.qrels"
        held_out[name].write_text(f"{name}1 0 {name}1-0 0\n{name}3 0 {name}3-0 0\n")
    both = replace(
        options, out=tmp_path / "out", both_ways=True, held_out=held_out["learn"], held_out_back=held_out["try"],
        stages=("sets",), pretrain=0,
    )  # fmt: skip
    run(both)
    for way, train in zip(both.directions(), ("learn", "try"), strict=True):
        dev, calibration = read_split(both.out / way.name / "sets" / "split.json")
        assert dev == {f"{train}1", f"{train}3"}
        assert {query for query, _ in calibration} == dev
        assert len(calibration) == 2 * DOCUMENTS
    with pytest.raises(InputError, match=r"try\.qrels names 0 of the 12 queries of learn"):
        run(replace(both, held_out=held_out["try"]))


def test_queries_of_one_text_or_without_one_are_parted_as_the_training_does(tmp_path: Path) -> None:
    from pairgrade.train.examples import Blend
    from pairgrade.train.run import _rows

    write_collection(tmp_path, "learn", 30, 0)
    write_collection(tmp_path, "try", 2, 1)
    own = tmp_path / "learn"
    queries = [json.loads(line) for line in (own / "queries.jsonl").read_text().splitlines()]
    queries[7]["text"] = queries[3]["text"]
    del queries[9]
    (own / "queries.jsonl").write_text("".join(json.dumps(query) + "\n" for query in queries))
    source = Source(str(own / "qrels.txt"), str(own / "queries.jsonl"), str(own / "docs.jsonl"))
    rows, rejected, _ = _rows(source, Blend((0, 1, 2, 3), {}))
    assert rejected == DOCUMENTS
    sample = TrainOptions()
    by_place = {row.place: row.query_id for row in rows}
    held = {by_place[place] for place in split(rows, sample.train_pairs, sample.validation_pairs, sample.seed).held_out}
    for number, tuned in enumerate(("fake:", None)):
        options = ExperimentOptions(
            tmp_path, tmp_path / str(number), "learn", "try", tuned=tuned, stages=("sets",), pretrain=0
        )
        run(options)
        assert read_split(options.out / "learn-try" / "sets" / "split.json")[0] == held


def test_fewer_queries_calibrate_on_none_that_the_annotator_learnt_of(tmp_path: Path) -> None:
    write_collection(tmp_path, "learn", 30, 0)
    write_collection(tmp_path, "try", 2, 1)
    whole = [Row(place, q.query_id, q.grade) for place, q in enumerate(read_qrels(tmp_path / "learn" / "qrels.txt"))]
    sample = TrainOptions()
    learnt = {whole[i].query_id for i in split(whole, sample.train_pairs, sample.validation_pairs, sample.seed).train}
    options = ExperimentOptions(tmp_path, tmp_path / "out", "learn", "try", tuned="fake:", stages=("sets",), pretrain=0)
    for limit in (None, 20, 12):
        limited = replace(options, out=tmp_path / f"out-{limit}", limit_queries=limit)
        run(limited)
        dev, calibration = read_split(limited.out / "learn-try" / "sets" / "split.json")
        assert dev
        assert {query for query, _ in calibration} == dev
        assert not dev & learnt
    few = replace(options, limit_queries=2)
    with pytest.raises(InputError, match=r"has, held out by a training .* 0 of the 2 queries of learn"):
        run(few)
    first = replace(few, tuned=None, out=tmp_path / "untuned")
    run(first)  # where nobody learnt, any query will do
    with pytest.raises(InputError, match=r"has, held out by a training .* 0 of the 2 queries of learn"):
        run(replace(first, tuned="fake:"))  # which is looked at again when an annotator comes


def test_grades_that_the_annotators_cannot_give_are_told_before_they_judge(
    options: ExperimentOptions, tmp_path: Path
) -> None:
    sets = replace(options, out=tmp_path / "out", rubric="binary", stages=("sets",))
    with pytest.raises(InputError, match=r"learn.qrels.txt has the grade 2, and the rubric binary has 0, 1: give"):
        run(sets)
    assert run(replace(sets, zero_shot=None, tuned=None))


def test_a_seed_more_is_trained_alone(options: ExperimentOptions, done: list[str]) -> None:
    assert done
    with pytest.raises(InputError, match=r"run learn-try try a-1 needs .*a-1, which is not there; run the stages"):
        run(replace(options, seeds=(0, 1), stages=("rank",)))
    with pytest.raises(ResumeError, match="epochs"):  # what took long is not replaced by mistake
        run(replace(options, training=replace(options.training, epochs=1), stages=("train",)))


def test_arms_without_an_annotator_are_left_out(
    options: ExperimentOptions, done: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert done
    out = options.out.with_name("without")
    arguments = f"--data {options.data} --out {out} --train learn --test try --both-ways --stages sets relabel"
    assert main(arguments.split()) == 0
    err = capsys.readouterr().err
    assert "relabel 4/4: divide try-learn d" in err
    assert {path.name for path in (out / "learn-try" / "sets").glob("*-dev.jsonl")} == {"a-dev.jsonl", "d-dev.jsonl"}
    without = replace(options, zero_shot=None, both_ways=True, pretrain=0)
    (there, back) = without.directions()
    assert arms_of(without, there)[1] == {"b": "no zero-shot annotator was given for learn"}
    assert set(arms_of(without, back)[1]) == {"b", "c"}  # what was tuned on one collection has seen its answers
    assert main([*arguments.split(), "--train", "nothing"]) == 1
    assert "is no collection; it needs qrels.txt" in capsys.readouterr().err


def test_the_commands_of_the_page_are_understood() -> None:
    root = Path(__file__).parent.parent
    page = (root / "docs" / "experiment.md").read_text(encoding="utf-8").replace("\\\n", " ")
    commands = re.findall(r"^    python -m pairgrade\.bench\.experiment (.*)", page, re.MULTILINE)
    assert len(commands) == 2
    for command in commands:
        assert option_parser().parse_args(shlex.split(command)).test == "trecdl19"
    (made,) = re.findall(r"^    make experiment (.*)", page, re.MULTILINE)
    assert made == "EXPERIMENT_DATA=data ZERO_SHOT=qwen.gguf"
    assert all(f"`{stage}`" in page for stage in STAGES)
    known = option_parser().format_help()
    assert all(option in known for option in re.findall(r"`(--[a-z-]+)", page))


def made(*given: str) -> list[list[str]]:
    """Return the commands of pairgrade that `make experiment` would run, as words."""
    call = ["make", "--dry-run", "experiment", "EXPERIMENT_DATA=data", "ZERO_SHOT=qwen.gguf", "EXPERIMENT_OUT=out"]
    quiet = {key: value for key, value in os.environ.items() if not key.startswith("MAKE")}  # of a make that runs this
    root = Path(__file__).parent.parent
    done = subprocess.run([*call, "VENV=venv", *given], cwd=root, env=quiet, capture_output=True, text=True, check=True)
    lines = done.stdout.replace("\\\n", " ").splitlines()
    return [
        shlex.split(line.partition("pairgrade")[2]) for line in lines if "bin/pairgrade" in line or "-m pairgr" in line
    ]


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
def test_make_tunes_the_annotators_that_are_not_given() -> None:
    *tuning, experiment = made("BOTH_WAYS=1", "TRAIN_OPTIONS=--layers 14", "EXPERIMENT_OPTIONS=--seeds 0")
    assert [words[0] for words in tuning] == ["train", "merge", "export"] * 2
    for name, *words in tuning:  # the command understands each of them
        importlib.import_module(f"pairgrade.cli.{name}").command.make_context(name, words)
    assert tuning[0][-2:] == ["--layers", "14"]
    parsed = option_parser().parse_args(experiment[1:])
    assert (parsed.tuned, parsed.held_out) == (
        "out/tuned/trecdl20/int8",
        Path("out/tuned/trecdl20/adapter/held-out.qrels"),
    )
    assert (parsed.tuned_back, parsed.both_ways, parsed.seeds) == ("out/tuned/trecdl19/int8", True, [0])
    for words, collection in zip(tuning[::3], ("trecdl20", "trecdl19"), strict=True):
        assert words[1] == f"data/{collection}/qrels.txt"
        assert words[words.index("--out") + 1] == f"out/tuned/{collection}/adapter"
    assert [words[words.index("--out") + 1] for words in tuning[2::3]] == [parsed.tuned, parsed.tuned_back]
    (given,) = made("TUNED=mine", "TUNED_BACK=theirs")
    parsed = option_parser().parse_args(given[1:])
    assert (parsed.tuned, parsed.held_out, parsed.tuned_back, parsed.both_ways) == ("mine", None, "theirs", True)
    (one_way,) = made("TUNED=mine")
    assert not option_parser().parse_args(one_way[1:]).both_ways


def test_documents_that_nobody_listed_are_ranked_too(options: ExperimentOptions, tmp_path: Path) -> None:
    for name in ("learn", "try", "more"):
        write_collection(tmp_path / "data", name, 2, 3)
    (tmp_path / "data" / "more" / "qrels.implied_zeros.txt").write_text("more0 0 more1-5 0\nmore0 0 more0-3 0\n")
    small = replace(options, data=tmp_path / "data", out=tmp_path / "out", other=("more",), stages=("sets",))
    run(small)
    grades = {(q.query_id, q.doc_id): q.grade for q in read_qrels(tmp_path / "out/collections/more/qrels.txt")}
    assert len(grades) == 2 * DOCUMENTS + 1
    assert grades["more0", "more1-5"] == 0
    assert grades["more0", "more0-3"] == 3  # judged, so not implied
    assert len(read_ranking(tmp_path / "out/collections/more/bm25.run")["more0"]) == DOCUMENTS + 1
    run(replace(small, out=tmp_path / "less", limit_queries=2, documents=3))
    assert len(list(read_qrels(tmp_path / "less/collections/more/qrels.txt"))) == 6


def test_seeds_are_averaged_by_query() -> None:
    grades = {f"q{q}": {"x": 2, "y": 0, "z": 1} for q in range(4)}
    best, worst = {"x": 3.0, "z": 2.0, "y": 1.0}, {"y": 3.0, "z": 2.0, "x": 1.0}
    good, bad = dict.fromkeys(grades, best), dict.fromkeys(grades, worst)
    found = compare_rankings("made", {"bm25": [bad], "a": [good, bad], "d": [good, good]}, grades)
    values = {q.name: q for q in found.qualities if q.measure == "nDCG@10"}
    assert values["d"].values == (1.0, 1.0)
    assert values["d"].deviation == 0
    assert values["bm25"].deviation is None
    low = values["bm25"].mean
    assert values["a"].values == pytest.approx((1.0, low))
    assert values["a"].mean == pytest.approx((1 + low) / 2)
    assert values["a"].deviation == pytest.approx((1 - low) / 2**0.5)
    (comparison,) = [c for c in found.comparisons if c.measure == "nDCG@10"]
    assert (comparison.run, comparison.baseline, comparison.better, comparison.worse) == ("d", "a", 4, 0)
    assert comparison.difference == pytest.approx((1 - low) / 2)


def test_the_first_share_of_the_ranks_is_positive() -> None:
    rows = tuple(RankingRow("q", f"d{rank}", "a query", "text", rank=rank) for rank in (3, 1, 2, 5, 4))
    assert [row.label for row in by_rank([RankingGroup("q", "a query", rows)], 0.4)] == [0, 1, 1, 0, 0]
    assert [row.label for row in by_rank([RankingGroup("q", "a query", rows)], 0.01)] == [0, 1, 0, 0, 0]


def test_a_calibration_moves_the_grades_alone(tmp_path: Path) -> None:
    judgment = Judgment("q", "d", 1, (0.1, 0.6, 0.2, 0.1), 1.3, None, False, 9, 3, 0)
    with open_writer(tmp_path / "j.jsonl", (0, 1, 2, 3)) as writer:
        writer.write(judgment)
    calibration = Calibration((0, 1, 2, 3), Cuts((0.5, 1.0, 1.2)))
    (found,) = calibrated(read_judgments(tmp_path / "j.jsonl"), calibration)
    assert found == replace(judgment, grade=3)


@pytest.fixture
def step(tmp_path: Path) -> Step:
    (tmp_path / "in").write_text("text")
    return Step("copy", lambda: (tmp_path / "out").write_text("copied"), (tmp_path / "in",), (tmp_path / "out",))


def test_a_step_is_done_again_when_something_changed(step: Step, tmp_path: Path) -> None:
    def ran(step: Step, overwrite: bool = False) -> bool:
        steps = Steps(tmp_path, overwrite)
        steps.run("stage", [step])
        return steps.done == ["copy"]

    assert ran(step)
    assert not ran(step)
    (tmp_path / "out").write_text("changed")
    assert ran(step)
    (tmp_path / "in").write_text("another text")
    assert ran(step)
    costly = replace(step, costly=True)
    (tmp_path / "in").write_text("a third")
    with pytest.raises(ResumeError, match=r"copy was done with something else: input\.in"):
        ran(costly)
    assert ran(costly, overwrite=True)
    (tmp_path / "out").unlink()
    assert ran(costly)


def test_a_step_that_failed_is_not_recorded(step: Step, tmp_path: Path) -> None:
    def fails() -> None:
        raise InputError("told so")

    with pytest.raises(InputError, match="told so"):
        Steps(tmp_path).run("stage", [replace(step, work=fails)])
    steps = Steps(tmp_path)
    steps.run("stage", [step])
    assert steps.done == ["copy"]


@pytest.mark.parametrize(("seconds", "shown"), [(3.2, "3 s"), (119, "119 s"), (150, "2 min"), (7500, "2 h 05 min")])
def test_times_have_a_unit_that_fits(seconds: float, shown: str) -> None:
    assert shown_time(seconds) == shown


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"test": "learn"}, "may be named once"),
        ({"seeds": (1, 1)}, "distinct"),
        ({"policy": "drop-false-negatives"}, "every arm learns of the same pairs"),
        ({"positive_share": 1.0}, "between 0 and 1"),
        ({"pretrain": -1}, "must not be negative"),
        ({"documents": 1}, "at least 2"),
        ({"other": ("nothing",)}, "is no collection"),
        ({"stages": ("tain",)}, "no stage tain"),
    ],
)
def test_options_that_cannot_be_used_are_told(options: ExperimentOptions, change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        replace(options, **change)


def test_an_arm_whose_labels_were_flat_is_divided_again(options: ExperimentOptions, tmp_path: Path) -> None:
    fresh = replace(options, out=tmp_path, stages=("relabel",))
    way = fresh.directions()[0]
    flat = Layout(fresh).labels(way, "b", "train")
    flat.parent.mkdir(parents=True)
    write_ranking_set(flat, [RankingRow("q", f"d{d}", "a query", "a document", label=0.0) for d in range(3)])
    assert "b" in arms_of(fresh, way)[1]  # nothing to learn as it is
    assert f"divide {way.name} b" in [step.name for step in relabel_steps(fresh)]


def test_every_arm_starts_from_the_encoder_that_its_way_pretrained(options: ExperimentOptions, done: list[str]) -> None:
    assert "pretraining learn-try" in done
    way = options.out / "learn-try"
    for arm in "abcd":
        text = (way / "rerankers" / f"{arm}-0" / "manifest.json").read_text(encoding="utf-8")
        assert json.loads(text)["identity"]["base"] == folder_digest(way / "pretrained")
    report = json.loads((way / "pretrained" / "report.json").read_text(encoding="utf-8"))
    assert report["train_queries"] == 24


def test_a_query_that_is_too_long_for_a_re_ranker_is_no_query_that_it_ranks_badly(
    options: ExperimentOptions, done: list[str], tmp_path: Path
) -> None:
    data = tmp_path / "data"
    shutil.copytree(options.data, data)
    queries = [json.loads(line) for line in (data / "try" / "queries.jsonl").read_text().splitlines()]
    queries[1]["text"] += " salt" * 60
    (data / "try" / "queries.jsonl").write_text("".join(json.dumps(row) + "\n" for row in queries))
    model, out = next((options.out).rglob("rerankers/a-0")), tmp_path / "a.run"
    moved = replace(options, data=data, out=tmp_path / "out")
    shutil.copytree(Layout(options).root / "collections", Layout(moved).root / "collections")
    with pytest.raises(InputError, match=r"try: 8 judged documents cannot be ranked by a-0, .*; .* --max-length"):
        _rerank(moved, "try", model, out)
    assert not out.exists()


def test_what_cannot_be_run_is_told_in_words(
    collections: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    common = ["--data", str(collections), "--train", "learn", "--test", "try"]
    for arguments, told in (
        (["--out", str(tmp_path / "out"), "--epochs", "0"], "0.0 epochs; more than 0"),
        (["--out", str(tmp_path / "out"), "--tuned-back", "fake:"], "give both_ways too"),
        (["--out", str(tmp_path / "file")], "file: "),
    ):
        assert main([*common, *arguments]) == 1
        assert told in capsys.readouterr().err
