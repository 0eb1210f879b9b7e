"""Random damage to every kind of file that is read: one of our own errors or nothing, never anything else.

``PAIRGRADE_FUZZ=15000`` tries that many files a reader instead of the few of a plain run. The same targets run under
atheris with ``python tests/reliability/fuzz_atheris.py NAME``.
"""

from __future__ import annotations

import contextlib
import os
import re
import tempfile
from functools import cache
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fuzz_targets import EDITS, Target, edited, targets
from pairgrade.errors import PairgradeError


@cache
def _targets() -> dict[str, Target]:
    with tempfile.TemporaryDirectory() as scratch:
        return targets(Path(scratch))


@pytest.mark.parametrize("name", _targets())
def test_a_sound_file_is_read(name: str, tmp_path: Path) -> None:
    """Else the damage below would be done to a file that is refused at its first byte."""
    for sound in _targets()[name].sound:
        _targets()[name].run(sound, tmp_path)


@pytest.mark.parametrize("name", _targets())
@settings(
    max_examples=int(os.environ.get("PAIRGRADE_FUZZ", "60")),
    deadline=None,
    derandomize="PAIRGRADE_FUZZ" not in os.environ,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(which=st.integers(0, 3), edits=EDITS, noise=st.binary(max_size=60) | st.none())
def test_damage_is_told_in_our_words(
    name: str, which: int, edits: list[tuple[str, float, int]], noise: bytes | None, tmp_path: Path
) -> None:
    target = _targets()[name]
    data = target.sound[which % len(target.sound)] if noise is None else noise
    with contextlib.suppress(PairgradeError):
        target.run(edited(data, edits), tmp_path)


DEEP = 20_000
VALUES = [
    *(b"null", b"true", b"-1", b"0.5", b"1e999", b"NaN", b"9" * 5000, b"[]", b"{}", b'["x", 1, null]', b'{"x": {}}'),
    *(b'""', b'"x"', b'"\\ud800"', b'"a\\u0000b"', b'"' + b"y" * 3000 + b'"'),
    *(b"[" * DEEP, b"[" * DEEP + b"]" * DEEP, b'{"a":' * DEEP),
]
OWN_VALUE = re.compile(rb'(?<=[:=\[,] )("(?:[^"\\]|\\.)*"|[-\w.]+|\{\}|\[\])')


@pytest.mark.parametrize("name", _targets())
def test_any_value_in_the_place_of_any_other(name: str, tmp_path: Path) -> None:
    """In JSON and TOML, where damage at random rarely leaves a file that is one."""
    target, tried = _targets()[name], 0
    for sound in target.sound:
        if not sound.startswith((b"{", b"[{", b"name", b"models")):
            continue
        for match in list(OWN_VALUE.finditer(sound))[:40]:
            for value in VALUES:
                tried += 1
                with contextlib.suppress(PairgradeError):
                    target.run(sound[: match.start()] + value + sound[match.end() :], tmp_path)
    if tried == 0 and name.endswith(("json", "jsonl", "manifest", "config", "calibration", "rubric", "matrix")):
        pytest.fail("nothing was tried")
