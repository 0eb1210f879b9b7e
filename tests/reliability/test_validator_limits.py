"""What a damaged byte does not bring about: files made to cost memory or time, and to be read in two ways."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pairgrade import ModelError
from pairgrade.export.weights import Weights
from pairgrade.file_hashes import file_sha256, remembered_sha256, verify_files
from pairgrade.folder_check import check_folder
from pairgrade.gguf_check import check_gguf
from pairgrade.onnx_check import check_onnx
from pairgrade.safetensors_check import check_safetensors
from tiny_gguf import ARRAY, SOUND, STRING, text

TITLE = "\x1b]0;title\x07"  # a terminal obeys it
PEAK = """
import sys
from pathlib import Path
from pairgrade import ModelError
from pairgrade.gguf_check import check_gguf
try:
    check_gguf(Path(sys.argv[1]))
except ModelError:
    lines = Path("/proc/self/status").read_text().splitlines()  # getrusage would begin with the parent's peak
    print(next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) // 1024)
"""


def safetensors(path: Path, name: str = "a") -> Path:
    header = json.dumps({name: {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]}}).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header + b"\0")
    return path


def varint(value: int) -> bytes:
    low, rest = value & 127, value >> 7
    return bytes([low | 128]) + varint(rest) if rest else bytes([low])


def field(number: int, content: bytes, tag: int = 0) -> bytes:
    return varint(tag | number << 3 | 2) + varint(len(content)) + content


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="no peak memory by this means")
@pytest.mark.parametrize("key", ["general.name", "general.architecture"])
def test_a_long_text_takes_no_memory(key: str, tmp_path: Path) -> None:
    path = tmp_path / "long.gguf"
    with path.open("wb") as file:  # sparse
        file.write(b"GGUF" + struct.pack("<IQQ", 3, 1, 1) + text(key) + struct.pack("<IQ", STRING, 400_000_000))
        file.truncate(500_000_000)
    done = subprocess.run([sys.executable, "-c", PEAK, str(path)], capture_output=True, text=True, check=True)
    assert 0 < int(done.stdout) < 200


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="no peak memory by this means")
def test_long_tokens_take_no_memory_together(tmp_path: Path) -> None:
    path, token = tmp_path / "long.gguf", struct.pack("<Q", 60_000)
    with path.open("wb") as file:  # sparse
        file.write(b"GGUF" + struct.pack("<IQQ", 3, 1, 1) + text("tokenizer.ggml.tokens"))
        file.write(struct.pack("<IIQ", ARRAY, STRING, 10_000))
        for _ in range(10_000):
            file.write(token)
            file.seek(60_000, os.SEEK_CUR)
        file.truncate(file.tell() + 1000)
    done = subprocess.run([sys.executable, "-c", PEAK, str(path)], capture_output=True, text=True, check=True)
    assert 0 < int(done.stdout) < 200


def test_a_million_texts_are_the_most(tmp_path: Path) -> None:
    many = struct.pack("<IQ", STRING, 4_000_000) + (struct.pack("<Q", 1) + b"a") * 4_000_000
    (tmp_path / "x.gguf").write_bytes(SOUND.entry(general__tags=(ARRAY, many)).bytes())
    start = time.process_time()
    with pytest.raises(ModelError, match=r"4,000,000 strings in 'general\.tags'"):
        check_gguf(tmp_path / "x.gguf")
    assert time.process_time() - start < 2


def test_a_message_is_short_and_harmless(tmp_path: Path) -> None:
    files: dict[str, tuple[Callable[[Path], object], bytes]] = {
        "key.gguf": (check_gguf, SOUND.entry(**{TITLE: (77, b"")}).bytes()),
        "architecture.gguf": (check_gguf, SOUND.entry(general__architecture=(STRING, text("a" * 10**6))).bytes()),
        "tensor.gguf": (check_gguf, SOUND.tensor(TITLE, (64, 4), 99).bytes()),
        "m.onnx": (check_onnx, field(7, field(5, field(8, TITLE.encode()) + field(13, field(1, b"location"))))),
    }
    for name, (check, content) in files.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ModelError) as caught:
            check(tmp_path / name)
        assert "\x1b" not in str(caught.value)
        assert len(str(caught.value)) < 600 + len(str(tmp_path))
    path = safetensors(tmp_path / "x.safetensors", TITLE)
    path.write_bytes(path.read_bytes() + b"\0" * 3)
    with pytest.raises(ModelError) as caught:
        check_safetensors(path)
    assert "\x1b" not in str(caught.value)


@pytest.mark.parametrize("where", ["", "sub"])
@pytest.mark.parametrize("part", ["weights.bin", "../outside.safetensors", "/etc/passwd", 7])
def test_a_list_of_parts_names_safetensors_of_its_folder(where: str, part: object, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    (folder / where).mkdir(parents=True)
    safetensors(folder / "model.safetensors")
    index = folder / where / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": part}}))
    with pytest.raises(ModelError, match=r"a part is a \.safetensors file of the same folder"):
        check_folder(folder)
    index.write_text(json.dumps({"weight_map": {"a": "model.safetensors"}}))
    check_folder(folder)


def test_no_pickle_is_read_through_a_list_of_parts(tmp_path: Path, tiny_folder: Callable[[str], Path]) -> None:
    torch = pytest.importorskip("torch")
    from safetensors.torch import load_file

    from pairgrade.train.base_model import resolve_folder

    folder = tmp_path / "model"
    folder.mkdir()
    source = tiny_folder("llama")
    weights = load_file(source / "model.safetensors")
    for path in source.glob("*.json"):
        (folder / path.name).write_bytes(path.read_bytes())
    torch.save(weights, tmp_path / "outside.bin")
    safetensors(folder / "other.safetensors")  # or the folder is refused for having none
    parts = {"metadata": {}, "weight_map": dict.fromkeys(weights, "../outside.bin")}
    (folder / "model.safetensors.index.json").write_text(json.dumps(parts))
    with pytest.raises(ModelError, match=r"a part is a \.safetensors file"):
        resolve_folder(str(folder), tmp_path / "base")


@pytest.mark.parametrize("bits", [1 << 32, 1 << 34])
def test_a_field_number_that_other_readers_cut_is_refused(bits: int, tmp_path: Path) -> None:
    tensor = field(13, field(1, b"location") + field(2, b"../secret")) + varint(14 << 3) + b"\x01"
    for content in (field(7, field(5, tensor), bits), field(7, field(5, tensor, bits))):
        (tmp_path / "m.onnx").write_bytes(content)
        with pytest.raises(ModelError, match="impossible number"):
            check_onnx(tmp_path / "m.onnx")


def test_an_address_in_memory_is_no_file(tmp_path: Path) -> None:
    name = "*/_ORT_MEM_ADDR_/*"
    (tmp_path / name).parent.mkdir(parents=True)
    (tmp_path / name).write_bytes(bytes(64))
    tensor = field(13, field(1, b"location") + field(2, name.encode())) + varint(14 << 3) + b"\x01"
    (tmp_path / "m.onnx").write_bytes(field(7, field(5, tensor)))
    with pytest.raises(ModelError, match="in memory"):
        check_onnx(tmp_path / "m.onnx")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
@pytest.mark.parametrize("check", [check_safetensors, check_onnx])
def test_a_pipe_is_not_waited_for(check: Callable[[Path], int], tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ModelError, match="no regular file"):
        check(tmp_path / "pipe")


def test_a_manifest_beside_a_file_is_compared(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(b"model")
    (tmp_path / "m.gguf.manifest.json").write_text(json.dumps({"files": {"m.gguf": file_sha256(path)}}))
    verify_files(path)
    path.write_bytes(b"Model")
    with pytest.raises(ModelError, match="expected is"):
        verify_files(path)


def test_a_deep_memory_is_no_harm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PAIRGRADE_CACHE", str(tmp_path))
    (tmp_path / "hashes.json").write_text("[" * 100_000)
    (tmp_path / "large.bin").write_bytes(bytes(2**20 + 1))
    assert remembered_sha256(tmp_path / "large.bin") == file_sha256(tmp_path / "large.bin")


@pytest.mark.skipif(sys.platform == "win32", reason="the inode's time of change is the time of creation there")
def test_a_file_whose_time_was_set_back_is_hashed_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PAIRGRADE_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "large.bin"
    for content in (b"\0", b"\1"):
        path.write_bytes(content * (2**20 + 1))
        os.utime(path, (1, 1))  # long ago; what has just changed is not remembered
        assert remembered_sha256(path) == file_sha256(path)
    assert (tmp_path / "cache" / "hashes.json").exists()


def test_the_index_cannot_name_files_elsewhere(tmp_path: Path) -> None:
    parts = {"weight_map": {"a": "../other.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(parts))
    with pytest.raises(ModelError, match="not a plain name"):
        Weights(tmp_path)
