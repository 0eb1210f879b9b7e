"""Writes everything there is to a result into a folder."""

from __future__ import annotations

from pathlib import Path

from pairgrade.atomic import write_text
from pairgrade.bench.report_html import html
from pairgrade.bench.report_markdown import markdown
from pairgrade.bench.report_plots import PICTURES, draw_report
from pairgrade.bench.report_tables import csv_text
from pairgrade.bench.results import BenchResult


def write_report(result: BenchResult, folder: Path) -> list[Path]:
    """Write results.json, cells.csv, report.md, report.html and a PNG of each picture; return their paths.

    A picture of an earlier report that this one has no figures for is removed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    result.save(folder / "results.json")
    write_text(folder / "cells.csv", csv_text(result))
    pictures = draw_report(result, folder)
    drawn = {path.name for _, path in pictures}
    for stale in {f"{name}.png" for name in PICTURES} - drawn:
        (folder / stale).unlink(missing_ok=True)
    names = [(title, path.name) for title, path in pictures]
    write_text(folder / "report.md", markdown(result, names))
    write_text(folder / "report.html", html(result))
    written = [folder / name for name in ("results.json", "cells.csv", "report.md", "report.html")]
    return [*written, *(path for _, path in pictures)]
