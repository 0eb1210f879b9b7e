"""Which export of a folder runs, on real tiny exports and on machines described to it."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

pytest.importorskip("torch")
pytest.importorskip("gguf")
pytest.importorskip("onnx")

from helpers import make_pairs, run_command, write_jsonl
from onnx_helpers import export
from pairgrade import Annotator, InputError, ModelError, ResumeError, onnx_manifest
from pairgrade.bench.benchmark import BenchOptions, bench
from pairgrade.bench.estimate import EstimateOptions, estimate
from pairgrade.bench.matrix import Data, Matrix, Rounds
from pairgrade.cli import options
from pairgrade.cli.attack import command as attack
from pairgrade.cli.label import command
from pairgrade.export.gguf_writer import write_gguf
from pairgrade.export.quantize import QUANTS, quantize
from pairgrade.file_hashes import MANIFEST, file_sha256
from pairgrade.model_choice import Machine, choose_model, exports, this_machine
from pairgrade.readers import Source

VNNI = frozenset({"avx2", "avx512f", "avx512_vnni"})
AVX2 = frozenset({"avx2"})
ARM = frozenset({"asimd", "asimddp"})


@pytest.fixture(scope="module")
def folder(tiny_folder: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("exports")
    (made / "gguf").mkdir()
    source = tiny_folder("llama")
    write_gguf(source, made / "f32.gguf")
    for name in ("q8_0", "q4_0"):
        quantize(made / "f32.gguf", made / "gguf" / f"model-{name}.gguf", QUANTS[name], threads=1)
    for quant in ("fp32", "int8", "int4"):
        export(source, made / f"onnx-{quant}", quant)
    return made


def test_the_exports_of_a_folder_are_found_and_told_apart(folder: Path) -> None:
    found = {export.path.name: export for export in exports(folder)}
    assert {name: (e.backend, e.weights, e.is_4_bit) for name, e in found.items()} == {
        "f32.gguf": ("llama", "f32", False),
        "model-q4_0.gguf": ("llama", "q4_0", True),
        "model-q8_0.gguf": ("llama", "q8_0", False),
        "onnx-fp32": ("onnx", "fp32", False),
        "onnx-int4": ("onnx", "int4", True),
        "onnx-int8": ("onnx", "int8", False),
    }
    assert found["model-q4_0.gguf"].memory < found["model-q8_0.gguf"].memory < found["f32.gguf"].memory


def test_what_is_no_model_and_what_has_not_ended_is_passed_over(folder: Path, tmp_path: Path) -> None:
    data = (folder / "gguf" / "model-q8_0.gguf").read_bytes()
    for name, content in ((".part/model-f32.gguf", data), ("other/cut.gguf", data[:500]), ("good/q8_0.gguf", data)):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_bytes(content)
    assert [export.path.name for export in exports(tmp_path)] == ["q8_0.gguf"]
    (tmp_path / "good" / "q8_0.gguf").unlink()
    with pytest.raises(ModelError, match=r"cut\.gguf"):
        exports(tmp_path)


def test_an_onnx_model_takes_its_weights_twice_and_none_of_its_tables(folder: Path) -> None:
    for found in exports(folder):
        if found.backend == "onnx":
            assert found.memory == 2 * (found.path / "weights.bin").stat().st_size + 200_000_000
        else:
            assert found.memory == found.path.stat().st_size
    roomy, tight = (choose_model(str(folder), machine=Machine(VNNI, free)) for free in (220_000_000, 200_000_000))
    assert (Path(roomy.model).name, Path(tight.model).name) == ("onnx-int8", "model-q8_0.gguf")


def test_an_onnxruntime_that_is_too_old_runs_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert this_machine().has_onnx
    monkeypatch.setattr(onnx_manifest, "package_version", lambda name: {"onnxruntime": "1.30.2"}.get(name, "none"))
    assert not this_machine().has_onnx
    choice = choose_model(str(folder))
    assert Path(choice.model).name == "model-q8_0.gguf"
    assert "not installed, or too old" in (choice.why or "")


def test_onnx_is_no_choice_where_nothing_runs_it(folder: Path) -> None:
    choice = choose_model(str(folder), machine=Machine(VNNI, None, has_onnx=False))
    assert Path(choice.model).name == "model-q8_0.gguf"
    assert "pip install 'pairgrade[onnx]'" in (choice.why or "")
    assert choose_model(str(folder), "onnx", Machine(VNNI, None, has_onnx=False)).model.endswith("onnx-int8")


@pytest.mark.parametrize(
    ("machine", "backend", "expected"),
    [
        (Machine(VNNI, None), "auto", "onnx-int8"),
        (Machine(AVX2, None), "auto", "onnx-int8"),
        (Machine(ARM, None), "auto", "model-q8_0.gguf"),
        (Machine(frozenset(), None), "auto", "model-q8_0.gguf"),
        (Machine(VNNI, None, cuda=True), "auto", "onnx-fp32"),
        (Machine(VNNI, None), "llama", "model-q8_0.gguf"),
        (Machine(ARM, None), "onnx", "onnx-int8"),
    ],
)
def test_the_machine_decides(machine: Machine, backend: str, expected: str, folder: Path) -> None:
    choice = choose_model(str(folder), backend, machine)
    assert Path(choice.model).name == expected
    assert choice.why is not None
    assert choice.why.startswith(expected)
    assert all(export.path.name in choice.why for export in exports(folder) if backend in ("auto", export.backend))


def test_a_model_that_does_not_fit_is_left_out(folder: Path) -> None:
    sizes = {export.path.name: export.memory for export in exports(folder)}
    tight = choose_model(str(folder), machine=Machine(VNNI, min(sizes.values()) + 1))
    assert sizes[Path(tight.model).name] == min(sizes.values())
    assert tight.why is not None
    assert "do not fit into memory" in tight.why
    with pytest.raises(ModelError, match="smallest model takes"):
        choose_model(str(folder), machine=Machine(VNNI, 1000))


def test_one_model_leaves_nothing_to_choose(folder: Path) -> None:
    onnx = str(folder / "onnx-int8")
    assert choose_model(onnx).model == onnx
    assert choose_model(onnx).why is None
    assert choose_model("pkg:any", "llama").model == "pkg:any"
    assert choose_model(str(folder / "f32.gguf")).why is None


def test_a_transformers_folder_is_told_as_such(tiny_folder: Callable[[str], Path]) -> None:
    with pytest.raises(ModelError, match=r"is a transformers folder; pairgrade export makes a model to label"):
        choose_model(str(tiny_folder("llama")))


def test_a_backend_refuses_what_the_other_runs(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="llama runs GGUF files"):
        choose_model(str(folder / "onnx-int8"), "llama")
    with pytest.raises(ModelError, match="--backend onnx runs"):
        choose_model(str(folder / "f32.gguf"), "onnx")
    with pytest.raises(ModelError, match=r"has no model for --backend onnx: it holds .*q8_0"):
        choose_model(str(folder / "gguf"), "onnx")
    with pytest.raises(ModelError, match="nothing that can be labelled with"):
        choose_model(str(tmp_path))
    with pytest.raises(ModelError, match="'cuda': one of auto, llama, onnx"):
        choose_model(str(folder), "cuda")


def test_whatever_opens_a_model_takes_a_folder_of_several_and_logs_why(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    choice, pairs = choose_model(str(folder)), make_pairs(1, 3)
    caplog.set_level(logging.INFO, "pairgrade")
    with Annotator.open(folder) as of_folder:
        assert caplog.messages == [f"{folder}: {choice.why}"]
        with Annotator.open(choice.model) as named:
            assert of_folder.identity() == named.identity()
            assert list(of_folder.label(pairs)) == list(named.label(pairs))
    assert len(caplog.messages) == 1  # with one model there is nothing to tell


def test_an_attack_names_the_chosen_one(folder: Path, tmp_path: Path) -> None:
    pairs = [replace(pair, grade=0) for pair in make_pairs(2, 2)]
    arguments = [str(write_jsonl(tmp_path / "pairs.jsonl", pairs)), "--model", str(folder), "--attacks", "claim"]
    found = CliRunner().invoke(attack, [*arguments, "--in-process", "--json"])
    assert json.loads(found.stdout)["model"] == choose_model(str(folder)).model


def test_a_model_without_a_name_is_none() -> None:
    with pytest.raises(ModelError, match="the model's name is empty"):
        Annotator.open("")


def test_the_experiment_labels_with_the_chosen_one(folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("bm25s")
    from pairgrade.bench.experiment_judgments import judge_steps
    from pairgrade.bench.experiment_options import ExperimentOptions

    for name in ("learn", "try"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "qrels.txt").write_text("1 0 a 1\n")
    options = ExperimentOptions(tmp_path, tmp_path / "out", "learn", "try", zero_shot=str(folder))
    chosen = Path(choose_model(str(folder)).model)
    (step,) = judge_steps(options)
    assert step.settings["model"] == file_sha256(chosen / MANIFEST if chosen.is_dir() else chosen)


def test_a_bench_measures_the_chosen_one_and_tells_its_size(folder: Path, tmp_path: Path) -> None:
    pairs = write_jsonl(tmp_path / "pairs.jsonl", make_pairs(1, 4))
    chosen = choose_model(str(folder))
    other = next(str(export.path) for export in exports(folder) if str(export.path) != chosen.model)
    matrix = Matrix((str(folder), other), Data(str(pairs)), threads=(1,), rounds=Rounds(1, 1), reference=str(folder))
    found = bench(matrix, BenchOptions(resamples=0, ceiling=False, base=folder.parent))
    assert [cell.model for cell in found.cells] == [
        Path(model).relative_to(folder.parent).as_posix() for model in (chosen.model, other)
    ]
    sizes = [sum(f.stat().st_size for f in Path(m).rglob("*")) if Path(m).is_dir() else Path(m).stat().st_size
             for m in (chosen.model, other)]  # fmt: skip
    assert [cell.model_bytes for cell in found.cells] == sizes
    assert found.cells[0].reference_agreement is not None
    assert f"Of several exports: {chosen.why}." in found.notes
    source, options = Source(str(pairs)), EstimateOptions(str(folder), sample=4, isolate=False, resamples=2)
    assert estimate(source, options).model_bytes == sizes[0]


def test_label_says_which_model_it_took(folder: Path, tmp_path: Path) -> None:
    write_jsonl(tmp_path / "pairs.jsonl", make_pairs(1, 3))
    out = tmp_path / "out.jsonl"
    common = [tmp_path / "pairs.jsonl", "--threads", 1, "--in-process", "--quiet", "--out"]
    result = run_command(command, *common, out, "--model", folder, "--backend", "llama")
    assert result.exit_code == 0, result.output
    assert "model: model-q8_0.gguf (llama, q8_0)" in result.stderr
    named = run_command(command, *common, tmp_path / "named.jsonl", "--model", folder / "gguf" / "model-q8_0.gguf")
    assert named.exit_code == 0
    assert out.read_bytes() == (tmp_path / "named.jsonl").read_bytes()
    with pytest.raises(ResumeError, match=r"backend.kind \(was llama, now onnx\)"):
        run_command(command, *common, out, "--model", folder, "--backend", "onnx")


def test_settings_of_llama_choose_a_gguf_or_are_refused(folder: Path) -> None:
    usual = {"backend": "auto", "provider": "cpu", "gpu_layers": 0, "sequences": 1, "flash_attention": False}
    for name, value in (("gpu_layers", -1), ("sequences", 8), ("flash_attention", True)):
        assert options.chosen_model(str(folder), usual | {name: value}).endswith(".gguf")
        with pytest.raises(InputError, match=f"--{name.replace('_', '-')} is for GGUF files, and .*int8 is none"):
            options.chosen_model(str(folder / "onnx-int8"), usual | {name: value})
    assert options.chosen_model(str(folder / "onnx-int8"), usual) == str(folder / "onnx-int8")
