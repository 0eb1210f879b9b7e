"""``pairgrade export``: from a folder to files that ``pairgrade label`` runs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from helpers import make_pairs, run_command, write_jsonl
from pairgrade import Annotator, InputError, LlamaOptions, ModelError
from pairgrade.cli.export import command

pytest.importorskip("torch")
pytest.importorskip("gguf")


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    return write_jsonl(tmp_path / "pairs.jsonl", make_pairs(3, 4))


def test_the_files_label(tiny_folder: Callable[[str], Path], tmp_path: Path, pairs: Path) -> None:
    out = tmp_path / "out"
    limits = ("--min-agreement", 0, "--max-kl", 100, "--threads", 1)
    options = ("--quant", "q8_0,q4_k_m", "--calibration-pairs", pairs)
    result = run_command(command, tiny_folder("gemma2"), "--out", out, *options, *limits)
    assert result.exit_code == 0
    assert result.output.splitlines()[0].strip() == "compared with the original on 6 pairs"
    assert "model-q4_k_m.gguf" in result.output
    assert "importance matrix" in result.output
    manifest = json.loads((out / "manifest.json").read_text())
    assert (manifest["calibration"]["pairs"], manifest["check"]["pairs"], manifest["shared_pairs"]) == (6, 6, 0)
    assert [manifest["quants"][f"model-{q}.gguf"]["importance_matrix"] for q in ("q8_0", "q4_k_m")] == [False, True]
    for path in out.glob("*.gguf"):
        with Annotator.open(path, llama=LlamaOptions(threads=1)) as annotator:
            assert len(list(annotator.label(make_pairs(1, 2)))) == 2


def test_a_file_below_the_floor_is_told_by_the_exit_code(
    tiny_folder: Callable[[str], Path], tmp_path: Path, pairs: Path
) -> None:
    limits = ("--min-agreement", 0, "--max-kl", 1e-3, "--max-logit-distance", 1)
    options = ("--pairs", pairs, "--quant", "f32,q4_0", *limits, "--threads", 1)
    result = run_command(command, tiny_folder("qwen2"), "--out", tmp_path / "out", *options, "--json")
    assert result.exit_code == 3
    report = json.loads(result.output)
    assert {name: file["kept"] for name, file in report["files"].items()} == {
        "model-f32.gguf": True,
        "model-q4_0.gguf": False,
    }
    assert sorted(path.name for path in (tmp_path / "out").glob("*.gguf")) == ["model-f32.gguf"]
    allowed = run_command(command, tiny_folder("qwen2"), "--out", tmp_path / "all", *options, "--allow-below-floor")
    assert allowed.exit_code == 0
    assert "below its floor; mean KL" in allowed.output
    assert len(list((tmp_path / "all").glob("*.gguf"))) == 2


def test_onnx_in_full_precision_is_written_and_has_the_folders_logits(
    tiny_folder: Callable[[str], Path], tmp_path: Path, pairs: Path
) -> None:
    pytest.importorskip("onnxruntime")
    options = ("--to", "onnx", "--quant", "fp32", "--pairs", pairs, "--threads", 1)
    done = run_command(command, tiny_folder("qwen2"), "--out", tmp_path / "out", *options)
    assert done.exit_code == 0
    assert "agreement 1.0000" in done.output
    assert "kept its floor" in done.output
    with Annotator.open(tmp_path / "out", llama=LlamaOptions(threads=1)) as annotator:
        assert len(list(annotator.label(make_pairs(1, 2)))) == 2
    with pytest.raises(ModelError, match=r"fp32 does not keep its floor \(a label logit differs by"):
        run_command(command, tiny_folder("qwen2"), "--out", tmp_path / "strict", *options, "--max-logit", 1e-9)
    report = json.loads(
        run_command(command, tiny_folder("qwen2"), "--out", tmp_path / "again", *options, "--json").output
    )
    assert report["verification"]["floor"]["max_logit"] == 1e-3


@pytest.mark.parametrize("to", ["gguf", "onnx"])
def test_what_is_compared_was_not_calibrated_on(
    to: str, tiny_folder: Callable[[str], Path], tmp_path: Path, pairs: Path
) -> None:
    pytest.importorskip("onnxruntime")
    quant = "q4_0" if to == "gguf" else "int8"
    common = (tiny_folder("llama"), "--to", to, "--quant", quant, "--calibration-pairs", pairs, "--allow-below-floor")
    record, limits = "manifest.json" if to == "gguf" else "provenance.json", ("--threads", 1)
    for name, options, counts in (
        ("apart", ("--sample", 0), (6, 6, 0)),
        ("few", ("--sample", 4), (4, 4, 0)),
        ("named", ("--pairs", pairs), (6, 6, 0)),
        ("same", ("--pairs", write_jsonl(tmp_path / "same.jsonl", make_pairs(3, 4))), (12, 12, 12)),
    ):
        result = run_command(command, *common, *options, *limits, "--out", tmp_path / name)
        found = json.loads((tmp_path / name / record).read_text())
        assert (found["calibration"]["pairs"], found["check"]["pairs"], found["shared_pairs"]) == counts
        for text in (result.output, (tmp_path / name / "README.md").read_text()):
            assert (", 12 of which it was calibrated on" in " ".join(text.split())) == (name == "same")
        shown = run_command(command, *common, *options, *limits, "--out", tmp_path / f"{name}-json", "--json")
        assert json.loads(shown.output)["shared_pairs"] == counts[2]


def test_calibration_pairs_that_do_nothing_are_told(
    tiny_folder: Callable[[str], Path], tmp_path: Path, pairs: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip("onnxruntime")
    options = ("--to", "onnx", "--quant", "fp32", "--calibration-pairs", pairs, "--threads", 1)
    assert run_command(command, tiny_folder("llama"), *options, "--out", tmp_path / "out").exit_code == 0
    assert "onnx fp32 has no scales to calibrate: the calibration pairs do nothing" in caplog.text
    assert json.loads((tmp_path / "out" / "provenance.json").read_text())["calibration"] is None
    for to in ("onnx", "gguf"):
        with pytest.raises(ModelError, match=r"out is an ONNX export itself; give the transformers folder"):
            run_command(command, tmp_path / "out", "--to", to, "--out", tmp_path / "again")


def test_wrong_options_are_told_before_any_work(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no quantization 'q9_0'"):
        run_command(command, tmp_path, "--out", tmp_path / "out", "--quant", "q9_0")
    assert run_command(command, tmp_path, "--out", tmp_path / "out", "--to", "coreml").exit_code == 2
