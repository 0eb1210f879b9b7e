"""What a training run leaves: the adapter in peft's format, a report, pictures, a manifest and a model card."""

from __future__ import annotations

import json
import logging
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pairgrade.atomic import write_text
from pairgrade.errors import InputError, ModelError
from pairgrade.export.output import new_folder
from pairgrade.export.provenance import base_name
from pairgrade.file_hashes import MANIFEST, folder_sha256s
from pairgrade.manifest import Identity
from pairgrade.qrels import write_qrels
from pairgrade.rubric import Rubric
from pairgrade.train.curves import draw_confusions, draw_curves
from pairgrade.train.dequantize import base_source
from pairgrade.trained_prompt import write_rubric

if TYPE_CHECKING:
    from pairgrade.train.run import Trained


_log = logging.getLogger(__name__)
HELD_OUT = "held-out.qrels"  # the pairs that people graded, of queries that no step was trained on


def save_adapter(
    model: Any,
    trained: Trained,
    identity: Identity,
    options: dict[str, Any],
    rubric: Rubric,
    *,
    replace: bool = False,
) -> None:
    """Write the adapter's folder; it appears whole or not at all. InputError where it exists, unless to ``replace``."""
    with new_folder(trained.adapter, replace=replace) as work:
        model.save_pretrained(str(work), safe_serialization=True, save_embedding_layers=False)
        (work / "README.md").unlink(missing_ok=True)  # peft's form, with nothing filled in
        write_text(work / "report.json", json.dumps(_report(trained, options), indent=2, allow_nan=False) + "\n")
        if trained.held_out:
            try:
                write_qrels(work / HELD_OUT, trained.held_out)
            except InputError as error:  # ids that qrels cannot hold; the report has the queries in any case
                _log.warning("%s is not written: %s", HELD_OUT, error)
        draw_curves(trained.losses, trained.evaluations, work / "curves.png")
        draw_confusions(trained.evaluations[0], trained.best, rubric.values, work / "confusion.png")
        base = {"base": str(trained.base.resolve()), "base_source": base_source(trained.base, trained.given)}
        write_text(work / "README.md", _card(trained, options, rubric, identity, base, work))
        write_rubric(rubric, work)
        table = {
            "kind": "adapter",
            **base,
            "rubric": rubric.name,
            "identity": identity,
            "validation": asdict(trained.best),
            "files": folder_sha256s(work),
        }
        write_text(work / MANIFEST, json.dumps(table, indent=2, allow_nan=False) + "\n")


def read_manifest(adapter: Path) -> dict[str, Any]:
    """Read an adapter's manifest; ModelError where there is none."""
    try:
        table = json.loads((adapter / MANIFEST).read_text(encoding="utf-8"))
        if isinstance(table, dict) and table.get("kind") == "adapter":
            texts = [table.get(name) for name in ("base", "rubric")]
            if all(isinstance(t, str) and "\0" not in t for t in texts) and isinstance(table.get("identity"), dict):
                return table
    except (FileNotFoundError, NotADirectoryError, ValueError, RecursionError):
        pass
    raise ModelError(f"{adapter} is not an adapter of `pairgrade train` (no sound {MANIFEST} that says so)")


def _report(trained: Trained, options: dict[str, Any]) -> dict[str, Any]:
    return {
        "schema": 1,
        "options": options,
        "pairs": {
            "train": len(trained.split.train),
            "train_queries": trained.split.train_queries,
            "train_grades": trained.split.train_grades,
            "validation": len(trained.split.validation),
            "validation_queries": trained.split.validation_queries,
            "validation_grades": trained.split.validation_grades,
            "with_soft_targets": trained.softened,
            "rejected": trained.rejected,
        },
        "validation_query_ids": trained.held_queries,
        "steps": trained.steps,
        "stopped_early": trained.stopped_early,
        "seconds": round(trained.seconds, 1),
        "before": asdict(trained.evaluations[0]),
        "best": asdict(trained.best),
        "evaluations": [asdict(e) for e in trained.evaluations],
        "losses": trained.losses,
    }


def _card(
    trained: Trained, options: dict[str, Any], rubric: Rubric, identity: Identity, base: dict[str, Any], work: Path
) -> str:
    before, best = trained.evaluations[0], trained.best
    digest = base["base_source"]["sha256"]  # of the GGUF, where it is one
    rows = [("loss", before.loss, best.loss), ("quadratic kappa", before.kappa, best.kappa)]
    rows += [("Kendall tau-b", before.tau, best.tau), ("accuracy", before.accuracy, best.accuracy)]
    held = ["`held-out.qrels` has what people graded of the validation queries, not trained on: calibrate there."]
    lines = [
        f"# {trained.adapter.name}",
        "",
        f"A LoRA adapter (rank {options['rank']}) that grades query-document pairs by the rubric `{rubric.name}`, "
        f"trained with pairgrade on {base_name(base)}{f', sha256 {digest}' if digest else ''}.",
        "",
        f"Trained on {len(trained.split.train)} pairs of {trained.split.train_queries} queries "
        f"({counted(trained.split.train_grades)}; of the input with sha256 {identity['input']}), "
        f"{trained.steps} steps; the step {best.step} was the best on {len(trained.split.validation)} validation pairs "
        f"of {trained.split.validation_queries} other queries:",
        "",
        *_softened(trained, options, identity),
        "| | before | after |",
        "|---|---|---|",
        *(f"| {name} | {_figure(a)} | {_figure(b)} |" for name, a, b in rows),
        "",
        *(held if (work / HELD_OUT).is_file() else []),
        "The validation pairs chose the step, so a test on pairs of their own is needed before the figures are",
        "believed. Merge it with `pairgrade merge`, export it with `pairgrade export`. Only for the rubric it was",
        f"trained with, `rubric.toml`, and prompts of at most {options['context']} tokens (`label --ctx`).",
    ]
    return "\n".join(lines) + "\n"


def _softened(trained: Trained, options: dict[str, Any], identity: Identity) -> list[str]:
    """Say where probabilities of another annotator were learnt in the place of people's grades."""
    if not trained.softened:
        return []
    share = f", a share of {options['soft_weight']:g} of the target" if options["soft_weight"] < 1 else ""
    return [
        f"Of all usable pairs {trained.softened:,} have the probabilities of another annotator as their target{share} "
        f"(judgments with sha256 {identity['soft']}).",
        "",
    ]


def counted(grades: dict[int, int]) -> str:
    """Return in words how many pairs each grade has."""
    return "grade " + ", ".join(f"{grade}: {count}" for grade, count in grades.items())


def _figure(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.3f}"
