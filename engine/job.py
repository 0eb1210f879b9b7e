"""What a labelling run is asked to do, checked before anything is read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pairgrade.errors import InputError
from pairgrade.file_roles import Role, keep_apart
from pairgrade.judgments import required_format
from pairgrade.readers import Source
from pairgrade.run_folder import behind_link
from pairgrade.spool import Selection


@dataclass(frozen=True, slots=True)
class LabelJob:
    """What is to be labelled, and where the judgments go."""

    source: Source
    out: Path
    qrels: Path | None = None
    selection: Selection = Selection()
    overwrite: bool = False  # an output of another job may be replaced
    canaries: Path | None = None  # pairs that are judged again and again, to find out a model that changes
    canary_every: int = 1000  # pairs between two such checks, rounded up to a window of the planner

    def __post_init__(self) -> None:
        required_format(self.out)
        if self.canary_every < 1:
            raise InputError(f"canary_every is {self.canary_every}; it must be at least 1")
        texts = () if self.source.in_catalogue else ("pairs", "queries", "docs")
        read = [(getattr(self.source, role), f"the input's {role}") for role in texts]
        keep_apart([*read, (self.canaries, "the file of canaries")], self._written())

    @property
    def manifest(self) -> Path:
        """The path of the finished run's manifest."""
        return self._beside(".manifest.json")

    @property
    def errors(self) -> Path:
        """The path of the rows without a judgment."""
        return self._beside(".errors.jsonl")

    @property
    def folder(self) -> Path:
        """The path of the folder of the unfinished run."""
        return self._beside(".run")

    def _beside(self, suffix: str) -> Path:
        real = behind_link(self.out)  # one run for both names
        return real.with_name(real.name + suffix)

    def _written(self) -> list[Role]:
        files: list[Role] = [(self.out, "the judgments"), (self.manifest, "the manifest")]
        return [*files, (self.errors, "the errors file"), (self.qrels, "the qrels")]
