"""What decides a run's result, written beside its output.

The identity is a flat table of names and values; two runs with equal identities give equal bytes. Everything else
(times, the machine's name, threads where they move no bit) is information.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pairgrade.atomic import write_text
from pairgrade.errors import ResumeError

Identity = dict[str, str]


@dataclass(frozen=True, slots=True)
class Manifest:
    """The manifest of one run; ``result`` is empty until the run has finished."""

    identity: Identity
    environment: dict[str, Any] = field(default_factory=dict)
    result: dict[str, Any] = field(default_factory=dict)

    def save(self, path: Path) -> None:
        """Write the manifest; it appears whole or not at all."""
        table = {"manifest": 1, "identity": self.identity, "environment": self.environment, "result": self.result}
        write_text(path, json.dumps(table, indent=2, allow_nan=False) + "\n")

    @classmethod
    def load(cls, path: Path) -> Manifest | None:
        """Read a manifest, or return None where there is none; ResumeError where the file is something else."""
        try:
            table = json.loads(path.read_text(encoding="utf-8"))
            parts = [table[name] for name in ("identity", "environment", "result")]
            if all(isinstance(part, dict) for part in parts):
                return cls(*parts)
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError, RecursionError):
            pass
        raise ResumeError(f"{path} is not a manifest of pairgrade; move it away or choose another output")


def identity_digest(identity: Identity) -> str:
    """Return the sha256 of an identity, in hex."""
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


def differences(old: Identity, new: Identity) -> list[str]:
    """Describe each field in which two identities differ."""
    lines = []
    for name in sorted(old.keys() | new.keys()):
        if old.get(name) != new.get(name):
            lines.append(f"{name} (was {old.get(name, 'absent')}, now {new.get(name, 'absent')})")
    return lines
