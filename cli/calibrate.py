"""``pairgrade calibrate``: fit grades to human ones, and measure what that gains on pairs that were not seen."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import rich_click as click
from rich.table import Table

from pairgrade.calibration import METHODS, Calibration, Cuts, Fitted
from pairgrade.calibration_fit import FIGURES, CrossFit, cross_fitted, fit
from pairgrade.cli.consoles import result_console
from pairgrade.cli.outputs import check_outputs, refuse_existing
from pairgrade.errors import InputError
from pairgrade.file_hashes import file_sha256
from pairgrade.judgments import read_judgments
from pairgrade.manifest import Manifest
from pairgrade.matching import Matched, match
from pairgrade.qrels import read_qrels
from pairgrade.run_folder import behind_link

_NAMES = dict(zip(FIGURES, ("accuracy", "Cohen's kappa", "  quadratic weights", "  relevant or not"), strict=True))


@click.command("calibrate")
@click.argument("judgments", metavar="JUDGMENTS", type=click.Path(path_type=Path))
@click.option("--qrels", required=True, metavar="DEV", type=click.Path(path_type=Path),
              help="Human grades of some of the pairs, qrels of TREC or BEIR (.gz as well).")  # fmt: skip
@click.option("--out", "-o", required=True, metavar="FILE", type=click.Path(path_type=Path),
              help="The calibration, a JSON file for `pairgrade label --calibration`.")  # fmt: skip
@click.option("--method", type=click.Choice(list(METHODS)), default="cuts", show_default=True, metavar="METHOD",
              help="cuts: cut points on the expected grade, for the best quadratic kappa. scaling: a temperature and "
              "a bias for each grade, for the best probabilities.")  # fmt: skip
@click.option("--folds", type=click.IntRange(min=2), default=5, show_default=True, metavar="N",
              help="Parts of the queries; each is graded by a fit on the others, for the figures after.")  # fmt: skip
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, metavar="N",
              help="Seed of the parts.")  # fmt: skip
@click.option("--threshold", type=int, metavar="N",
              help="A pair is relevant from this grade on.  [default: 2, or 1 where the scale ends at 1]"
              )  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option("--force", is_flag=True, help="Replace FILE where it exists.")
def command(
    judgments: Path,
    qrels: Path,
    out: Path,
    method: str,
    folds: int,
    seed: int,
    threshold: int | None,
    as_json: bool,
    force: bool,
) -> None:
    """Fit a calibration of the grades in JUDGMENTS to human ones.

    JUDGMENTS is a file of `pairgrade label` without --calibration. FILE is fitted on all pairs that have a human
    grade; the figures after calibration come from cross-fitting, so every pair is graded by a fit that has not seen
    its query.
    """
    check_outputs([(judgments, "the judgments"), (qrels, "the human grades")], [(out, "the calibration")])
    refuse_existing(out, force)
    digest, made_by = _digest(judgments)
    file = read_judgments(judgments)
    matched = match(file, read_qrels(qrels))
    probabilities = matched.probabilities
    assert probabilities is not None  # judgments have them
    found = cross_fitted(
        method, matched.query_ids, matched.human, matched.predicted, probabilities, file.grades,
        folds=folds, seed=seed, threshold=threshold,
    )  # fmt: skip
    kappas = found.before["quadratic_kappa"], found.after["quadratic_kappa"]
    fitted = Fitted(found.pairs, found.queries, found.folds, found.split, seed, *kappas, digest, *made_by)
    calibration = replace(fit(method, probabilities, matched.human, file.grades), fitted=fitted)
    calibration.save(out)
    notes = _notes(calibration, matched, found)
    if as_json:
        click.echo(json.dumps(_figures(judgments, qrels, out, calibration, matched, found, notes), allow_nan=False))
    else:
        _print(judgments, qrels, out, calibration, matched, found, notes)


def _digest(judgments: Path) -> tuple[str, tuple[str | None, ...]]:
    """Return the file's sha256, and model and rubric as its manifest has them.

    InputError where that says that it was calibrated already.
    """
    if not judgments.is_file():
        raise InputError(f"{judgments}: there is no such file")
    digest = file_sha256(judgments)
    real = behind_link(judgments)
    manifest = Manifest.load(real.with_name(f"{real.name}.manifest.json"))
    if not manifest or manifest.result.get("out_sha256") != digest:
        return digest, ()
    used = manifest.identity.get("calibration", "none")
    if used != "none":
        raise InputError(
            f"{judgments} was made with the calibration {used[:12]}; label the pairs without --calibration, and "
            "fit to that file"
        )
    made_by = (manifest.identity.get(name, "none") for name in ("model_sha256", "rubric"))
    return digest, tuple(None if value == "none" else value for value in made_by)


def _notes(calibration: Calibration, matched: Matched, found: CrossFit) -> list[str]:
    """Say what a reader of the figures should know."""
    parts = "queries" if found.split == "queries" else "the pairs of one query"
    notes = [f"After: by a fit that has not seen the pair; {found.folds} folds of {parts}, seed {found.seed}."]
    if found.split == "pairs":
        notes.append("One query only: the figures after are too good for other queries.")
    if absent := [str(grade) for grade in calibration.grades if grade not in matched.human]:
        notes.append(f"No pair has the human grade {' or '.join(absent)}; nothing could be learnt of it.")
    before, after = found.before["quadratic_kappa"], found.after["quadratic_kappa"]
    if before is not None and after is not None and after <= before:
        notes.append("Quadratic kappa is no better on unseen pairs: this calibration does not help there.")
    return notes


def _shares(calibration: Calibration, matched: Matched, found: CrossFit) -> list[dict[str, Any]]:
    """Return how often people, the model and the calibration gave each grade, as shares of the pairs."""
    given = {"human": matched.human, "before": matched.predicted, "after": found.predicted}
    return [
        {"grade": grade} | {name: float(np.mean(grades == grade)) for name, grades in given.items()}
        for grade in calibration.grades
    ]


def _figures(
    judgments: Path,
    qrels: Path,
    out: Path,
    calibration: Calibration,
    matched: Matched,
    found: CrossFit,
    notes: list[str],
) -> dict[str, Any]:
    return {
        "judgments": str(judgments),
        "human": str(qrels),
        "out": str(out),
        "digest": calibration.digest,
        "unjudged": matched.unjudged,
        "unpredicted": matched.unpredicted,
        "threshold": found.threshold,
        "before": found.before,
        "after": found.after,
        "distribution": _shares(calibration, matched, found),
        "notes": notes,
    } | calibration.to_dict()


def _print(
    judgments: Path,
    qrels: Path,
    out: Path,
    calibration: Calibration,
    matched: Matched,
    found: CrossFit,
    notes: list[str],
) -> None:
    console = result_console()
    lines = [
        f"{judgments} against {qrels}",
        f"{found.pairs:,} pairs of {found.queries:,} queries; relevant from grade {found.threshold} on",
    ]
    if matched.unjudged:
        lines.append(f"judgments without a human grade, left out: {matched.unjudged:,}")
    if matched.unpredicted:
        lines.append(f"human grades without a judgment, left out: {matched.unpredicted:,}")
    console.print("\n".join(lines) + "\n")
    table = _table("agreement with people", "", "before", "after")
    for name, title in _NAMES.items():
        table.add_row(title, _number(found.before[name]), _number(found.after[name]))
    console.print(table)
    console.print("\n".join(notes) + "\n")
    table = _table("distribution of the grades", "grade", "human", "before", "after")
    for share in _shares(calibration, matched, found):
        table.add_row(str(share["grade"]), *(f"{share[name]:.1%}" for name in ("human", "before", "after")))
    console.print(table)
    console.print(f"{out}, fitted on all {found.pairs:,} pairs: {_parameters(calibration)}")


def _parameters(calibration: Calibration) -> str:
    method = calibration.method
    if isinstance(method, Cuts):
        return f"cut points {', '.join(f'{point:.3f}' for point in method.points)}"
    biases = ", ".join(f"{bias:+.3f}" for bias in method.biases)
    return f"temperature {method.temperature:.3f}, biases {biases}"


def _table(title: str, first: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold")
    table.add_column(first)
    for column in columns:
        table.add_column(column, justify="right")
    return table


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
