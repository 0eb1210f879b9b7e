import json
import subprocess
import sys

import pytest

from pairgrade.bench.ceiling import copy_gigabytes, fp32_gflops


def test_the_ceiling_is_measured() -> None:
    assert fp32_gflops() > 0.5
    assert copy_gigabytes() > 0.1


@pytest.mark.model
@pytest.mark.slow
@pytest.mark.usefixtures("smollm2_path")
def test_label_throughput_ends_with_one_json_line() -> None:
    command = [
        sys.executable,
        "-m",
        "pairgrade.bench.label_throughput",
        "--queries",
        "2",
        "--documents",
        "2",
        "--rounds",
        "1",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["pairs"] == 4
    for order in ("file_order", "shuffled"):
        assert {"high_level", "pairgrade"} <= set(result["pairs_per_second"][order])
        assert all(arm["median"] > 0 for arm in result["pairs_per_second"][order].values())
    assert 0 < result["share_in_model"] <= 1


@pytest.mark.model
@pytest.mark.slow
@pytest.mark.usefixtures("smollm2_path")
def test_llama_settings_tells_exact_settings_from_others() -> None:
    options = ["--queries", "1", "--documents", "3", "--rounds", "1"]
    command = [sys.executable, "-m", "pairgrade.bench.llama_settings", *options]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    settings = json.loads(done.stdout.splitlines()[-1])["settings"]
    assert settings["one document"]["off_by"] == 0
    assert settings["8 documents, unified KV"]["off_by"] > 0
    assert all(setting["median"] > 0 for setting in settings.values())
