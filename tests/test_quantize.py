"""llama.cpp's quantization, and what an importance matrix does to it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import numpy.typing as npt
import pytest

from pairgrade import InputError, ModelError, StorageError
from pairgrade.export.quantize import QUANTS, quantize, quants

pytest.importorskip("torch")
gguf = pytest.importorskip("gguf")

from pairgrade.export.gguf_writer import write_gguf  # noqa: E402

NAME = "blk.0.ffn_up.weight"


@pytest.fixture(scope="module")
def plain(tiny_folder: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("plain") / "model.gguf"
    write_gguf(tiny_folder("qwen2"), path)
    return path


def weights(path: Path, name: str = NAME) -> npt.NDArray[np.float32]:
    (tensor,) = (t for t in gguf.GGUFReader(path).tensors if t.name == name)
    values: npt.NDArray[np.float32] = gguf.dequantize(tensor.data, tensor.tensor_type)
    return values


@pytest.mark.parametrize("name", list(QUANTS))
def test_errors_shrink_with_the_bits(name: str, plain: Path, tmp_path: Path) -> None:
    quant = QUANTS[name]
    quantize(plain, tmp_path / "out.gguf", quant, threads=1)
    wanted = weights(plain)
    error = np.linalg.norm(weights(tmp_path / "out.gguf") - wanted) / np.linalg.norm(wanted)
    floats = {"f32": 0.0, "f16": 2.0**-11, "bf16": 2.0**-8}
    assert error <= floats.get(name, 2.0 ** (1 - quant.bits))
    if quant.bits < 32:
        assert (tmp_path / "out.gguf").stat().st_size < plain.stat().st_size
        assert error > 0


@pytest.mark.parametrize("name", ["q4_0", "q5_1", "q4_k_m"])
def test_important_channels_are_kept_better(name: str, plain: Path, tmp_path: Path) -> None:
    wanted = weights(plain)
    important = np.arange(wanted.shape[1]) % 4 == 0
    values = np.where(important, 100.0, 1.0).astype(np.float32)
    quantize(plain, tmp_path / "without.gguf", QUANTS[name], threads=1)
    quantize(plain, tmp_path / "with.gguf", QUANTS[name], {NAME: values}, threads=1)
    without, with_matrix = (np.abs(weights(tmp_path / f"{n}.gguf") - wanted) ** 2 for n in ("without", "with"))
    assert (with_matrix * values).sum() < 0.8 * (without * values).sum()
    other = "blk.1.ffn_up.weight"
    np.testing.assert_array_equal(weights(tmp_path / "with.gguf", other), weights(tmp_path / "without.gguf", other))


def test_a_matrix_of_another_kind_is_the_same_matrix(plain: Path, tmp_path: Path) -> None:
    values = np.linspace(0.1, 9.0, weights(plain).shape[1], dtype=np.float32)
    spread = np.repeat(values.astype(np.float64), 2)[::2]  # not in one piece, and not in float32
    for name, matrix in (("a", values), ("b", spread)):
        quantize(plain, tmp_path / f"{name}.gguf", QUANTS["q4_0"], {NAME: matrix}, threads=1)
    assert (tmp_path / "a.gguf").read_bytes() == (tmp_path / "b.gguf").read_bytes()


def test_lists_of_names() -> None:
    assert [quant.name for quant in quants("Q8_0, q4_k_m")] == ["q8_0", "q4_k_m"]
    with pytest.raises(InputError, match="no quantization 'q3'; there are: f32"):
        quants("q8_0,q3")
    with pytest.raises(InputError, match="twice"):
        quants("q8_0,q8_0")


def test_a_matrix_of_another_width_leaves_no_file(plain: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="could not write it as q4_0"):
        quantize(plain, tmp_path / "out.gguf", QUANTS["q4_0"], {NAME: np.ones(5, np.float32)}, threads=1)
    assert not list(tmp_path.iterdir())


def test_a_full_disk_is_told(plain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "taken.gguf").mkdir()  # a place where llama.cpp cannot write
    with pytest.raises(ModelError, match="could not write it as q4_0"):
        quantize(plain, tmp_path / "taken.gguf", QUANTS["q4_0"], threads=1)
    needed = plain.stat().st_size // 8
    for free, kind in ((needed, ModelError), (needed - 1, StorageError)):
        monkeypatch.setattr("shutil.disk_usage", lambda _, free=free: SimpleNamespace(free=free))
        with pytest.raises(kind):
            quantize(plain, tmp_path / "taken.gguf", QUANTS["q4_0"], threads=1)
    with pytest.raises(
        StorageError, match=rf"No space left .* needs {needed:,} bytes and more, {needed - 1:,} are free"
    ):
        quantize(plain, tmp_path / "taken.gguf", QUANTS["q4_0"], threads=1)
