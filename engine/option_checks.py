"""What the classes of options have in common: whole numbers that are whole numbers."""

from __future__ import annotations

import operator
from dataclasses import fields
from typing import Any

from pairgrade.errors import InputError


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
            if isinstance(value, bool):
                raise TypeError
            object.__setattr__(options, name, operator.index(value))
        except TypeError:
            raise InputError(f"{name} is {value!r}; it must be a whole number") from None
