"""A result as tables of text: the terminal, Markdown and HTML show the same ones. CSV holds the bare figures."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, fields
from typing import Any

from pairgrade.bench.judged import MEASURES
from pairgrade.bench.matrix import Matrix
from pairgrade.bench.results import BenchResult, CellResult, Value
from pairgrade.bench.spread import Spread

_MIB = 2**20
Shown = Callable[[CellResult], str]


@dataclass(frozen=True, slots=True)
class Table:
    """Text in rows; the first column holds names, the others figures."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def tables(result: BenchResult) -> list[Table]:
    """Return the tables of a result; columns in which nothing is known are left out."""
    cells = result.cells
    costs: dict[str, Shown] = {
        "pairs/s (interval)": lambda c: shown_spread(c.pairs_per_second),
        "USD per million pairs": lambda c: _number(c.usd_per_million_pairs, 2),
        "pairs per USD": lambda c: _number(c.pairs_per_usd, 0),
        "peak memory, MiB": lambda c: _number(c.peak_rss_bytes / _MIB, 0),
        "model, MiB": lambda c: _number(c.model_bytes and c.model_bytes / _MIB, 0),
        "first judgment, s": lambda c: _number(c.first_seconds, 2),
        "J per pair": lambda c: _number(c.joules_per_pair, 2),
        "GPU, J per pair": lambda c: _number(c.gpu_joules_per_pair, 2),
        "of int8 ceiling": lambda c: _share(c.share_of_int8),
        "of fp32 ceiling": lambda c: _share(c.share_of_fp32),
    }
    quality: dict[str, Shown] = {
        title: (lambda c, name=name: shown_value(c.agreement.get(name)))  # type: ignore[misc]
        for name, title in MEASURES.items()
    }
    quality |= {
        "same grade as the reference": lambda c: _share(c.reference_agreement),
        "KL from the reference": lambda c: _number(c.reference_kl, 4),
        "no grade": lambda c: str(c.unparsed) if c.unparsed else "-",
    }
    time: dict[str, Shown] = {
        "total": lambda c: _seconds(c.total_seconds),
        "read": lambda c: _seconds(c.read_seconds),
        "tokenize": lambda c: _seconds(c.tokenize_seconds),
        "prefix": lambda c: _seconds(c.prefix_seconds),
        "documents": lambda c: _seconds(c.documents_seconds),
        "write": lambda c: _seconds(c.write_seconds),
        "other": lambda c: _seconds(c.other_seconds),
        "outside the model": lambda c: _share(outside_model(c)),
        "load": lambda c: _seconds(c.load_seconds),
        "other load, cores": lambda c: _number(c.other_load, 2),
    }
    tokens: dict[str, Shown] = {
        "document tokens/s": lambda c: _number(c.document_tokens_per_second, 0),
        "prefix tokens/s": lambda c: _number(c.prefix_tokens_per_second, 0),
        "reused tokens/s": lambda c: _number(c.reused_tokens_per_second, 0),
        "prompt tokens per pair": lambda c: _number(c.prompt_tokens_per_pair, 0),
        "GOP/s": lambda c: _number(c.gops, 0),
    }
    titles = (("Speed and cost", costs), ("Agreement", quality), ("Seconds", time), ("Tokens", tokens))
    found = [_table(title, cells, columns) for title, columns in titles]
    if result.apis:
        header = ("hosted model, list price", "USD per million pairs", "price of")
        rows = tuple(
            (f"{a.price.provider} {a.price.model}", _number(a.usd_per_million_pairs, 2), a.price.date)
            for a in result.apis
        )
        found.append(Table("To compare with: the same prompts elsewhere, agreement not measured", header, rows))
    if result.skipped:
        found.append(Table("Not measured", ("what", "why"), tuple(result.skipped.items())))
    return [table for table in found if len(table.header) > 1]


