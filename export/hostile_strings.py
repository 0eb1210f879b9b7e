"""Strings on which tokenizers of the same model are apt to disagree."""

from __future__ import annotations

import random
from collections.abc import Sequence

_ALPHABETS = (
    "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ",
    "0123456789",
    " \t\n\r\u00a0\u2003\u3000\u200b\u2028",
    "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~",
    "àâäçéèêëïîôöùûüÿñßæøåœÀÉÖ",
    "абвгдежзийклмнопрстуфхцчшщъыьэюяΑΒΓΔαβγδ",
    "日本語中文字漢字仮名カタカナひらがな한국어조선",
    "العربيةעבריתहिन्दीไทย",
    "٠١٢٣४५६௧௨Ⅳ½²ﬁ①",
    "\u0301\u0308\u0327\u200d\u200e\u200f\ufe0f\ufeff",
    "🏳🌈👨👩👧🇩🇪🔥💧",
    "\x00\x01\x07\x1b\x7f\u0085",
)
_WORDS = ("don't", "I'LL", "we've", "THE", "  the", "3.14", "1,000,000", "foo_bar", "http://a.b/c?d=e", "C++", "naïve")


def hostile_strings(count: int, special: Sequence[str] = ()) -> list[str]:
    """Return ``count`` strings: all scripts, digits, runs of white space, joiners, control characters.

    ``special`` are texts of control tokens, which are mixed in, whole and in parts. The same arguments give the
    same strings.
    """
    dice = random.Random(0)
    return [_string(dice, special) for _ in range(count)]


def _string(dice: random.Random, special: Sequence[str]) -> str:
    parts: list[str] = []
    for _ in range(dice.randint(1, 8)):
        kind = dice.random()
        if kind < 0.15:
            parts.append(dice.choice(_WORDS))
        elif kind < 0.3 and special:
            text = dice.choice(special)
            parts.append(text if dice.random() < 0.5 else text[: dice.randint(1, len(text))])
        else:
            alphabet = dice.choice(_ALPHABETS)
            parts.append("".join(dice.choice(alphabet) for _ in range(dice.randint(1, 6))))
        if dice.random() < 0.4:
            parts.append(" " * dice.randint(1, 3))
    return "".join(parts)
