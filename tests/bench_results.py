"""A benchmark's result for tests: made of numbers, so that they know what must come out."""

from __future__ import annotations

from collections.abc import Sequence

from pairgrade.bench.matrix import Data, Matrix
from pairgrade.bench.results import BenchResult, CellResult, Value
from pairgrade.bench.spread import spread
from pairgrade.environment import environment


def make_cell(name: str, rates: Sequence[float], kappa: float | None = None, **other: object) -> CellResult:
    rate = spread(rates)
    values: dict[str, object] = {
        "name": name, "model": name, "engine": "pairgrade", "rubric": "trec", "threads": 1, "batch_tokens": 2048,
        "pairs": 40, "pairs_per_second": rate, "total_seconds": 40 / rate.median, "load_seconds": 0.5,
        "first_seconds": 1.0, "read_seconds": 0.1, "tokenize_seconds": 0.1, "prefix_seconds": 1.0,
        "documents_seconds": 2.0, "write_seconds": 0.1, "other_seconds": 0.1, "document_tokens_per_second": 100.0,
        "prefix_tokens_per_second": 90.0, "reused_tokens_per_second": 200.0, "prompt_tokens_per_pair": 210.0,
        "unparsed": 0, "peak_rss_bytes": 200 * 2**20, "model_bytes": 100 * 2**20, "joules_per_pair": None,
        "other_load": 0.1, "gops": 40.0, "share_of_fp32": 0.5, "share_of_int8": 0.2, "usd_per_million_pairs": 20.0,
        "pairs_per_usd": 50_000.0, "reference_agreement": None, "reference_kl": None, "dominated": False,
        "agreement": {} if kappa is None else {"quadratic_kappa": Value(kappa, kappa - 0.1, kappa + 0.1)},
        "identity": {"kind": "fake"},
    }  # fmt: skip
    return CellResult(**(values | other))  # type: ignore[arg-type]


def make_result(cells: Sequence[CellResult]) -> BenchResult:
    import json
    from dataclasses import asdict

    matrix = Matrix(tuple(cell.model for cell in cells), Data("pairs.jsonl"))
    return BenchResult(
        date="2026-01-01T00:00:00+00:00",
        settings=json.loads(json.dumps(asdict(matrix))),
        data={"pairs": 40, "queries": 4, "graded": 40, "characters": 4000, "sha256": "0" * 64},
        environment=environment(),
        ceilings=(),
        rounds=5,
        stopped="every interval is narrow",
        usd_per_hour=0.2,
        machine=None,
        measure="quadratic_kappa",
        cells=tuple(cells),
        skipped={},
        apis=(),
        notes=(),
    )
