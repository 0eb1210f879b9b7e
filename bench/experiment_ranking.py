"""The re-rankers of the experiment: training, and every ranking that is evaluated, as a TREC run."""

from __future__ import annotations

from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

from pairgrade.bench.experiment_options import ANNOTATORS, Direction, ExperimentOptions
from pairgrade.bench.experiment_sets import Layout, arms_of
from pairgrade.bench.experiment_steps import Step
from pairgrade.cli.train_progress import TerminalTrainProgress
from pairgrade.errors import InputError
from pairgrade.qrels import write_run
from pairgrade.ranking_set import read_groups
from pairgrade.rerank_job import RerankJob, rerank
from pairgrade.reranker import Reranker
from pairgrade.train.base_model import folder_digest
from pairgrade.train.bi_encoder import cosines
from pairgrade.train.encoder import resolve_encoder
from pairgrade.train.pretrain import PRETRAINING, PretrainJob, pretrain_reranker
from pairgrade.train.reranker_options import RerankerOptions
from pairgrade.train.reranker_run import RerankerJob, train_reranker

START = "pretrained"  # what every arm starts from, and its folder


def train_steps(options: ExperimentOptions) -> list[Step]:
    """Return the steps of the stage ``train``: every arm with the same encoder, pairs, options and steps."""
    layout, steps = Layout(options), []
    encoder = folder_digest(resolve_encoder(options.encoder))
    for way in options.directions():
        base, start = options.encoder, []
        if options.pretrain:
            start = [layout.way(way, START)]
            base = str(start[0])
            steps.append(_pretraining(options, way, start[0], encoder))
        for arm in arms_of(options, way)[0]:
            files = tuple(layout.labels(way, arm, side) for side in ("train", "dev"))
            for seed in options.seeds:
                out = layout.way(way, "rerankers", f"{arm}-{seed}")
                training = replace(options.training, seed=seed)
                name = f"re-ranker {way.name} {arm}-{seed}"
                steps.append(_training(options, name, (*files, *start), out, base, training, encoder))
    return steps


def _pretraining(options: ExperimentOptions, way: Direction, out: Path, encoder: str) -> Step:
    """Return the step that teaches the encoder its own cosine, on the texts of a way's training queries."""
    texts = Layout(options).labels(way, "a", "train")
    training = replace(PRETRAINING, max_length=options.training.max_length)
    settings = _settings(training, encoder) | {"queries": str(options.pretrain)}
    work = partial(_pretrain, options, texts, out, replace(training, threads=options.threads))
    return Step(f"pretraining {way.name}", work, (texts,), (out,), settings, costly=True)


def _pretrain(options: ExperimentOptions, texts: Path, out: Path, training: RerankerOptions) -> None:
    job = PretrainJob(texts, out, options.encoder, options.pretrain, options.overwrite or out.exists())
    with TerminalTrainProgress() as progress:
        pretrain_reranker(job, training, progress)


def _settings(training: RerankerOptions, encoder: str) -> dict[str, str]:
    return {key: str(value) for key, value in asdict(training).items() if key != "threads"} | {"encoder": encoder}


def _training(
    options: ExperimentOptions,
    name: str,
    inputs: tuple[Path, ...],
    out: Path,
    base: str,
    training: RerankerOptions,
    encoder: str,
) -> Step:
    settings = _settings(training, encoder)
    training = replace(training, threads=options.threads)
    work = partial(_train, inputs[0], inputs[1], out, base, training, options.overwrite)
    return Step(name, work, inputs, (out,), settings, costly=True)


def _train(train: Path, dev: Path, out: Path, base: str, training: RerankerOptions, overwrite: bool) -> None:
    job = RerankerJob(train, out, base, dev, overwrite=overwrite or out.exists())  # it is there, but not as recorded
    with TerminalTrainProgress() as progress:
        train_reranker(job, training, progress)


def rank_steps(options: ExperimentOptions) -> list[Step]:
    """Return the steps of the stage ``rank``."""
    layout, steps = Layout(options), []
    ways = options.directions()
    encoder = {"encoder": folder_digest(resolve_encoder(options.encoder))}
    for name in dict.fromkeys(name for way in ways for name in options.tested(way)):
        candidates, run = layout.collection(name, "candidates.jsonl"), layout.collection(name, "cosine.run")
        work = partial(_cosine_run, options, candidates, run)
        steps.append(Step(f"cosine {name}", work, (candidates,), (run,), encoder))
    for way in ways:
        models = {START: layout.way(way, START)} if options.pretrain else {}
        trained = (f"{arm}-{seed}" for arm in arms_of(options, way)[0] for seed in options.seeds)
        models |= {name: layout.way(way, "rerankers", name) for name in trained}
        for own, model in models.items():
            for name in options.tested(way):
                run = run_file(layout, way, name, own)
                inputs = (model, layout.collection(name, "qrels.txt"), *layout.texts(name))
                work = partial(_rerank, options, name, model, run)
                steps.append(Step(f"run {way.name} {name} {own}", work, inputs, (run,)))
    return steps


def run_file(layout: Layout, way: Direction, collection: str, reranker: str) -> Path:
    """Return where the ranking of a collection by a re-ranker, such as a-0, is."""
    return layout.way(way, "runs", collection, f"{reranker}.run")


def rankings(options: ExperimentOptions, way: Direction, collection: str) -> dict[str, list[Path]]:
    """Return the rankings to compare by name, those of an arm's seeds together."""
    layout = Layout(options)
    found = {name: [layout.collection(collection, f"{name}.run")] for name in ("bm25", "cosine")}
    if options.pretrain:
        found[START] = [run_file(layout, way, collection, START)]
    for arm in arms_of(options, way)[0]:
        found[arm] = [run_file(layout, way, collection, f"{arm}-{seed}") for seed in options.seeds]
    if options.annotator_as_ranker and collection == way.test:
        for arm in options.annotators(way):
            found[ANNOTATORS[arm]] = [layout.judgments(ANNOTATORS[arm], way, collection)]
    return found


def _rerank(options: ExperimentOptions, collection: str, model: Path, out: Path) -> None:
    layout = Layout(options)
    queries, docs = map(str, layout.texts(collection))
    job = RerankJob(str(layout.collection(collection, "qrels.txt")), queries, docs, out)
    with Reranker.open(model, "fp32", options.threads) as reranker:
        found = rerank(job, reranker)
    if found.unfit or found.without_text:
        out.unlink()
        why = found.unfit_reason or found.examples[0].reason
        raise InputError(
            f"{collection}: {found.unfit + found.without_text:,} judged documents cannot be ranked by {model.name}, so "
            f"its figures would not be of the same queries as the others: {why}. Long queries need more --max-length"
        )


def _cosine_run(options: ExperimentOptions, candidates: Path, out: Path) -> None:
    scores = cosines(options.encoder, read_groups(candidates), options.threads)
    write_run(out, ((query, document, score) for (query, document), score in scores.items()))
