"""The annotators' part of the experiment: judgments, their calibration, relabelled sets, agreement with people.

A calibration is fitted on some pairs of the dev queries of the training collection, and never on the test collection.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

from pairgrade import Annotator, LlamaOptions
from pairgrade.agreement import AgreementOptions, agreement
from pairgrade.annotator import entered
from pairgrade.atomic import write_text
from pairgrade.bench.experiment_elsewhere import judgments_of, take_judgments
from pairgrade.bench.experiment_options import ANNOTATORS, Direction, ExperimentOptions
from pairgrade.bench.experiment_sets import Layout, arms_to_label, divide, read_split
from pairgrade.bench.experiment_steps import Step
from pairgrade.calibration import Calibration
from pairgrade.calibration_fit import fit
from pairgrade.cli.progress import TerminalProgress
from pairgrade.file_hashes import MANIFEST, remembered_sha256
from pairgrade.job import LabelJob
from pairgrade.judgments import JudgmentsFile, open_writer, read_judgments
from pairgrade.label_change_plot import draw_label_changes
from pairgrade.matching import match
from pairgrade.model_choice import choose_model
from pairgrade.models import resolve
from pairgrade.onnx_backend import OnnxOptions
from pairgrade.onnx_manifest import is_onnx_folder
from pairgrade.qrels import read_qrels
from pairgrade.ranking_set import read_ranking_set
from pairgrade.readers import Source
from pairgrade.records import Judgment, Qrel
from pairgrade.relabel_policy import RelabelOptions
from pairgrade.relabeling import relabel
from pairgrade.rubric import Rubric
from pairgrade.run import label

STATISTICS = ("kappa", "quadratic_kappa", "binary_kappa", "tau_b", "auc")
_OF_ANY_SCALE = ("binary_kappa", "tau_b", "auc")  # what labels of 0 and 1 can be asked for
_METHOD = "cuts"


def judge_steps(options: ExperimentOptions) -> list[Step]:
    """Return the steps of the stage ``judge``: the longest of all."""
    layout, choose = Layout(options), cache(choose_model)  # once: it depends on the memory that is free
    steps: dict[Path, Step] = {}
    for way in options.directions():
        for arm, reference in options.annotators(way).items():
            for name in (way.train, way.test) if options.annotator_as_ranker else (way.train,):
                out = layout.judgments(ANNOTATORS[arm], way, name)
                pairs, rubric = layout.collection(name, "pairs.jsonl"), Rubric.load(options.rubric)
                made = judgments_of(reference, name)
                if made:
                    step = _taking(made, pairs, rubric, out)
                else:
                    step = _judging(options, choose(reference).model, pairs, rubric, out)
                steps.setdefault(out, step)
    return list(steps.values())


def _taking(made: Path, pairs: Path, rubric: Rubric, out: Path) -> Step:
    work, settings = partial(take_judgments, made, pairs, rubric, out), {"rubric": rubric.digest}
    return Step(f"judgments {out.stem}", work, (pairs, made), (out,), settings, costly=True)


def _judging(options: ExperimentOptions, model: str, pairs: Path, rubric: Rubric, out: Path) -> Step:
    settings = {
        "model": _model_digest(model),
        "rubric": rubric.digest,
        "context": str(options.context),
    }
    if not model.startswith("fake:") and not is_onnx_folder(Path(model)):
        own, usual = asdict(options.llama()), asdict(LlamaOptions())  # a run of before these options goes on
        settings |= {name: str(own[name]) for name in ("gpu_layers", "sequences") if own[name] != usual[name]}
    work = partial(judge, model, rubric, pairs, out, options.llama(), overwrite=options.overwrite)
    return Step(f"judgments {out.stem}", work, (pairs,), (out,), settings, costly=True)


def _model_digest(reference: str) -> str:
    if reference.startswith("fake:"):
        return reference
    folder = Path(reference)
    return remembered_sha256(folder / MANIFEST if is_onnx_folder(folder) else resolve(reference))


def judge(model: str, rubric: Rubric, pairs: Path, out: Path, llama: LlamaOptions, *, overwrite: bool = False) -> None:
    """Label pairs with progress on the terminal, or go on where that was stopped.

    An ONNX model takes context and threads of the llama.cpp options.
    """
    onnx = OnnxOptions(context=llama.context, threads=llama.threads)
    opened = partial(Annotator.open, model, rubric, llama=llama, onnx=onnx, isolate=True)
    with TerminalProgress() as progress:
        label(LabelJob(Source(str(pairs)), out, overwrite=overwrite), partial(entered, opened), progress)


def relabel_steps(options: ExperimentOptions) -> list[Step]:
    """Return the steps of the stage ``relabel``."""
    layout, steps = Layout(options), []
    for way in options.directions():
        split = layout.way(way, "sets", "split.json")
        for arm in options.annotators(way):
            inputs = [layout.judgments(ANNOTATORS[arm], way, way.train), layout.collection(way.train, "qrels.txt")]
            outputs = [layout.labels(way, arm)]
            outputs += [layout.way(way, file.format(arm)) for file in ("calibration-{}.json", "calibrated-{}.jsonl")]
            outputs += [layout.way(way, file.format(arm)) for file in ("changes-{}.json", "changes-{}.png")]
            work = partial(_relabel, options, way, arm)
            inputs += [layout.labels(way, "a"), split]
            settings = {"policy": options.policy, "method": _METHOD}
            steps.append(Step(f"relabel {way.name} {arm}", work, tuple(inputs), tuple(outputs), settings))
        for arm in arms_to_label(options, way):
            sides = tuple(layout.labels(way, arm, side) for side in ("train", "dev"))
            work, settings = partial(divide, options, way, arm), {"dev_documents": str(options.dev_documents)}
            steps.append(Step(f"divide {way.name} {arm}", work, (layout.labels(way, arm), split), sides, settings))
    return steps


def _relabel(options: ExperimentOptions, way: Direction, arm: str) -> None:
    """Calibrate an annotator's judgments of the training collection, and correct BM25's labels by them."""
    layout = Layout(options)
    raw = read_judgments(layout.judgments(ANNOTATORS[arm], way, way.train))
    _, chosen = read_split(layout.way(way, "sets", "split.json"))
    people = [q for q in read_qrels(layout.collection(way.train, "qrels.txt")) if (q.query_id, q.doc_id) in chosen]
    matched = match(raw, people)
    assert matched.probabilities is not None  # judgments have them
    calibration = fit(_METHOD, matched.probabilities, matched.human, raw.grades)
    calibration.save(layout.way(way, f"calibration-{arm}.json"))
    calibrated_file = layout.way(way, f"calibrated-{arm}.jsonl")
    with open_writer(calibrated_file, raw.grades) as writer:
        for judgment in calibrated(raw, calibration):
            writer.write(judgment)
    settings = RelabelOptions(options.policy, scale="grades")
    changes = relabel(layout.labels(way, "a"), calibrated_file, layout.labels(way, arm), settings)
    write_text(layout.way(way, f"changes-{arm}.json"), json.dumps(changes.to_dict(), indent=1, allow_nan=False) + "\n")
    draw_label_changes(changes, layout.way(way, f"changes-{arm}.png"))


def calibrated(file: JudgmentsFile, calibration: Calibration) -> Iterator[Judgment]:
    """Yield judgments as the annotator would have given them with this calibration."""
    for judgment in file:
        grade, probabilities, expected = calibration.apply(judgment.probabilities, file.grades)
        yield replace(judgment, grade=grade, probabilities=probabilities, expected_grade=expected)


def agreements(options: ExperimentOptions, way: Direction) -> dict[str, dict[str, Any]]:
    """Return how well each arm's labels agree with people's, by arm and by the pairs that are compared.

    ``all``: every pair of the training collection; ``dev``: of its dev queries, on which no annotator was tuned;
    ``test``: of the test collection, where it was labelled.
    """
    layout = Layout(options)
    dev, _ = read_split(layout.way(way, "sets", "split.json"))
    people = {name: list(read_qrels(layout.collection(name, "qrels.txt"))) for name in (way.train, way.test)}
    of_train = {"all": people[way.train], "dev": [q for q in people[way.train] if q.query_id in dev]}
    threshold = min(2, max(1, *(q.grade for q in people[way.train])))
    rows = list(read_ranking_set(layout.labels(way, "a")))
    bm25 = [Qrel(row.query_id, row.doc_id, threshold if row.label else 0) for row in rows]
    found: dict[str, dict[str, Any]] = {
        "a": {pairs: _agreement(bm25, graded, threshold, _OF_ANY_SCALE) for pairs, graded in of_train.items()}
    }
    for arm in options.annotators(way):
        own = list(read_judgments(layout.way(way, f"calibrated-{arm}.jsonl")))
        found[arm] = {pairs: _agreement(own, graded, threshold) for pairs, graded in of_train.items()}
        if options.annotator_as_ranker:
            file = read_judgments(layout.judgments(ANNOTATORS[arm], way, way.test))
            calibration = Calibration.load(layout.way(way, f"calibration-{arm}.json"))
            found[arm]["test"] = _agreement(calibrated(file, calibration), people[way.test], threshold)
    return found


def _agreement(
    predicted: Iterable[Judgment | Qrel], people: list[Qrel], threshold: int, names: tuple[str, ...] = STATISTICS
) -> dict[str, Any]:
    matched = match(predicted, people)
    report = agreement(
        matched.query_ids, matched.human, matched.predicted, matched.scores, options=AgreementOptions(threshold)
    )
    figures = {name: report.statistics[name] for name in names}
    return {"pairs": report.pairs, "queries": report.queries} | {
        name: {"value": found.value, "low": found.low, "high": found.high} for name, found in figures.items()
    }
