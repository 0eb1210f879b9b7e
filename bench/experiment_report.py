"""The experiment's report: experiment.json, experiment.md with its tables, experiment.png."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from pairgrade.atomic import write_text
from pairgrade.bench.experiment_figures import way_figures
from pairgrade.bench.experiment_judgments import STATISTICS
from pairgrade.bench.experiment_options import ANNOTATORS, ARMS, ExperimentOptions
from pairgrade.bench.experiment_plot import draw_experiment
from pairgrade.bench.experiment_ranking import rankings
from pairgrade.bench.experiment_sets import Layout, arms_of
from pairgrade.bench.experiment_steps import Step
from pairgrade.bench.report_markdown import table_lines
from pairgrade.environment import environment, package_version
from pairgrade.evaluation_report import COMPARISON_COLUMNS, Comparison, comparison_cells
from pairgrade.file_hashes import file_sha256
from pairgrade.foreign_text import in_markdown

_FORMAT = "pairgrade-experiment"
_NOT_REPEATED = ("out", "stages", "overwrite", "threads")  # what does not decide the figures
_PACKAGES = ("torch", "transformers", "sentence-transformers", "bm25s", "ir-measures")
NAMES = (
    {"bm25": "BM25", "cosine": "the encoder as it ships, cosine", "pretrained": "pretrained, no labels"}
    | {arm: f"({arm}) {name}" for arm, name in ARMS.items()}
    | {name: f"the {name} annotator itself, expected grade" for name in ANNOTATORS.values()}
)
Row = Sequence[str]
_PAIRS = {"all": "all of {train}", "dev": "dev queries of {train}", "test": "{test}"}


def report_steps(options: ExperimentOptions) -> list[Step]:
    """Return the step of the stage ``report``."""
    layout = Layout(options)
    inputs: dict[Path, None] = {}
    for way in options.directions():
        for name in options.tested(way):
            runs = [run for files in rankings(options, way, name).values() for run in files]
            inputs |= dict.fromkeys([layout.collection(name, "qrels.txt"), *runs])
        for arm in options.annotators(way):
            inputs |= dict.fromkeys(layout.way(way, f"{file}-{arm}.json{end}") for file, end in
                                    (("changes", ""), ("calibrated", "l"), ("calibration", "")))  # fmt: skip
        sides = ("", "train", "dev")
        inputs |= dict.fromkeys(layout.labels(way, arm, side) for arm in arms_of(options, way)[0] for side in sides)
        inputs[layout.way(way, "sets", "split.json")] = None
    outputs = tuple(layout.root / f"experiment.{suffix}" for suffix in ("json", "md", "png"))
    settings = {"settings": json.dumps(_settings(options), sort_keys=True)}
    return [Step("report", partial(_report, options, outputs), tuple(inputs), outputs, settings)]


def _settings(options: ExperimentOptions) -> dict[str, Any]:
    table = {key: value for key, value in asdict(options).items() if key not in _NOT_REPEATED}
    table["training"] = {key: value for key, value in table["training"].items() if key not in ("threads", "seed")}
    paths = ("data", "held_out", "held_out_back")
    return table | {name: str(table[name]) for name in paths if table[name] is not None}


def _report(options: ExperimentOptions, outputs: Sequence[Path]) -> None:
    layout = Layout(options)
    machine = {key: value for key, value in environment().items() if key != "process"}
    machine["packages"] |= {name: package_version(name) for name in _PACKAGES}
    names = dict.fromkeys([options.train, options.test, *options.other])
    data = {name: {file: file_sha256(layout.collection(name, file)) for file in ("pairs.jsonl", "qrels.txt")}
            for name in names}  # fmt: skip
    result = {
        "format": _FORMAT,
        "settings": _settings(options),
        "environment": machine,
        "data_sha256": data,
        "ways": [way_figures(options, way) for way in options.directions()],
    }
    write_text(outputs[0], json.dumps(result, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
    write_text(outputs[1], markdown(result))
    draw_experiment(result, outputs[2])


def markdown(result: dict[str, Any]) -> str:
    """Return the tables of a result."""
    lines = ["# The experiment", "", "![nDCG@10 by what the re-ranker learnt of](experiment.png)"]
    for way in result["ways"]:
        lines += _way_lines(way)
    lines += ["", "## To repeat it", "", *_table([("setting", "value"), *_facts(result)])]
    return "\n".join(lines) + "\n"


def _way_lines(way: dict[str, Any]) -> Iterator[str]:
    yield from ("", f"## Trained on {way['train']}, tested on {way['test']}")
    for arm, reason in way["left_out"].items():
        yield from ("", f"Left out: {in_markdown(NAMES[arm])}, for {in_markdown(reason)}.")
    for ranked in way["tested"]:
        title = f"Rankings of {ranked['collection']}: {ranked['queries']:,} queries, {ranked['pairs']:,} documents"
        yield from ("", f"### {title}", "", *_table(_quality_rows(ranked)))
        if ranked["comparisons"]:
            yield from ("", *_table(_comparison_rows(ranked)))
    title = f"Agreement with people ({way['calibration_pairs']} pairs of the dev queries calibrate)"
    yield from ("", f"### {title}", "", *_table(_agreement_rows(way)))
    yield from ("", "### Labels of the sets", "", *_table(_set_rows(way)))
    for arm, changes in way["changes"].items():
        yield from ("", f"### What became of BM25's labels: {in_markdown(NAMES[arm])}", "")
        yield from _table(_change_rows(changes))
        total = changes["total"]
        yield ""
        yield (
            f"Relevant from grade {changes['threshold']} on: {total['false_positives']:,} of {total['positives']:,} "
            f"positives judged irrelevant, {total['false_negatives']:,} of {total['negatives']:,} negatives relevant; "
            f"{total['unjudged']:,} rows not judged."
        )


def _table(rows: Iterable[Row]) -> list[str]:
    return table_lines(list(rows))


def _quality_rows(ranked: dict[str, Any]) -> Iterator[Row]:
    found = {(quality["name"], quality["measure"]): quality for quality in ranked["qualities"]}
    measures = list(dict.fromkeys(measure for _, measure in found))
    yield ("ranking", "seeds", *measures)
    for name in dict.fromkeys(name for name, _ in found):
        own = [found[name, measure] for measure in measures]
        yield (NAMES[name], str(len(own[0]["values"])) if name in ARMS else "", *map(_shown_quality, own))


def _shown_quality(quality: dict[str, Any]) -> str:
    spread = "" if quality["deviation"] is None else f" ± {quality['deviation']:.4f}"
    return f"{quality['mean']:.4f}{spread}"


def _comparison_rows(ranked: dict[str, Any]) -> Iterator[Row]:
    yield ("measure", "arms", *COMPARISON_COLUMNS)
    for table in ranked["comparisons"]:
        comparison = Comparison(**table)
        yield (comparison.measure, f"{comparison.run} - {comparison.baseline}", *comparison_cells(comparison))


def _agreement_rows(way: dict[str, Any]) -> Iterator[Row]:
    yield ("labels", "pairs of", "pairs", *(name.replace("_", " ") for name in STATISTICS))
    for arm, sides in way["agreement"].items():
        for side, found in sides.items():
            figures = (_shown_value(found.get(name)) for name in STATISTICS)
            yield (NAMES[arm], _PAIRS[side].format(**way), f"{found['pairs']:,}", *figures)


def _shown_value(found: dict[str, Any] | None) -> str:
    if found is None or found["value"] is None:
        return "-"
    interval = "" if found["low"] is None else f" ({found['low']:.3f} to {found['high']:.3f})"
    return f"{found['value']:.3f}{interval}"


def _set_rows(way: dict[str, Any]) -> Iterator[Row]:
    yield ("labels", "queries", "documents", "label: documents")
    for arm, sides in way["sets"].items():
        for side, found in sides.items():
            labels = ", ".join(f"{label}: {count:,}" for label, count in found["labels"].items())
            yield (f"{NAMES[arm]}, {side}", f"{found['queries']:,}", f"{found['documents']:,}", labels)


def _change_rows(changes: dict[str, Any]) -> Iterator[Row]:
    yield ("BM25's label", *(f"grade {grade}" for grade in changes["grades"]))
    for label, row in zip(changes["labels"], changes["matrix"], strict=True):
        yield (label, *(f"{count:,}" for count in row))


def _facts(result: dict[str, Any]) -> Iterator[Row]:
    for group in ("settings", "environment"):
        for key, value in result[group].items():
            yield (key, json.dumps(value, ensure_ascii=False))
    for name, files in result["data_sha256"].items():
        for file, digest in files.items():
            yield (f"sha256 of {name}/{file}", digest)
