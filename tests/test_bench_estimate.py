import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from helpers import make_pairs, run_command, write_jsonl
from pairgrade import Annotator, AnnotatorOptions, InputError, LlamaOptions, ModelError
from pairgrade.bench.cell_process import measure_cell
from pairgrade.bench.estimate import EstimateOptions, cell_job, estimate
from pairgrade.bench.lengths import measure_lengths
from pairgrade.cli.estimate import command
from pairgrade.job import LabelJob
from pairgrade.readers import Source
from pairgrade.run import label


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "queries", "documents", "sample"),
    [
        ("fake:0.004+0.0001", 33, 6, 80),  # a document of 100 tokens takes 4 to 24 ms, one of 300 up to 64
        ("fake:0.001+0.00003", 100, 20, 200),
    ],
)
def test_the_run_takes_what_was_predicted(
    model: str, queries: int, documents: int, sample: int, tmp_path: Path
) -> None:
    long = [replace(p, document=p.document * (1 + i % 3)) for i, p in enumerate(make_pairs(queries, documents))]
    pairs = write_jsonl(tmp_path / "pairs.jsonl", long)
    options = ("--model", model, "--sample", sample, "--usd-per-hour", 0.36, "--json")
    predicted = json.loads(run_command(command, pairs, *options).stdout)
    effort = label(
        LabelJob(Source(str(pairs)), tmp_path / "out.jsonl"), lambda: Annotator.open(model, isolate=True)
    ).effort
    seconds = effort.prepare_seconds + effort.seconds + effort.write_seconds
    assert predicted["pairs"] == queries * documents
    assert predicted["tokens"] == pytest.approx(effort.computed_tokens, rel=0.02)
    assert predicted["usd"] == pytest.approx(predicted["seconds"] / 3600 * 0.36)
    without_loading = (predicted["seconds"] - predicted["load_seconds"]) / predicted["pairs"]
    assert predicted["usd_per_million_pairs"] == pytest.approx(1e6 * without_loading / 3600 * 0.36)
    load = predicted["load_seconds"]  # imports here, a process of its own there
    assert predicted["low"] - load < seconds < predicted["high"] - load
    assert 1.1 < predicted["high"] / predicted["low"] < 1.5
    if queries * documents >= 2_000:
        assert predicted["seconds"] - load == pytest.approx(seconds, rel=0.15)


@pytest.mark.parametrize("context", [None, 900])  # the fake's own is 1,024
def test_tokens_are_right_where_documents_are_cut(context: int | None, tmp_path: Path) -> None:
    long = [p.__class__(p.query_id, p.doc_id, p.query, p.document * 20) for p in make_pairs(12, 6)]
    pairs = write_jsonl(tmp_path / "pairs.jsonl", long)
    options = ("--model", "fake:", "--sample", 24, *(("--ctx", context) if context else ()), "--json")
    predicted = json.loads(run_command(command, pairs, *options).stdout)
    with Annotator.open("fake:", llama=LlamaOptions(context=context)) as annotator:
        whole = sum(j.prompt_tokens for j in annotator.label(long))
        computed = annotator.counters.computed
    assert predicted["tokens"] == pytest.approx(computed, rel=0.05)
    assert predicted["tokens"] < 0.6 * whole  # the prefixes are shared


def test_the_options_of_label_reach_the_sample(tmp_path: Path, tiny_folder: Callable[[str], Path]) -> None:
    pytest.importorskip("gguf")
    from pairgrade.export.gguf_writer import write_gguf

    pairs = write_jsonl(tmp_path / "pairs.jsonl", make_pairs(1, 3))
    with pytest.raises(ModelError, match="chat format 'chatml' needs the control token"):
        run_command(command, pairs, "--model", "fake:", "--chat", "chatml")
    with pytest.raises(InputError, match="--provider cuda runs ONNX models"):
        run_command(command, pairs, "--model", "fake:", "--provider", "cuda")
    write_gguf(tiny_folder("llama"), tmp_path / "model.gguf")
    asked = EstimateOptions(
        str(tmp_path / "model.gguf"),
        annotator=AnnotatorOptions(chat="llama3"),
        llama=LlamaOptions(context=700, threads=1, sequences=2, flash_attention=True),
    )
    run = measure_cell(cell_job(asked, pairs, tmp_path / "out.jsonl"))
    assert run.identity is not None
    told = {name: run.identity[f"backend.{name}"] for name in ("context", "sequences", "flash_attention")}
    assert told == {"context": "700", "sequences": "2", "flash_attention": "True"}
    assert run.identity["chat"] == "llama3"


@pytest.mark.skipif(sys.platform != "linux", reason="another process's memory is read from /proc")
def test_memory_is_that_of_the_worker_too(tmp_path: Path) -> None:
    source = Source(str(write_jsonl(tmp_path / "pairs.jsonl", make_pairs(2, 4))))
    alone, both = (estimate(source, EstimateOptions("fake:", isolate=isolate)) for isolate in (False, True))
    assert alone.rss_low <= alone.rss_high
    assert both.rss_low <= both.rss_high < 2 * both.rss_low
    assert both.rss_low > alone.rss_high + 10 * 2**20  # what another Python with numpy holds at least


def test_a_sample_has_short_and_long_documents(tmp_path: Path) -> None:
    pairs = make_pairs(80, 9)
    lengths = measure_lengths(Source(str(write_jsonl(tmp_path / "pairs.jsonl", pairs))))
    assert (lengths.pairs, lengths.queries, lengths.rejected) == (720, 80, 0)
    sample = lengths.sample(90)
    assert 60 <= len(sample) <= 120
    assert len(set(sample.tolist())) == len(sample)
    taken = lengths.documents[sample]
    assert taken.mean() == pytest.approx(lengths.documents.mean(), rel=0.05)
    assert taken.std() == pytest.approx(lengths.documents.std(), rel=0.15)
    assert np.array_equal(lengths.sample(10_000), np.arange(720))


@pytest.mark.parametrize(("queries", "each", "size"), [(1, 500, 200), (1, 500, 7), (10, 100, 400), (3, 200, 90)])
def test_few_queries_give_as_many_pairs_as_were_asked_for(queries: int, each: int, size: int, tmp_path: Path) -> None:
    pairs = make_pairs(queries, each)
    lengths = measure_lengths(Source(str(write_jsonl(tmp_path / "pairs.jsonl", pairs))))
    sample = lengths.sample(size)
    assert len(set(sample.tolist())) == len(sample) == size


def test_an_input_without_pairs_is_refused(tmp_path: Path) -> None:
    (tmp_path / "pairs.jsonl").write_text('{"query_id": "q", "doc_id": "d", "query": "", "document": ""}\n')
    with pytest.raises(InputError, match="no usable pair"):
        run_command(command, tmp_path / "pairs.jsonl", "--model", "fake:")


def test_a_price_of_the_table_is_taken(tmp_path: Path) -> None:
    pairs = write_jsonl(tmp_path / "pairs.jsonl", make_pairs(2, 3))
    done = run_command(command, pairs, "--model", "fake:", "--machine", "c7i.xlarge", "--json")
    found = json.loads(done.stdout)
    assert "the price of c7i.xlarge is of 2025-12-31" in done.stderr
    assert found["usd"] == pytest.approx(found["seconds"] / 3600 * 0.1785)
    assert "6 pairs labelled" in run_command(command, pairs, "--model", "fake:").output
