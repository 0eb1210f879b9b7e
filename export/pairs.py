"""The pairs on which exports are calibrated and checked: a file's, or the sample that ships with pairgrade."""

from __future__ import annotations

import random
from collections.abc import Collection
from contextlib import closing
from importlib.resources import as_file, files

from pairgrade.errors import InputError
from pairgrade.readers import Source, read_pairs
from pairgrade.records import Pair


def chosen_pairs(
    source: Source | None, count: int | None = None, seed: int = 0, last: Collection[Pair] = ()
) -> list[Pair]:
    """Return ``count`` usable pairs of a source at random, or all; the shipped sample where no source is given.

    Pairs that are in ``last`` are only taken where there are too few others. Pairs of one query stay together, in the
    order of the source. InputError where no row is usable.
    """
    if source is None:
        with as_file(files("pairgrade") / "sample" / "pairs.jsonl") as sample:
            return chosen_pairs(Source(str(sample)), count, seed, last)
    first_wrong = None
    pairs: list[Pair] = []
    with closing(read_pairs(source)) as rows:
        for row in rows:
            if isinstance(row, Pair):
                pairs.append(row)
            else:
                first_wrong = first_wrong or f"line {row.line}: {row.reason}"
    if not pairs:
        raise InputError(f"{source.pairs}: none of its rows is a usable pair; {first_wrong or 'it has no rows'}")
    if count is not None and count < len(pairs):
        dice, used = random.Random(seed), set(last)
        first_choice = [place for place, pair in enumerate(pairs) if pair not in used]
        rest = [place for place, pair in enumerate(pairs) if pair in used]
        kept = dice.sample(first_choice, min(count, len(first_choice)))
        kept += dice.sample(rest, count - len(kept))
        pairs = [pairs[place] for place in sorted(kept)]
    first = {pair.query_id: place for place, pair in reversed(list(enumerate(pairs)))}
    return sorted(pairs, key=lambda pair: first[pair.query_id])
