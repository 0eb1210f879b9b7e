"""Whole numbers that are whole numbers: of the classes of options, and wherever else Python gives one."""

from __future__ import annotations

import operator
from dataclasses import fields
from typing import Any

from pairgrade.errors import InputError


def whole(value: Any) -> int:
    """Return an int, as numpy's integers can be; TypeError for anything else, and for True and False."""
    if isinstance(value, bool):
        raise TypeError
    return operator.index(value)


def require_whole(options: Any, *names: str) -> None:
    """Turn these fields of a frozen dataclass into int, as numpy's integers can be; InputError for anything else.

    None stays where it is the default.
    """
    defaults = {field.name: field.default for field in fields(options)}
    for name in names:
        value = getattr(options, name)
        if value is None and defaults[name] is None:
            continue
        try:
            object.__setattr__(options, name, whole(value))
        except TypeError:
            raise InputError(f"{name} is {value!r}; it must be a whole number") from None
