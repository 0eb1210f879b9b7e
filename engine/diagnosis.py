"""What this machine and this installation can do: processor, memory, libraries, and which features work."""

from __future__ import annotations

import importlib.util
import json
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from pairgrade.advisories import ADVISORIES, Advisory, known_bad
from pairgrade.environment import environment, package_version
from pairgrade.hardware import cpu_features, has_vnni, memory_bytes
from pairgrade.native_library import native_kind
from pairgrade.onnx_manifest import MIN_PYTHON, installed_is_too_old

_IMPORT_SECONDS = 300.0
_MARK = "import:"
_IMPORTER = f"""
import sys
names, sys.path[:] = sys.argv[1], sys.argv[2:]
import importlib, json
for name in json.loads(names):
    why = ""
    try:
        importlib.import_module(name)
    except Exception as error:
        why = f"{{type(error).__name__}}: {{error}}".splitlines()[0]
    print("{_MARK}" + json.dumps(why), flush=True)
"""


# Prints which 8-bit product is exact here; the paths of this process come behind.
_PROBER = f"""
import sys
sys.path[:] = sys.argv[1:]
from pairgrade.onnx_session import product_kind
print("{_MARK}" + product_kind())
"""


@dataclass(frozen=True, slots=True)
class Feature:
    """Something that needs optional libraries."""

    name: str
    modules: tuple[str, ...]  # imported in a process of their own to see whether they work here
    extra: str | None  # of pairgrade, that installs them; None: a plain installation has them


FEATURES = (
    Feature("label with GGUF models", ("llama_cpp",), None),
    Feature("label with ONNX models", ("onnxruntime", "tokenizers"), "onnx"),
    Feature("export to ONNX", ("onnx", "onnxruntime", "optimum", "torch", "transformers"), "train"),
    Feature("export to GGUF", ("gguf", "optimum", "torch", "transformers"), "train"),
    Feature("train an annotator", ("torch", "transformers", "peft"), "train"),
    Feature("train a re-ranker", ("torch", "sentence_transformers"), "rerank"),
    Feature("read ir_datasets", ("ir_datasets",), "irds"),
)

_LIBRARIES = (
    *("llama-cpp-python", "onnxruntime", "onnxruntime-gpu", "onnx", "torch", "transformers", "tokenizers"),
    *("safetensors", "peft", "sentence-transformers", "gguf", "numpy", "pyarrow", "huggingface-hub", "ir-datasets"),
)


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a feature works here, and if not, why."""

    feature: str
    works: bool
    why: str = ""


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """What was found; no engine was loaded into this process."""

    environment: dict[str, Any]
    cpu_features: tuple[str, ...]
    vnni: bool  # 8-bit products are one instruction
    onnx_product: str  # ONNX Runtime's 8-bit product that is exact here, u8s8 or u8u8; "none"
    own_pass: str  # by what pairgrade's own pass multiplies int8 models, amx or vnni; "none"
    memory_bytes: int | None  # that this process may use
    memory_free_bytes: int | None
    libraries: dict[str, str]  # version, or "none"
    advisories: tuple[Advisory, ...]  # that installed versions fall under
    verdicts: tuple[Verdict, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON-ready values."""
        return asdict(self)


def diagnose(features: tuple[Feature, ...] = FEATURES) -> Diagnosis:
    """Look at the machine and try each feature's libraries."""
    versions = {name: package_version(name) for name in _LIBRARIES}
    checked = dict.fromkeys(advisory.library for advisory in ADVISORIES)
    memory = memory_bytes()
    has = cpu_features()
    modules = dict.fromkeys(module for feature in features for module in feature.modules)
    faults = _faults([module for module in modules if importlib.util.find_spec(module) is not None])
    if why := installed_is_too_old():
        faults["onnxruntime"] = why
    return Diagnosis(
        environment=environment(),
        cpu_features=tuple(sorted(has)),
        vnni=has_vnni(has),
        onnx_product=exact_product(),
        own_pass=native_kind(),
        memory_bytes=memory[0] if memory else None,
        memory_free_bytes=memory[1] if memory else None,
        libraries=versions,
        advisories=tuple(a for name in checked for a in known_bad(name, package_version(name))),
        verdicts=tuple(_verdict(feature, faults) for feature in features),
    )


def exact_product() -> str:
    """Return which of ONNX Runtime's 8-bit products is exact on this processor, "none" where it is not to be had.

    It is tried in a process of its own.
    """
    if importlib.util.find_spec("onnxruntime") is None:
        return "none"
    command = [sys.executable, "-c", _PROBER, *sys.path]
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=_IMPORT_SECONDS)
    except subprocess.TimeoutExpired:
        return "none"
    return next((line.partition(_MARK)[2] for line in done.stdout.splitlines() if line.startswith(_MARK)), "none")


def _verdict(feature: Feature, faults: Mapping[str, str]) -> Verdict:
    missing = [module for module in feature.modules if importlib.util.find_spec(module) is None]
    if missing:
        if "onnxruntime" in missing and sys.version_info[:2] < MIN_PYTHON:
            oldest = ".".join(map(str, MIN_PYTHON))
            return Verdict(feature.name, False, f"onnxruntime needs Python {oldest} or later")
        target = f"'pairgrade[{feature.extra}]'" if feature.extra else "pairgrade"
        return Verdict(feature.name, False, f"{', '.join(missing)} not installed; run: pip install {target}")
    why = "; ".join(f"{module}: {faults[module]}" for module in feature.modules if module in faults)
    return Verdict(feature.name, not why, why)


def _faults(modules: Sequence[str]) -> dict[str, str]:
    """Import modules in a process of their own and return what is wrong with those that cannot be.

    A module that ends the process is such a one; those behind it are tried in the next.
    """
    found: dict[str, str] = {}
    left = list(modules)
    while left:
        command = [sys.executable, "-c", _IMPORTER, json.dumps(left), *sys.path]
        try:
            done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=_IMPORT_SECONDS)
        except subprocess.TimeoutExpired:
            return found | dict.fromkeys(left, f"importing it and others took more than {_IMPORT_SECONDS:.0f} s")
        lines = [line.partition(_MARK)[2] for line in done.stdout.splitlines() if line.startswith(_MARK)]
        found |= {name: why for name, why in zip(left, map(json.loads, lines), strict=False) if why}
        left = left[len(lines) :]
        if left:
            found[left.pop(0)] = _ending(done.returncode)
    return found


def _ending(code: int) -> str:
    if code >= 0:
        return f"importing it ends the process with exit code {code}"
    name = signal.Signals(-code).name
    hint = "; it was built for another processor" if name == "SIGILL" else ""
    return f"importing it ends the process by {name}{hint}"
