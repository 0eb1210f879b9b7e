"""Models in the hub's cache, whose files are links: what is sound is opened, what is damaged is fetched anew."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from helpers import make_pairs
from pairgrade import Annotator, ModelError
from pairgrade.file_hashes import file_sha256
from pairgrade.models import resolve
from pairgrade.onnx_manifest import read_manifest
from tiny_gguf import SOUND

REVISION = "0" * 40


def cached(folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put a folder into a hub's cache as the repository org/repo, and return the folder of its links."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    repository = cache / "models--org--repo"
    snapshot = repository / "snapshots" / REVISION
    for made in (repository / "refs", repository / "blobs", snapshot):
        made.mkdir(parents=True)
    (repository / "refs" / "main").write_text(REVISION)
    for path in folder.iterdir():
        blob = repository / "blobs" / file_sha256(path)
        shutil.copyfile(path, blob)
        (snapshot / path.name).symlink_to(f"../../blobs/{blob.name}")
    return snapshot


def damage(path: Path) -> Path:
    """Change the last byte of what a link leads to, and return that file."""
    blob = path.resolve()
    content = bytearray(blob.read_bytes())
    content[-1] ^= 1
    blob.write_bytes(content)
    return blob


def test_an_onnx_export_is_opened(
    tiny_onnx_folder: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, found = tiny_onnx_folder("int8"), []
    for place in (folder, cached(folder, tmp_path, monkeypatch)):
        with Annotator.open(place) as annotator:
            found.append(list(annotator.label(make_pairs(1, 2))))
    assert found[0] == found[1]


def test_a_link_out_of_the_repository_is_refused(
    tiny_onnx_folder: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshot = cached(tiny_onnx_folder("int8"), tmp_path / "cache", monkeypatch)
    read_manifest(snapshot)
    shutil.copyfile(snapshot / "weights.bin", tmp_path / "weights.bin")
    (snapshot / "weights.bin").unlink()
    (snapshot / "weights.bin").symlink_to(tmp_path / "weights.bin")
    with pytest.raises(ModelError, match=r"'weights\.bin' is not a plain file of the same folder"):
        read_manifest(snapshot)


def test_a_damaged_file_is_told_once_and_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "model.gguf").write_bytes(SOUND.bytes())
    snapshot = cached(tmp_path / "model", tmp_path / "cache", monkeypatch)
    link = snapshot / "model.gguf"
    assert resolve("hf:org/repo/model.gguf") == link
    blob = damage(link)
    with pytest.raises(ModelError, match=rf"model\.gguf is damaged: its sha256 is {file_sha256(blob)}, .*{blob.name}"):
        resolve("hf:org/repo/model.gguf")
    assert not blob.exists()
    assert not link.is_symlink()
    with pytest.raises(ModelError, match="cannot be had"):  # else it would be found again
        resolve("hf:org/repo/model.gguf")


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json"])
def test_each_file_of_a_repository_is_compared(
    name: str, tiny_folder: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pairgrade.train.base_model import resolve_folder
    from pairgrade.train.encoder import resolve_encoder

    snapshot = cached(tiny_folder("llama"), tmp_path / "cache", monkeypatch)
    assert resolve_folder("hf:org/repo@main", tmp_path / "base") == snapshot
    assert resolve_encoder("hf:org/repo") == snapshot
    blob = damage(snapshot / name)
    with pytest.raises(ModelError, match=rf"{name} is damaged: its sha256 is .*, the hub's is {blob.name}"):
        resolve_folder("hf:org/repo@main", tmp_path / "base")
    assert not (snapshot / name).is_symlink()


def test_a_reference_without_revision_is_told_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "model.gguf").write_bytes(SOUND.bytes())
    cached(tmp_path / "model", tmp_path / "cache", monkeypatch)
    with caplog.at_level(logging.WARNING, "pairgrade"):
        resolve("hf:org/repo/model.gguf@main")
        assert not caplog.messages
        with pytest.raises(ModelError):  # of llama.cpp, for which it is too small a model
            Annotator.open("hf:org/repo/model.gguf")
    assert [m for m in caplog.messages if "names no revision" in m] == [
        "hf:org/repo/model.gguf names no revision: give hf:org/repo/model.gguf@REVISION to get the same weights next "
        "time"
    ]