def outside_model(cell: CellResult) -> float | None:
    """Return the share of the total that was not spent inside the model."""
    if cell.prefix_seconds is None or cell.documents_seconds is None:
        return None
    return max(0.0, 1 - (cell.prefix_seconds + cell.documents_seconds) / cell.total_seconds)


def facts(result: BenchResult) -> list[tuple[str, str]]:
    """Return name and value of everything that is needed to repeat a benchmark."""
    settings, machine, data = result.settings, result.environment, result.data
    found = [
        ("date", result.date),
        ("processor", f"{machine['cpu']}, {machine['cores']} core(s) usable, {machine['system']}"),
        ("software", ", ".join(f"{name} {value}" for name, value in machine["packages"].items())),
        ("python", str(machine["python"])),
        ("data", f"{settings['data']['pairs']}: {data['pairs']:,} pairs of {data['queries']:,} queries, "
                 f"{data['graded']:,} with a human grade; sha256 {data['sha256'][:16]}"),
        ("slice", ", ".join(f"{name} {settings['data'][name]}" for name in ("max_queries", "per_query", "seed"))),
        ("context", f"{settings['context']} tokens"),
        *_gpu_settings(settings),
        ("reference", settings["reference"] or "none"),
        ("rounds", f"{result.rounds}; asked: {', '.join(f'{name} {n}' for name, n in settings['rounds'].items())}"),
    ]  # fmt: skip
    for ceiling in result.ceilings:
        int8 = "int8 not measured" if ceiling.int8_gops is None else f"int8 {ceiling.int8_gops:,.0f} GOP/s"
        found.append((
            f"ceiling of {ceiling.threads} thread(s)",
            f"fp32 {ceiling.fp32_gflops:,.0f} GFLOP/s, {int8}, {ceiling.copy_gb_per_second:.1f} GB/s copied",
        ))  # fmt: skip
    for cell in result.cells:
        about = ", ".join(f"{name} {value}" for name, value in sorted(cell.identity.items()))
        settings_ = f"{cell.model}; {cell.rubric}, {cell.threads} thread(s), batch {cell.batch_tokens}"
        found.append((cell.name, f"{settings_}; {about}"))
    return found


def _gpu_settings(settings: dict[str, Any]) -> list[tuple[str, str]]:
    """Return what was asked of a GPU, where anything was; results of before have none of it."""
    usual = {field.name: field.default for field in fields(Matrix)}
    asked = {name: settings[name] for name in ("gpu_layers", "sequences", "provider") if name in settings}
    return [(name.replace("_", " "), str(value)) for name, value in asked.items() if value != usual[name]]


def csv_text(result: BenchResult) -> str:
    """Return a row for each cell; columns are the JSON's keys, nested ones joined by a dot, lists left out."""
    rows = [dict(_flat(asdict(cell), "")) for cell in result.cells]
    names = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, names, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def shown_spread(spread: Spread) -> str:
    """Return a median with its interval."""
    digits = 2 if spread.median < 100 else 0
    return f"{spread.median:,.{digits}f} ({spread.low:,.{digits}f} to {spread.high:,.{digits}f})"


def shown_value(value: Value | None) -> str:
    """Return a statistic with its interval."""
    if value is None or value.value is None:
        return "-"
    interval = "" if value.low is None or value.high is None else f" ({value.low:.3f} to {value.high:.3f})"
    return f"{value.value:.3f}{interval}"


def _table(title: str, cells: tuple[CellResult, ...], columns: dict[str, Shown]) -> Table:
    texts = {name: [show(cell) for cell in cells] for name, show in columns.items()}
    kept = {name: column for name, column in texts.items() if any(text != "-" for text in column)}
    rows = tuple((cell.name, *(column[place] for column in kept.values())) for place, cell in enumerate(cells))
    return Table(title, ("cell", *kept), rows)


def _flat(table: dict[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for name, value in table.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        elif not isinstance(value, tuple | list):
            yield f"{prefix}{name}", value


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:,.{digits}f}"


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:,.2f}"


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"
