"""What a folder of GGUF files says of itself: manifest.json for machines, README.md for people."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from pairgrade.atomic import write_text
from pairgrade.environment import package_version
from pairgrade.export.measure import Task
from pairgrade.export.provenance import Origin, told_of_shared
from pairgrade.file_hashes import MANIFEST, folder_sha256s

if TYPE_CHECKING:
    from pairgrade.export.gguf_export import ExportReport

_PACKAGES = ("pairgrade", "gguf", "llama-cpp-python", "torch", "transformers")


def write_manifest(work: Path, origin: Origin, report: ExportReport, check: Task, calibration: Task | None) -> None:
    """Write manifest.json over the files that lie in ``work``."""
    table = {
        "kind": "gguf",
        "files": folder_sha256s(work),
        **origin.provenance(check, calibration),
        "quants": {file.file: file.to_dict() for file in report.files},
        "versions": {name: package_version(name) for name in _PACKAGES},
    }
    write_text(work / MANIFEST, json.dumps(table, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def write_card(work: Path, origin: Origin, report: ExportReport) -> None:
    """Write README.md: what the files are and what was measured."""
    check = report.files[0].verification
    rows = [
        f"| {f.file if f.kept else f'({f.quant.name}, refused)'} | {f.size / 1e6:,.1f} | "
        f"{'yes' if f.importance else 'no'} | {f.verification.fidelity.agreement:.3f} | "
        f"{f.verification.fidelity.mean_kl:.2g} | {f.verification.fidelity.p99_kl:.2g} | "
        f"{'; '.join(f.verification.problems) or 'kept'} |"
        for f in report.files
    ]
    lines = [
        f"# {report.out.name}",
        "",
        f"GGUF files of {origin.name}, which grade query-document pairs.",
        origin.use("FILE"),
        "",
        f"Each was compared with the original in float32 on {check.fidelity.pairs} pairs"
        f"{told_of_shared(report.shared_pairs)}: the share of equal grades, "
        f"the KL divergence over the label words (nats), and the ids of {check.strings} odd strings.",
        "",
        "| file | MB | importance matrix | agreement | mean KL | 99% KL | floor |",
        "|---|---|---|---|---|---|---|",
        *rows,
        "",
        *origin.history(),
        "The licence is that of the base model. manifest.json holds the sha256 of each file.",
    ]
    write_text(work / "README.md", "\n".join(lines) + "\n")
