"""Every exception that pairgrade raises on purpose.

The tree::

    PairgradeError
    |-- InputError        a file, row or option that cannot be used as it is
    |-- RubricError       a rubric that does not parse or does not fit the model's tokenizer
    |-- ModelError        a model that cannot be found, read or run
    |   |-- NonFiniteError    a model whose logits are not numbers
    |   `-- SuspectError      a model that judges the same pair otherwise than before
    |-- ResumeError       the output belongs to a different job than the one asked for
    |-- LockedError       another process is writing the same output
    |-- StorageError      the disk refused a write; what was committed before is kept
    `-- MissingExtraError a feature whose optional packages are not installed

A message says what came, what is allowed and what to do. Exit codes are chosen in ``pairgrade.cli`` only.
"""

from __future__ import annotations


class PairgradeError(Exception):
    """Root of all errors that pairgrade raises on purpose."""


class InputError(PairgradeError, ValueError):
    """A file, row or option that cannot be used as it is."""


class RubricError(PairgradeError, ValueError):
    """A rubric that does not parse, or whose label words do not fit the model's tokenizer."""


class ModelError(PairgradeError):
    """A model that cannot be found, read or run."""


class NonFiniteError(ModelError):
    """A model whose logits hold NaN or infinity: no grade may come of them."""


class SuspectError(ModelError):
    """A model that judges the same pair otherwise than before: its judgments cannot be trusted."""


class ResumeError(PairgradeError):
    """The output belongs to another job than the one asked for."""


class LockedError(PairgradeError):
    """Another process is writing the same output."""


class StorageError(PairgradeError, OSError):
    """The disk refused a write; what was committed before is kept."""


class MissingExtraError(PairgradeError, ImportError):
    """A feature whose optional packages are not installed."""

    def __init__(self, feature: str, package: str, extra: str | None = None) -> None:
        target = f"'pairgrade[{extra}]'" if extra else package
        super().__init__(f"{feature} needs the package {package}, which is not installed; run: pip install {target}")
        self._made_of = feature, package, extra

    def __reduce__(self) -> tuple[type[MissingExtraError], tuple[str, str, str | None]]:
        return type(self), self._made_of  # a process of a pool sends it to another
