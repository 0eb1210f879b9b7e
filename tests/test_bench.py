import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pairgrade.bench.ceiling import copy_gigabytes, fp32_gflops


def test_the_ceiling_is_measured() -> None:
    assert fp32_gflops() > 0.5
    assert copy_gigabytes() > 0.1


@pytest.fixture
def model(tiny_folder: Callable[[str], Path], tmp_path: Path) -> Path:
    from pairgrade.export.gguf_writer import write_gguf

    write_gguf(tiny_folder("llama"), tmp_path / "tiny.gguf")
    return tmp_path / "tiny.gguf"


def result_of(bench: str, model: Path, *options: str) -> dict[str, Any]:
    command = [sys.executable, "-m", f"pairgrade.bench.{bench}", "--model", str(model), "--rounds", "1", *options]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def test_label_throughput_ends_with_one_json_line(model: Path) -> None:
    result = result_of("label_throughput", model, "--queries", "2", "--documents", "2")
    assert result["pairs"] == 4
    for order in ("file_order", "shuffled"):
        assert {"high_level", "pairgrade"} <= set(result["pairs_per_second"][order])
        assert all(arm["median"] > 0 for arm in result["pairs_per_second"][order].values())
    assert 0 < result["share_in_model"] <= 1


def test_llama_settings_tells_exact_settings_from_others(model: Path) -> None:
    settings = result_of("llama_settings", model, "--queries", "1", "--documents", "3")["settings"]
    assert settings["one document"]["off_by"] == 0
    assert settings["one document, flash attention"]["off_by"] > 1e-4
    assert settings["8 documents, unified KV"]["off_by"] > 0
    assert all(setting["median"] > 0 for setting in settings.values())
