"""Files that are not the ones their manifest describes are refused before anything loads."""

from __future__ import annotations

import json
import os
import random
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from helpers import make_pairs
from pairgrade import Annotator, ModelError, Rubric, file_hashes
from pairgrade.file_hashes import file_sha256, folder_sha256s, remembered_sha256, verify_files
from pairgrade.gguf_header import read_header
from pairgrade.models import resolve


@pytest.mark.model
def test_one_flipped_bit_is_refused_wherever_it_is(smollm2_path: Path, tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    shutil.copyfile(smollm2_path, path)
    (tmp_path / "manifest.json").write_text(json.dumps({"files": {"model.gguf": file_sha256(path)}}))
    assert resolve(path) == path
    dice, size = random.Random(5), path.stat().st_size
    header = read_header(path).end
    expected = file_sha256(path)
    places = [dice.randrange(header) for _ in range(5)] + [dice.randrange(header, size) for _ in range(10)]
    with path.open("r+b") as file:
        for place in places:
            file.seek(place)
            byte = file.read(1)[0]
            file.seek(place)
            file.write(bytes([byte ^ 1 << dice.randrange(8)]))
            file.flush()
            with pytest.raises(ModelError) as caught:
                resolve(path)
            assert all(word in str(caught.value) for word in (str(path), file_sha256(path), expected))
            file.seek(place)
            file.write(bytes([byte]))
            file.flush()
    assert resolve(path) == path


def _flipped(path: Path, load: Callable[[], object]) -> int:
    """Flip one bit at 10 random places of a file, one after the other; count the loads that name it and both sums."""
    sound, dice, told = path.read_bytes(), random.Random(path.name), 0
    expected = file_sha256(path)
    for _ in range(10):
        damaged = bytearray(sound)
        damaged[dice.randrange(len(sound))] ^= 1 << dice.randrange(8)
        path.write_bytes(damaged)
        with pytest.raises(ModelError) as caught:
            load()
        told += all(word in str(caught.value) for word in (str(path), file_sha256(path), expected))
    path.write_bytes(sound)
    return told


def test_flipped_bits_of_an_onnx_folder(tiny_onnx_folder: Callable[[str], Path], tmp_path: Path) -> None:
    from pairgrade.onnx_manifest import read_manifest

    folder = shutil.copytree(tiny_onnx_folder("int8"), tmp_path / "model")
    names = sorted(read_manifest(folder).files)
    assert {"weights.bin", "documents.onnx", "prefix.onnx", "probe.onnx", "embedding.npy", "tokenizer.json"} <= set(
        names
    )
    for name in names:
        assert _flipped(folder / name, lambda: read_manifest(folder)) == 10
    with pytest.raises(ModelError, match="expected is"):  # and so does what loads it
        _with_a_flipped_byte(folder / "weights.bin", lambda: Annotator.open(folder))


def _with_a_flipped_byte(path: Path, load: Callable[[], object]) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    load()


@pytest.mark.parametrize("kind", ["folder", "adapter"])
def test_flipped_bits_of_safetensors(kind: str, tiny_folder: Callable[[str], Path], tmp_path: Path) -> None:
    """Of a merged model's folder and of an adapter's, where the header's check does not notice them."""
    folder = shutil.copytree(tiny_folder("llama"), tmp_path / kind)
    if kind == "adapter":
        (folder / "model.safetensors").rename(folder / "adapter_model.safetensors")
        (folder / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    table = {
        "kind": kind,
        "base": str(tiny_folder("llama")),
        "identity": {},
        "rubric": "trec",
        "files": folder_sha256s(folder),
    }
    (folder / "manifest.json").write_text(json.dumps(table))
    weights = next(folder.glob("*.safetensors"))
    sound, dice = weights.read_bytes(), random.Random(3)
    header = 8 + int.from_bytes(sound[:8], "little")
    for _ in range(10):
        damaged = bytearray(sound)
        damaged[dice.randrange(header, len(sound))] ^= 1 << dice.randrange(8)
        weights.write_bytes(damaged)
        with pytest.raises(ModelError) as caught:
            _load(kind, folder, tmp_path)
        assert all(
            word in str(caught.value) for word in (str(weights), file_sha256(weights), table["files"][weights.name])
        )
    weights.write_bytes(sound)
    for name in ("config.json", "tokenizer.json"):
        assert _flipped(folder / name, lambda: verify_files(folder)) == 10


def _load(kind: str, folder: Path, tmp_path: Path) -> None:
    from pairgrade.train.base_model import resolve_folder
    from pairgrade.train.merge import merge

    if kind == "folder":
        resolve_folder(str(folder), tmp_path / "base")
    else:
        merge(folder, tmp_path / "merged", make_pairs(1, 1), Rubric.load("trec"))


def test_a_large_file_is_hashed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "large.bin"
    path.write_bytes(os.urandom(2**20 + 1))
    os.utime(path, (1, 1))  # long ago; what has just changed is not remembered
    first = remembered_sha256(path)
    with monkeypatch.context() as patch:
        patch.setattr(file_hashes, "file_sha256", lambda _: "computed again")
        assert remembered_sha256(path) == first
        path.write_bytes(os.urandom(2**20 + 1))
        assert remembered_sha256(path) == "computed again"


def test_what_another_process_remembers_meanwhile_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PAIRGRADE_CACHE", str(tmp_path / "cache"))
    paths = [tmp_path / "one.bin", tmp_path / "two.bin"]
    for path in paths:
        path.write_bytes(os.urandom(2**20 + 1))
        os.utime(path, (1, 1))

    def slow(path: Path) -> str:
        if path == paths[0]:
            remembered_sha256(paths[1])  # as another process does in the minutes that a large file takes
        return file_sha256(path)

    monkeypatch.setattr(file_hashes, "file_sha256", slow)
    remembered_sha256(paths[0])
    monkeypatch.setattr(file_hashes, "file_sha256", lambda _: pytest.fail("hashed again"))
    assert [remembered_sha256(path) for path in paths] == [file_sha256(path) for path in paths]


def test_a_file_that_has_just_changed_is_hashed_each_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PAIRGRADE_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "large.bin"
    just_now = time.time_ns() + 60 * 10**9  # the clock of a file system may be ahead
    for _ in range(2):
        path.write_bytes(os.urandom(2**20 + 1))
        os.utime(path, ns=(just_now, just_now))
        assert remembered_sha256(path) == file_sha256(path)
        assert not (tmp_path / "cache").exists()


def test_a_damaged_memory_is_no_harm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "large.bin"
    path.write_bytes(bytes(2**20 + 1))
    monkeypatch.setenv("PAIRGRADE_CACHE", str(tmp_path / "cache"))
    (tmp_path / "cache").mkdir()
    os.utime(path, (1, 1))
    for damage in ("{", "[]", json.dumps({str(path.resolve()): [1]}), json.dumps({str(path.resolve()): "x"})):
        (tmp_path / "cache" / "hashes.json").write_text(damage)
        assert remembered_sha256(path) == file_sha256(path)
    monkeypatch.setenv("PAIRGRADE_CACHE", "/dev/null/nowhere")
    assert remembered_sha256(path) == file_sha256(path)


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "sub/file"])
def test_a_manifest_speaks_of_its_own_folder_only(name: str, tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text(json.dumps({"files": {name: "0" * 64}}))
    with pytest.raises(ModelError, match="own folder"):
        verify_files(tmp_path)


def test_a_listed_file_that_is_gone_is_told(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text(json.dumps({"files": {"weights.safetensors": "0" * 64}}))
    with pytest.raises(ModelError, match=r"lists weights\.safetensors, which is not there"):
        verify_files(tmp_path)
    for damage in ("{", "[" * 100_000):
        (tmp_path / "manifest.json").write_text(damage)
        with pytest.raises(ModelError, match="not JSON"):
            verify_files(tmp_path)
    (tmp_path / "manifest.json").unlink()
    (tmp_path / "manifest.json").mkdir()
    with pytest.raises(ModelError, match="cannot be read"):
        verify_files(tmp_path)
