"""How options are declared that several commands share, or that are fields of an options dataclass."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import rich_click as click

F = TypeVar("F", bound=Callable[..., Any])


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
        return click.option(
            name, type=kind, default=default, show_default=True, metavar=metavar, panel=panel, help=text
        )

    return setting
