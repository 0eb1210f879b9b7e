"""``pairgrade agree``: how well judgments agree with human grades."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import rich_click as click
from rich.table import Table

from pairgrade.agreement import AgreementOptions, agreement
from pairgrade.agreement_report import Report, Statistic
from pairgrade.cli.consoles import result_console
from pairgrade.cli.declare import RESAMPLES
from pairgrade.cli.outputs import check_outputs
from pairgrade.cli.report import figures_table
from pairgrade.judgments import read_judgments, suffix_format
from pairgrade.matching import Matched, match
from pairgrade.qrels import read_qrels

_NAMES = {
    "accuracy": "accuracy",
    "kappa": "Cohen's kappa",
    "quadratic_kappa": "  quadratic weights",
    "binary_kappa": "  relevant or not",
    "alpha": "Krippendorff's alpha",
    "tau_b": "Kendall's tau-b",
    "spearman": "Spearman's rho",
    "auc": "ROC AUC",
    "mean_human_grade": "mean human grade",
    "mean_predicted_grade": "mean predicted grade",
}


@click.command("agree")
@click.argument("out", metavar="OUT", type=click.Path(path_type=Path))
@click.option(
    "--qrels",
    required=True,
    metavar="HUMAN",
    type=click.Path(path_type=Path),
    help="The human grades, qrels of TREC or BEIR (.gz as well).",
)
@click.option(
    "--threshold",
    type=int,
    metavar="N",
    help="A pair is relevant from this grade on.  [default: 2, or 1 where the scale ends at 1]",
)
@click.option(
    "--resamples",
    type=RESAMPLES,
    default=1000,
    show_default=True,
    metavar="N",
    help="Resamples of the bootstrap over queries; 0 for no intervals.",
)
@click.option(
    "--seed", type=click.IntRange(min=0), default=0, show_default=True, metavar="N", help="Seed of the bootstrap."
)
@click.option("--per-query", is_flag=True, help="Show the agreement on each query, too.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option("--picture", metavar="FILE", type=click.Path(path_type=Path),
              help="Draw the confusion matrix into a .png, .svg or .pdf file.")  # fmt: skip
def command(
    out: Path,
    qrels: Path,
    threshold: int | None,
    resamples: int,
    seed: int,
    per_query: bool,
    as_json: bool,
    picture: Path | None,
) -> None:
    """Compare the grades in OUT with human ones.

    OUT is a judgments file (.jsonl, .parquet, .csv, .tsv) or else a qrels file.
    """
    if picture is not None:
        from pairgrade.confusion_plot import draw_confusion, picture_format

        picture_format(picture)
    check_outputs([(out, "the predictions"), (qrels, "the human grades")], [(picture, "the picture")])
    matched, report = _compare(out, qrels, AgreementOptions(threshold, resamples, seed))
    notes = _notes(report)
    if picture is not None:
        draw_confusion(report, picture)
    if as_json:
        figures = report.to_dict()
        if not per_query:
            del figures["per_query"]
        files = {"predictions": str(out), "human": str(qrels)}
        missing = {"unjudged": matched.unjudged, "unpredicted": matched.unpredicted}
        click.echo(json.dumps(files | missing | {"notes": notes} | figures, ensure_ascii=False, allow_nan=False))
    else:
        _print(out, qrels, matched, report, notes, per_query)


def _compare(out: Path, human: Path, options: AgreementOptions) -> tuple[Matched, Report]:
    judgments = read_judgments(out) if suffix_format(out) else None
    matched = match(read_qrels(out) if judgments is None else judgments, read_qrels(human))
    report = agreement(
        matched.query_ids,
        matched.human,
        matched.predicted,
        matched.scores,
        probabilities=matched.probabilities,
        grades=judgments.grades if judgments else (),
        options=options,
    )
    return matched, report


def _notes(report: Report) -> list[str]:
    """Say what a reader of the figures should know."""
    notes = []
    if report.score == "grade":
        notes.append("The predictions are grades alone: tau-b, rho and AUC rank the pairs by grade.")
    if report.resampled == "pairs":
        notes.append("One query only: its pairs were resampled as if they were independent.")
    for reason in dict.fromkeys(s.reason for s in report.statistics.values() if s.reason):
        names = [_NAMES[name].strip() for name, s in report.statistics.items() if s.reason == reason]
        notes.append(f"Undefined ({', '.join(names)}): {reason}.")
    partly = {_NAMES[n].strip(): s.undefined_resamples for n, s in report.statistics.items() if s.low is not None}
    if left_out := [f"{count:,} for {name}" for name, count in partly.items() if count]:
        notes.append(f"Resamples without a value, left out of the interval: {', '.join(left_out)}.")
    return notes


def _print(out: Path, human: Path, matched: Matched, report: Report, notes: Iterable[str], per_query: bool) -> None:
    console = result_console()
    lines = [
        f"{out} against {human}",
        f"{report.pairs:,} pairs of {report.queries:,} queries; relevant from grade {report.threshold} on",
    ]
    if matched.unjudged:
        lines.append(f"predictions without a human grade, left out: {matched.unjudged:,}")
    if matched.unpredicted:
        lines.append(f"human grades without a prediction, left out: {matched.unpredicted:,}")
    console.print("\n".join(lines) + "\n")
    console.print(_summary(report))
    if report.resampled:
        drawn = f"{report.resamples:,} bootstrap resamples of {report.resampled}, seed {report.seed}"
        notes = [f"Intervals: {drawn}.", *notes]
    console.print("\n".join(notes) + "\n")
    console.print(_confusion(report), "", _distribution(report), sep="\n")
    if per_query:
        console.print("", _queries(report), sep="\n")


def _summary(report: Report) -> Table:
    table = figures_table("agreement", "", "value", f"{report.confidence * 100:.4g}% interval", "mean per query")
    for name, label in _NAMES.items():
        statistic = report.statistics[name]
        mean = _number(statistic.query_mean)
        if 0 < statistic.queries < report.queries:
            mean += f" (of {statistic.queries:,})"
        table.add_row(label, _number(statistic.value), _interval(statistic), mean)
    return table


def _confusion(report: Report) -> Table:
    table = figures_table("human grade (rows), predicted grade (columns)", "", *map(str, report.grades), "pairs")
    for grade, row in zip(report.grades, report.confusion, strict=True):
        total = sum(row)
        cells = [f"{count:,}\n{count / total:.1%}" if total else "0\n" for count in row]
        table.add_row(str(grade), *cells, f"{total:,}")
    columns = zip(*report.confusion, strict=True)
    table.add_row("pairs", *(f"{sum(column):,}" for column in columns), f"{report.pairs:,}")
    return table


def _distribution(report: Report) -> Table:
    known = report.distribution[0].probability is not None
    columns = ["human", "predicted", *(["mean probability"] if known else [])]
    table = figures_table("distribution of the grades", "grade", *columns)
    for share in report.distribution:
        cells = [share.human, share.predicted, share.probability]
        table.add_row(str(share.grade), *(f"{cell:.1%}" for cell in cells if cell is not None))
    return table


def _queries(report: Report) -> Table:
    table = figures_table("agreement on each query", "query", "pairs", "accuracy", "quadratic kappa", "tau-b", "AUC")
    for query in report.per_query:
        values = (query.accuracy, query.quadratic_kappa, query.tau_b, query.auc)
        table.add_row(query.query_id, f"{query.pairs:,}", *map(_number, values))
    return table


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _interval(statistic: Statistic) -> str:
    if statistic.low is None or statistic.high is None:
        return "-"
    return f"{statistic.low:.3f} to {statistic.high:.3f}"
