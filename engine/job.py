"""What a labelling run is asked to do, checked before anything is read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pairgrade.errors import InputError
from pairgrade.judgments import required_format
from pairgrade.readers import Source
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
        taken: dict[Path, str] = {}
        for role in ("pairs", "queries", "docs"):
            path = getattr(self.source, role)
            if path is not None and not self.source.in_catalogue:
                taken[Path(path).resolve()] = f"the input's {role}"
        if self.canaries is not None:
            taken[self.canaries.resolve()] = "the file of canaries"
        if self.canary_every < 1:
            raise InputError(f"canary_every is {self.canary_every}; it must be at least 1")
        for path, role in self._written():
            if path.is_dir():
                raise InputError(f"{path} is a folder; name a file in it")
            other = taken.setdefault(path.resolve(), role)
            if other != role:
                raise InputError(f"{path} is {other} and would be overwritten with {role}; name another file")

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
        return self.out.with_name(self.out.name + suffix)

    def _written(self) -> list[tuple[Path, str]]:
        files = [(self.out, "the judgments"), (self.manifest, "the manifest"), (self.errors, "the errors file")]
        return files + ([(self.qrels, "the qrels")] if self.qrels else [])
