"""The records that cross pairgrade's boundaries, with the column names of its files."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Pair:
    """A query and a document to be graded."""

    query_id: str
    doc_id: str
    query: str
    document: str
    title: str = ""
    grade: int | None = None  # the human grade, where one is known


@dataclass(frozen=True, slots=True)
class Rejection:
    """A row of the input that is not a usable pair, and why."""

    source: str  # file name, as given
    line: int  # line number from 1 (Parquet and CSV: of the record's first line or row)
    reason: str
    query_id: str | None = None
    doc_id: str | None = None
    lacks_query: bool = field(default=False, compare=False)  # the query's text was not found, or is blank

    @property
    def told(self) -> str:
        """The reason with its place, as a message has it."""
        return f"{self.source}, line {self.line}: {self.reason}"


@dataclass(frozen=True, slots=True)
class Judgment:
    """What the annotator says of one pair."""

    query_id: str
    doc_id: str
    grade: int  # the most probable grade (ties go to the lower one), or what a calibration makes of the probabilities
    probabilities: tuple[float, ...]  # one per grade of the rubric, ascending; sums to 1
    expected_grade: float  # sum of grade times probability: the score to rank by
    label_mass: float | None  # share of the whole vocabulary's probability that lay on label tokens
    truncated: bool  # the document was cut to fit
    prompt_tokens: int  # tokens of the whole prompt, as the model read it
    document_tokens: int  # of these, the document's
    cut_tokens: int  # document tokens left out


@dataclass(frozen=True, slots=True)
class Qrel:
    """One line of a TREC qrels file."""

    query_id: str
    doc_id: str
    grade: int
