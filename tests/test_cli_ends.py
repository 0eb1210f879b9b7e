"""How commands end: signals, streams that lack a character, numbers that are none, options that say nothing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from helpers import make_pairs, write_jsonl
from pairgrade import InputError, ModelError, Rubric
from pairgrade.bench.matrix_file import read_toml
from pairgrade.cli import cli
from pairgrade.export.pairs import chosen_pairs
from pairgrade.readers import Source
from pairgrade.reranker_manifest import read_reranker_manifest
from pairgrade.run_status import run_status
from pairgrade.train.options import TrainOptions
from pairgrade.train.reranker_options import RerankerOptions

PAIRGRADE = [sys.executable, "-m", "pairgrade.cli"]


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with judgments, human grades and the pairs."""
    folder = tmp_path_factory.mktemp("judged")
    pairs = make_pairs(3, 4)
    write_jsonl(folder / "pairs.jsonl", pairs)
    label = ["label", str(folder / "pairs.jsonl"), "-m", "fake:", "-o", str(folder / "j.jsonl"), "--in-process"]
    assert CliRunner().invoke(cli, label).exit_code == 0
    (folder / "human.qrels").write_text("".join(f"{p.query_id} 0 {p.doc_id} {p.grade}\n" for p in pairs))
    return folder


def _catches(status: Path, number: signal.Signals) -> bool:
    """Say whether a process has a handler of its own for a signal."""
    lines = dict(line.split(":", 1) for line in status.read_text().splitlines())
    return bool(int(lines["SigCgt"], 16) >> (number - 1) & 1)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the system does not tell of signal handlers")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_command_without_a_run_with_its_own_code(number: signal.Signals, judged: Path) -> None:
    # what is imported beforehand is not imported when the signal comes: Python's import would swallow the exception
    code = "import krippendorff, scipy.sparse, scipy.stats, sklearn.metrics, pairgrade.cli.agree; pairgrade.cli.main()"
    command = [sys.executable, "-c", code, "agree", "j.jsonl", "--qrels", "human.qrels", "--resamples", str(10**7)]
    with subprocess.Popen(command, cwd=judged, stderr=subprocess.PIPE, text=True) as process:
        try:
            status, deadline = Path(f"/proc/{process.pid}/status"), time.monotonic() + 30
            while time.monotonic() < deadline and not _catches(status, signal.SIGTERM):
                time.sleep(0.1)
            time.sleep(1)
            process.send_signal(number)  # it would not end by itself
            _, said = process.communicate(timeout=30)
        finally:
            process.kill()
    assert process.returncode == 128 + number
    assert said.strip() == f"pairgrade: stopped by {number.name}"


def test_what_a_stream_cannot_hold_is_escaped(judged: Path, tmp_path: Path) -> None:
    files = [str(judged / "j.jsonl"), "--qrels", str(judged / "human.qrels")]
    (tmp_path / "hé.qrels").write_bytes((judged / "human.qrels").read_bytes())
    env = os.environ | {"PYTHONIOENCODING": "ascii"}
    command = [*PAIRGRADE, "agree", files[0], "--qrels", "hé.qrels", "--resamples", "0"]  # short: a title is wrapped
    plain = subprocess.run(command, env=env, capture_output=True, check=True, cwd=tmp_path)
    assert b"h\\u00e9.qrels" in plain.stdout
    told = subprocess.run([*command, "--json"], env=env, capture_output=True, check=True, cwd=tmp_path)
    assert json.loads(told.stdout)["human"].endswith("hé.qrels")
    raw = os.fsencode(tmp_path) + b"/h\xe9.qrels"  # a name that is not UTF-8
    with open(raw, "wb") as file:
        file.write((judged / "human.qrels").read_bytes())
    command = [*PAIRGRADE, "agree", files[0], "--qrels", os.fsdecode(raw), "--resamples", "0", "--json"]
    told = subprocess.run(command, env=env | {"PYTHONIOENCODING": "utf-8"}, capture_output=True, check=True)
    assert os.fsencode(json.loads(told.stdout)["human"]) == raw


@pytest.mark.parametrize("place", [".", "/", ""])
def test_a_folder_without_a_name_has_no_state(place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="was not written by a run"):
        run_status(Path(place))
    (tmp_path / "report.json").write_text('{"steps": 4}')
    if place != "/":
        assert run_status(Path(place)).state == "finished"  # that of an adapter, from inside it


