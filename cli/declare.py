"""How options are declared that several commands share, or that are fields of an options dataclass."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import rich_click as click
from click.types import FloatParamType

F = TypeVar("F", bound=Callable[..., Any])


RESAMPLES = click.IntRange(0, 10_000_000)  # of a bootstrap; all of them lie in memory


class Finite(click.FloatRange):
    """A number within limits that is neither NaN nor infinite, which limits let through and JSON cannot hold."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Convert as a range does."""
        return _finite(self, super().convert(value, param, ctx), param, ctx)


class Unlimited(FloatParamType):
    """Any number that is neither NaN nor infinite."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Convert as a float."""
        return _finite(self, super().convert(value, param, ctx), param, ctx)


def _finite(kind: Any, number: float, param: click.Parameter | None, ctx: click.Context | None) -> float:
    if not math.isfinite(number):
        kind.fail(f"{number} is not a finite number.", param, ctx)
    return number


def decorate(options: Sequence[Any]) -> Callable[[F], F]:
    """Return a decorator that declares options on a command, in this order."""

    def decorator(function: F) -> F:
        for option in reversed(options):
            function = option(function)
        return function

    return decorator


def settings_of(defaults: object) -> Callable[..., Callable[[Any], Any]]:
    """Return what declares a dataclass's fields as options: by name, panel, help, kind; with the given defaults."""

    def setting(name: str, panel: str, text: str, kind: type = int) -> Callable[[Any], Any]:
        default = getattr(defaults, name.removeprefix("--").replace("-", "_"))
        metavar = "N" if kind is int else "X"
        checked = Unlimited() if kind is float else kind
        return click.option(
            name, type=checked, default=default, show_default=True, metavar=metavar, panel=panel, help=text
        )

    return setting
