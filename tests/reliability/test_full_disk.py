"""A disk that is full at any moment: the run ends with a message, what was there is intact, and it resumes."""

from __future__ import annotations

import errno
import json
import os
import re
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from helpers import make_pairs, write_jsonl
from pairgrade import Annotator, AnnotatorOptions, InputError, PlanOptions, Rubric, StorageError
from pairgrade.fake import FakeBackend
from pairgrade.job import LabelJob
from pairgrade.readers import Source, numbered_pairs, read_pairs
from pairgrade.run import label
from pairgrade.spool import Selection, build

PAIRS = make_pairs(9, 8)
ONE_BY_ONE = AnnotatorOptions(window=4, plan=PlanOptions(batch_tokens=1))
_MB = 2**20


def annotator() -> Annotator:
    return Annotator(FakeBackend(), Rubric.load("trec"), ONE_BY_ONE)


class Disk:
    """Counts writes and syncs of files and, where told so, has the nth one refused."""

    def __init__(self, patch: pytest.MonkeyPatch, nth: int = 0) -> None:
        self.calls: list[str] = []
        self._nth = nth
        self._full = os.open("/dev/full", os.O_WRONLY) if Path("/dev/full").exists() else None
        for name in ("write", "fsync"):
            patch.setattr(os, name, self._wrapped(name, getattr(os, name)))

    def _wrapped(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(file: int, *data: Any) -> Any:
            is_folder = name == "fsync" and stat.S_ISDIR(os.fstat(file).st_mode)
            self.calls.append(f"{name} folder" if is_folder else name)
            if len(self.calls) == self._nth:
                if name == "write" and self._full is not None:
                    return real(self._full, *data)  # the system's own refusal
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return real(file, *data)

        return call

    def close(self) -> None:
        if self._full is not None:
            os.close(self._full)


@pytest.fixture
def job(tmp_path: Path) -> LabelJob:
    """A job whose output belongs to an earlier one, which it replaces."""
    source = Source(str(write_jsonl(tmp_path / "pairs.jsonl", PAIRS)))
    (tmp_path / "out").mkdir()
    label(LabelJob(source, tmp_path / "out" / "judged.jsonl", selection=Selection(limit=5)), annotator)
    return LabelJob(source, tmp_path / "out" / "judged.jsonl", overwrite=True)


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    folder = tmp_path_factory.mktemp("reference")
    job = LabelJob(Source(str(write_jsonl(folder / "pairs.jsonl", PAIRS))), folder / "out.jsonl")
    label(job, annotator)
    return job.out.read_bytes()


@pytest.mark.parametrize("nth", [*range(1, 51), -1, -2, -3, -4, -5, -6, -7, -8, -9, -10])
def test_the_nth_write_or_sync_is_refused(
    job: LabelJob, reference: bytes, nth: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = job.out.read_bytes()
    if nth < 0:  # from the end, where the outputs are written
        with monkeypatch.context() as patch:
            calm = Disk(patch)
            label(replace(job, out=job.out.with_name("calm.jsonl")), annotator)
            calm.close()
        assert len(calm.calls) > 60
        nth += len(calm.calls) + 1
    with monkeypatch.context() as patch:
        disk = Disk(patch, nth)
        with pytest.raises(StorageError) as caught:
            label(job, annotator)
        disk.close()
    said = str(caught.value)
    assert "No space left on device" in said or os.strerror(errno.ENOSPC) in said
    assert str(tmp_path / "out") in said
    assert re.search(r"\d bytes", said) or disk.calls[nth - 1] == "fsync folder"
    assert job.out.read_bytes() in ((old,) if nth < 70 else (old, reference))  # its manifest comes after it
    again = label(replace(job, overwrite=nth < 4), annotator)  # as before the run had begun it needs its permission
    assert job.out.read_bytes() == reference
    assert again.tally.labelled == 72
    names = {path.name for path in job.out.parent.iterdir()} - {"calm.jsonl", "calm.jsonl.manifest.json"}
    assert names == {"judged.jsonl", "judged.jsonl.manifest.json"}


def _sqlite_of(pages: int, patch: pytest.MonkeyPatch) -> None:
    """Have SQLite refuse any file of more pages than these, as on a disk that is full."""
    connect = sqlite3.connect

    def small(*args: Any, **options: Any) -> sqlite3.Connection:
        database: sqlite3.Connection = connect(*args, **options)
        database.execute(f"PRAGMA max_page_count={pages}")
        return database

    patch.setattr(sqlite3, "connect", small)


def test_the_inputs_copy_is_refused_at_any_page(
    job: LabelJob, reference: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = job.out.with_name("calm.sqlite")
    build(spool, numbered_pairs(job.source), job.selection, job.source.pairs)
    size = spool.stat().st_size
    spool.unlink()
    for pages in range(1, size // 4096):
        with monkeypatch.context() as patch:
            _sqlite_of(pages, patch)
            with pytest.raises(StorageError) as caught:
                label(job, annotator)
        told = r"spool-\w+\.part: database or disk is full: the input's copy needs about ([\d,]+) bytes, [\d,]+ are"
        found = re.search(told, str(caught.value))
        assert found, caught.value
        assert 0.7 * size < int(found[1].replace(",", "")) < 1.3 * size
        assert not job.folder.exists()
    label(job, annotator)
    assert job.out.read_bytes() == reference


def test_what_a_copy_needs_is_told_of_the_rows_that_are_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pairs = [replace(pair, document="long text " * 100) for pair in make_pairs(10, 40)]
    _sqlite_of(30, monkeypatch)
    for limit in (200, 400):
        numbered = ((line, pair) for line, pair in enumerate(pairs, start=1))
        with pytest.raises(StorageError) as caught:
            build(tmp_path / "spool.sqlite", numbered, Selection(limit=limit), "pairs")
        (told,) = re.findall(r"needs about ([\d,]+) bytes", str(caught.value))
        assert 1000 * limit < int(told.replace(",", "")) < 1500 * limit


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)]
    if sys.platform != "linux" or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("a file system of 2 MB can be mounted by root on Linux only")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_disk_of_2_megabytes_that_is_full_at_any_stage(tmp_path: Path, small_disk: Path) -> None:
    """Ballast leaves less or more room, so that the input's copy, the journal or the output finds it full."""
    pairs = write_jsonl(tmp_path / "pairs.jsonl", make_pairs(40, 40))
    run = [sys.executable, "-m", "pairgrade.cli", "label", str(pairs), "--model", "fake:", "--in-process", "--quiet"]
    subprocess.run([*run, "--out", str(tmp_path / "calm.jsonl")], check=True, stdout=subprocess.DEVNULL)
    expected = (tmp_path / "calm.jsonl").read_bytes()
    out, ballast = small_disk / "out.jsonl", small_disk / "ballast"
    subprocess.run([*run, "--out", str(out), "--limit", "50"], check=True, stdout=subprocess.DEVNULL)
    old, refused = out.read_bytes(), []
    for room in (8, 200, 500, 700, 900, 1100, 1300, 1500, 1700):  # kB
        ballast.write_bytes(bytes(2 * _MB - room * 1000 - 60_000))
        done = subprocess.run([*run, "--out", str(out), "--overwrite"], capture_output=True, text=True)
        ballast.unlink()
        if done.returncode == 0:
            break
        assert done.returncode == 1
        assert "Traceback" not in done.stderr
        assert str(small_disk) in done.stderr
        assert out.read_bytes() == old
        refused.append(done.stderr)
    assert len(refused) >= 3
    assert any("the input's copy needs about" in said for said in refused)
    assert any(re.search(r"[\d,]+ bytes", said) for said in refused)
    done = subprocess.run([*run, "--out", str(out), "--overwrite"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert out.read_bytes() == expected
    assert {path.name for path in small_disk.iterdir()} == {"out.jsonl", "out.jsonl.manifest.json"}


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_summary_that_cannot_be_printed_is_an_error_after_the_work(tmp_path: Path) -> None:
    pairs = write_jsonl(tmp_path / "pairs.jsonl", make_pairs(2, 2))
    run = [sys.executable, "-m", "pairgrade.cli", "label", str(pairs), "--model", "fake:", "--in-process", "-q"]
    for options in ([], ["--json"]):
        with open("/dev/full", "w") as full:
            command = [*run, "--out", str(tmp_path / "o.jsonl"), *options]
            done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
        assert done.returncode == 1
        assert done.stderr == "pairgrade: standard output: No space left on device\n"
        assert len((tmp_path / "o.jsonl").read_text().splitlines()) == 4
    job = LabelJob(Source(str(pairs)), tmp_path / "p.jsonl", qrels=Path("/dev/full"), overwrite=True)
    with pytest.raises(InputError, match="no regular file"):
        label(job, annotator)


def test_a_disk_that_refuses_is_a_storage_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = {"queries.jsonl": '{"query_id": "1", "text": "a query"}', "docs.jsonl": '{"doc_id": "a", "text": "a text"}'}
    for name, content in {**texts, "qrels.txt": "1 0 a 1\n"}.items():
        (tmp_path / name).write_text(content)
    source = Source(*(str(tmp_path / name) for name in ("qrels.txt", "queries.jsonl", "docs.jsonl")))
    with pytest.raises(StorageError, match=r"nowhere: cannot hold the input's texts: .*No such file"):
        list(read_pairs(source, tmp_path / "nowhere"))
    _sqlite_of(8, monkeypatch)
    (tmp_path / "docs.jsonl").write_text(json.dumps({"doc_id": "a", "text": "x" * 10**5}))
    told = r"disk is full: the input's texts need about 178,\d\d\d bytes, [\d,]+ are free; make room there"
    with pytest.raises(StorageError, match=told):
        list(read_pairs(source, tmp_path))
    (tmp_path / "qrels.txt").write_text("".join(f"1 0 {number:0100} 1\n" for number in range(1000)))
    with pytest.raises(StorageError, match=r"the input's texts need more than [\d,]+ bytes"):
        list(read_pairs(source, tmp_path))


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize(
    ("job", "kilobytes"), [("onnx", 5), ("onnx", 40), ("onnx", 300), ("gguf", 5), ("gguf", 300), ("merge", 150)]
)
def test_an_export_that_the_disk_refuses_names_the_place_and_leaves_nothing(
    job: str, kilobytes: int, tiny_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    """Files may have so many bytes: tokenizer, tables, weights and the library's own files are refused in turn."""
    pytest.importorskip("peft")
    from pairgrade.train.options import TrainOptions
    from pairgrade.train.run import TrainJob, train

    source, out = tiny_folder("llama"), tmp_path / "disk" / "out"
    out.parent.mkdir()
    command = ["export", str(source), "--to", job]
    if job == "merge":
        graded = Source(str(write_jsonl(tmp_path / "graded.jsonl", PAIRS)))
        options = TrainOptions(train_pairs=8, validation_pairs=4, epochs=1, batch=8, rank=4, threads=1)
        run = TrainJob(graded, str(source), tmp_path / "adapter", Rubric.load("trec"))
        command = ["merge", str(train(run, options).adapter)]
    limit = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({1000 * kilobytes},) * 2)"
    code = f"import sys; {limit}; sys.argv[0] = 'pairgrade'; from pairgrade.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, *command, "--out", str(out), "--sample", "4", "--threads", "1"],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    assert "standard output" not in done.stderr
    assert str(out.parent) in done.stderr
    assert re.search(r"[\d,]+ bytes", done.stderr) or kilobytes == 5
    assert list(out.parent.iterdir()) == []
