"""What a folder of GGUF files says of itself: manifest.json for machines, README.md for people."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pairgrade.atomic import write_text
from pairgrade.environment import package_version
from pairgrade.export.measure import Task
from pairgrade.file_hashes import MANIFEST, folder_sha256s
from pairgrade.records import Pair
from pairgrade.train.base_model import folder_digest

if TYPE_CHECKING:
    from pairgrade.export.gguf_export import ExportReport

_PACKAGES = ("pairgrade", "gguf", "llama-cpp-python", "torch", "transformers")


def write_manifest(work: Path, source: Path, report: ExportReport, check: Task, calibration: Task | None) -> None:
    """Write manifest.json over the files that lie in ``work``."""
    origin = source_manifest(source)
    identity = origin.get("identity") or {}
    table = {
        "kind": "gguf",
        "files": folder_sha256s(work),
        "source": {"name": source.resolve().name, "sha256": folder_digest(source)},
        "base": origin.get("base"),
        "adapter": origin.get("adapter"),
        "data": identity.get("input") if isinstance(identity, dict) else None,  # what the adapter was trained on
        "rubric": {"name": check.rubric.name, "sha256": check.rubric.digest},
        "check": {"pairs": len(check.pairs), "sha256": pairs_digest(check.pairs)},
        "calibration": calibration and {"pairs": len(calibration.pairs), "sha256": pairs_digest(calibration.pairs)},
        "quants": {file.file: file.to_dict() for file in report.files},
        "versions": {name: package_version(name) for name in _PACKAGES},
    }
    write_text(work / MANIFEST, json.dumps(table, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def write_card(work: Path, source: Path, report: ExportReport) -> None:
    """Write README.md: what the files are and what was measured."""
    check = report.files[0].verification
    rows = [
        f"| {f.file if f.kept else f'({f.quant.name}, refused)'} | {f.size / 1e6:,.1f} | "
        f"{'yes' if f.importance else 'no'} | {f.verification.fidelity.agreement:.3f} | "
        f"{f.verification.fidelity.mean_kl:.2g} | {f.verification.fidelity.p99_kl:.2g} | "
        f"{'; '.join(f.verification.problems) or 'kept'} |"
        for f in report.files
    ]
    base = source_manifest(source).get("base")
    lines = [
        f"# {report.out.name}",
        "",
        f"GGUF files of `{source.resolve().name}`" + (f" (base: {Path(str(base)).name})" if base else "") + ", which "
        "grade query-document pairs: `pairgrade label PAIRS --model FILE`.",
        "",
        f"Each was compared with the original in float32 on {check.fidelity.pairs} pairs: the share of equal grades, "
        f"the KL divergence over the label words (nats), and the ids of {check.strings} odd strings.",
        "",
        "| file | MB | importance matrix | agreement | mean KL | 99% KL | floor |",
        "|---|---|---|---|---|---|---|",
        *rows,
        "",
        "The licence is that of the base model. manifest.json holds the sha256 of each file.",
    ]
    write_text(work / "README.md", "\n".join(lines) + "\n")


def source_manifest(source: Path) -> dict[str, Any]:
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
