"""Does an annotator's correction of a ranking set make a better re-ranker? The experiment of arXiv 2504.09816.

Run it with ``python -m pairgrade.bench.experiment --data FOLDER --out FOLDER --train NAME --test NAME``;
docs/experiment.md tells what it does and how to read what it finds. Re-rankers are trained on four sets of labels for
the same pairs: (a) BM25's, (b) these corrected by the zero-shot annotator, (c) by the tuned one, (d) people's. Stopped
or killed, the same command goes on; what is there and unchanged is not done again.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from pairgrade.bench.experiment_judgments import judge_steps, relabel_steps
from pairgrade.bench.experiment_options import STAGES, TRAINING, ExperimentOptions
from pairgrade.bench.experiment_ranking import rank_steps, train_steps
from pairgrade.bench.experiment_report import report_steps
from pairgrade.bench.experiment_sets import sets_steps
from pairgrade.bench.experiment_steps import Step, Steps
from pairgrade.errors import PairgradeError
from pairgrade.lock import exclusive
from pairgrade.stop import PoliteStop, StopRequested
from pairgrade.train.reranker_options import LOSSES

_STEPS: dict[str, Callable[[ExperimentOptions], list[Step]]] = {
    "sets": sets_steps,
    "judge": judge_steps,
    "relabel": relabel_steps,
    "train": train_steps,
    "rank": rank_steps,
    "report": report_steps,
}
_DEFAULTS = {field.name: field.default for field in fields(ExperimentOptions)}
_TRAINING = ("loss", "epochs", "batch", "slate", "learning_rate", "warmup", "max_length")


def run(options: ExperimentOptions) -> list[str]:
    """Do the stages that were asked for, and return the names of the steps that had something to do.

    InputError where an earlier stage is missing or an input unusable, ResumeError where the folder holds an experiment
    with other settings, LockedError where another process works in it, StopRequested after a signal.
    """
    steps = Steps(options.out, options.overwrite)
    with PoliteStop().listening(), exclusive(options.out / "lock"):
        for stage, make in _STEPS.items():
            if stage in options.stages:
                steps.run(stage, make(options))
        (options.out / "lock").unlink()
    return steps.done


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the options, run, print the tables; return the exit code."""
    values = vars(option_parser().parse_args(arguments))
    trained = {name: values.pop(name) for name in _TRAINING}
    given: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
    try:
        options = ExperimentOptions(training=replace(TRAINING, **trained), **given)
        run(options)
    except PairgradeError as error:
        print(f"experiment: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"experiment: {error.filename or options.out}: {error.strerror or error}", file=sys.stderr)
        return 1
    except StopRequested as stop:
        print(f"experiment: stopped by {stop}; the same command goes on", file=sys.stderr)
        return 128 + stop.signal
    if "report" in options.stages:
        print((options.out / "experiment.md").read_text(encoding="utf-8"))
    return 0


def option_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m pairgrade.bench.experiment", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip

    def add(name: str, text: str, **settings: object) -> None:
        default = _DEFAULTS.get(name)
        shown = f" (default: {default})" if isinstance(default, (int, float, str)) and default is not False else ""
        settings = settings if "action" in settings else {"default": default} | settings
        parser.add_argument(f"--{name.replace('_', '-')}", help=text + shown, **settings)  # type: ignore[arg-type]

    add("data", "folder of the collections, each with qrels.txt, queries.jsonl, docs.jsonl", type=Path, required=True)
    add("out", "folder of all that comes of it", type=Path, required=True)
    add("train", "the collection to learn of", required=True)
    add("test", "the collection to test on", required=True)
    add("other", "collections of other domains to test on", nargs="*", metavar="NAME")
    add("both_ways", "train on the test collection and test on the other, too", action="store_true")
    add("encoder", "what the re-rankers start from: a folder, pkg:PACKAGE or hf:org/repo@revision")
    add("pretrain", "queries made of the training documents, that teach the encoder its own cosine first; 0: none",
        type=int, metavar="N")  # fmt: skip
    add(
        "zero_shot",
        "the annotator as it ships, or a folder with its judgments; without it arm b is left out",
        metavar="MODEL",
    )
    add("tuned", "the annotator tuned on --train, or its judgments; without it arm c is left out", metavar="MODEL")
    add("tuned_back", "with --both-ways: the annotator tuned on --test, or its judgments", metavar="MODEL")
    kept = "held-out.qrels in the adapter of {}: its queries calibrate (default: those that training keeps by itself)"
    add("held_out", kept.format("--tuned"), type=Path, metavar="QRELS")
    add("held_out_back", kept.format("--tuned-back"), type=Path, metavar="QRELS")
    add("annotator_as_ranker", "let the annotators rank the test collection, too", action="store_true")
    add("rubric", "the annotators' rubric")
    add("context", "longest prompt in tokens", type=int)
    add("positive_share", "share of a query's documents that the semi-automatic set holds relevant", type=float)
    add("policy", "how labels are corrected")
    add("seeds", "of the re-rankers (default: 0 1 2)", type=int, nargs="+", metavar="N")
    add("limit_queries", "queries of each collection (default: all)", type=int, metavar="N")
    add("documents", "documents of each query (default: all that were judged)", type=int, metavar="N")
    add("dev_documents", "documents of each dev query", type=int, metavar="N")
    add("threads", "default: the physical cores", type=int, metavar="N")
    add("gpu_layers", "layers of a GGUF annotator on the GPU, -1 for all", type=int, metavar="N")
    add("sequences", "documents in one decode of a GGUF annotator; more than 1 is for GPUs", type=int, metavar="N")
    add("stages", f"only these, of {', '.join(STAGES)}", nargs="+", choices=list(STAGES), metavar="STAGE")
    add("overwrite", "do again what was done with other settings", action="store_true")
    for name in _TRAINING:
        default = getattr(TRAINING, name)
        choices = {"choices": list(LOSSES)} if name == "loss" else {}
        add(name, f"of the re-rankers (default: {default})", type=type(default), default=default, **choices)
    return parser


if __name__ == "__main__":
    sys.exit(main())
