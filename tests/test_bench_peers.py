from collections.abc import Callable
from pathlib import Path

import pytest

from helpers import make_pairs, write_jsonl
from pairgrade import LlamaOptions, ModelError, Rubric
from pairgrade.annotator import Annotator
from pairgrade.bench.cell_process import measure_cell
from pairgrade.bench.cell_records import CellJob
from pairgrade.bench.peers import open_peer, parsed
from pairgrade.qrels import read_qrels


def job(model: object, engine: str, folder: Path, context: int = 1024) -> CellJob:
    return CellJob(str(model), engine, "trec", 1, 2048, context, str(folder / "pairs.jsonl"), str(folder / "out.qrels"))


@pytest.mark.parametrize(
    ("text", "grade"), [("2", 2), (" 3\n", 3), ("0, because", 0), ("", None), ("four", None), ("-1", None)]
)
def test_an_answer_begins_with_a_label_word_or_has_no_grade(text: str, grade: int | None) -> None:
    assert parsed(text, Rubric.load("trec")) == grade


def test_transformers_gives_the_same_grades_alone_and_in_batches(
    tmp_path: Path, tiny_folder: Callable[[str], Path]
) -> None:
    pytest.importorskip("transformers")
    pairs = make_pairs(3, 4)
    folder = tiny_folder("qwen2")
    one = open_peer(job(folder, "transformers", tmp_path))
    many = open_peer(job(folder, "transformers-batched", tmp_path))
    answers = one.answers(pairs)
    assert answers == many.answers(pairs)
    assert len(set(answers)) > 1
    assert one.prompt_tokens(pairs) == many.prompt_tokens(pairs) > 12 * 50
    assert one.identity()["kind"] != many.identity()["kind"]


@pytest.mark.model
def test_llama_cpp_python_agrees_where_its_answer_is_a_grade(tmp_path: Path, smollm2_path: Path) -> None:
    pairs = make_pairs(1, 3)
    write_jsonl(tmp_path / "pairs.jsonl", pairs)
    run = measure_cell(job(smollm2_path, "llama-cpp-python", tmp_path))
    grades = {(qrel.query_id, qrel.doc_id): qrel.grade for qrel in read_qrels(tmp_path / "out.qrels")}
    assert run.pairs - run.unparsed == len(grades) > 0
    assert run.documents_seconds is None  # it does not tell
    with Annotator.open(smollm2_path, llama=LlamaOptions(context=1024, threads=1)) as annotator:
        ours = {(j.query_id, j.doc_id): j for j in annotator.label(pairs)}
    for pair, grade in grades.items():  # its logits differ in the last digits
        assert ours[pair].probabilities[grade] > max(ours[pair].probabilities) - 0.02


def test_a_model_that_a_peer_cannot_run_is_told(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "pairs.jsonl", make_pairs(1, 1))
    with pytest.raises(ModelError, match="this model is a folder"):
        measure_cell(job(tmp_path, "llama-cpp-python", tmp_path))
