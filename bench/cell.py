"""Measures one cell in a process of its own, so that its memory and its loading are its own.

Started by ``pairgrade.bench.cell_process``: the job comes as JSON on stdin, the answer goes to the file that the
first argument names, for model libraries print to stdout as they like.
"""

from __future__ import annotations

import json
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import closing, nullcontext
from dataclasses import replace
from pathlib import Path
from types import FrameType

from pairgrade.annotator import Annotator, AnnotatorOptions
from pairgrade.backend import Counters
from pairgrade.backends import open_backend
from pairgrade.bench.cell_records import CellJob, CellRun
from pairgrade.bench.meters import EnergyMeter, GpuEnergyMeter, LoadMeter, peak_rss_bytes, pin, rss_bytes
from pairgrade.bench.timed import BatchClock, TimedBackend
from pairgrade.errors import ModelError, PairgradeError
from pairgrade.job import LabelJob
from pairgrade.judgments import read_judgments
from pairgrade.llama import LlamaOptions
from pairgrade.onnx_backend import OnnxOptions
from pairgrade.plan import PlanOptions
from pairgrade.qrels import write_qrels
from pairgrade.readers import Source, read_pairs
from pairgrade.records import Pair
from pairgrade.rubric import Rubric
from pairgrade.run import label
from pairgrade.summary import first_error
from pairgrade.worker import WorkerBackend

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def run_cell(job: CellJob) -> CellRun:
    """Load the model, judge a few others like the pairs, then judge these with the clock running."""
    pairs = tuple(row for row in read_pairs(Source(job.pairs)) if isinstance(row, Pair))
    run = _own(job, pairs) if job.engine == "pairgrade" else _peer(job, pairs)
    if not run.pairs:
        first = first_error(f"{job.out}.errors.jsonl")
        told = f"; of the first: {first.reason}" if first else ""
        raise ModelError(f"none of {len(pairs):,} pairs got a grade{told}")
    return run


def _own(job: CellJob, pairs: Sequence[Pair]) -> CellRun:
    rubric = Rubric.load(job.rubric)
    start = time.perf_counter()
    llama = LlamaOptions(**job.llama) if job.llama else _llama_options(job)
    onnx = OnnxOptions(**job.onnx) if job.onnx else _onnx_options(job)
    opened, path = open_backend(job.model, llama, onnx, isolate=job.isolate)
    worker = opened if isinstance(opened, WorkerBackend) else None
    backend = TimedBackend(opened)
    options = AnnotatorOptions(**job.prompt or {}, plan=PlanOptions(job.batch_tokens))
    with Annotator(backend, rubric, options, path) as annotator:
        load = time.perf_counter() - start
        others = warming(pairs[-job.warm :])
        _judge(annotator, others[-1:])
        first = time.time() - job.started
        _judge(annotator, others)
        before = replace(backend.counters)
        backend.tokenizer.seconds = 0.0
        clock = BatchClock()
        clock.begin(before)
        energy, gpus, load_meter = EnergyMeter(), GpuEnergyMeter(), LoadMeter(worker.pid if worker else None)
        summary = label(LabelJob(Source(job.pairs), Path(job.out)), lambda: nullcontext(annotator), clock)
        effort = summary.effort
        joules, gpu_joules, load_of_others = energy.joules(), gpus.joules(), load_meter.cores()
        spent = _difference(backend.counters, before)
        return CellRun(
            pairs=summary.tally.labelled,
            unparsed=summary.tally.unfit,
            total_seconds=effort.prepare_seconds + effort.seconds + effort.write_seconds,
            load_seconds=load,
            first_seconds=first,
            peak_rss_bytes=peak_rss_bytes() + (peak_rss_bytes(worker.pid) if worker and worker.pid else 0),
            rss_bytes=rss_bytes(*([worker.pid] if worker and worker.pid else [])),
            read_seconds=effort.prepare_seconds,
            tokenize_seconds=backend.tokenizer.seconds,
            prefix_seconds=spent.prefix_seconds,
            documents_seconds=spent.seconds - spent.prefix_seconds,
            write_seconds=effort.write_seconds,
            prefix_tokens=spent.prefix_computed,
            document_tokens=spent.computed - spent.prefix_computed,
            reused_tokens=spent.reused,
            prompt_tokens=sum(judgment.prompt_tokens for judgment in read_judgments(job.out)),
            energy_joules=joules,
            gpu_joules=gpu_joules,
            other_load=load_of_others,
            identity=_told(annotator.identity(), onnx),
            batches=tuple(clock.batches),
        )


def _llama_options(job: CellJob) -> LlamaOptions:
    return LlamaOptions(job.context, job.threads, job.gpu_layers, job.sequences)


