import json
import time
from pathlib import Path

import numpy as np
import pytest

from helpers import make_pairs, run_command, write_jsonl
from pairgrade import Annotator, InputError
from pairgrade.bench.lengths import measure_lengths
from pairgrade.cli.estimate import command
from pairgrade.job import LabelJob
from pairgrade.readers import Source
from pairgrade.run import label


@pytest.mark.slow
def test_it_is_within_15_percent_of_the_run(tmp_path: Path) -> None:
    pairs = write_jsonl(tmp_path / "pairs.jsonl", make_pairs(100, 20))
    errors = []
    for attempt in range(3):  # the machine's load may change between the two
        done = run_command(command, pairs, "--model", "fake:0.001", "--threads", 1, "--usd-per-hour", 0.36, "--json")
        predicted = json.loads(done.output)
        start = time.perf_counter()
        job = LabelJob(Source(str(pairs)), tmp_path / f"out-{attempt}.jsonl")
        effort = label(job, lambda: Annotator.open("fake:0.001")).effort
        seconds = time.perf_counter() - start - effort.load_seconds  # imports here, a process of its own there
        assert predicted["pairs"] == 2000
        assert predicted["tokens"] == pytest.approx(effort.computed_tokens, rel=0.02)
        assert predicted["low"] < predicted["seconds"] < predicted["high"]
        assert predicted["usd"] == pytest.approx(predicted["seconds"] / 3600 * 0.36)
        errors.append(abs(predicted["seconds"] - predicted["load_seconds"] - seconds) / seconds)
        if errors[-1] < 0.15:
            return
    pytest.fail(f"off by {errors}")


def test_tokens_are_right_where_documents_are_cut(tmp_path: Path) -> None:
    long = [p.__class__(p.query_id, p.doc_id, p.query, p.document * 20) for p in make_pairs(12, 6)]
    pairs = write_jsonl(tmp_path / "pairs.jsonl", long)
    options = ("--model", "fake:", "--sample", 24, "--ctx", 900, "--json")
    predicted = json.loads(run_command(command, pairs, *options).output)
    with Annotator.open("fake:") as annotator:
        whole = sum(j.prompt_tokens for j in annotator.label(long))
    from pairgrade import LlamaOptions

    with Annotator.open("fake:", llama=LlamaOptions(context=900)) as annotator:
        list(annotator.label(long))
        computed = annotator.counters.computed
    assert predicted["tokens"] == pytest.approx(computed, rel=0.05)
    assert predicted["tokens"] < whole / 2


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


def test_an_input_without_pairs_is_refused(tmp_path: Path) -> None:
    (tmp_path / "pairs.jsonl").write_text('{"query_id": "q", "doc_id": "d", "query": "", "document": ""}\n')
    with pytest.raises(InputError, match="no usable pair"):
        run_command(command, tmp_path / "pairs.jsonl", "--model", "fake:")


def test_a_price_of_the_table_is_taken(tmp_path: Path) -> None:
    pairs = write_jsonl(tmp_path / "pairs.jsonl", make_pairs(2, 3))
    done = run_command(command, pairs, "--model", "fake:", "--machine", "c7i.xlarge", "--json")
    found = json.loads(done.output)
    assert found["usd"] == pytest.approx(found["seconds"] / 3600 * 0.1785)
    assert "6 pairs labelled" in run_command(command, pairs, "--model", "fake:").output
