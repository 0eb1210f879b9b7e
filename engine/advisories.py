"""Library versions with known holes that a model file could use; loads refuse them by the advisory's name.

Only advisories about what a model file, a checkpoint or its configuration can do are listed: that is what people
get from somewhere. ``pairgrade doctor`` shows the table against what is installed. onnxruntime has none that we
could confirm; its oldest version that is used at all is set in ``pairgrade.onnx_manifest``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache

from pairgrade.environment import package_version
from pairgrade.errors import ModelError


@dataclass(frozen=True, slots=True)
class Advisory:
    """Versions of a library from ``first`` on and before ``fixed`` are affected."""

    library: str  # distribution name
    first: str
    fixed: str
    name: str
    why: str


ADVISORIES = (
    Advisory("llama-cpp-python", "0", "0.2.72", "CVE-2024-34359",
             "a chat template in a GGUF file runs code when the high-level class loads it"),
    Advisory("onnx", "0", "1.13.0", "CVE-2022-25882", "external data may be read from outside the model's folder"),
    Advisory("onnx", "0", "1.16.0", "CVE-2024-27318", "external data may be read from outside the model's folder"),
    Advisory("onnx", "0", "1.21.0", "CVE-2026-27489", "external data may leave the model's folder by symbolic links"),
    Advisory("onnx", "0", "1.21.0", "CVE-2026-34446", "external data may leave the model's folder by hard links"),
    Advisory("torch", "0", "2.6.0", "CVE-2025-32434", "torch.load runs code even with weights_only=True"),
    Advisory("torch", "0", "2.10.0", "CVE-2026-24747", "torch.load corrupts memory even with weights_only=True"),
    Advisory("transformers", "0", "4.36.0", "CVE-2023-6730", "loading a checkpoint unpickles data from the hub"),
    Advisory("transformers", "0", "5.3.0", "CVE-2026-4372",
             "a model's configuration makes it run code from the hub without trust_remote_code"),
)  # fmt: skip


_VERSION = re.compile(r"(?:\d+!)?(\d+(?:\.\d+)*)(?:[-_.]?(a|b|c|rc|alpha|beta|pre|preview|dev)[-_.]?\d*)?")


@cache
def known_bad(library: str, version: str) -> tuple[Advisory, ...]:
    """Return the advisories that a version of a library falls under; none for "none", a library not installed."""
    if version == "none":
        return ()
    if not _VERSION.match(version):  # nobody can say that it is a sound one
        return tuple(a for a in ADVISORIES if a.library == library)
    found = _parts(version)
    return tuple(a for a in ADVISORIES if a.library == library and _parts(a.first) <= found < _parts(a.fixed))


def refused_before() -> dict[str, str]:
    """Return, by library, the first version that falls under none of the advisories."""
    return {
        library: max((a.fixed for a in ADVISORIES if a.library == library), key=_parts)
        for library in dict.fromkeys(advisory.library for advisory in ADVISORIES)
    }


def refuse_known_bad(*libraries: str) -> None:
    """Raise ModelError where an installed one of these libraries is known to be bad, naming the advisories."""
    for library in libraries:
        version = package_version(library)
        bad = known_bad(library, version)
        if bad:
            reasons = "; ".join(f"{advisory.name}: {advisory.why}" for advisory in bad)
            fixed = max((advisory.fixed for advisory in bad), key=_parts)
            raise ModelError(
                f"{library} {version} is installed, which is known to be unsafe ({reasons}); no model is loaded with "
                f"it. Upgrade it: pip install '{library}>={fixed}'"
            )


def _parts(version: str) -> tuple[tuple[int, ...], int]:
    """Order versions by their numbers, a release before its candidates' end: 2.6.0rc1 < 2.6.0 = 2.6 <= 2.6.0+cpu."""
    match = _VERSION.match(version)
    assert match is not None
    numbers = [int(part) for part in match[1].split(".")]
    while numbers and numbers[-1] == 0:
        numbers.pop()
    return tuple(numbers), -1 if match[2] else 0
