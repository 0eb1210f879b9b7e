"""Reads a calibration from JSON: unknown or repeated keys, wrong types and missing fields are errors."""

from __future__ import annotations

import json
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from pairgrade.calibration import Calibration, Cuts, Fitted, Scaling
from pairgrade.errors import InputError
from pairgrade.lines import readable, unique_keys
from pairgrade.rubric_file import problems

_LARGEST = 2**20  # bytes

_Count = Annotated[int, Field(ge=0)]
_Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class _Fitted(_Strict):
    pairs: _Count
    queries: _Count
    folds: _Count
    split: Literal["queries", "pairs"]
    seed: _Count
    quadratic_kappa_before: float | None
    quadratic_kappa_after: float | None
    judgments_sha256: _Sha256
    model_sha256: _Sha256 | None = None
    rubric: _Sha256 | None = None


class _File(_Strict):
    calibration: Literal[1]  # version of the format
    grades: list[Annotated[int, Field(ge=-1000, le=1000)]]
    fitted: _Fitted | None = None


class _CutsFile(_File):
    method: Literal["cuts"]
    points: list[float]


class _ScalingFile(_File):
    method: Literal["scaling"]
    temperature: float
    biases: list[float]


_ANY: TypeAdapter[_CutsFile | _ScalingFile] = TypeAdapter(
    Annotated[_CutsFile | _ScalingFile, Field(discriminator="method")]
)


def read_text(path: str) -> str:
    """Return the text of a file; InputError where it cannot be read, is not UTF-8 or too large to be a calibration."""
    with readable(path) as stream:
        data = stream.read(_LARGEST + 1)
    if len(data) > _LARGEST:
        raise InputError(f"{path}: larger than {_LARGEST:,} bytes, so it is no calibration")
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 text ({error.reason} at byte {error.start})") from None


def parse_calibration(text: str, source: str) -> Calibration:
    """Parse the JSON of a calibration; ``source`` names it in errors (InputError)."""
    try:
        file = _ANY.validate_python(json.loads(text, object_pairs_hook=unique_keys))
        method = (
            Cuts(tuple(file.points)) if isinstance(file, _CutsFile) else Scaling(file.temperature, tuple(file.biases))
        )
        fitted = Fitted(**file.fitted.model_dump()) if file.fitted else None
        return Calibration(tuple(file.grades), method, fitted)
    except ValidationError as error:
        raise InputError(f"{source}: not a calibration: " + "; ".join(problems(error))) from None
    except json.JSONDecodeError as error:
        raise InputError(f"{source}: not a calibration of pairgrade calibrate: not valid JSON: {error}") from None
    except RecursionError:
        raise InputError(f"{source}: JSON nested too deeply") from None
    except ValueError as error:
        raise InputError(f"{source}: {error}") from None
