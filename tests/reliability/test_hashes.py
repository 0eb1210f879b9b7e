"""Files that are not the ones their manifest describes, pickles and foreign code are refused before anything loads."""

from __future__ import annotations

import json
import os
import pickle
import random
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pairgrade import ModelError, file_hashes
from pairgrade.file_hashes import file_sha256, remembered_sha256, verify_files
from pairgrade.folder_check import check_folder
from pairgrade.models import resolve
from tiny_gguf import SOUND


@pytest.mark.model
def test_one_flipped_bit_is_refused_wherever_it_is(smollm2_path: Path, tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    shutil.copyfile(smollm2_path, path)
    (tmp_path / "manifest.json").write_text(json.dumps({"files": {"model.gguf": file_sha256(path)}}))
    assert resolve(path) == path
    dice, size = random.Random(5), path.stat().st_size
    with path.open("r+b") as file:  # in the weights, where no check of the header looks
        for place in [dice.randrange(size // 2, size) for _ in range(10)]:
            file.seek(place)
            byte = file.read(1)[0]
            file.seek(place)
            file.write(bytes([byte ^ 1 << dice.randrange(8)]))
            file.flush()
            with pytest.raises(ModelError) as caught:
                resolve(path)
            assert "expected is" in str(caught.value)
            assert str(path) in str(caught.value)
            file.seek(place)
            file.write(bytes([byte]))
            file.flush()
    assert resolve(path) == path


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


def test_a_file_that_has_just_changed_is_hashed_each_time(tmp_path: Path) -> None:
    path = tmp_path / "large.bin"
    just_now = time.time_ns() + 60 * 10**9  # the clock of a file system may be ahead
    for _ in range(2):
        path.write_bytes(os.urandom(2**20 + 1))
        os.utime(path, ns=(just_now, just_now))
        assert remembered_sha256(path) == file_sha256(path)


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


def test_a_file_of_the_hubs_cache_has_the_sha256_it_is_filed_under(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    repository, revision = tmp_path / "models--org--repo", "0" * 40
    for folder in ("refs", "blobs", f"snapshots/{revision}"):
        (repository / folder).mkdir(parents=True)
    (repository / "refs" / "main").write_text(revision)
    (repository / "blobs" / "new").write_bytes(SOUND.bytes())
    blob = repository / "blobs" / file_sha256(repository / "blobs" / "new")
    (repository / "blobs" / "new").rename(blob)
    link = repository / "snapshots" / revision / "model.gguf"
    link.symlink_to(f"../../blobs/{blob.name}")
    assert resolve("hf:org/repo/model.gguf") == link
    damaged = bytearray(SOUND.bytes())
    damaged[-1] ^= 1
    blob.write_bytes(damaged)
    with pytest.raises(ModelError, match=rf"model\.gguf is damaged: its sha256 is .*, the hub's is {blob.name}"):
        resolve("hf:org/repo/model.gguf")


class Canary:
    """Unpickled, it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str, str]]:
        return open, (str(self.path), "w")


@pytest.mark.parametrize("name", ["pytorch_model.bin", "adapter_model.bin", "model.pt", "state.pkl"])
def test_a_pickle_is_never_read(name: str, tmp_path: Path) -> None:
    folder, canary = tmp_path / "model", tmp_path / "canary"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / name).write_bytes(pickle.dumps(Canary(canary)))
    with pytest.raises(ModelError, match="is a pickle"):
        check_folder(folder)
    assert not canary.exists()


@pytest.mark.parametrize("config", ["config.json", "tokenizer_config.json"])
def test_code_of_a_model_is_never_run(config: str, tmp_path: Path, tiny_folder: Callable[[str], Path]) -> None:
    from pairgrade.train.base_model import resolve_folder

    folder, canary = tmp_path / "model", tmp_path / "canary"
    shutil.copytree(tiny_folder("llama"), folder)
    (folder / "modeling_canary.py").write_text(f"open({str(canary)!r}, 'w')\n")
    table = json.loads((folder / config).read_text())
    table["auto_map"] = {"AutoModelForCausalLM": "modeling_canary.Model", "AutoConfig": "modeling_canary.Config"}
    (folder / config).write_text(json.dumps(table))
    with pytest.raises(ModelError, match="never does"):
        resolve_folder(str(folder), tmp_path / "base")
    assert not canary.exists()


def test_no_module_reads_pickles() -> None:
    root = Path(__file__).parents[2]
    banned = (
        "import pickle",
        "import dill",
        "import joblib",
        "import diskcache",
        "torch.load(",
        "trust_remote_code=True",
    )
    for folder in ("engine", "export", "train", "cli", "bench"):
        for path in (root / folder).glob("*.py"):
            source = path.read_text(encoding="utf-8")
            assert not [word for word in banned if word in source], path
