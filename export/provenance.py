"""Where an export comes from, as its manifest tells it and its model card shows it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pairgrade.export.measure import Task
from pairgrade.file_hashes import MANIFEST
from pairgrade.records import Pair
from pairgrade.train.base_model import folder_digest
from pairgrade.train.trained_prompt import RUBRIC, TrainedPrompt, read_trained_prompt


def provenance(source: Path, check: Task | None, calibration: Task | None) -> dict[str, Any]:
    """Return what a folder was exported from, and the pairs that it was compared and calibrated on."""
    origin = _manifest(source)
    identity, trained = origin.get("identity"), read_trained_prompt(source)
    return {
        "source": {"name": source.resolve().name, "sha256": folder_digest(source)},
        "base": origin.get("base"),
        "adapter": origin.get("adapter"),
        "data": identity.get("input") if isinstance(identity, dict) else None,  # what the adapter was trained on
        "prompt": trained and trained.to_dict(),  # of the training
        "rubric": check and {"name": check.rubric.name, "sha256": check.rubric.digest},
        "check": check and _pairs(check),
        "calibration": calibration and _pairs(calibration),
    }


def origin_words(source: Path) -> str:
    """Name the folder that was exported, and its base."""
    base = _manifest(source).get("base")
    return f"`{source.resolve().name}`" + (f" (base: {Path(str(base)).name})" if base else "")


def use_words(trained: TrainedPrompt | None, model: str) -> str:
    """Say how to label, with the prompt of the training."""
    command = f"pairgrade label PAIRS --model {model}"
    if trained is None:
        return f"`{command}`."
    known = f" --rubric {RUBRIC}" if trained.rubric else ""
    return (
        f"`{command}{known} --ctx {trained.context}`: the rubric{' (rubric.toml)' if known else ''} and the longest "
        "prompt of its training."
    )


def _pairs(task: Task) -> dict[str, Any]:
    return {"pairs": len(task.pairs), "sha256": pairs_digest(task.pairs)}


def _manifest(source: Path) -> dict[str, Any]:
    """Return the manifest of the folder that is exported, or nothing where it has none."""
    try:
        table = json.loads((source / MANIFEST).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError, RecursionError):
        return {}
    return table if isinstance(table, dict) else {}


def pairs_digest(pairs: Iterable[Pair]) -> str:
    """Return the sha256 of some pairs, in their order."""
    state = hashlib.sha256()
    for pair in pairs:
        state.update(json.dumps(asdict(pair), ensure_ascii=False).encode("utf-8", "surrogatepass") + b"\n")
    return state.hexdigest()
