"""What a measuring process is asked, and what it answers: both cross its boundary as JSON."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any


@dataclass(frozen=True, slots=True)
class CellJob:
    """One measurement of one cell."""

    model: str
    engine: str  # "pairgrade" or a peer's name
    rubric: str
    threads: int
    batch_tokens: int
    context: int
    pairs: str  # path of a JSONL file
    out: str  # path of the judgments: .jsonl of pairgrade, qrels of a peer
    gpu_layers: int = 0  # of llama.cpp, by whatever engine
    sequences: int = 1  # documents in one decode of llama.cpp
    provider: str = "cpu"  # of ONNX models
    warm: int = 4  # pairs that are judged before the clock runs
    started: float = 0.0  # time.time() when the process was asked for
    isolate: bool = False  # as `pairgrade label` runs: the model in a worker process, threads bound to no core
    prompt: dict[str, Any] | None = None  # fields of AnnotatorOptions besides the plan; None: the defaults
    llama: dict[str, Any] | None = None  # fields of LlamaOptions; None: what is above
    onnx: dict[str, Any] | None = None  # fields of OnnxOptions; None: what is above


@dataclass(frozen=True, slots=True)
class BatchTime:
    """One batch of a run."""

    pairs: int
    seconds: float
    computed: int  # tokens


@dataclass(frozen=True, slots=True)
class CellRun:
    """One measurement. Seconds are wall-clock; what an engine does not let be seen is None, never zero."""

    pairs: int
    total_seconds: float  # from the texts in a file to the judgments in a file, the model loaded before
    load_seconds: float
    first_seconds: float  # from the start of the process to its first judgment
    peak_rss_bytes: int  # of a worker process besides, its own peak added
    rss_bytes: int | None = None  # resident at the end, a worker's included; None where the system does not tell
    read_seconds: float | None = None
    tokenize_seconds: float | None = None
    prefix_seconds: float | None = None
    documents_seconds: float | None = None
    write_seconds: float | None = None
    prefix_tokens: int | None = None  # computed
    document_tokens: int | None = None  # computed
    reused_tokens: int | None = None
    prompt_tokens: int | None = None  # of the prompts of the pairs that got a grade, as the model read them
    unparsed: int = 0  # pairs without a grade: they do not fit, or a generating peer answers something else
    energy_joules: float | None = None  # of the processor's packages, while the pairs were judged
    gpu_joules: float | None = None  # of the GPUs, while the pairs were judged
    bound: bool | None = None  # whether the process was bound to as many CPUs as it had threads; None: not known
    other_load: float | None = None  # cores that other processes kept busy meanwhile
    identity: dict[str, str] | None = None  # what the engine says of itself
    batches: tuple[BatchTime, ...] = ()

    @property
    def model_seconds(self) -> float | None:
        """Seconds inside the model."""
        if self.prefix_seconds is None or self.documents_seconds is None:
            return None
        return self.prefix_seconds + self.documents_seconds

    def to_dict(self) -> dict[str, Any]:
        """Return the measurement as JSON takes it."""
        return asdict(self)

    @classmethod
    def from_dict(cls, table: dict[str, Any]) -> CellRun:
        """Read what ``to_dict`` gave."""
        known = {field.name for field in fields(cls)}
        values = {name: value for name, value in table.items() if name in known}
        return cls(**values | {"batches": tuple(BatchTime(**row) for row in table["batches"])})
