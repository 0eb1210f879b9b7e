"""Pairs in, judgments out: a rubric, a model and a backend put together."""

from __future__ import annotations

import logging
import math
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType

from pairgrade.backend import Backend, Counters
from pairgrade.backends import one_model, open_backend
from pairgrade.calibration import Calibration, expected_grade, softmax
from pairgrade.chat import ChatFormat
from pairgrade.errors import InputError, NonFiniteError
from pairgrade.file_hashes import remembered_sha256
from pairgrade.llama import LlamaOptions
from pairgrade.onnx_backend import OnnxOptions
from pairgrade.option_checks import require_whole
from pairgrade.plan import Batch, PlanOptions, plan
from pairgrade.prompt import PROMPT_VERSION, Prompt, PromptBuilder, chat_in_force
from pairgrade.records import Judgment, Pair
from pairgrade.rubric import Rubric
from pairgrade.trained_prompt import prompt_in_force
from pairgrade.windows import windows

_log = logging.getLogger(__name__)

_STRINGS = ("query_id", "doc_id", "query", "document", "title")


@dataclass(frozen=True, slots=True)
class AnnotatorOptions:
    """How prompts are made and put in order."""

    chat: str = "auto"  # chat format by name, or what the vocabulary tells
    too_long: str = "cut"  # what happens to a document that does not fit: "cut" or "reject"
    window: int = 1024  # pairs that are planned together
    plan: PlanOptions = PlanOptions()
    calibration: Calibration | None = None  # what makes grades of the model's probabilities; None: the most probable

    def __post_init__(self) -> None:
        require_whole(self, "window")
        for name, kinds in (("plan", (PlanOptions,)), ("calibration", (Calibration, type(None)))):
            if not isinstance(value := getattr(self, name), kinds):
                raise InputError(f"{name} is {type(value).__name__}; it must be {kinds[0].__name__}")
        if self.too_long not in ("cut", "reject"):
            raise InputError(f"too_long is '{self.too_long}'; it can be 'cut' or 'reject'")
        if self.window < 1:
            raise InputError(f"a window of {self.window} pairs; it must hold at least 1")


@dataclass(frozen=True, slots=True)
class Unfit:
    """A pair that this annotator cannot grade, and why."""

    pair: Pair
    reason: str


Outcome = Judgment | Unfit


