"""``pairgrade export``: from a transformers folder to files that the engine runs."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import rich_click as click
from rich.table import Table

from pairgrade.cli import PARTIAL, options
from pairgrade.cli.check_options import check_options, floor, task
from pairgrade.cli.consoles import result_console
from pairgrade.cli.unfinished import whole_or_nothing
from pairgrade.errors import ModelError
from pairgrade.export.quantize import QUANTS, quants
from pairgrade.onnx_manifest import QUANTS as ONNX_QUANTS
from pairgrade.onnx_manifest import is_onnx_folder

if TYPE_CHECKING:
    from pairgrade.export.gguf_export import ExportReport

_log = logging.getLogger(__name__)


def _gguf(folder: Path, out: Path, quant: str | None, values: dict[str, Any]) -> None:
    from pairgrade.cli.progress import TerminalProgress
    from pairgrade.export.gguf_export import GgufOptions, export_gguf
    from pairgrade.export.verify import floor_of

    found, path = quants(quant or "q8_0"), values["calibration_pairs"]
    calibration = task(path, values, most=_share(values)) if path else None
    settings = GgufOptions(
        quants=found,
        check=task(values["pairs"] or path, values, apart_from=calibration),
        calibration=calibration,
        floors=tuple(floor(floor_of(each.bits, from_folder=True), values) for each in found),
        allow_below_floor=values["allow_below_floor"],
        context=values["ctx"],
        threads=values["threads"],
    )
    with TerminalProgress(values["quiet"]) as progress:
        report = export_gguf(folder, out, settings, progress)
    if values["as_json"]:
        click.echo(json.dumps(report.to_dict(), ensure_ascii=False, allow_nan=False))
    else:
        _print(report)
    if report.refused:
        sys.exit(PARTIAL)


def _share(values: dict[str, Any]) -> float:
    """Return how much of the calibration's pairs it may have: half, where the comparison has the others."""
    return 0.5 if values["pairs"] in (None, values["calibration_pairs"]) else 1.0


def _onnx(folder: Path, out: Path, quant: str | None, values: dict[str, Any]) -> None:
    from pairgrade.cli.progress import TerminalProgress
    from pairgrade.export.onnx_export import OnnxCheck, export_onnx
    from pairgrade.export.onnx_folder import OnnxSettings
    from pairgrade.export.onnx_recipe import RECIPES
    from pairgrade.export.provenance import told_of_shared
    from pairgrade.export.verify import floor_of, onnx_bits

    name, path = quant or "int8", values["calibration_pairs"]
    own = floor_of(onnx_bits(name), onnx=True, from_folder=True)
    recipe = RECIPES.get(name)  # the settings tell of another name
    if path and recipe and not recipe.is_calibrated:
        _log.warning("onnx %s has no scales to calibrate: the calibration pairs do nothing", name)
    calibration = task(path, values, most=_share(values)) if recipe and recipe.is_calibrated else None
    settings = OnnxSettings(quant=name, calibration=calibration, threads=values["threads"], context=values["ctx"])
    check = OnnxCheck(
        task=task(values["pairs"] or path, values, apart_from=settings.calibrated_on),
        floor=floor(own, values),
        allow_below_floor=values["allow_below_floor"],
        context=values["ctx"],
        threads=values["threads"],
    )
    with TerminalProgress(values["quiet"]) as progress:
        report = export_onnx(folder, out, settings, check, progress)
    if values["as_json"]:
        click.echo(json.dumps(report.to_dict(), ensure_ascii=False, allow_nan=False))
    elif report.verification:
        found = report.verification.fidelity
        state = "; ".join(report.verification.problems) or "kept its floor"
        click.echo(
            f"{out}: {name}, {report.size / 1e6:,.1f} MB; against the original on {found.pairs:,} pairs"
            f"{told_of_shared(report.shared_pairs)}: agreement {found.agreement:.4f}, mean KL {found.mean_kl:.2e}, "
            f"99% {found.p99_kl:.2e}; {state}"
        )


_TARGETS: dict[str, Callable[[Path, Path, str | None, dict[str, Any]], None]] = {"gguf": _gguf, "onnx": _onnx}


@click.command("export")
@click.argument("folder", metavar="FOLDER", type=click.Path(path_type=Path))
@click.option("--to", "target", type=click.Choice(list(_TARGETS)), default="gguf", show_default=True, metavar="FORMAT",
              help=f"What to write: {', '.join(_TARGETS)}.")  # fmt: skip
@click.option("--quant", metavar="NAMES",
              help=f"Quantizations, separated by commas. gguf: {', '.join(QUANTS)}.  [default: q8_0] "
              f"onnx: one of {', '.join(ONNX_QUANTS)}.  [default: int8]")  # fmt: skip
@click.option("--out", "-o", required=True, metavar="OUT", type=click.Path(path_type=Path),
              help="The folder to make.")  # fmt: skip
@click.option("--calibration-pairs", metavar="PAIRS",
              help="Pairs on which the rounding of quantizations below 8 bits is weighed (an importance matrix), "
              "or onnx int8 scaled and corrected.  [onnx: the shipped sample] "
              "Without --pairs it is at most half of them, and the comparison is made on others.")  # fmt: skip
@click.option("--allow-below-floor", is_flag=True, help="Keep quantizations that are below their floor, too.")
@check_options
def command(folder: Path, target: str, quant: str | None, out: Path, **values: Any) -> None:
    """Write a model for the engine, and compare every file with the original before it is kept.

    FOLDER is what `pairgrade merge` or transformers' save_pretrained wrote: Llama, Qwen 2 and 3, Gemma 2 and 3
    (text only). OUT also holds a model card, where the model came from, and the rubric that it was trained with.
    A quantization whose labels are too far from the original's is not kept, and the exit code is then 3; where none
    is kept, OUT is not made, and it is 1.
    """
    options.refuse_unused(values, values["pairs"] or values["calibration_pairs"])
    if is_onnx_folder(folder):
        raise ModelError(f"{folder} is an ONNX export itself; give the transformers folder that it was made of")
    with whole_or_nothing():
        _TARGETS[target](folder, out, quant, options.as_trained(folder, values))


def _print(report: ExportReport) -> None:
    from pairgrade.export.provenance import told_of_shared

    checked = report.files[0].verification.fidelity.pairs
    shared = told_of_shared(report.shared_pairs)
    table = Table(title=f"compared with the original on {checked:,} pairs{shared}", title_justify="left")
    table.add_column("file", no_wrap=True)
    for name in ("MB", "agreement", "mean KL", "99% KL"):
        table.add_column(name, justify="right")
    table.add_column("", overflow="fold")
    for file in report.files:
        found = file.verification.fidelity
        state = "kept" if not file.verification.problems else "below its floor" if file.kept else "refused"
        state = "; ".join([state, *file.verification.problems])
        row = (f"{file.size / 1e6:,.1f}", f"{found.agreement:.4f}", f"{found.mean_kl:.2e}", f"{found.p99_kl:.2e}")
        table.add_row(file.file + ("\n  importance matrix" if file.importance else ""), *row, state)
    console = result_console()
    console.print(table)
    console.print(f"written: {report.out}", soft_wrap=True)
