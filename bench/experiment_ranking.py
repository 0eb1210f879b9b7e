"""The re-rankers of the experiment: training, and every ranking that is evaluated, as a TREC run."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

from pairgrade.bench.experiment_options import ANNOTATORS, Direction, ExperimentOptions
from pairgrade.bench.experiment_sets import Layout, arms_of, some_rows
from pairgrade.bench.experiment_steps import Step
from pairgrade.cli.train_progress import TerminalTrainProgress
from pairgrade.errors import MissingExtraError
from pairgrade.export.causal_model import quiet_transformers
from pairgrade.qrels import write_run
from pairgrade.ranking_set import RankingGroup, RankingRow, grouped, read_groups, read_ranking_set, write_ranking_set
from pairgrade.rerank_job import RerankJob, rerank
from pairgrade.reranker import Reranker
from pairgrade.train.base_model import folder_digest
from pairgrade.train.encoder import resolve_encoder
from pairgrade.train.reranker_options import RerankerOptions
from pairgrade.train.reranker_run import RerankerJob, train_reranker

_TOP = 3.0  # the label of a cosine of 1: on the scale of the grades
_WARM_LOSS = "ranknet"  # of a cosine only the order is to be learnt


def train_steps(options: ExperimentOptions) -> list[Step]:
    """Return the steps of the stage ``train``: every arm with the same encoder, pairs, options and steps."""
    layout, steps = Layout(options), []
    encoder = folder_digest(resolve_encoder(options.encoder))
    base, start = options.encoder, []
    if options.warm_up:
        found = layout.root / "warm-up"
        start = [found / "encoder"]
        base = str(start[0])
        files = tuple(found / f"{side}.jsonl" for side in ("train", "dev"))
        sources = tuple(layout.collection(name, "candidates.jsonl") for name in options.warm_up)
        work = partial(cosine_sets, options, files)
        steps.append(Step("pairs of the warm-up", work, sources, files, {"encoder": encoder}))
        training = replace(options.training, loss=_WARM_LOSS, seed=0)
        steps.append(_training(options, "warm-up", files, start[0], options.encoder, training, encoder))
    for way in options.directions():
        for arm in arms_of(options, way)[0]:
            files = tuple(layout.labels(way, arm, side) for side in ("train", "dev"))
            for seed in options.seeds:
                out = layout.way(way, "rerankers", f"{arm}-{seed}")
                training = replace(options.training, seed=seed)
                name = f"re-ranker {way.name} {arm}-{seed}"
                steps.append(_training(options, name, (*files, *start), out, base, training, encoder))
    return steps


def _training(
    options: ExperimentOptions,
    name: str,
    inputs: tuple[Path, ...],
    out: Path,
    base: str,
    training: RerankerOptions,
    encoder: str,
) -> Step:
    settings = {key: str(value) for key, value in asdict(training).items() if key != "threads"} | {"encoder": encoder}
    training = replace(training, threads=options.threads)
    work = partial(_train, inputs[0], inputs[1], out, base, training, options.overwrite)
    return Step(name, work, inputs, (out,), settings, costly=True)


def _train(train: Path, dev: Path, out: Path, base: str, training: RerankerOptions, overwrite: bool) -> None:
    job = RerankerJob(train, out, base, dev, overwrite=overwrite or out.exists())  # it is there, but not as recorded
    with TerminalTrainProgress() as progress:
        train_reranker(job, training, progress)


def cosine_sets(options: ExperimentOptions, files: tuple[Path, ...]) -> None:
    """Write the warm-up's pairs with the encoder's own cosine as their labels, every fifth query for dev."""
    groups = grouped(
        replace(row, query_id=f"{name}/{row.query_id}")  # collections may number their queries alike
        for name in options.warm_up
        for row in read_ranking_set(Layout(options).collection(name, "candidates.jsonl"))
    )
    scores = cosines(options.encoder, groups, options.threads)
    for path, wanted in zip(files, (False, True), strict=True):
        chosen = [group for place, group in enumerate(groups) if (place % 5 == 0) is wanted]
        own = [some_rows(group, options.dev_documents) if wanted else group.rows for group in chosen]
        write_ranking_set(path, (_with_cosine(row, scores) for part in own for row in part))


def _with_cosine(row: RankingRow, scores: dict[tuple[str, str], float]) -> RankingRow:
    return replace(row, label=_TOP * max(0.0, scores[row.query_id, row.doc_id]), source="cosine")


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
        for arm in arms_of(options, way)[0]:
            for seed in options.seeds:
                model = layout.way(way, "rerankers", f"{arm}-{seed}")
                for name in options.tested(way):
                    run = run_file(layout, way, name, arm, seed)
                    inputs = (model, layout.collection(name, "qrels.txt"), *layout.texts(name))
                    work = partial(_rerank, options, name, model, run)
                    steps.append(Step(f"run {way.name} {name} {arm}-{seed}", work, inputs, (run,)))
    return steps


def run_file(layout: Layout, way: Direction, collection: str, arm: str, seed: int) -> Path:
    """Return where a re-ranker's ranking of a collection is."""
    return layout.way(way, "runs", collection, f"{arm}-{seed}.run")


def rankings(options: ExperimentOptions, way: Direction, collection: str) -> dict[str, list[Path]]:
    """Return the rankings to compare by name, those of an arm's seeds together."""
    layout = Layout(options)
    found = {name: [layout.collection(collection, f"{name}.run")] for name in ("bm25", "cosine")}
    for arm in arms_of(options, way)[0]:
        found[arm] = [run_file(layout, way, collection, arm, seed) for seed in options.seeds]
    if options.annotator_as_ranker and collection == way.test:
        for arm in options.annotators(way):
            found[ANNOTATORS[arm]] = [layout.judgments(ANNOTATORS[arm], way, collection)]
    return found


def _rerank(options: ExperimentOptions, collection: str, model: Path, out: Path) -> None:
    layout = Layout(options)
    queries, docs = map(str, layout.texts(collection))
    job = RerankJob(str(layout.collection(collection, "qrels.txt")), queries, docs, out)
    with Reranker.open(model, "fp32", options.threads) as reranker:
        rerank(job, reranker)


def _cosine_run(options: ExperimentOptions, candidates: Path, out: Path) -> None:
    scores = cosines(options.encoder, read_groups(candidates), options.threads)
    write_run(out, ((query, document, score) for (query, document), score in scores.items()))


def cosines(encoder: str, groups: Iterable[RankingGroup], threads: int | None) -> dict[tuple[str, str], float]:
    """Return the cosine of query and document by the encoder as it ships, of each pair."""
    groups = list(groups)
    model = _bi_encoder(encoder, threads)
    texts = dict.fromkeys(text for group in groups for text in (group.query, *(row.text for row in group.rows)))
    vectors = model.encode(list(texts), normalize_embeddings=True, show_progress_bar=False, convert_to_numpy=True)
    places = {text: place for place, text in enumerate(texts)}
    return {
        (row.query_id, row.doc_id): float(vectors[places[group.query]] @ vectors[places[row.text]])
        for group in groups
        for row in group.rows
    }


def _bi_encoder(encoder: str, threads: int | None) -> Any:
    try:
        import torch
        from sentence_transformers import SentenceTransformer
    except ImportError:
        raise MissingExtraError("the experiment", "sentence-transformers", "rerank") from None
    if threads:
        torch.set_num_threads(threads)
    with quiet_transformers():
        return SentenceTransformer(str(resolve_encoder(encoder)), device="cpu", local_files_only=True)
