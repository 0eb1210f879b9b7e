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
    source: Source | None,
    count: int | None = None,
    seed: int = 0,
    *,
    most: float = 1.0,
    apart_from: Collection[Pair] = (),
) -> list[Pair]:
    """Return ``count`` usable pairs of a source at random, or all; the shipped sample where no source is given.

    No more than a share ``most`` of the usable ones, but at least one, and none that is in ``apart_from``, unless there
    are no others. Pairs of one query stay together, in the order of the source. InputError where no row is usable.
    """
    if source is None:
        with as_file(files("pairgrade") / "sample" / "pairs.jsonl") as sample:
            return chosen_pairs(Source(str(sample)), count, seed, most=most, apart_from=apart_from)
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
    limit = max(1, int(most * len(pairs)))
    if count is not None:
        limit = min(limit, count)
    used = set(apart_from)
    pairs = [pair for pair in pairs if pair not in used] or pairs
    if limit < len(pairs):
        pairs = [pairs[place] for place in sorted(random.Random(seed).sample(range(len(pairs)), limit))]
    first = {pair.query_id: place for place, pair in reversed(list(enumerate(pairs)))}
    return sorted(pairs, key=lambda pair: first[pair.query_id])
