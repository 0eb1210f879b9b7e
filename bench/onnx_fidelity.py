"""How far rounded ONNX exports are from full precision: ``python -m pairgrade.bench.onnx_fidelity FOLDER``.

FOLDER is a transformers folder. Each recipe is exported, run on the same pairs and compared with the fp32 export by
the KL of the label distributions and the agreement of the grades. No pair is used for both calibration and
comparison: calibrate on another collection with --calibration-data, and leave out the queries that a recipe was
chosen on with --skip-queries. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

from pairgrade.bench.data import add_data_options, take_pairs
from pairgrade.bench.telling import telling
from pairgrade.document_facts import LARGEST_TAIL
from pairgrade.environment import environment
from pairgrade.export.fidelity import fidelity
from pairgrade.export.measure import Measured, Task, measure
from pairgrade.export.onnx_export import export_onnx
from pairgrade.export.onnx_folder import OnnxSettings
from pairgrade.export.onnx_recipe import RECIPES, Recipe
from pairgrade.onnx_backend import OnnxBackend, OnnxOptions
from pairgrade.records import Pair
from pairgrade.rubric import Rubric

_TURNED = Recipe(8, "static", rotate="all", down_block=512)
# weights rounded to the nearest, as up to 2026-11-28, and as most rows were measured
_INT8 = replace(RECIPES["int8"], fit=False)
TABLE: dict[str, tuple[str, Recipe]] = {
    "weights only, 8 bits": ("int8", Recipe(8, prefix="same")),
    "per tensor, whole prompt": ("int8", Recipe(8, "tensor", "same")),
    "per token, whole prompt": ("int8", Recipe(8, "token", "same")),
    "per tensor": ("int8", Recipe(8, "tensor")),
    "per token": ("int8", Recipe(8, "token")),
    "static": ("int8", Recipe(8, "static")),
    "static, down smoothed 0.75": ("int8", Recipe(8, "static", smooth_down=0.75)),
    "rotated, per tensor": ("int8", Recipe(8, "tensor", rotate="all")),
    "rotated, per token": ("int8", Recipe(8, "token", rotate="all")),
    "rotated, per token, down turned": ("int8", replace(_TURNED, activations="token")),
    "rotated, static": ("int8", Recipe(8, "static", rotate="all")),
    "rotated, static, down smoothed 0.75": ("int8", Recipe(8, "static", rotate="all", smooth_down=0.75)),
    "rotated, static, down smoothed 0.75, powers": (
        "int8",
        Recipe(8, "static", rotate="all", smooth_down=0.75, smooth_powers=True),
    ),
    "rotated, static, down smoothed 0.9": ("int8", Recipe(8, "static", rotate="all", smooth_down=0.9)),
    "rotated, static, down turned": ("int8", _TURNED),
    "rotated, static, down turned, 8-bit prefix": ("int8", replace(_TURNED, prefix="weights")),
    "norms not smoothed": ("int8", replace(_INT8, smooth_norms=0)),
    "norms smoothed 0.5": ("int8", replace(_INT8, smooth_norms=0.5)),
    "norms smoothed 0.8": ("int8", replace(_INT8, smooth_norms=0.8)),
    "int8, static": ("int8", replace(_INT8, activations="static", norm_block=0, tail=0)),
    "int8, static, not corrected": ("int8", replace(_INT8, activations="static", norm_block=0, tail=0, correct=False)),
    "int8, not corrected": ("int8", replace(_INT8, correct=False)),
    "int8, down not turned": ("int8", replace(_INT8, down_block=0)),
    "int8, prefix in fp32": ("int8", replace(_INT8, prefix="float")),
    "int8, not fitted": ("int8", _INT8),
    "int8, norms not turned": ("int8", replace(RECIPES["int8"], norm_block=0)),
    "int8, norms not smoothed": ("int8", replace(RECIPES["int8"], smooth_norms=0)),
    "int8, no tail": ("int8", replace(RECIPES["int8"], tail=0)),
    "int8, tail of 1": ("int8", replace(RECIPES["int8"], tail=1)),
    "int8, tail of 4": ("int8", replace(RECIPES["int8"], tail=4)),
    "int8, tail of 16": ("int8", replace(RECIPES["int8"], tail=16)),
    "int8, tail of all tokens": ("int8", replace(RECIPES["int8"], tail=LARGEST_TAIL)),
    "int8": ("int8", RECIPES["int8"]),
    "int4": ("int4", RECIPES["int4"]),
}


def _run(source: Path, quant: str, recipe: Recipe, calibration: Task, task: Task, threads: int) -> Measured:
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "model"
        export_onnx(source, out, OnnxSettings(quant, recipe, calibration, threads))
        backend = OnnxBackend(out, OnnxOptions(threads=threads))
        try:
            return measure(quant, backend, task)
        finally:
            backend.close()


def _halves(pairs: Sequence[Pair], count: int) -> tuple[list[Pair], list[Pair]]:
    """Take every n-th pair for the calibration, ``count`` in all, and leave the others."""
    step = max(1, len(pairs) // count)
    chosen = set(range(0, step * count, step))
    return [p for i, p in enumerate(pairs) if i in chosen], [p for i, p in enumerate(pairs) if i not in chosen]


def main() -> None:
    """Parse the options, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    add_data_options(parser, 12, 24)
    parser.add_argument("--skip-queries", type=int, default=0, help="queries left out at the beginning of the data")
    parser.add_argument("--calibration-data", help="a folder like --data (default: some of the pairs, left out then)")
    parser.add_argument("--calibration", type=int, default=40, help="pairs that scales are made from")
    parser.add_argument("--only", nargs="*", choices=list(TABLE), default=list(TABLE))
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    pairs, name = take_pairs(options.data, options.skip_queries + options.queries, options.documents)
    queries = list(dict.fromkeys(pair.query_id for pair in pairs))
    left_out = set(queries[: options.skip_queries])
    used = [pair for pair in pairs if pair.query_id not in left_out]
    if options.calibration_data:
        chosen, _ = take_pairs(options.calibration_data, options.calibration, 1)
        parts: tuple[Sequence[Pair], Sequence[Pair]] = chosen, used
    else:
        parts = _halves(used, options.calibration)
    rubric = Rubric.load("trec")
    calibration, rest = (Task(part, rubric) for part in parts)
    reference = _run(options.folder, "fp32", RECIPES["fp32"], calibration, rest, options.threads)
    rows = {}
    print(f"{len(rest.pairs)} pairs of {name}, {len(calibration.pairs)} others for calibration", flush=True)
    for title in options.only:
        measured = _run(options.folder, *TABLE[title], calibration, rest, options.threads)
        found = fidelity(reference.logits, measured.logits, rubric.values, rest.pairs)
        rows[title] = asdict(found)
        print(
            f"{title:36} KL {found.mean_kl:.5f} (99%: {found.p99_kl:.4f})  agreement {found.agreement:.3f}  "
            f"kappa {found.quadratic_kappa}",
            flush=True,
        )
    print(json.dumps({"bench": "onnx_fidelity", "data": name, "environment": environment(), "rows": rows}))


if __name__ == "__main__":
    with telling("onnx_fidelity"):
        main()
