import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from helpers import make_pairs
from pairgrade import Annotator, InputError, LlamaOptions
from pairgrade.gguf_header import read_header

torch = pytest.importorskip("torch")
pytest.importorskip("gguf")

from pairgrade.bench import random_shape  # noqa: E402
from pairgrade.bench.random_shape import SHAPES, Shape, write_folder, write_shape  # noqa: E402
from pairgrade.export.torch_backend import TorchBackend, TorchOptions  # noqa: E402


@pytest.fixture(scope="module", autouse=True)
def _one_tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Make the tokenizer's files once: it takes seconds."""
    made, real = tmp_path_factory.mktemp("tokenizer"), random_shape.write_tokenizer

    def once(gguf: Path, folder: Path) -> None:
        if not any(made.iterdir()):
            real(gguf, made)
        shutil.copytree(made, folder, dirs_exist_ok=True)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(random_shape, "write_tokenizer", once)
        yield


TINY = Shape("qwen2", 64, 96, 2, 4, 2, 49200, 1024, 10_000.0, 1e-6)  # 48 ids more than the tokenizer has


@pytest.mark.model
def test_the_file_and_the_folder_of_a_shape_hold_one_model_that_labels(tmp_path: Path, smollm2_path: Path) -> None:
    write_shape(TINY, tmp_path / "tiny.gguf", smollm2_path, "f32")
    (tmp_path / "folder").mkdir()
    write_folder(TINY, tmp_path / "folder", smollm2_path)
    shapes = {tensor.name: tensor.shape for tensor in read_header(tmp_path / "tiny.gguf").tensors}
    assert shapes["token_embd.weight"] == (64, 49200)
    assert shapes["blk.1.ffn_down.weight"] == (96, 64)
    pairs = make_pairs(1, 3)
    with Annotator.open(tmp_path / "tiny.gguf", llama=LlamaOptions(context=512, threads=1)) as annotator:
        judged = list(annotator.label(pairs))
    backend = TorchBackend(tmp_path / "folder", TorchOptions(512, 1))
    with Annotator(backend, annotator.rubric) as annotator:
        again = list(annotator.label(pairs))
    ours, theirs = ([j.probabilities for j in found] for found in (judged, again))
    np.testing.assert_allclose(ours, theirs, atol=2e-3)
    assert np.ptp(ours) > 0.02  # no constant, which any two models could agree on
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


@pytest.mark.model
def test_a_vocabulary_below_the_tokenizers_is_refused(tmp_path: Path, smollm2_path: Path) -> None:
    with pytest.raises(InputError, match="49,152 tokens; the shape's vocabulary holds 1,000"):
        write_shape(replace(TINY, vocabulary=1000), tmp_path / "tiny.gguf", smollm2_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "millions"),
    [("smollm2-135m", 134.5), ("qwen2.5-0.5b", 494.0), ("qwen2.5-1.5b", 1543.7), ("qwen2.5-3b", 3085.9)],
)
def test_the_shapes_have_the_published_numbers_of_weights(tmp_path: Path, name: str, millions: float) -> None:
    import json

    from pairgrade.export.decoder import read_decoder
    from pairgrade.export.gguf_tensors import weight_shapes

    (tmp_path / "config.json").write_text(json.dumps(SHAPES[name].config(1, 2)))
    shapes = weight_shapes(read_decoder(tmp_path))
    assert sum(np.prod(shape) for shape in shapes.values()) / 1e6 == pytest.approx(millions, abs=0.1)


def test_a_call_that_would_write_nothing_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from pairgrade.bench.random_shape import main

    monkeypatch.setattr("sys.argv", ["random_shape", "smollm2-135m"])
    with pytest.raises(SystemExit):
        main()
    assert "give --out FILE.gguf or --folder FOLDER" in capsys.readouterr().err
