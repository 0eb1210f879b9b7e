import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from onnx_helpers import export
from pairgrade import InputError, errors, extras
from pairgrade.bench import commit_package, micro, telling
from pairgrade.bench.micro import compare
from pairgrade.native_pass import STAGES, native_kind


def run(module: str, *arguments: object) -> dict[str, object]:
    command = [sys.executable, "-m", f"pairgrade.bench.{module}", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_planning_takes_no_more_memory_for_more_pairs() -> None:
    found = run("planner_scale", "--pairs", 40_000)
    marks = found["marks"]
    assert isinstance(marks, list)
    assert found["pairs"] == 40_000
    assert marks[-1]["peak_mib"] - marks[1]["peak_mib"] < 8  # the pairs themselves are 20 MiB


def test_growth_is_measured_and_drawn(tmp_path: Path) -> None:
    found = run(
        "growth", "fake:0.001", "fake:0.002", "--documents", 1, 4, "--lengths", 8, 32, "--pairs", 4, "--rounds", 1,
        "--threads", 1, "--out", tmp_path,
    )  # fmt: skip
    documents, lengths = found["documents"], found["length"]
    assert isinstance(documents, list)
    assert isinstance(lengths, list)
    assert documents[0]["computed_tokens_per_pair"] > documents[1]["computed_tokens_per_pair"]  # a prefix each
    assert lengths[0]["document_tokens"] < lengths[1]["document_tokens"]
    assert {path.name for path in tmp_path.iterdir()} == {"growth.json", "growth-documents.png", "growth-length.png"}


def test_an_onnx_profile_is_summed(tiny_folder: Callable[[str], Path], tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    folder = export(tiny_folder("llama"), tmp_path / "int8", "int8")
    found = run("onnx_profile", folder, "--queries", 1, "--documents", 2, "--threads", 1)
    graphs = found["graphs"]
    assert isinstance(graphs, dict)
    assert graphs["documents.onnx"]["MatMulIntegerToFloat"] > 0
    assert graphs["prefix.onnx"]["MatMulIntegerToFloat"] > 0
    assert "DequantizeLinear" not in graphs["documents.onnx"]  # nothing is rounded twice
    if native_kind() == "none":
        assert "own_pass" not in found
    else:
        own: Any = found["own_pass"]
        assert (own["kind"], list(own["stages"])) == (native_kind(), list(STAGES))
        assert min(own["stages"].values()) > 0
        assert own["tokens_per_second"] > 0


def test_engines_take_turns_in_one_process(tiny_folder: Callable[[str], Path], tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("gguf")
    from pairgrade.export.gguf_writer import write_gguf

    folder, gguf = tiny_folder("qwen2"), tmp_path / "model.gguf"
    write_gguf(folder, gguf)
    fp32 = export(folder, tmp_path / "fp32")
    data = ("--queries", 1, "--documents", 2, "--rounds", 2, "--threads", 1)
    found = run("onnx_throughput", fp32, gguf, "--call", gguf, "--transformers", folder, *data)
    call, transformers = f"llama-cpp-python: {gguf}", f"transformers: {folder}"
    models = found["models"]
    assert isinstance(models, dict)
    assert list(models) == [str(fp32), str(gguf), call, transformers]
    assert found["best_llama"] == max(str(gguf), call, key=lambda title: models[title]["median"])
    assert models[found["best_llama"]]["this/best llama.cpp"] == 1
    assert models[str(fp32)]["first/this"] == 1
    assert models[transformers]["lowest"] > 0


def test_ratios_are_medians_of_the_rounds() -> None:
    from pairgrade.bench.onnx_throughput import Arm, figures

    arms = [Arm("onnx", False, len), Arm("q4", True, len), Arm("q8", True, len), Arm("call", True, len)]
    rates = {"onnx": [8.0, 9.0, 40.0], "q4": [4.0, 3.0, 5.0], "q8": [1.0, 1.0, 50.0], "call": [2.0, 2.0, 2.0]}
    best, found = figures(arms, rates)
    assert best == "q4"
    assert found["onnx"]["this/best llama.cpp"] == 3  # of 2, 3 and 8
    assert found["call"]["first/this"] == 4.5
    assert figures(arms[:1], {"onnx": [1.0]}) == (
        None, {"onnx": {"median": 1.0, "lowest": 1.0, "highest": 1.0, "first/this": 1.0}},
    )  # fmt: skip


def test_micro_benchmarks_run_and_are_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pytest_benchmark")
    monkeypatch.delenv("PYTEST_XDIST_WORKER", raising=False)  # beside other processes pytest-benchmark measures nothing
    path = tmp_path / "before.json"
    command = [sys.executable, "-m", "pairgrade.bench.micro", "run", str(path), "-k", "batch_of_sixteen and fake"]
    subprocess.run(command, check=True, capture_output=True)
    table = json.loads(path.read_text())
    assert [change.is_slower for change in compare(path, path, 0.1)] == [False]
    stats = table["benchmarks"][0]["stats"]
    stats["median"] += 10 * stats["iqr"] + stats["median"]
    slower = tmp_path / "after.json"
    slower.write_text(json.dumps(table))
    assert [change.is_slower for change in compare(path, slower, 0.1)] == [True]
    assert [change.is_slower for change in compare(slower, path, 0.1)] == [False]
    slower.write_text("{}")
    with pytest.raises(InputError, match="not a baseline"):
        compare(path, slower, 0.1)


def test_two_commits_are_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pytest_benchmark")
    monkeypatch.delenv("PYTEST_XDIST_WORKER", raising=False)
    repository = tmp_path / "repository"
    (repository / "engine").mkdir(parents=True)
    (repository / "bench").mkdir()
    package_dir = '[tool.setuptools.package-dir]\npairgrade = "engine"\n"pairgrade.bench" = "bench"\n'
    (repository / "pyproject.toml").write_text(package_dir)
    (repository / "engine" / "__init__.py").touch()
    for module in (errors, extras):
        shutil.copy(module.__file__, repository / "engine")
    for module in (micro, commit_package, telling):
        shutil.copy(module.__file__, repository / "bench")
    identity = ("-c", "user.name=a", "-c", "user.email=a@example.org")

    def commit(rounds: int) -> None:
        suite = f"def test_it(benchmark):\n    assert benchmark(lambda: sum(range({rounds})))\n"
        (repository / "bench" / "micro_one.py").write_text(suite)
        for command in (["add", "."], [*identity, "commit", "-q", "-m", "x"]):
            subprocess.run(["git", *command], cwd=repository, check=True)

    subprocess.run(["git", "init", "-q"], cwd=repository, check=True)
    commit(1_000)
    commit(30_000)
    monkeypatch.chdir(repository / "bench")
    (slower,) = micro.commits("HEAD~1", "HEAD", 0.1)
    assert slower.name == "micro_one.py::test_it"
    assert slower.is_slower
    assert slower.after > 5 * slower.before
    with pytest.raises(InputError, match=r"gone.*no such commit"):
        micro.commits("gone", "HEAD", 0.1)
    (repository / "bench" / "micro_one.py").write_text("def test_it():\n    assert False\n")
    subprocess.run(["git", *identity, "commit", "-q", "-a", "-m", "x"], cwd=repository, check=True)
    with pytest.raises(InputError, match="of HEAD could not be run"):
        micro.commits("HEAD~1", "HEAD", 0.1)
