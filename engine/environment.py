"""Where a run took place: information for people, and the versions a result depends on."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from pairgrade.hardware import cpu_model, usable_cores

_PACKAGES = ("pairgrade", "llama-cpp-python", "onnxruntime", "tokenizers", "numpy")


def package_version(name: str = "pairgrade") -> str:
    """Return the version of an installed package, or "none"."""
    try:
        return version(name)
    except PackageNotFoundError:
        return "none"


def environment() -> dict[str, Any]:
    """Describe the machine and the software, JSON-ready."""
    return {
        "cpu": cpu_model(),
        "cores": usable_cores(),
        "machine": platform.machine(),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "packages": {name: package_version(name) for name in _PACKAGES},
        "process": os.getpid(),
    }
