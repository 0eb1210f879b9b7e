from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pairgrade import InputError
from pairgrade.export.output import new_folder

_WRITER = """
import sys, time
from pathlib import Path
from pairgrade.cli.unfinished import whole_or_nothing
from pairgrade.export.output import new_folder
with whole_or_nothing(), new_folder(Path(sys.argv[1])) as work:
    (work / "half").touch()
    for _ in range(6000):  # not in one call: a signal just before it would be heard after it
        time.sleep(0.01)
"""


def _stopped(number: signal.Signals, out: Path, *arguments: object) -> tuple[int, str]:
    """Start a writer of ``out``, stop it when its unfinished folder is there; return its exit code and stderr."""
    with subprocess.Popen(
        [sys.executable, *map(str, arguments)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as writer:
        work = out.with_name(f".{out.name}.{writer.pid}.part")
        deadline = time.monotonic() + 60
        while not work.exists():
            assert writer.poll() is None, "the writer ended before it wrote"
            assert time.monotonic() < deadline
            time.sleep(0.01)
        writer.send_signal(number)
        _, said = writer.communicate(timeout=60)
    return writer.returncode, said


def test_what_a_killed_writer_left_is_removed_by_the_next(tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert _stopped(signal.SIGKILL, out, "-c", _WRITER, out)[0] == -signal.SIGKILL
    (left,) = tmp_path.iterdir()
    alive = tmp_path / f".out.{os.getppid()}.part"  # at work on the same output now
    others = [tmp_path / name for name in (left.name.replace("out", "other"), f"{left.name}.kept", ".out.x.part")]
    for folder in (alive, *others):
        folder.mkdir()
    with new_folder(out) as work:
        assert not left.exists()
        (work / "whole").touch()
    assert sorted(tmp_path.iterdir()) == sorted([out, alive, *others])
    assert (out / "whole").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_polite_signal_leaves_nothing(tmp_path: Path, number: signal.Signals) -> None:
    code, said = _stopped(number, tmp_path / "out", "-c", _WRITER, tmp_path / "out")
    assert code == 128 + number
    assert said == f"\npairgrade: stopped by {number.name}; nothing was kept\n"
    assert list(tmp_path.iterdir()) == []


def test_a_signal_as_soon_as_the_folder_is_made_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mkdir = Path.mkdir

    def interrupted(folder: Path, *arguments: bool, **named: bool) -> None:
        mkdir(folder, *arguments, **named)
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "mkdir", interrupted)
    with pytest.raises(KeyboardInterrupt), new_folder(tmp_path / "out"):
        pytest.fail("went on")
    assert list(tmp_path.iterdir()) == []


def test_an_export_that_is_stopped_leaves_nothing(tiny_folder: Callable[[str], Path], tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    source, out = tiny_folder("qwen2"), tmp_path / "out"
    command = ("-m", "pairgrade.cli", "export", source, "--to", "onnx", "--out", out, "--threads", 1)
    assert _stopped(signal.SIGTERM, out, *command)[0] == 128 + signal.SIGTERM
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_there_is_refused_or_replaced(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "old").touch()
    with pytest.raises(InputError, match="exists already"), new_folder(out):
        pytest.fail("went on")
    with pytest.raises(KeyError), new_folder(out, replace=True):
        raise KeyError
    assert [path.name for path in out.iterdir()] == ["old"]
    with new_folder(out, replace=True) as work:
        (work / "new").touch()
    assert [path.name for path in out.iterdir()] == ["new"]


def test_no_folder_on_the_way_stays_of_what_failed(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    for out in (tmp_path / "there" / "a" / "b" / "out", tmp_path / "c" / "out"):
        with pytest.raises(KeyError), new_folder(out):
            raise KeyError
    assert list(tmp_path.rglob("*")) == [tmp_path / "there"]
    with new_folder(tmp_path / "c" / "out"):
        pass
    assert (tmp_path / "c" / "out").is_dir()


def test_the_folder_one_stands_in_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out"
    out.mkdir()
    monkeypatch.chdir(out)
    with pytest.raises(InputError, match=r"out exists already"), new_folder(Path()):
        pytest.fail("went on")
    with new_folder(Path(), replace=True) as work:
        (work / "new").touch()
    assert [path.name for path in tmp_path.rglob("*")] == ["out", "new"]


def test_a_folder_is_replaced_at_once_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out, rename = tmp_path / "out", Path.rename
    out.mkdir()
    (out / "old").touch()

    def refused(folder: Path, target: Path) -> None:
        if folder.suffix == ".part":
            assert not out.exists()  # the old one has been set aside
            raise OSError("no")
        rename(folder, target)

    monkeypatch.setattr(Path, "rename", refused)
    with pytest.raises(OSError, match="no"), new_folder(out, replace=True):
        pass
    assert [path.name for path in tmp_path.rglob("*")] == ["out", "old"]


def test_what_a_killed_writer_set_aside_is_put_back(tmp_path: Path) -> None:
    out = tmp_path / "out"
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    aside = tmp_path / f".out.{gone.pid}.old"
    for name in ("first", "second"):
        aside.mkdir()
        (aside / name).touch()
        with pytest.raises(InputError, match="exists already"), new_folder(out):
            pytest.fail("went on")
        assert [path.name for path in out.iterdir()] == ["first"]  # the second is what a finished writer replaced
        assert not aside.exists()