def _onnx_options(job: CellJob) -> OnnxOptions:
    """Return the options of ONNX models; a batch other than the default is computed at once, as `label` does."""
    usual = job.batch_tokens == PlanOptions().batch_tokens
    batch = OnnxOptions().batch_tokens if usual else job.batch_tokens
    return OnnxOptions(job.context, job.threads, batch, provider=job.provider)


def _told(identity: dict[str, str], onnx: OnnxOptions) -> dict[str, str]:
    """Add what an ONNX model computes at once: it moves no judgment where the model is exact, but the rate."""
    own = {"backend.batch_tokens": str(onnx.batch_tokens)} if identity["backend.kind"] == "onnx" else {}
    return identity | own


def warming(pairs: Sequence[Pair]) -> list[Pair]:
    """Return pairs of other texts and about the same length: no engine may have a measured prompt in its cache."""
    return [replace(pair, query=f"warm up {pair.query}", document=f"warm up {pair.document}") for pair in pairs]


def _judge(annotator: Annotator, pairs: Sequence[Pair]) -> None:
    """Run pairs without keeping what comes of them; one that does not fit is passed over, as in a labelling run."""
    for _ in annotator.outcomes(pairs):
        pass


def _difference(after: Counters, before: Counters) -> Counters:
    return Counters(
        computed=after.computed - before.computed,
        reused=after.reused - before.reused,
        seconds=after.seconds - before.seconds,
        prefix_computed=after.prefix_computed - before.prefix_computed,
        prefix_seconds=after.prefix_seconds - before.prefix_seconds,
    )


def _peer(job: CellJob, pairs: Sequence[Pair]) -> CellRun:
    from pairgrade.bench.peers import open_peer, parsed

    rubric = Rubric.load(job.rubric)
    start = time.perf_counter()
    with closing(open_peer(job)) as peer:
        load = time.perf_counter() - start
        others = [pair for pair in warming(pairs[-job.warm :]) if peer.why_unfit(pair) is None]
        peer.answers(others[-1:])
        first = time.time() - job.started
        unfit = {(pair.query_id, pair.doc_id): why for pair in pairs if (why := peer.why_unfit(pair)) is not None}
        if len(unfit) == len(pairs):
            raise ModelError(f"none of {len(pairs):,} pairs fits: {next(iter(unfit.values()))}")
        peer.answers(others)
        energy, gpus, load_meter = EnergyMeter(), GpuEnergyMeter(), LoadMeter(peer.process)
        start = time.perf_counter()
        texts = [row for row in read_pairs(Source(job.pairs)) if isinstance(row, Pair)]
        read = time.perf_counter() - start
        asked = [pair for pair in texts if (pair.query_id, pair.doc_id) not in unfit]
        grades = [parsed(answer, rubric) for answer in peer.answers(asked)]
        judged = time.perf_counter()
        known = [(p.query_id, p.doc_id, g) for p, g in zip(asked, grades, strict=True) if g is not None]
        write_qrels(job.out, known)
        end = time.perf_counter()
        joules, gpu_joules, load_of_others = energy.joules(), gpus.joules(), load_meter.cores()
        return CellRun(
            pairs=len(known),
            total_seconds=end - start,
            load_seconds=load,
            first_seconds=first,
            peak_rss_bytes=peak_rss_bytes() + (peak_rss_bytes(peer.process) if peer.process else 0),
            read_seconds=read,
            write_seconds=end - judged,
            prompt_tokens=peer.prompt_tokens([p for p, g in zip(asked, grades, strict=True) if g is not None]),
            unparsed=len(texts) - len(known),
            energy_joules=joules,
            gpu_joules=gpu_joules,
            other_load=load_of_others,
            identity=peer.identity(),
        )


def main() -> None:
    """Answer one job."""
    for number in _SIGNALS:
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, _leave)
    job = CellJob(**json.load(sys.stdin))
    bound = not job.isolate and pin(job.threads)  # `pairgrade label` binds its threads to no core
    try:
        answer: dict[str, object] = {"run": replace(run_cell(job), bound=bound).to_dict()}
    except (PairgradeError, MemoryError) as error:
        answer = {"error": str(error) or type(error).__name__}
    Path(sys.argv[1]).write_text(json.dumps(answer, allow_nan=False), encoding="utf-8")


def _leave(number: int, frame: FrameType | None) -> None:
    """End by an exception, so that what is open is closed; a second signal must not cut that short."""
    for each in _SIGNALS:
        signal.signal(each, signal.SIG_IGN)
    sys.exit(128 + number)


if __name__ == "__main__":
    main()
