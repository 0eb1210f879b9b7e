from __future__ import annotations

import sys
from pathlib import Path

import pytest

from pairgrade import ModelError
from pairgrade.file_hashes import file_sha256
from pairgrade.models import resolve
from tiny_gguf import SOUND


def test_a_path_is_taken_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(SOUND.bytes())
    assert resolve(path) == path


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("page.gguf", b"<!DOCTYPE html>", "is a web page"),
        ("pointer.gguf", b"version https://git-lfs", "git-lfs pointer"),
        ("empty.gguf", b"", "not a GGUF file"),
    ],
)
def test_what_is_no_gguf_is_refused(tmp_path: Path, name: str, content: bytes, said: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ModelError, match=said):
        resolve(tmp_path / name)


def test_a_missing_file_says_what_a_model_can_be(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"pkg:PACKAGE.*hf:org/repo"):
        resolve(tmp_path / "no.gguf")


def test_a_folder_lists_its_models(tmp_path: Path) -> None:
    (tmp_path / "a.gguf").write_bytes(b"GGUF")
    with pytest.raises(ModelError, match=r"is a folder.*a\.gguf"):
        resolve(tmp_path)


def test_a_folder_without_a_model_says_what_to_do_with_it(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"is a folder without a model; a model is .* ONNX export"):
        resolve(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ModelError, match="is a transformers folder; pairgrade export"):
        resolve(tmp_path)


def test_a_package_is_searched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "tiny_model_package"
    (folder / "data").mkdir(parents=True)
    (folder / "__init__.py").write_text("raise RuntimeError('never imported')")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    with pytest.raises(ModelError, match="holds 0 GGUF files"):
        resolve("pkg:tiny-model-package")
    (folder / "data" / "m.gguf").write_bytes(SOUND.bytes())
    assert resolve("pkg:tiny-model-package") == folder / "data" / "m.gguf"
    (folder / "data" / "n.gguf").write_bytes(b"GGUF")
    with pytest.raises(ModelError, match="holds 2 GGUF files"):
        resolve("pkg:tiny_model_package")


@pytest.mark.parametrize("name", ["no-such-package-x", "a.b/c", ""])
def test_a_package_that_is_not_there_says_how_to_get_it(name: str) -> None:
    with pytest.raises(ModelError, match="pip install"):
        resolve(f"pkg:{name}")


def test_sha256_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"abc")
    assert file_sha256(tmp_path / "x") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
