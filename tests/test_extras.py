"""A package that is broken is told by its own words; one that is not installed by the command that installs it."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pairgrade import MissingExtraError, ModelError
from pairgrade.bm25 import Bm25
from pairgrade.folder_tokenizer import FolderTokenizer
from pairgrade.irds import Catalogued
from pairgrade.onnx_session import runtime
from pairgrade.pair_encoder import PairEncoder

torch: Any = pytest.importorskip("torch")
for needed in ("gguf", "onnxruntime", "optimum", "peft", "tokenizers", "transformers"):
    pytest.importorskip(needed)

from pairgrade.export.causal_model import load_causal  # noqa: E402
from pairgrade.export.decoder import read_decoder  # noqa: E402
from pairgrade.export.gguf_writer import write_gguf  # noqa: E402
from pairgrade.export.reranker import _exporter  # noqa: E402
from pairgrade.train.base_model import load_model  # noqa: E402
from pairgrade.train.bi_encoder import cosines  # noqa: E402
from pairgrade.train.dequantize import _convert, write_tokenizer  # noqa: E402
from pairgrade.train.options import TrainOptions  # noqa: E402
from pairgrade.train.reranker_model import load_reranker  # noqa: E402
from pairgrade.train.reranker_options import RerankerOptions  # noqa: E402

NEEDS: list[tuple[str, Callable[[Path, Path], object]]] = [
    ("bm25s", lambda folder, out: Bm25({"d": "text"})),
    ("ir_datasets", lambda folder, out: Catalogued("x")),
    ("bitsandbytes", lambda folder, out: load_model(folder, TrainOptions(qlora=True))),
    ("gguf", lambda folder, out: write_gguf(folder, out / "model.gguf")),
    ("onnxruntime", lambda folder, out: runtime()),
    ("onnxscript", lambda folder, out: _exporter()),
    ("optimum", lambda folder, out: read_decoder(folder)),
    ("peft", lambda folder, out: load_model(folder, TrainOptions())),
    ("sentence_transformers", lambda folder, out: cosines("any", [], None)),
    ("sentence_transformers", lambda folder, out: load_reranker(folder, RerankerOptions())),
    ("tokenizers", lambda folder, out: FolderTokenizer(folder)),
    ("tokenizers", lambda folder, out: PairEncoder("{}", 64, 0)),
    ("transformers", lambda folder, out: load_causal(folder)),
    ("transformers", lambda folder, out: write_tokenizer(out / "model.gguf", out)),
    ("transformers", lambda folder, out: _convert(out / "model.gguf", out)),
]


class Hidden:
    """Makes Python find no package of a name, as where it is not installed."""

    def __init__(self, package: str) -> None:
        self._package = package

    def find_spec(self, name: str, *_: object) -> None:
        if name == self._package:
            raise ModuleNotFoundError(f"No module named '{name}'", name=name)


@pytest.mark.parametrize(("package", "use"), NEEDS)
def test_broken_is_told_apart_from_absent(
    package: str,
    use: Callable[[Path, Path], object],
    tiny_folder: Callable[[str], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = tiny_folder("llama")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: package == "bitsandbytes")
    for name in [name for name in sys.modules if re.match(rf"{package}(\.|$)", name)]:
        monkeypatch.delitem(sys.modules, name)
    with monkeypatch.context() as patch:
        patch.setattr(sys, "meta_path", [Hidden(package), *sys.meta_path])
        with pytest.raises(MissingExtraError, match=rf"package {package.replace('_', '-')}, .* run: pip install"):
            use(folder, tmp_path)
    (tmp_path / package).mkdir()
    (tmp_path / package / "__init__.py").write_text("raise ImportError('libx.so: undefined symbol: y')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModelError, match=r"the import fails \(libx\.so: undefined symbol: y\); mend") as caught:
        use(folder, tmp_path)
    assert package in str(caught.value)
    assert "not installed" not in str(caught.value)


def test_a_package_that_lacks_another_is_not_said_to_be_absent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tokenizers.py").write_text("import no_such_module")
    monkeypatch.delitem(sys.modules, "tokenizers")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModelError, match=r"needs tokenizers, .*No module named 'no_such_module'"):
        PairEncoder("{}", 64, 0)
