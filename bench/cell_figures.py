"""From the measurements of a cell to its figures."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import asdict

from pairgrade.bench.arithmetic import model_bytes, operations
from pairgrade.bench.ceiling import Ceiling
from pairgrade.bench.cell_records import CellRun
from pairgrade.bench.matrix import Cell
from pairgrade.bench.results import CellResult
from pairgrade.bench.rounds import rates
from pairgrade.bench.spread import spread

HOUR, MILLION = 3600.0, 1e6


def cell_figures(
    cell: Cell, name: str, runs: Sequence[CellRun], ceiling: Ceiling | None, usd_per_hour: float | None
) -> CellResult:
    """Return medians, rates and dollars; agreement and the frontier are still to be filled in."""
    rate = spread(rates(runs))
    gops = _gops(cell.model, runs)
    last = runs[-1]
    on_cpu = _runs_on_cpu(last.identity or {})
    model = _median(run.model_seconds for run in runs)
    total = statistics.median(run.total_seconds for run in runs)
    prompt_tokens = _median(run.prompt_tokens for run in runs)
    joules = _median(run.energy_joules for run in runs)
    gpu_joules = _median(run.gpu_joules for run in runs)
    loads = [run.other_load for run in runs if run.other_load is not None]
    parts = [_median(getattr(run, f"{part}_seconds") for run in runs) for part in ("read", "tokenize", "write")]
    known = [part for part in (*parts, model) if part is not None]
    return CellResult(
        name=name,
        **asdict(cell),
        pairs=last.pairs,
        pairs_per_second=rate,
        total_seconds=total,
        load_seconds=statistics.median(run.load_seconds for run in runs),
        first_seconds=statistics.median(run.first_seconds for run in runs),
        read_seconds=parts[0],
        tokenize_seconds=parts[1],
        prefix_seconds=_median(run.prefix_seconds for run in runs),
        documents_seconds=_median(run.documents_seconds for run in runs),
        write_seconds=parts[2],
        other_seconds=max(0.0, total - sum(known)) if len(known) == 4 else None,
        document_tokens_per_second=_median(_ratio(run.document_tokens, run.documents_seconds) for run in runs),
        prefix_tokens_per_second=_median(_ratio(run.prefix_tokens, run.prefix_seconds) for run in runs),
        reused_tokens_per_second=_median(_ratio(run.reused_tokens, run.total_seconds) for run in runs),
        prompt_tokens_per_pair=None if prompt_tokens is None else prompt_tokens / last.pairs,
        unparsed=last.unparsed,
        peak_rss_bytes=int(statistics.median(run.peak_rss_bytes for run in runs)),
        model_bytes=model_bytes(cell.model),
        joules_per_pair=None if joules is None else joules / last.pairs,
        other_load=max(loads) if loads else None,
        gops=gops,
        share_of_fp32=gops / ceiling.fp32_gflops if gops and ceiling and on_cpu else None,
        share_of_int8=gops / ceiling.int8_gops if gops and ceiling and ceiling.int8_gops and on_cpu else None,
        usd_per_million_pairs=usd_per_hour and usd_per_hour / HOUR * MILLION / rate.median,
        pairs_per_usd=usd_per_hour and rate.median * HOUR / usd_per_hour,
        agreement={},
        reference_agreement=None,
        reference_kl=None,
        dominated=False,
        identity=last.identity or {},
        gpu_joules_per_pair=None if gpu_joules is None else gpu_joules / last.pairs,
        bound=all(run.bound for run in runs),
    )


def _runs_on_cpu(identity: dict[str, str]) -> bool:
    """Whether a model ran where the ceiling was measured."""
    return identity.get("backend.gpu_layers", "0") == "0" and "CUDA" not in identity.get("backend.provider", "")


def _gops(model: str, runs: Sequence[CellRun]) -> float | None:
    """Return the rate of the weights' products inside the model, in 10**9 operations a second."""
    each = operations(model)
    if each is None:
        return None
    work = [
        ((run.prefix_tokens or 0) + (run.document_tokens or 0)) * each.per_token + run.pairs * each.per_document
        for run in runs
    ]
    rate = _median(_ratio(sum_, run.model_seconds) for sum_, run in zip(work, runs, strict=True))
    return None if rate is None else rate / 1e9


def _ratio(numerator: float | None, denominator: float | None) -> float | None:
    return numerator / denominator if numerator and denominator else None


def _median(values: Iterable[float | None]) -> float | None:
    """Return the median of what is known."""
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None