class Annotator:
    """Grades pairs. Use ``Annotator.open`` for a model by reference; close it, or use it in a ``with``.

    Threads may share one: its model works for one of them at a time. Processes may not: open one in each.
    """

    def __init__(
        self, backend: Backend, rubric: Rubric, options: AnnotatorOptions | None = None, model: Path | None = None
    ) -> None:
        self.rubric = rubric
        self.options = options or AnnotatorOptions()
        if self.options.calibration:
            self.options.calibration.require(rubric.values)
            for doubt in self.options.calibration.doubts(model, rubric.digest):
                _log.warning("%s: fit one to what is labelled now, or know that its grades may be off", doubt)
        self._backend = backend
        self._model = model
        self._closed = False
        chat = chat_in_force(self.options.chat, backend.tokenizer, backend.is_chat_model)
        self._builder = PromptBuilder(rubric, backend.tokenizer, backend.context, chat)
        self._lock = threading.Lock()  # a backend has one cache and one worker: two calls at once would mix them up
        self._process = os.getpid()

    @classmethod
    def open(
        cls,
        model: str | Path,
        rubric: Rubric | str | Path | None = None,
        *,
        options: AnnotatorOptions | None = None,
        llama: LlamaOptions | None = None,
        onnx: OnnxOptions | None = None,
        isolate: bool = False,
    ) -> Annotator:
        """Load a GGUF model by path, ``pkg:PACKAGE`` or ``hf:org/repo/file.gguf@revision``, or an exported ONNX folder.

        Of a folder that holds several of them, the one that is fastest on this machine is taken. ``rubric``: built-in
        by name, or a TOML file; None is that of the model's training where its folder tells one, else trec. So are
        the turns and the context, where the options leave them open.
        ``isolate``: in a worker process, so that a pair on which the model's library dies becomes an ``Unfit``.
        ModelError where it cannot be loaded; RubricError where the rubric's label words do not fit it.
        """
        chosen, options, llama = one_model(model, onnx), options or AnnotatorOptions(), llama or LlamaOptions()
        task, chat, context = prompt_in_force(chosen, rubric, options.chat, None)
        options, llama = replace(options, chat=chat), replace(llama, context=llama.context or context)
        onnx = onnx and replace(onnx, context=onnx.context or context)
        return cls.load(chosen, task, options, llama, onnx, isolate=isolate)

    @classmethod
    def load(
        cls,
        model: str | Path,
        rubric: Rubric,
        options: AnnotatorOptions | None = None,
        llama: LlamaOptions | None = None,
        onnx: OnnxOptions | None = None,
        *,
        isolate: bool = False,
    ) -> Annotator:
        """Load a model as ``open`` does, with the prompt as it is given: nothing is taken from the model's training."""
        backend, path = open_backend(model, llama, onnx, isolate=isolate)
        try:
            return cls(backend, rubric, options, path)
        except BaseException:
            backend.close()
            raise

    @property
    def counters(self) -> Counters:
        """Tokens computed and reused since the model was loaded, and seconds inside it."""
        return self._backend.counters

    @property
    def chat(self) -> ChatFormat:
        """The turns around the prompt."""
        return self._builder.format

    @property
    def threads(self) -> int:
        """How many threads the model computes with."""
        return self._backend.threads

    @property
    def exact(self) -> bool:
        """Whether no bit of a judgment depends on what runs beside it."""
        return self._backend.exact

    def identity(self) -> dict[str, str]:
        """Name everything but the pairs that decides a judgment, for a run's manifest."""
        own = {
            "model_sha256": remembered_sha256(self._model) if self._model else "none",
            "rubric": self.rubric.digest,
            "prompt_version": str(PROMPT_VERSION),
            "chat": self._builder.format.name,
            "label_tokens": " ".join(str(i) for i in self._builder.label_ids),
            "too_long": self.options.too_long,
            "calibration": self.options.calibration.digest if self.options.calibration else "none",
        }
        if not self._backend.exact:  # then a pair's bits depend on what runs beside it
            own |= {"batch_tokens": str(self.options.plan.batch_tokens), "window": str(self.options.window)}
        return own | {f"backend.{key}": value for key, value in self._backend.identity().items()}

    def label(self, pairs: Iterable[Pair]) -> Iterator[Judgment]:
        """Grade pairs and yield their judgments in the same order, each as soon as those before it are there.

        Reads ahead by a window.

        InputError for a pair that cannot be graded (its query does not fit the context). NonFiniteError where the
        model's logits are not numbers.
        """
        for outcome in self.in_order(pairs):
            if isinstance(outcome, Unfit):
                raise InputError(f"pair ({outcome.pair.query_id}, {outcome.pair.doc_id}): {outcome.reason}")
            yield outcome

    def in_order(self, pairs: Iterable[Pair]) -> Iterator[Outcome]:
        """Grade pairs as ``label`` does, and yield an ``Unfit`` for one that cannot be graded."""
        for window in windows(pairs, self.options.window):
            outcomes: dict[int, Outcome] = {}
            place = 0  # of the next one in order
            for batch in self.outcomes(window):
                outcomes.update(batch)
                while place in outcomes:
                    yield outcomes.pop(place)
                    place += 1

    def outcomes(self, window: Sequence[Pair]) -> Iterator[list[tuple[int, Outcome]]]:
        """Grade one window and yield (place in the window, outcome) batch by batch, in the plan's order."""
        prompts: list[Prompt] = []
        places: list[int] = []
        unfit: list[tuple[int, Outcome]] = []
        self._require_open()  # first, for a fork may get the lock locked
        with self._lock:
            self._require_open()  # another thread may have closed it
            for place, pair in enumerate(window):
                try:
                    prompts.append(self._prompt(pair))
                except InputError as error:
                    unfit.append((place, Unfit(pair, str(error))))
                else:
                    places.append(place)
        if unfit:
            yield unfit
        for batch in plan(prompts, self.options.plan):
            yield self._judge(batch, prompts, places, window)

    def _prompt(self, pair: Pair) -> Prompt:
        """Return a pair's prompt; InputError where it has none."""
        for name in _STRINGS:
            if not isinstance(getattr(pair, name), str):
                raise InputError(f"its {name} is {type(getattr(pair, name)).__name__}; it must be a str")
        prompt = self._builder.build(pair)
        if prompt.cut_tokens and self.options.too_long == "reject":
            raise InputError(f"the document is {prompt.cut_tokens} tokens too long for the context")
        return prompt

    def _judge(
        self, batch: Batch, prompts: list[Prompt], places: list[int], window: Sequence[Pair]
    ) -> list[tuple[int, Outcome]]:
        self._require_open()
        with self._lock:
            self._require_open()
            scores = self._backend.score(batch.prefix, batch.suffixes, self._builder.label_ids)
        done: list[tuple[int, Outcome]] = []
        for row, indices in enumerate(batch.indices):
            if row in scores.failed:
                done += [(places[index], Unfit(window[places[index]], scores.failed[row])) for index in indices]
                continue
            logits = scores.logits[row].tolist()
            total = None if scores.log_totals is None else float(scores.log_totals[row])
            for index in indices:
                done.append((places[index], self._judgment(window[places[index]], prompts[index], logits, total)))
        return done

    def _judgment(self, pair: Pair, prompt: Prompt, logits: list[float], total: float | None) -> Judgment:
        """Turn label logits into a judgment; plain arithmetic, row by row, so that no neighbour can move a bit."""
        if not all(map(math.isfinite, logits)) or not (total is None or math.isfinite(total)):
            raise NonFiniteError(
                f"{self._model or 'the model'} gave logits that are not finite numbers for pair ({pair.query_id}, "
                f"{pair.doc_id}); no grade is made of such: the file is damaged or its quantization broken"
            )
        probabilities, log_sum = softmax(logits)
        values = self.rubric.values
        grade = values[probabilities.index(max(probabilities))]
        expected = expected_grade(probabilities, values)
        if self.options.calibration:
            grade, probabilities, expected = self.options.calibration.apply(probabilities, values)
        return Judgment(
            query_id=pair.query_id,
            doc_id=pair.doc_id,
            grade=grade,
            probabilities=probabilities,
            expected_grade=expected,
            label_mass=None if total is None else min(math.exp(log_sum - total), 1.0),
            truncated=prompt.cut_tokens > 0,
            prompt_tokens=prompt.tokens,
            document_tokens=prompt.document_tokens,
            cut_tokens=prompt.cut_tokens,
        )

    def close(self) -> None:
        """Free the model; no more pairs can be graded then. In a process forked off its own, nothing is freed."""
        if self._process != os.getpid():
            return
        with self._lock:
            self._closed = True
            self._backend.close()

    def _require_open(self) -> None:
        """Raise InputError after ``close``, for the library would read memory that is freed, and behind a fork."""
        if self._process != os.getpid():
            raise InputError(
                f"the annotator was opened in another process ({self._process}), whose threads and connection a fork "
                "does not get; open one in each process, as in the initializer of a pool"
            )
        if self._closed:
            raise InputError(
                "the annotator is closed; judgments are made as they are asked for, so take them all inside the `with`"
            )

    def __enter__(self) -> Annotator:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


@contextmanager
def entered(opened: Callable[[], Annotator]) -> Iterator[Annotator]:
    """Open an annotator in a worker process when this is entered.

    A run holds signals back while it makes the context, not while it enters it: so the wait for a worker can be cut.
    """
    with opened() as annotator:
        yield annotator