@pytest.mark.parametrize(
    "line",
    [
        *(f"estimate pairs.jsonl -m fake: --usd-per-hour {value}" for value in ("nan", "inf", "1e308", "0")),
        "verify fake: fake: --max-kl inf", "verify fake: fake: --max-logit nan", "bench -m fake: --width nan",
        "bench -m fake: --minutes inf", "train pairs.jsonl --base x --out a --weight-decay nan",
        "train-reranker x --out a --weight-decay inf",
    ],
)  # fmt: skip
def test_what_is_no_number_is_a_wrong_usage(line: str, judged: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(judged)
    found = CliRunner().invoke(cli, line.split())
    assert found.exit_code == 2
    assert "finite number" in found.stderr or "not in the range" in found.stderr


@pytest.mark.parametrize("options", [TrainOptions, RerankerOptions])
def test_seeds_and_numbers_that_torch_could_not_take_are_told(options: type) -> None:
    with pytest.raises(InputError, match=r"the seed is 20261127123456; it must be from 0 to 4,294,967,295"):
        options(seed=20261127123456)
    for value in (float("nan"), float("inf"), -1.0):
        with pytest.raises(InputError, match=r"weight_decay is .* a number of 0 or more"):
            options(weight_decay=value)
    assert options(seed=2**32 - 1).seed == 2**32 - 1


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("verify fake: fake: --queries nothere --docs nothere2 --grade-column zz", "--queries, --docs, --grade-column"),
        ("merge none --out m --format csv", "--format says how --pairs is to be read"),
        ("export none --out m --queries q", "--queries says how --pairs"),
        ("estimate pairs.jsonl -m fake: --prices nothere.toml", "give --machine too"),
        ("mine q.jsonl d.jsonl --out s.jsonl --known-from 2", "give --known too"),
        ("rubric check trec --prompt", "give --model too"),
        ("label pairs.jsonl -m fake: -o new.jsonl --canary-every 10", "--canary-every is of --canaries"),
        ("train pairs.jsonl --base none --out a --soft-weight 0.5", "give --soft with the judgments"),
        ("mine q.jsonl d.jsonl --out s.jsonl --from x.qrels --b 0.5", "leave out --k1, --b and --stopwords"),
        ("mine --out s.jsonl --from pairs.jsonl --positives 3", "have labels of their own, not by rank"),
        ("bench --out report --json report results.json", "--out, --json would do nothing in front of `report`"),
        ("bench --rounds 3 prices", "--rounds would do nothing in front of `prices`"),
    ],
)
def test_options_that_would_say_nothing_are_refused(
    line: str, said: str, judged: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(judged)
    with pytest.raises(InputError, match=said):
        CliRunner().invoke(cli, line.split(), catch_exceptions=False)


def test_a_byte_order_mark_before_toml_is_none_of_it(tmp_path: Path) -> None:
    shown = CliRunner().invoke(cli, ["rubric", "show", "trec"]).stdout
    (tmp_path / "marked.toml").write_text(shown, encoding="utf-8-sig")
    assert Rubric.load(tmp_path / "marked.toml").digest == Rubric.load("trec").digest
    (tmp_path / "matrix.toml").write_text("rounds = 3\n", encoding="utf-8-sig")
    assert read_toml(tmp_path / "matrix.toml") == {"rounds": 3}


def test_why_no_row_is_a_pair_is_told(tmp_path: Path) -> None:
    (tmp_path / "pairs.jsonl").write_text('{"query_id": "q", "doc_id": "d", "query": " ", "document": "x"}\n')
    with pytest.raises(InputError, match=r"none of its rows is a usable pair; line 1: .*blank"):
        chosen_pairs(Source(str(tmp_path / "pairs.jsonl")))


def test_a_file_is_no_reranker(tmp_path: Path) -> None:
    (tmp_path / "c.png").write_bytes(b"x")
    with pytest.raises(ModelError, match="a re-ranker is a folder that `pairgrade train-reranker` wrote"):
        read_reranker_manifest(tmp_path / "c.png")


def test_too_little_memory_is_told_in_words() -> None:
    code = "import pairgrade.cli as c\ndef cli(): raise MemoryError('Unable to allocate 6 GiB')\nc.cli = cli; c.main()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "pairgrade: there is not enough memory (Unable to allocate 6 GiB)\n"
