"""Relabelling under each policy, its report, picture and command."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from hypothesis import given, settings
from hypothesis import strategies as st

from pairgrade.cli.relabel import command
from pairgrade.errors import InputError
from pairgrade.judgments import open_writer
from pairgrade.label_changes import OUTCOMES
from pairgrade.ranking_set import RankingRow, read_ranking_set, write_ranking_set
from pairgrade.records import Judgment
from pairgrade.relabel_policy import POLICIES, SCALES, Relabeler, RelabelOptions
from pairgrade.relabeling import relabel

GRADES = (0, 1, 2, 3)


def judged(doc_id: str, probabilities: tuple[float, ...], query_id: str = "q") -> Judgment:
    grade = probabilities.index(max(probabilities))
    expected = sum(grade * p for grade, p in enumerate(probabilities))
    return Judgment(query_id, doc_id, grade, probabilities, expected, 0.9, False, 9, 5, 0)


def row(doc_id: str, label: float, source: str = "bm25", query_id: str = "q") -> RankingRow:
    return RankingRow(query_id, doc_id, "the query", f"text of {doc_id}", label=label, source=source)


ROWS = [
    row("right", 1.0),
    row("false-positive", 1.0),
    row("false-negative", 0.0, "clicks"),
    row("unsure", 0.0),
    row("unjudged", 1.0, "clicks"),
    row("wrong[1]", 0.0, query_id="r"),
]
JUDGMENTS = [
    judged("right", (0.0, 0.1, 0.3, 0.6)),
    judged("false-positive", (0.9, 0.1, 0.0, 0.0)),
    judged("false-negative", (0.05, 0.05, 0.6, 0.3)),
    judged("unsure", (0.1, 0.3, 0.35, 0.25)),
    judged("wrong[1]", (0.8, 0.2, 0.0, 0.0), "r"),
    judged("elsewhere", (1.0, 0.0, 0.0, 0.0)),
]


def save_judgments(path: Path, judgments: list[Judgment]) -> Path:
    with open_writer(path, GRADES) as writer:
        for judgment in judgments:
            writer.write(judgment)
    return path


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    write_ranking_set(tmp_path / "set.jsonl", ROWS)
    return tmp_path / "set.jsonl", save_judgments(tmp_path / "judgments.parquet", JUDGMENTS)


def run(*arguments: object) -> Result:
    result = CliRunner().invoke(command, [str(argument) for argument in arguments], env={"COLUMNS": "80"})
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


@pytest.mark.parametrize(
    ("options", "labels"),
    [
        ({}, [1, 0, 2 / 3, 2 / 3, 1, 0]),
        ({"scale": "grades"}, [3, 0, 2, 2, 3, 0]),
        ({"scale": "binary"}, [1, 0, 1, 1, 1, 0]),
        ({"policy": "confident"}, [1, 0, 2 / 3, 0, 1, 0]),
        ({"policy": "confident", "confidence": 0.95}, [1, 0, 0, 0, 1, 0]),
        ({"policy": "drop-false-negatives"}, [1, 1, None, None, 1, 0]),
        ({"policy": "drop-false-negatives", "confidence": 0.7}, [1, 1, None, 0, 1, 0]),
        ({"policy": "drop-false-negatives", "threshold": 3}, [1, 1, 0, 0, 1, 0]),
        ({"policy": "demote-false-positives"}, [1, 0, 0, 0, 1, 0]),
        ({"policy": "soft"}, [2.5 / 3, 0.1 / 3, 2.15 / 3, 1.75 / 3, 1, 0.2 / 3]),
        ({"policy": "soft", "scale": "grades"}, [2.5, 0.1, 2.15, 1.75, 3, 0.2]),
        ({"policy": "soft", "scale": "binary"}, [0.9, 0, 0.9, 0.6, 1, 0]),
    ],
)
def test_each_policy(
    options: dict[str, Any], labels: list[float | None], files: tuple[Path, Path], tmp_path: Path
) -> None:
    relabel(*files, tmp_path / "out.jsonl", RelabelOptions(**options))
    found = {item.doc_id: item.label for item in read_ranking_set(tmp_path / "out.jsonl")}
    expected = {item.doc_id: label for item, label in zip(ROWS, labels, strict=True) if label is not None}
    assert found == pytest.approx(expected)
    assert list(found) == list(expected)


def test_judgments_are_recorded_and_what_was_not_judged_is_marked(files: tuple[Path, Path], tmp_path: Path) -> None:
    relabel(*files, tmp_path / "out.parquet", RelabelOptions("drop-false-negatives"))
    found = {item.doc_id: item for item in read_ranking_set(tmp_path / "out.parquet")}
    assert found["unjudged"] == replace(ROWS[4], judged=False, original_label=1.0)
    j = JUDGMENTS[1]
    assert found["false-positive"] == replace(
        ROWS[1],
        judged=True,
        original_label=1.0,
        judged_grade=0,
        expected_grade=j.expected_grade,
        probabilities=j.probabilities,
    )


def test_the_label_before_the_first_relabelling_is_kept(files: tuple[Path, Path], tmp_path: Path) -> None:
    relabel(*files, tmp_path / "first.parquet", RelabelOptions("drop-false-negatives"))
    relabel(tmp_path / "first.parquet", files[1], tmp_path / "second.jsonl", RelabelOptions("demote-false-positives"))
    relabel(tmp_path / "second.jsonl", files[1], tmp_path / "third.jsonl", RelabelOptions("soft"))
    found = {item.doc_id: item for item in read_ranking_set(tmp_path / "third.jsonl")}
    assert found.keys() == {item.doc_id for item in ROWS} - {"false-negative", "unsure"}
    assert (found["false-positive"].label, found["false-positive"].original_label) == (pytest.approx(0.1 / 3), 1.0)


def test_grades_on_their_own_scale_stay(tmp_path: Path) -> None:
    write_ranking_set(tmp_path / "set.jsonl", [row("a", 3.0), row("b", 1.0)])
    judgments = save_judgments(tmp_path / "j.jsonl", [judged("a", (0.0, 0.0, 1.0, 0.0))])
    changes = relabel(tmp_path / "set.jsonl", judgments, tmp_path / "out.jsonl")
    assert [item.label for item in read_ranking_set(tmp_path / "out.jsonl")] == [2.0, 1.0]
    assert (changes.top, changes.total.lowered, changes.total.unjudged) == (3.0, 1, 1)
    assert (changes.positive_rows, changes.positive_rows_after, changes.total.false_positives) == (1, 1, 0)


def test_a_set_whose_grades_end_at_1_can_be_told_from_one_of_shares(files: tuple[Path, Path], tmp_path: Path) -> None:
    write_ranking_set(tmp_path / "set.jsonl", [row("a", 1.0), row("b", 1.0)])
    judgments = save_judgments(
        tmp_path / "j.jsonl", [judged("a", (0.0, 1.0, 0.0, 0.0)), judged("b", (1.0, 0.0, 0.0, 0.0))]
    )
    first = relabel(tmp_path / "set.jsonl", judgments, tmp_path / "one.jsonl", RelabelOptions(scale="grades"))
    assert (first.top, first.positive_rows_after) == (1.0, 0)
    found = {}
    for scale in ("auto", "unit", "grades"):
        options = RelabelOptions("demote-false-positives", set_scale=scale)
        changes = relabel(tmp_path / "one.jsonl", judgments, tmp_path / "two.jsonl", options)
        found[scale] = changes.top, changes.positive_rows, [r.label for r in read_ranking_set(tmp_path / "two.jsonl")]
    assert found == {"auto": (1.0, 1, [0.0, 0.0]), "unit": (1.0, 1, [0.0, 0.0]), "grades": (3.0, 0, [1.0, 0.0])}
    write_ranking_set(tmp_path / "set.jsonl", [row("a", 2.0)])
    with pytest.raises(InputError, match="the highest label is 2, so its scale is not unit"):
        relabel(tmp_path / "set.jsonl", judgments, tmp_path / "no.jsonl", RelabelOptions(set_scale="unit"))


def test_the_report(files: tuple[Path, Path], tmp_path: Path) -> None:
    changes = relabel(*files, tmp_path / "out.jsonl", RelabelOptions("confident", examples=1))
    total = changes.total
    assert (total.rows, total.kept, total.raised, total.lowered) == (6, 2, 1, 1)
    assert (total.uncertain, total.unjudged, total.dropped) == (1, 1, 0)
    assert (total.positives, total.false_positives, total.negatives, total.false_negatives) == (2, 1, 3, 2)
    assert changes.labels == ("0", "1")
    assert changes.matrix == ((1, 0, 2, 0), (1, 0, 0, 1))
    assert changes.changed == ((0, 0, 1, 0), (1, 0, 0, 0))
    assert changes.unused_judgments == 1
    assert (changes.positive_rows, changes.positive_rows_after) == (3, 3)
    assert changes.mean_label == pytest.approx(3 / 6)
    assert changes.mean_label_after == pytest.approx((1 + 2 / 3 + 1) / 6)
    assert changes.sources["clicks"].false_negatives == 1
    assert changes.per_query["r"].rows == 1
    cell = next(cell for cell in changes.cells if (cell.label, cell.grade) == ("0", 2))
    (example,) = cell.examples  # the most certain of two
    assert (cell.rows, example.doc_id, example.outcome, example.query) == (2, "false-negative", "raised", None)
    assert example.certainty == pytest.approx(0.9)
    write_ranking_set(tmp_path / "reversed.jsonl", reversed(ROWS))
    for examples in (1, 3):
        options = RelabelOptions("confident", examples=examples)
        mirrored = relabel(tmp_path / "reversed.jsonl", files[1], tmp_path / "out.jsonl", options)
        assert {replace(cell, examples=cell.examples[:1]) for cell in mirrored.cells} == set(changes.cells)
    assert [example.doc_id for example in mirrored.cells[1].examples] == ["false-negative", "unsure"]


@pytest.mark.parametrize(
    ("options", "moves"),
    [
        ({}, ["0 0 1", "0 0.666667 2", "1 0 1", "1 1 2"]),
        ({"policy": "confident", "scale": "grades"}, ["0 0 2", "0 2 1", "1 0 1", "1 3 2"]),
        ({"policy": "drop-false-negatives"}, ["0 0 1", "0 dropped 2", "1 1 3"]),
        ({"policy": "demote-false-positives"}, ["0 0 3", "1 0 1", "1 1 2"]),
        ({"policy": "soft"}, ["0 ~0 1", "0 ~0.666667 2", "1 ~0 1", "1 ~1 2"]),
    ],
)
def test_which_label_became_which(
    options: dict[str, Any], moves: list[str], files: tuple[Path, Path], tmp_path: Path
) -> None:
    changes = relabel(*files, tmp_path / "out.jsonl", RelabelOptions(**options))
    assert [f"{move.before} {move.after} {move.rows}" for move in changes.moves] == moves


def test_the_command_shows_which_label_became_which(files: tuple[Path, Path], tmp_path: Path) -> None:
    arguments = [files[0], "-j", files[1], "-o", tmp_path / "out.jsonl", "--force", "--policy"]
    shown = run(*arguments, "drop-false-negatives").stdout
    cells = [[cell.strip() for cell in line.split("│")[1:-1]] for line in shown.splitlines() if line.startswith("│")]
    assert ["0", "dropped", "2"] in cells
    assert "labels of all rows" not in run(*arguments, "replace").stdout
    found = json.loads(run(*arguments, "demote-false-positives", "--json").stdout)
    assert {"before": "1", "after": "0", "rows": 1} in found["moves"]


def test_many_labels_are_gathered_at_the_nearest_grade(tmp_path: Path) -> None:
    items = [row(f"d{k}", k / 20) for k in range(21)]
    write_ranking_set(tmp_path / "set.jsonl", items)
    judgments = save_judgments(tmp_path / "j.jsonl", [judged(f"d{k}", (0.0, 0.0, 0.0, 1.0)) for k in range(21)])
    changes = relabel(tmp_path / "set.jsonl", judgments, tmp_path / "out.jsonl")
    assert changes.labels == ("~0", "~0.333333", "~0.666667", "~1")
    assert [sum(cells) for cells in changes.matrix] == [4, 6, 7, 4]


def test_labels_that_look_the_same_are_one_row_of_the_matrix(tmp_path: Path) -> None:
    labels = (1 / 3, 0.3333333432674408, 1.0)  # a third in double and in single precision
    write_ranking_set(tmp_path / "set.jsonl", [row(f"d{k}", label) for k, label in enumerate(labels)])
    judgments = save_judgments(tmp_path / "j.jsonl", [judged(f"d{k}", (0.0, 1.0, 0.0, 0.0)) for k in range(3)])
    changes = relabel(tmp_path / "set.jsonl", judgments, tmp_path / "out.jsonl")
    assert changes.labels == ("0.333333", "1")
    assert [sum(cells) for cells in changes.matrix] == [2, 1]


shares = st.lists(st.integers(0, 9), min_size=4, max_size=4).filter(any).map(lambda w: tuple(x / sum(w) for x in w))


@settings(deadline=None, max_examples=60)
@given(
    st.dictionaries(
        st.tuples(st.sampled_from("qr"), st.sampled_from("abcdef")),
        st.tuples(st.sampled_from([0.0, 1.0]), st.sampled_from(["bm25", "clicks"]), st.none() | shares),
        min_size=1,
    ).filter(lambda table: any(share for _, _, share in table.values())),
    st.sampled_from(list(POLICIES)),
    st.sampled_from(list(SCALES)),
    st.floats(0, 1),
    st.sampled_from([1, 2, 3]),
)
def test_counts_add_up_whatever_the_set(
    tmp_path_factory: pytest.TempPathFactory,
    table: dict[tuple[str, str], tuple[float, str, tuple[float, ...] | None]],
    policy: str,
    scale: str,
    confidence: float,
    threshold: int,
) -> None:
    folder = tmp_path_factory.getbasetemp()
    items = [row(d, label, source, q) for (q, d), (label, source, _) in table.items()]
    judgments = [judged(d, share, q) for (q, d), (_, _, share) in table.items() if share]
    write_ranking_set(folder / "any.jsonl", items)
    save_judgments(folder / "any-judgments.jsonl", judgments)
    options = RelabelOptions(policy, threshold, confidence, scale)
    changes = relabel(folder / "any.jsonl", folder / "any-judgments.jsonl", folder / "any-out.jsonl", options)
    written = list(read_ranking_set(folder / "any-out.jsonl"))
    total = changes.total
    assert len(written) == len(items) - total.dropped
    assert [(w.query_id, w.doc_id) for w in written] == [
        pair for pair in table if pair in {(w.query_id, w.doc_id) for w in written}
    ]
    assert sum(getattr(total, name) for name in OUTCOMES) == total.rows == len(items)
    assert total.unjudged == len(items) - len(judgments)
    assert sum(map(sum, changes.matrix)) == len(judgments) == total.positives + total.negatives
    assert sum(map(sum, changes.changed)) == total.raised + total.lowered + total.dropped
    assert sum(cell.rows for cell in changes.cells) == len(judgments)
    for groups in (changes.sources, changes.per_query):
        for name in Counter(vars_of(total)):
            assert sum(getattr(counts, name) for counts in groups.values()) == getattr(total, name)
    highest = 3.0 if scale == "grades" else 1.0
    for w in written:
        assert 0 <= w.label <= highest
        assert w.original_label == table[w.query_id, w.doc_id][0]
        if not w.judged:
            assert w.label == w.original_label * highest
    least = 0.5 if scale == "binary" else highest * threshold / 3 - 1e-9
    assert sum(w.label >= least for w in written) == changes.positive_rows_after


def vars_of(counts: Any) -> dict[str, int]:
    return {name: getattr(counts, name) for name in counts.__slots__}


def test_the_command_prints_figures_and_fits_80_columns(files: tuple[Path, Path], tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    arguments = [files[0], "-j", files[1], "-o", out, "--policy", "confident"]
    result = run(*arguments, "--per-query", "--plot", tmp_path / "x.png")
    lines = result.stdout.splitlines()
    assert max(map(len, lines)) <= 80
    cells = [[cell.strip() for cell in line.split("│")[1:-1]] for line in lines if line.startswith("│")]
    assert ["0", "1", "0", "2", "0", "3"] in cells
    assert ["positive rows", "3", "3"] in cells
    assert "judgments for pairs that the set lacks: 1" in lines
    assert "label 0, grade 0 (1.00): r wrong[1], kept" in lines
    assert "text of" not in result.stdout
    assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")
    first = out.read_bytes()
    text = run(*arguments, "--force", "--with-text").stdout
    assert "text of wrong[1]" in text
    assert out.read_bytes() == first


def test_json_is_the_report(files: tuple[Path, Path], tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    found = json.loads(run(files[0], "-j", files[1], "-o", out, "--json", "--per-query").stdout)
    assert (found.pop("set"), found.pop("judgments"), found.pop("out")) == (str(files[0]), str(files[1]), str(out))
    assert found == json.loads(json.dumps(relabel(*files, out).to_dict()))
    assert "per_query" not in json.loads(run(files[0], "-j", files[1], "-o", out, "--json", "--force").stdout)


def test_training_columns_can_be_written(files: tuple[Path, Path], tmp_path: Path) -> None:
    run(files[0], "-j", files[1], "-o", tmp_path / "train.jsonl", "--as", "pairs", "--policy", "soft")
    rows = [json.loads(line) for line in (tmp_path / "train.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [row["label"] for row in rows] == pytest.approx([2.5 / 3, 0.1 / 3, 2.15 / 3, 1.75 / 3, 1, 0.2 / 3])


def test_the_picture_shows_counts_and_sources(files: tuple[Path, Path], tmp_path: Path) -> None:
    from matplotlib.figure import Figure

    from pairgrade import label_change_plot

    changes = relabel(*files, tmp_path / "out.jsonl")
    axes = Figure(figsize=(4, 4)).add_subplot()
    label_change_plot._draw_matrix(axes, changes)
    counts = [count for cells in changes.matrix for count in cells]
    assert [text.get_text() for text in axes.texts][::2] == [str(count) for count in counts]
    assert "false positives 1 of 2, false negatives 2 of 3" in axes.get_title()
    bars = Figure(figsize=(4, 4)).add_subplot()
    label_change_plot._draw_sources(bars, label_change_plot.merged_sources(changes))
    assert [text.get_text() for text in bars.get_yticklabels()] == ["bm25 (4)", "clicks (2)"]
    ends: dict[float, float] = {}
    for patch in bars.patches:
        ends[patch.get_y()] = ends.get(patch.get_y(), 0.0) + patch.get_width()
    assert list(ends.values()) == pytest.approx([1.0, 1.0])
    many = replace(changes, sources={f"s{k}": replace(changes.sources["bm25"]) for k in range(20)})
    merged = label_change_plot.merged_sources(many)
    assert (len(merged), merged["9 others"].rows, merged["9 others"].lowered) == (12, 36, 9)


def test_equal_reports_give_equal_pictures(files: tuple[Path, Path], tmp_path: Path) -> None:
    from pairgrade.label_change_plot import draw_label_changes

    changes = relabel(*files, tmp_path / "out.jsonl")
    for name in ("a.svg", "b.svg"):
        draw_label_changes(changes, tmp_path / name)
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()


def test_what_cannot_be_relabelled_is_refused(files: tuple[Path, Path], tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    with pytest.raises(InputError, match="is the set itself"):
        run(files[0], "-j", files[1], "-o", files[0], "--force")
    with pytest.raises(
        InputError, match=r"no row of .*set\.jsonl was judged; .*'q' 'right'; of the judgments: 'q' 'x'"
    ):
        relabel(files[0], save_judgments(tmp_path / "j.jsonl", [judged("x", (1.0, 0.0, 0.0, 0.0))]), out)
    write_ranking_set(tmp_path / "high.jsonl", [row("right", 4.0)])
    with pytest.raises(InputError, match="the highest label is 4, but the judgments' grades 0, 1, 2, 3 span 3"):
        relabel(tmp_path / "high.jsonl", files[1], out)
    write_ranking_set(tmp_path / "twice.jsonl", [ROWS[0], ROWS[0]])
    with pytest.raises(InputError, match="'q' 'right' is there twice"):
        relabel(tmp_path / "twice.jsonl", files[1], out)
    with pytest.raises(InputError, match=r"the threshold is 4, .*at most 3"):
        Relabeler(RelabelOptions(threshold=4), GRADES, 1.0)
    with pytest.raises(InputError, match="the policy is 'keep'; it can be replace, confident"):
        RelabelOptions("keep")
    with pytest.raises(InputError, match=r"the confidence is 1\.5"):
        RelabelOptions(confidence=1.5)
    with pytest.raises(InputError, match=r"pictures end in \.png"):
        run(files[0], "-j", files[1], "-o", out, "--plot", tmp_path / "x.gif")
    assert not out.exists()
