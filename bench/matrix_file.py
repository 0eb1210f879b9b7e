"""Reads a matrix from TOML: unknown keys, wrong types and missing fields are errors that name the place."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from pairgrade.bench.matrix import Data, Matrix, Rounds, located
from pairgrade.errors import InputError
from pairgrade.rubric_file import problems

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class _Data(_Strict):
    pairs: str
    queries: str | None = None
    docs: str | None = None
    max_queries: int | None = None
    per_query: int | None = None
    seed: int | None = None


class _Rounds(_Strict):
    least: int | None = None
    most: int | None = None
    width: float | None = None
    minutes: float | None = None


class _MatrixFile(_Strict):
    models: list[str]
    data: _Data
    engines: list[str] | None = None
    peer_models: list[str] | None = None
    threads: list[int] | None = None
    batch_tokens: list[int] | None = None
    rubrics: list[str] | None = None
    context: int | None = None
    gpu_layers: int | None = None
    sequences: int | None = None
    provider: str | None = None
    reference: str | None = None
    machine: str | None = None
    usd_per_hour: float | None = None
    rounds: _Rounds = _Rounds()


def load_matrix(path: Path) -> Matrix:
    """Read a matrix file; its relative paths are of the file's folder. InputError says what is wrong with it."""
    return parse_matrix(read_toml(path), str(path), path.resolve().parent)


def read_toml(path: Path) -> dict[str, Any]:
    """Return the table of a TOML file; InputError where it cannot be read."""
    try:
        table: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not valid TOML: {error}") from None
    return table


def parse_matrix(table: dict[str, Any], source: str, folder: Path) -> Matrix:
    """Check a matrix's table; ``source`` names it in errors, relative paths are looked up in ``folder``."""
    try:
        file = _MatrixFile.model_validate(table)
    except ValidationError as error:
        raise InputError(f"{source}: " + "; ".join(problems(error))) from None
    plain = file.model_dump(exclude_none=True)  # what is not there keeps the matrix's own default
    data, rounds = plain.pop("data"), plain.pop("rounds", {})
    for role in ("pairs", "queries", "docs"):
        if role in data:
            data[role] = _placed(data[role], folder)
    for name in ("models", "engines", "peer_models", "threads", "batch_tokens", "rubrics"):
        if name in plain:
            plain[name] = tuple(plain[name])
    for name in ("models", "peer_models", "rubrics"):
        if name in plain:
            plain[name] = tuple(_placed(reference, folder) for reference in plain[name])
    if "reference" in plain:
        plain["reference"] = _placed(plain["reference"], folder)
    if "least" in rounds:
        rounds.setdefault("most", max(rounds["least"], Rounds().most))
    return Matrix(**plain, data=Data(**data), rounds=Rounds(**rounds))


def _placed(reference: str, folder: Path) -> str:
    """Look a path up in the folder of the file that names it; what is no path stays as it is."""
    inside = folder / reference
    return str(inside) if os.path.exists(inside) else located(reference)  # False for what no path can be
