"""``pairgrade doctor``: what this machine and this installation can do."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from typing import Any

import rich_click as click
from rich.table import Table

from pairgrade.advisories import ADVISORIES, refused_before
from pairgrade.cli.consoles import result_console
from pairgrade.diagnosis import Diagnosis
from pairgrade.hardware import nvidia_gpus, usable_cores
from pairgrade.onnx_manifest import MIN_ONNXRUNTIME

_PRODUCTS = {
    "u8s8": "exact by u8s8, the fast product",
    "u8u8": "exact by u8u8; u8s8 would saturate here and is not used",
    "none": "no exact product was found: not installed, or int8 folders are refused here",
}
_PASSES = {
    "amx": "by pairgrade's own pass, with AMX",
    "vnni": "by pairgrade's own pass, with AVX-512 VNNI",
    "none": "by ONNX Runtime: pairgrade's own pass needs AVX-512 VNNI, Linux, and at the installation a C++ compiler "
    "and Python's headers",
}


@click.command("doctor")
@click.option(
    "--measure",
    is_flag=True,
    help="Measure the ceiling of fp32 and int8 products and of a copy of memory, too: some seconds on all cores.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(measure: bool, as_json: bool) -> None:
    """Show the machine, the libraries, which features work here and why others do not.

    Each feature's libraries are imported in a process of their own. The exit code is 1 where an installed version has
    a known advisory: no model is loaded with it.
    """
    from pairgrade.diagnosis import diagnose

    diagnosis = diagnose()
    ceilings = _ceilings() if measure else {}
    if as_json:
        own = {"ceilings": ceilings, "refused_before": _before(), "nvidia_gpus": _gpus()}
        click.echo(json.dumps(diagnosis.to_dict() | own, ensure_ascii=False))
    else:
        for table in (_machine(diagnosis, ceilings), _features(diagnosis), _libraries(diagnosis), _refused()):
            result_console().print(table)
    if diagnosis.advisories:
        sys.exit(1)


def _ceilings() -> dict[str, Any]:
    from pairgrade.bench.ceiling import measure_ceiling

    return asdict(measure_ceiling(usable_cores()))


def _machine(diagnosis: Diagnosis, ceilings: dict[str, Any]) -> Table:
    table = _table("machine")
    facts = diagnosis.environment
    for name in ("cpu", "cores", "machine", "system", "python"):
        table.add_row(name, str(facts[name]))
    table.add_row("instruction sets", ", ".join(diagnosis.cpu_features) or "none of those that matter here")
    table.add_row(
        "8-bit products",
        "one instruction (VNNI, AMX or dot product)"
        if diagnosis.vnni
        else "no instruction of their own: int8 ONNX models run, and gain less than with one",
    )
    table.add_row("ONNX int8", _PRODUCTS[diagnosis.onnx_product])
    table.add_row("int8 models", _PASSES[diagnosis.own_pass])
    if diagnosis.memory_bytes is not None and diagnosis.memory_free_bytes is not None:
        total, free = diagnosis.memory_bytes / 2**30, diagnosis.memory_free_bytes / 2**30
        table.add_row("memory", f"{total:.1f} GiB, {free:.1f} GiB free")
    table.add_row("NVIDIA GPUs", _gpus() or "none that a driver tells of")
    if not ceilings:
        table.add_row("ceiling", "not measured; --measure does, in some seconds on all cores")
    else:
        int8 = ceilings["int8_gops"]
        table.add_row("cores measured", str(ceilings["threads"]))
        table.add_row("fp32 product", f"{ceilings['fp32_gflops']:.0f} GFLOP/s")
        table.add_row(
            "int8 product", "not measured: onnx or onnxruntime is missing" if int8 is None else f"{int8:.0f} GOP/s"
        )
        table.add_row("copy of memory", f"{ceilings['copy_gb_per_second']:.1f} GB/s")
    return table


def _features(diagnosis: Diagnosis) -> Table:
    table = _table("features")
    for verdict in diagnosis.verdicts:
        table.add_row(verdict.feature, "works" if verdict.works else f"no: {verdict.why}")
    return table


def _libraries(diagnosis: Diagnosis) -> Table:
    table = _table("libraries")
    for name, version in diagnosis.libraries.items():
        table.add_row(name, version if version != "none" else "not installed")
    for advisory in diagnosis.advisories:
        table.add_row(f"UNSAFE: {advisory.library}", f"{advisory.name}, fixed in {advisory.fixed}: {advisory.why}")
    return table


def _refused() -> Table:
    """Tell the versions that are not used, whatever is installed."""
    table = _table("versions that are refused")
    for library, before in _before().items():
        names = ", ".join(advisory.name for advisory in ADVISORIES if advisory.library == library)
        table.add_row(library, f"before {before}: {names or 'not tested with'}")
    return table


def _gpus() -> str | None:
    found = nvidia_gpus()
    return None if found == "unknown" else found


def _before() -> dict[str, str]:
    return refused_before() | {"onnxruntime": ".".join(map(str, MIN_ONNXRUNTIME))}


def _table(title: str) -> Table:
    table = Table(show_header=False, title=title, title_justify="left")
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    return table
