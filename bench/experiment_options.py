"""What the experiment is asked to do: collections, models, seeds, and how the re-rankers are trained."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pairgrade.errors import InputError
from pairgrade.llama import LlamaOptions
from pairgrade.relabel_policy import POLICIES
from pairgrade.train.encoder import DEFAULT_ENCODER
from pairgrade.train.reranker_options import PRETRAINING_QUERIES, RerankerOptions

ARMS = {
    "a": "BM25's labels",
    "b": "labels of the zero-shot annotator",
    "c": "labels of the tuned annotator",
    "d": "labels of people",
}
ANNOTATORS = {"b": "zero-shot", "c": "tuned"}  # who labels an arm's set
STAGES = {
    "sets": "the pairs of each collection, BM25, the semi-automatic and the human labels",
    "judge": "the annotators label the pairs",
    "relabel": "calibration, and what becomes of the semi-automatic labels",
    "train": "a re-ranker of each set of labels and seed",
    "rank": "BM25, the encoder's cosine and the re-rankers rank the other collections",
    "report": "the tables and the picture",
}
# No early stop: every arm takes the same steps. Why the defaults are what they are: docs/experiment.md
TRAINING = RerankerOptions(patience=0, epochs=1.0, learning_rate=1e-4)


@dataclass(frozen=True, slots=True)
class Direction:
    """What a way round trains and tests on."""

    train: str  # a collection
    test: str
    tuned: str | None  # the annotator that was tuned on the training collection
    held_out: Path | None = None  # qrels of the queries that it was not tuned on

    @property
    def name(self) -> str:
        """The name of its folder."""
        return f"{self.train}-{self.test}"


@dataclass(frozen=True, slots=True)
class ExperimentOptions:
    """Everything that decides the experiment."""

    data: Path  # the folder of the collections
    out: Path
    train: str
    test: str
    other: tuple[str, ...] = ()  # collections of other domains to test on
    encoder: str = DEFAULT_ENCODER
    pretrain: int = PRETRAINING_QUERIES  # made of training documents, to learn the encoder's own cosine on; 0: none
    zero_shot: str | None = None  # the annotator of arm b
    tuned: str | None = None  # of arm c, tuned on the training collection
    tuned_back: str | None = None  # of arm c the other way round, tuned on the test collection
    held_out: Path | None = None  # held-out.qrels of tuned's adapter; None: the queries that training keeps by default
    held_out_back: Path | None = None  # of tuned_back's
    both_ways: bool = False
    annotator_as_ranker: bool = False  # let the annotators label the test collection, too
    rubric: str = "trec"
    context: int = 1024  # longest prompt in tokens
    positive_share: float = 0.2  # of a query's documents, BM25's first ones, that the semi-automatic set holds relevant
    policy: str = "replace"  # how labels are corrected
    seeds: tuple[int, ...] = (0, 1, 2)
    limit_queries: int | None = None  # of each collection, at random
    documents: int | None = None  # of each query, at random
    dev_documents: int = 64  # of each dev query, at random
    threads: int | None = None
    gpu_layers: int = 0  # of annotators that are GGUF files; -1 for all
    sequences: int = 1  # documents in one decode of such an annotator; more is for GPUs
    stages: tuple[str, ...] = tuple(STAGES)
    overwrite: bool = False
    training: RerankerOptions = TRAINING

    def __post_init__(self) -> None:
        for name in ("train", "test", "other"):
            value = getattr(self, name)
            for each in (value,) if isinstance(value, str) else value:
                if not (self.data / each / "qrels.txt").is_file():
                    raise InputError(
                        f"{self.data / each} is no collection; it needs qrels.txt, queries.jsonl and docs.jsonl"
                    )
        tested = [self.train, self.test, *self.other]
        if len(set(tested)) < len(tested):
            raise InputError(f"the collections are {', '.join(tested)}; each may be named once: test on what is unseen")
        if not self.both_ways and (self.tuned_back or self.held_out_back):
            raise InputError("tuned_back and held_out_back are for the way back; give both_ways too, or leave them out")
        if self.pretrain < 0:
            raise InputError(f"pretrain is {self.pretrain}; it must not be negative")
        if not 0 < self.positive_share < 1:
            raise InputError(f"positive_share is {self.positive_share}; it must lie between 0 and 1")
        if self.policy not in POLICIES or self.policy.startswith("drop"):
            allowed = ", ".join(name for name in POLICIES if not name.startswith("drop"))
            raise InputError(f"the policy is {self.policy!r}; it can be {allowed}: every arm learns of the same pairs")
        if not self.seeds or len(set(self.seeds)) < len(self.seeds) or min(self.seeds) < 0:
            raise InputError(f"the seeds are {list(self.seeds)}; give one or more, distinct and 0 or above")
        for name, least in (("limit_queries", 2), ("documents", 2), ("dev_documents", 2), ("context", 64)):
            number = getattr(self, name)
            if number is not None and number < least:
                raise InputError(f"{name} is {number}; it must be at least {least}")
        self.llama()  # tells of numbers that are out of range
        if unknown := set(self.stages) - set(STAGES):
            raise InputError(f"no stage {', '.join(sorted(unknown))}; there are {', '.join(STAGES)}")

    def llama(self) -> LlamaOptions:
        """Return how an annotator that is a GGUF file runs."""
        return LlamaOptions(self.context, self.threads, self.gpu_layers, self.sequences)

    def directions(self) -> tuple[Direction, ...]:
        """Return the ways round."""
        there = Direction(self.train, self.test, self.tuned, self.held_out)
        back = Direction(self.test, self.train, self.tuned_back, self.held_out_back)
        return (there, back) if self.both_ways else (there,)

    def tested(self, way: Direction) -> tuple[str, ...]:
        """Return the collections that a way's rankings are evaluated on."""
        return (way.test, *self.other)

    def annotators(self, way: Direction) -> dict[str, str]:
        """Return the models of the annotators that were given, by arm."""
        return {arm: model for arm, model in (("b", self.zero_shot), ("c", way.tuned)) if model is not None}
