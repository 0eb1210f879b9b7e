"""The re-ranker at work: batches, cut documents, damaged folders, and runs ranked again."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from pairgrade import InputError, ModelError, Reranker
from pairgrade.cli.rerank import command as rerank_command
from pairgrade.pair_encoder import Ints, PairEncoder, Row
from pairgrade.rerank_job import RerankJob, rerank
from pairgrade.reranker import length_batches, open_graph
from pairgrade.run_files import read_ranking

pytest.importorskip("sentence_transformers")
pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")

from tiny_encoder import WORDS, make_reranker, ranking_rows

DOCUMENTS = [" ".join(WORDS[(i * j) % len(WORDS)] for j in range(1 + 7 * i % 23)) for i in range(40)]

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning", "ignore::UserWarning")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_reranker(tmp_path_factory.mktemp("reranker"))


def test_a_score_does_not_depend_on_its_neighbours(folder: Path) -> None:
    with Reranker.open(folder, "fp32", threads=1) as reranker:
        together = reranker.score("what is salt?", DOCUMENTS)
        alone = np.concatenate([reranker.score("what is salt?", [text]) for text in DOCUMENTS])
        small = reranker.score("what is salt?", DOCUMENTS, batch_size=3)
    assert together.dtype == np.float32
    assert float(together.std()) > 0.01
    np.testing.assert_allclose(together, alone, rtol=0, atol=1e-5)
    np.testing.assert_allclose(small, alone, rtol=0, atol=1e-5)


def test_pairs_of_many_queries_are_those_of_each(folder: Path) -> None:
    with Reranker.open(folder, "fp32", threads=1) as reranker:
        pairs = [(f"what is {word}?", text) for word in WORDS[:3] for text in DOCUMENTS[:5]]
        expected = [reranker.score(f"what is {word}?", DOCUMENTS[:5]) for word in WORDS[:3]]
        np.testing.assert_allclose(reranker.predict(pairs), np.concatenate(expected), atol=1e-5)
        assert reranker.score("a query", []).shape == (0,)
        assert reranker.rank("a query", []) == []


def test_documents_are_cut_and_queries_never(folder: Path) -> None:
    encoder = PairEncoder((folder / "tokenizer.json").read_text(), 32, 0)
    query = "what is salt of river and stone? " * 2
    (short, _), (long, segments) = encoder.rows([(query, "salt"), (query, "cloud " * 500)])
    length = len(short) - 2  # all but the document's one token and the last separator
    assert len(long) == 32
    assert long[:length].tolist() == short[:length].tolist()
    assert segments.tolist() == [0] * length + [1] * (32 - length)
    with Reranker.open(folder, threads=1) as reranker, pytest.raises(InputError, match="a query may have 28"):
        reranker.score("salt " * 29, ["a document"])
    with pytest.raises(InputError, match="lone surrogate"):
        encoder.rows([("salt", "x\ud800")])


def test_control_tokens_in_a_text_are_text(folder: Path) -> None:
    encoder = PairEncoder((folder / "tokenizer.json").read_text(), 32, 0)
    ((ids, _),) = encoder.rows([("what [SEP] is", "salt [SEP] [CLS] lamp [PAD]")])
    separator = ids[-1]
    assert (ids == separator).sum() == 2
    assert 0 not in ids.tolist()


def test_batches_are_of_like_lengths() -> None:
    lengths = np.random.default_rng(0).integers(5, 200, 500).tolist()
    batches = length_batches(lengths, 32)
    assert sorted(place for batch in batches for place in batch) == list(range(500))
    for batch in batches:
        own = [lengths[place] for place in batch]
        assert max(own) * len(own) <= 1024
        assert sum(own) >= 0.9375 * max(own) * len(own)
    assert len(batches) < 70  # of 53,258 tokens: 52 if none were padded and all were full
    assert [len(batch) for batch in length_batches([5] * 70, 32)] == [32, 32, 6]
    assert length_batches([2000, 1, 3000], 32) == [[2], [0], [1]]  # a long one runs, alone


@pytest.mark.parametrize("name", ["model.onnx", "tokenizer.json"])
def test_a_changed_file_is_told(name: str, folder: Path, tmp_path: Path) -> None:
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / name).write_bytes((tmp_path / name).read_bytes() + b" ")
    with pytest.raises(ModelError, match="is not the file that its manifest describes"):
        Reranker.open(tmp_path, "fp32")
    (tmp_path / name).unlink()
    with pytest.raises(ModelError, match="which is not there"):
        Reranker.open(tmp_path, "fp32")


def test_a_folder_that_is_no_reranker_is_told(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"holds no manifest\.json"):
        Reranker.open(tmp_path)
    (tmp_path / "manifest.json").write_text('{"format": "pairgrade-onnx", "version": 1}')
    with pytest.raises(ModelError, match="not a manifest of format"):
        Reranker.open(tmp_path)
    with pytest.raises(InputError, match="can be auto, fp32, int8"):
        Reranker.open(tmp_path, "int4")


def test_no_torch_is_needed(folder: Path) -> None:
    code = (
        "import sys\nsys.modules.update(dict.fromkeys(('torch', 'transformers', 'sentence_transformers')))\n"
        "from pairgrade import Reranker\n"
        f"print(Reranker.open({str(folder)!r}, threads=1).rank('what is salt?', ['salt', 'lamp']))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "corpus_id" in out


@pytest.fixture
def texts(tmp_path: Path) -> tuple[str, str, str]:
    """A run of the tiny set with its texts: best first by document id."""
    rows = ranking_rows(4)
    queries = {row.query_id: row.query for row in rows}
    names = tuple(str(tmp_path / name) for name in ("in.run", "queries.jsonl", "docs.jsonl"))
    lines = [f"{r.query_id} Q0 {r.query_id}-{r.doc_id} 1 {-int(r.doc_id[1:])} x\n" for r in rows]
    Path(names[0]).write_text("".join(lines))
    Path(names[1]).write_text("".join(json.dumps({"_id": q, "text": t}) + "\n" for q, t in queries.items()))
    documents = [{"_id": f"{r.query_id}-{r.doc_id}", "title": "salt", "text": r.document} for r in rows]
    Path(names[2]).write_text("".join(json.dumps(document) + "\n" for document in documents))
    return names[0], names[1], names[2]


def test_a_run_is_ranked_again_by_the_scores_of_its_texts(
    folder: Path, texts: tuple[str, str, str], tmp_path: Path
) -> None:
    with Reranker.open(folder, "fp32", threads=1) as reranker:
        result = rerank(RerankJob(*texts, tmp_path / "out.run"), reranker)
        rows = [row for row in ranking_rows(4) if row.query_id == "q1"]
        expected = reranker.score(rows[0].query, [f"salt\n{row.document}" for row in rows])
    assert (result.queries, result.scored, result.without_text) == (4, 32, 0)
    found = read_ranking(tmp_path / "out.run")
    assert [found["q1"][f"q1-{row.doc_id}"] for row in rows] == pytest.approx(expected.tolist(), abs=1e-5)


def test_documents_below_the_top_k_follow_in_their_order(
    folder: Path, texts: tuple[str, str, str], tmp_path: Path
) -> None:
    with Reranker.open(folder, threads=1) as reranker:
        result = rerank(RerankJob(*texts, tmp_path / "out.run", top_k=3), reranker)
    assert (result.scored, result.followed) == (12, 20)
    lines = (tmp_path / "out.run").read_text().splitlines()
    order = [line.split()[2] for line in lines if line.startswith("q2 ")]
    assert set(order[:3]) == {"q2-d0", "q2-d1", "q2-d2"}
    assert order[3:] == [f"q2-d{d}" for d in range(3, 8)]


def test_no_query_is_lost_and_no_pair_scored_twice(folder: Path, texts: tuple[str, str, str], tmp_path: Path) -> None:
    with Path(texts[0]).open("a") as file:
        file.write("".join(f"q2 Q0 nowhere{d} 1 {9 - d} x\n" for d in range(3)))  # before all that have texts
    (tmp_path / "twice.qrels").write_text("q1 0 q1-d1 1\nq1 0 q1-d1 1\nq1 0 q1-d2 0\n")
    with Reranker.open(folder, threads=1) as reranker:
        result = rerank(RerankJob(*texts, tmp_path / "out.run", top_k=3), reranker)
        twice = rerank(RerankJob(str(tmp_path / "twice.qrels"), *texts[1:], tmp_path / "twice.run"), reranker)
    assert (result.queries, result.scored, result.followed, result.without_text) == (4, 9, 23, 3)
    lines = (tmp_path / "out.run").read_text().splitlines()
    assert [line.split()[2] for line in lines if line.startswith("q2 ")] == [f"q2-d{d}" for d in range(8)]
    assert (twice.scored, twice.followed, twice.without_text) == (2, 0, 0)


def test_a_query_that_is_too_long_keeps_its_order(folder: Path, texts: tuple[str, str, str], tmp_path: Path) -> None:
    queries = [json.loads(line) for line in Path(texts[1]).read_text().splitlines()]
    queries[2]["text"] = "salt " * 2000
    Path(texts[1]).write_text("".join(json.dumps(row) + "\n" for row in queries))
    (tmp_path / "in.qrels").write_text("q1 0 q1-d1 3\nq2 0 q2-d2 0\nq2 0 nowhere 0\n")
    with Reranker.open(folder, threads=1) as reranker:
        result = rerank(RerankJob(*texts, tmp_path / "out.run"), reranker)
        head = rerank(RerankJob(*texts, tmp_path / "head.run", top_k=3), reranker)
        judged = rerank(RerankJob(str(tmp_path / "in.qrels"), *texts[1:], tmp_path / "judged.run"), reranker)
        (tmp_path / "only.qrels").write_text("q2 0 q2-d2 0\n")
        with pytest.raises(InputError, match=r"none of its queries can be ranked; the query .* has \d+ tokens"):
            rerank(RerankJob(str(tmp_path / "only.qrels"), *texts[1:], tmp_path / "only.run"), reranker)
    assert (result.queries, result.scored, result.without_text, result.followed) == (4, 24, 0, 8)
    assert (result.unfit_queries, result.unfit) == (1, 8)
    assert (head.scored, head.unfit, head.followed) == (9, 3, 23)
    assert (judged.scored, judged.unfit, judged.without_text, judged.followed) == (1, 2, 0, 0)
    for name in ("out.run", "head.run"):
        lines = (tmp_path / name).read_text().splitlines()
        assert [line.split()[2] for line in lines if line.startswith("q2 ")] == [f"q2-d{d}" for d in range(8)]
    assert set(read_ranking(tmp_path / "judged.run")) == {"q1"}
    options = ["--queries", texts[1], "--docs", texts[2], "--model", str(folder), "--out", str(tmp_path / "told.run")]
    done = CliRunner().invoke(rerank_command, [texts[0], *options, "--threads", "1"])
    assert done.exit_code == 3
    assert "not ranked: 8 documents of 1 queries; the query 'salt salt" in done.stdout


def test_a_query_without_text_keeps_its_order_and_examples_are_of_what_is_left_out(
    folder: Path, texts: tuple[str, str, str], tmp_path: Path
) -> None:
    queries = Path(texts[1]).read_text().splitlines()
    Path(texts[1]).write_text("\n".join(queries[:3]) + "\n")  # q3 has no text
    documents = Path(texts[2]).read_text().splitlines()
    left = [line for line in documents if '"q1-d1"' not in line and '"q1-d7"' not in line]
    Path(texts[2]).write_text("{broken\n" * 7 + "\n".join(left) + "\n")
    with Reranker.open(folder, threads=1) as reranker:
        result = rerank(RerankJob(*texts, tmp_path / "out.run", top_k=3), reranker)
    assert (result.queries, result.ranked, result.scored, result.without_text) == (4, 3, 8, 1)
    assert (result.unfit_queries, result.unfit) == (1, 3)
    assert "no usable query 'q3'" in (result.unfit_reason or "")
    assert [row.doc_id for row in result.examples] == ["q1-d1"]
    lines = (tmp_path / "out.run").read_text().splitlines()
    assert [line.split()[2] for line in lines if line.startswith("q3 ")] == [f"q3-d{d}" for d in range(8)]


@pytest.mark.parametrize("blank", ["", " \t"])
def test_a_query_that_is_blank_keeps_its_order(
    blank: str, folder: Path, texts: tuple[str, str, str], tmp_path: Path
) -> None:
    queries = [json.loads(line) for line in Path(texts[1]).read_text().splitlines()]
    queries[3]["text"] = blank
    Path(texts[1]).write_text("".join(json.dumps(row) + "\n" for row in queries))
    with Reranker.open(folder, threads=1) as reranker:
        result = rerank(RerankJob(*texts, tmp_path / "out.run", top_k=3), reranker)
    assert (result.queries, result.ranked, result.scored, result.without_text) == (4, 3, 9, 0)
    assert (result.unfit_queries, result.unfit, result.examples) == (1, 3, [])
    assert "query is blank" in (result.unfit_reason or "")
    lines = (tmp_path / "out.run").read_text().splitlines()
    assert [line.split()[2] for line in lines if line.startswith("q3 ")] == [f"q3-d{d}" for d in range(8)]


def test_a_run_has_no_name_of_judgments(texts: tuple[str, str, str], tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"out\.tsv: a TREC run by that suffix is taken for judgments; .* out\.run"):
        RerankJob(*texts, tmp_path / "out.tsv")


def test_grades_choose_no_documents(folder: Path, texts: tuple[str, str, str], tmp_path: Path) -> None:
    (tmp_path / "human.qrels").write_text("q1 0 q1-d1 3\nq1 0 q1-d2 0\n")
    job = RerankJob(str(tmp_path / "human.qrels"), *texts[1:], tmp_path / "out.run", top_k=1)
    with (
        Reranker.open(folder, threads=1) as reranker,
        pytest.raises(InputError, match=r"holds qrels, which rank no documents.* leave --top-k out"),
    ):
        rerank(job, reranker)
    assert not job.out.exists()


def test_what_the_columns_say_goes_before_the_name(folder: Path, texts: tuple[str, str, str], tmp_path: Path) -> None:
    (tmp_path / "beir.tsv").write_text("query-id\tcorpus-id\tscore\nq1\tq1-d1\t3\nq1\tq1-d2\t0\n")
    (tmp_path / "clicks.tsv").write_text("q1\tq1-d1\n")
    with Reranker.open(folder, threads=1) as reranker:
        result = rerank(RerankJob(str(tmp_path / "beir.tsv"), *texts[1:], tmp_path / "out.run"), reranker)
        with pytest.raises(InputError, match=r"clicks\.tsv holds clicks, by its columns; .* TREC run \(6 columns\)"):
            rerank(RerankJob(str(tmp_path / "clicks.tsv"), *texts[1:], tmp_path / "no.run"), reranker)
    assert (result.scored, result.without_text) == (2, 0)
    assert {doc_id for doc_id, _ in read_ranking(tmp_path / "out.run")["q1"].items()} == {"q1-d1", "q1-d2"}


def test_the_command_tells_documents_without_text(folder: Path, texts: tuple[str, str, str], tmp_path: Path) -> None:
    from pairgrade.cli import cli

    with Path(texts[0]).open("a") as file:
        file.write("q0 Q0 nowhere 9 -9 x\n")
    out = tmp_path / "out.run"
    options = ["--queries", texts[1], "--docs", texts[2], "--model", str(folder), "--out", str(out), "--threads", "1"]
    done = CliRunner().invoke(cli, ["rerank", texts[0], *options, "--json"], catch_exceptions=False)
    assert done.exit_code == 3
    assert json.loads(done.stdout)["without_text"] == 1
    assert len(out.read_text().splitlines()) == 32
    with pytest.raises(InputError, match="choose another name or give --force"):
        CliRunner().invoke(rerank_command, [texts[0], *options], catch_exceptions=False)
    done = CliRunner().invoke(cli, ["rerank", texts[0], *options, "--quant", "fp32", "--force"], catch_exceptions=False)
    assert "nowhere" in done.stdout
    assert "ranked again in fp32" in done.stdout


def test_misuse_is_told(folder: Path) -> None:
    with Reranker.open(folder) as reranker:
        assert len(reranker.rank("salt", ["bread", "sea"], top_k=0)) == 0
        for misuse in (
            lambda: reranker.score("salt", "bread"),
            lambda: reranker.rank("salt", "bread"),
            lambda: reranker.predict(["ab", "cd"]),
        ):
            with pytest.raises(InputError, match=r"is one text, '.*'; give a list of texts"):
                misuse()
        with pytest.raises(InputError, match="top_k is -1; it must be at least 0"):
            reranker.rank("salt", ["bread"], top_k=-1)
    for documents in ([], ["bread"]):
        with pytest.raises(InputError, match="the re-ranker is closed"):
            reranker.score("salt", documents)


@pytest.mark.parametrize("given", [{"salt": "a"}, {"salt", "sea"}, frozenset({"salt"}), None, 5])
def test_what_is_no_list_of_texts_is_told(folder: Path, given: Any) -> None:
    with Reranker.open(folder) as reranker:
        for misuse in (
            lambda: reranker.score("salt", given),
            lambda: reranker.rank("salt", given),
            lambda: reranker.predict(given),
            lambda: reranker.predict([("salt", "sea"), given]),
        ):
            with pytest.raises(InputError, match=rf" is {type(given).__name__}; give a list of texts"):
                misuse()


@pytest.mark.parametrize("text", [None, float("nan"), 7, b"bread", ["bread"]])
def test_a_text_is_a_str(folder: Path, text: Any) -> None:
    said = f"is {type(text).__name__}; it must be a str"
    with Reranker.open(folder) as reranker:
        for call in (reranker.score, reranker.rank):
            with pytest.raises(InputError, match=rf"pairs\[1\]: its document {said}"):
                call("salt", ["bread", text])
            with pytest.raises(InputError, match=rf"its query {said}"):
                call(text, ["bread"])
        with pytest.raises(InputError, match=rf"pairs\[1\]: its document {said}"):
            reranker.predict([("salt", "bread"), ("salt", text)])


@pytest.mark.parametrize("pair", [("q", "d", "x"), ("q",), ()])
def test_a_pair_has_two_texts(folder: Path, pair: Any) -> None:
    with (
        Reranker.open(folder) as reranker,
        pytest.raises(InputError, match=rf"pairs\[1\] has {len(pair)} parts; a pair is a query and a document"),
    ):
        reranker.predict([("q", "d"), pair])


def test_texts_come_from_any_iterable(folder: Path) -> None:
    with Reranker.open(folder, threads=1) as reranker:
        expected = reranker.score("salt", DOCUMENTS)
        assert reranker.score("salt", (text for text in DOCUMENTS)).tolist() == expected.tolist()
        pairs = zip(["salt"] * len(DOCUMENTS), DOCUMENTS, strict=True)
        assert reranker.predict(pairs).tolist() == expected.tolist()
        hits = reranker.rank("salt", iter(DOCUMENTS), top_k=3, return_documents=True)
        assert hits == reranker.rank("salt", DOCUMENTS, top_k=3, return_documents=True)
        assert [hit["text"] for hit in hits] == [DOCUMENTS[hit["corpus_id"]] for hit in hits]


def test_a_reranker_that_is_closed_while_it_scores_says_so(folder: Path) -> None:
    class Closing(PairEncoder):
        def padded(self, rows: list[Row]) -> dict[str, Ints]:
            reranker.close()  # as another thread would
            return super().padded(rows)

    encoder = Closing((folder / "tokenizer.json").read_text(), 32, 0)
    reranker = Reranker(open_graph(folder / "model.onnx", "fp32", 1), encoder, "fp32")
    with pytest.raises(InputError, match="the re-ranker is closed"):
        reranker.score("salt", ["bread"])


def test_what_the_runtime_cannot_run_is_told(folder: Path, tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    helper, kind = onnx.helper, onnx.TensorProto
    graph = helper.make_graph(
        [helper.make_node("ReduceMax", ["input_ids", "axis"], ["score"], keepdims=0)],
        "short",
        [helper.make_tensor_value_info("input_ids", kind.INT64, ["n", 3])],  # no pair is so short
        [helper.make_tensor_value_info("score", kind.INT64, ["n"])],
        [helper.make_tensor("axis", kind.INT64, [1], [1])],
    )
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), tmp_path / "short.onnx"
    )
    encoder = PairEncoder((folder / "tokenizer.json").read_text(), 32, 0)
    with (
        Reranker(open_graph(tmp_path / "short.onnx", "fp32", 1), encoder, "fp32") as reranker,
        pytest.raises(ModelError, match="cannot run the re-ranker"),
    ):
        reranker.score("what is salt?", ["a lamp"])
