"""``pairgrade convert``: judgments in another format, as TREC qrels or as a TREC run."""

from __future__ import annotations

import json
from pathlib import Path

import rich_click as click

from pairgrade.cli.outputs import check_outputs, refuse_existing
from pairgrade.errors import InputError
from pairgrade.judgments import JudgmentsFile, open_writer, read_judgments, suffix_format
from pairgrade.qrels import write_qrels, write_run
from pairgrade.table_rows import FORMATS

_TREC_SUFFIXES = {".qrels": "qrels", ".txt": "qrels", ".run": "run"}


@click.command("convert")
@click.argument("source", metavar="IN", type=click.Path(path_type=Path))
@click.argument("out", metavar="OUT", type=click.Path(path_type=Path))
@click.option(
    "--to",
    type=click.Choice([*FORMATS, "qrels", "run"]),
    help="Format of OUT, where its suffix (.jsonl, .parquet, .csv, .tsv, .qrels, .txt, .run) is another's.",
)
@click.option(
    "--score",
    type=click.Choice(["grade", "expected"]),
    help="What a TREC file holds: the grade, or the expected one, which qrels round to the "
    "nearest grade.  [default: grade for qrels, expected for runs]",
)
@click.option("--force", is_flag=True, help="Replace OUT if it exists.")
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON.")  # fmt: skip
def command(source: Path, out: Path, to: str | None, score: str | None, force: bool, as_json: bool) -> None:
    """Write the judgments of IN (.jsonl, .parquet, .csv, .tsv) to OUT in another format."""
    target = to or suffix_format(out) or _TREC_SUFFIXES.get(out.suffix.lower())
    if target is None:
        raise InputError(f"the suffix of {out} names no format; give one with --to")
    if score and target in FORMATS:
        raise InputError(f"--score is for qrels and runs; {target} files hold the grade and the expected grade")
    kept = target in FORMATS  # qrels and runs have no probabilities: a file of judgments must not become one
    check_outputs([] if kept else [(source, "the judgments")], [(out, "the output")])
    refuse_existing(out, force)
    count = _convert(read_judgments(source), out, target, score)
    if as_json:
        summary = {"input": str(source), "output": str(out), "format": target, "judgments": count}
        click.echo(json.dumps(summary, ensure_ascii=False))
    else:
        click.echo(f"{out}: {count:,} judgments as {target}")


def _convert(judgments: JudgmentsFile, out: Path, target: str, score: str | None) -> int:
    """Write the judgments and return how many there are."""
    if target == "run":
        by_grade = score == "grade"
        return write_run(
            out, ((j.query_id, j.doc_id, float(j.grade) if by_grade else j.expected_grade) for j in judgments)
        )
    if target == "qrels":
        rounded = score == "expected"
        return write_qrels(
            out,
            (
                (j.query_id, j.doc_id, _nearest(j.expected_grade, judgments.grades) if rounded else j.grade)
                for j in judgments
            ),
        )
    with open_writer(out, judgments.grades, target) as writer:
        for judgment in judgments:
            writer.write(judgment)
    return writer.rows


def _nearest(score: float, grades: tuple[int, ...]) -> int:
    """Return the grade nearest to a score, the lower of two that are equally near."""
    return min(grades, key=lambda grade: (abs(grade - score), grade))
