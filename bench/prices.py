"""What machines and hosted models cost: a small table that ships with pairgrade, or one's own."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from importlib.resources import as_file, files
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pairgrade.bench.matrix_file import read_toml
from pairgrade.errors import InputError
from pairgrade.rubric_file import problems

_OLD_DAYS = 180


@dataclass(frozen=True, slots=True)
class MachinePrice:
    """A machine for rent."""

    provider: str
    type: str
    usd_per_hour: float
    date: str  # when the price was last known to hold; ISO 8601
    source: str  # the provider's price list, and where the figure was read
    cores: int | None = None  # physical
    memory_gib: float | None = None
    accelerator: str | None = None


@dataclass(frozen=True, slots=True)
class ApiPrice:
    """A hosted model."""

    provider: str
    model: str
    usd_per_million_input_tokens: float
    usd_per_million_output_tokens: float
    date: str
    source: str

    def usd_per_million_pairs(self, prompt_tokens: float) -> float:
        """Return the price of a million pairs whose prompts have so many tokens, answered by one token each."""
        return prompt_tokens * self.usd_per_million_input_tokens + self.usd_per_million_output_tokens


@dataclass(frozen=True, slots=True)
class PriceTable:
    """Machines and hosted models."""

    source: str  # the file
    machines: tuple[MachinePrice, ...]
    apis: tuple[ApiPrice, ...]

    def machine(self, type_: str) -> MachinePrice:
        """Look a machine up by its type, whatever the case; InputError lists what there is."""
        for machine in self.machines:
            if machine.type.lower() == type_.lower():
                return machine
        raise InputError(
            f"{self.source} has no machine '{type_}'; it has {', '.join(m.type for m in self.machines)}; give the "
            "price with --usd-per-hour, or your own table with --prices"
        )


def age_warning(name: str, day: str, today: date) -> str | None:
    """Say that a price is old, if it is."""
    days = (today - date.fromisoformat(day)).days
    if days <= _OLD_DAYS:
        return None
    return f"the price of {name} is of {day}, {days:,} days ago: look it up; --prices takes a table of your own"


_Text = Annotated[str, Field(min_length=1)]
_Price = Annotated[float, Field(gt=0)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class _Machine(_Strict):
    provider: _Text
    type: _Text
    usd_per_hour: _Price
    date: date
    source: _Text
    cores: int | None = None
    memory_gib: float | None = None
    accelerator: str | None = None


class _Api(_Strict):
    provider: _Text
    model: _Text
    usd_per_million_input_tokens: _Price
    usd_per_million_output_tokens: _Price
    date: date
    source: _Text


class _PriceFile(_Strict):
    machine: list[_Machine] = []
    api: list[_Api] = []


def load_prices(path: Path | None = None) -> PriceTable:
    """Read a price table, or the one that ships; InputError says what is wrong with it."""
    if path is None:
        with as_file(files("pairgrade.bench") / "prices.toml") as shipped:
            return _parse(shipped, "the shipped price table")
    return _parse(path, str(path))


def _parse(path: Path, source: str) -> PriceTable:
    try:
        file = _PriceFile.model_validate(read_toml(path))
    except ValidationError as error:
        raise InputError(f"{source}: " + "; ".join(problems(error))) from None
    return PriceTable(
        source,
        tuple(MachinePrice(**m.model_dump() | {"date": m.date.isoformat()}) for m in file.machine),
        tuple(ApiPrice(**a.model_dump() | {"date": a.date.isoformat()}) for a in file.api),
    )
