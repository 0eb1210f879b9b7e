"""What an ONNX folder says of where it comes from: provenance.json for machines, README.md for people.

manifest.json, which the engine reads, holds the facts that it needs and the sha256 of these files too.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pairgrade.atomic import write_text
from pairgrade.environment import package_version
from pairgrade.export.onnx_folder import OnnxSettings
from pairgrade.export.provenance import read_origin, told_of_shared
from pairgrade.export.verify import Verification
from pairgrade.file_hashes import file_sha256
from pairgrade.onnx_manifest import OnnxManifest
from pairgrade.trained_prompt import PROVENANCE, RUBRIC

if TYPE_CHECKING:
    from pairgrade.export.onnx_export import OnnxCheck

CARD = "README.md"
_PACKAGES = ("pairgrade", "onnx", "onnxruntime", "torch", "transformers")


def describe(
    work: Path,
    source: Path,
    name: str,
    settings: OnnxSettings,
    manifest: OnnxManifest,
    check: OnnxCheck | None,
    found: Verification | None,
) -> OnnxManifest:
    """Write the rubric of the training, provenance.json and README.md, and the manifest with them in it; return it."""
    origin = read_origin(source)
    if origin.trained:
        origin.trained.write(work)
    table: dict[str, Any] = {
        "kind": "onnx",
        **origin.provenance(check.task if check else None, settings.calibrated_on),
        "quant": manifest.quant,
        "recipe": manifest.recipe,
        "verification": found and _figures(found),
        "versions": {package: package_version(package) for package in _PACKAGES},
    }
    write_text(work / PROVENANCE, json.dumps(table, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
    rubric = check.task.rubric.name if check else ""
    shared = told_of_shared(table["shared_pairs"])
    lines = [
        f"# {name}",
        "",
        f"An ONNX export of {origin.name} in {manifest.quant}, which grades query-document pairs.",
        origin.use("FOLDER"),
        "",
        *_compared(found, rubric, shared),
        "",
        *origin.history(),
        "The licence is that of the base model. manifest.json holds the sha256 of each file, provenance.json what it",
        "was made from, how it was quantized and all that was measured.",
    ]
    write_text(work / CARD, "\n".join(lines) + "\n")
    own = (PROVENANCE, CARD, *([RUBRIC] if (work / RUBRIC).is_file() else []))
    whole = replace(manifest, files=manifest.files | {file: file_sha256(work / file) for file in own})
    whole.write(work)
    return whole


def _figures(found: Verification) -> dict[str, Any]:
    table = found.to_dict()
    names = ("floor", "passed", "problems", "fidelity", "strings", "different_strings", "different_prompts", "unfit")
    return {name: table[name] for name in names}


def _compared(found: Verification | None, rubric: str, shared: str) -> list[str]:
    if found is None:
        return ["It was not compared with the original."]
    f = found.fidelity
    verdict = "It kept its floor."
    if found.problems:
        verdict = f"**It is below its floor** ({'; '.join(found.problems)}) and was kept by `--allow-below-floor`."
    rows = [
        ("share of equal grades", f"{f.agreement:.3f}", found.floor.agreement),
        ("mean KL divergence over the label words, nats", f"{f.mean_kl:.2g}", found.floor.mean_kl),
        ("99% quantile of the KL", f"{f.p99_kl:.2g}", None),
        ("largest difference of a label logit", f"{f.max_logit_difference:.2g}", found.floor.max_logit),
        (f"odd strings with other ids, of {found.strings}", str(len(found.different_strings)), 0),
    ]
    return [
        f"Compared with the original in float32 on {f.pairs} pairs{shared}, by the rubric `{rubric}`. {verdict}",
        "",
        "| | value | floor |",
        "|---|---|---|",
        *(f"| {name} | {value} | {'' if limit is None else limit} |" for name, value, limit in rows),
    ]
