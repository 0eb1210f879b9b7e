"""A result as one HTML page that needs nothing from elsewhere: the pictures are inline SVG."""

from __future__ import annotations

import json
import tempfile
from html import escape
from pathlib import Path

from pairgrade.bench.report_plots import draw_report
from pairgrade.bench.report_tables import Table, facts, tables
from pairgrade.bench.results import BenchResult

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1a1a1a; max-width: 1080px; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; margin-bottom: 0; } h2 { font-size: 1.2rem; margin-top: 2.2rem; }
table { border-collapse: collapse; font-size: 13px; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .6rem; border-bottom: 1px solid #ddd; text-align: right; vertical-align: top; }
td { white-space: nowrap; }
th { border-bottom: 2px solid #888; font-weight: 600; } th:first-child, td:first-child { text-align: left; }
.text td, .text th { text-align: left; white-space: normal; overflow-wrap: anywhere; }
.text td:first-child { min-width: 9rem; }
.wide { overflow-x: auto; }
svg { width: 100%; height: auto; max-width: 900px; } .dominated td { color: #8a8a8a; }
ul { padding-left: 1.2rem; } details { margin-top: 1rem; } pre { font-size: 12px; overflow-x: auto; }
"""


def html(result: BenchResult) -> str:
    """Return the page; equal results give equal bytes."""
    about = f"{result.environment['cpu']}, {result.data['pairs']:,} pairs of {result.data['queries']:,} queries"
    parts = [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">',
        f"<title>pairgrade benchmark of {escape(result.date[:10])}</title><style>{_STYLE}</style></head><body>",
        f"<h1>Benchmark of {escape(result.date[:10])}</h1><p>{escape(about)}</p>",
        "<ul>" + "".join(f"<li>{escape(note)}</li>" for note in result.notes) + "</ul>",
    ]
    dominated = {cell.name for cell in result.cells if cell.dominated}
    pictures = dict(_pictures(result))
    if "Cost and agreement" in pictures:
        parts.append(f"<h2>Cost and agreement</h2>{pictures.pop('Cost and agreement')}")
    parts += [_table(table, dominated) for table in tables(result)]
    parts += [f"<h2>{escape(title)}</h2>{svg}" for title, svg in pictures.items()]
    parts.append(_table(Table("To repeat it", ("setting", "value"), tuple(facts(result))), set()))
    asked = escape(json.dumps(result.settings, indent=1, ensure_ascii=False))
    parts.append(f"<details><summary>The matrix as it was asked for</summary><pre>{asked}</pre></details>")
    return "\n".join([*parts, "</body></html>\n"])


def _pictures(result: BenchResult) -> list[tuple[str, str]]:
    with tempfile.TemporaryDirectory() as folder:
        drawn = draw_report(result, Path(folder), "svg")
        return [(title, _inline(path.read_text(encoding="utf-8"))) for title, path in drawn]


def _inline(svg: str) -> str:
    """Return the element alone, without the XML declaration and document type before it."""
    return svg[svg.index("<svg") :]


def _table(table: Table, grey: set[str]) -> str:
    is_text = len(table.header) == 2
    head = "".join(f"<th>{escape(name)}</th>" for name in table.header)
    rows = []
    for row in table.rows:
        cells = [escape(cell) if is_text else escape(cell).replace(" (", "<br>(") for cell in row]
        kind = " class=dominated" if row[0] in grey else ""
        rows.append(f"<tr{kind}>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>")
    kind = " class=text" if is_text else ""
    return f"<h2>{escape(table.title)}</h2><div class=wide><table{kind}><tr>{head}</tr>{''.join(rows)}</table></div>"
