"""Micro-benchmarks by pytest-benchmark, and two runs of them compared.

    python -m pairgrade.bench.micro run before.json
    python -m pairgrade.bench.micro run after.json
    python -m pairgrade.bench.micro compare before.json after.json
    python -m pairgrade.bench.micro commits HEAD~1 HEAD -k plan

The suites are the modules ``micro_*`` beside this one, which the test run does not collect. A baseline is
pytest-benchmark's own JSON. ``compare`` ends with code 1 where a median got slower by more than ``--tolerance`` and
by more than the spread between the quartiles of both runs. ``commits`` does all of it for two commits of the repository
that it is called in, each with its own suites and the libraries that are installed.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pairgrade.bench.commit_package import lay_out
from pairgrade.bench.telling import telling
from pairgrade.errors import InputError
from pairgrade.extras import unusable


@dataclass(frozen=True, slots=True)
class Change:
    """One micro-benchmark in both runs; seconds."""

    name: str
    before: float
    after: float
    is_slower: bool


def run(out: Path, keyword: str | None = None) -> int:
    """Run the suites and write the baseline; return pytest's exit code."""
    try:
        import pytest_benchmark  # noqa: F401
    except ImportError as error:
        raise unusable(error, "micro-benchmarks", "pytest_benchmark", extra="bench") from None
    suites = sorted(map(str, Path(__file__).parent.glob("micro_*.py")))
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--import-mode=importlib"]
    command += ["-o", "python_files=micro_*.py", "-o", "addopts=", f"--benchmark-json={out}", *suites]
    return subprocess.run(command + (["-k", keyword] if keyword else [])).returncode


def compare(before: Path, after: Path, tolerance: float) -> list[Change]:
    """Compare the benchmarks that both files hold; InputError where a file is no baseline or nothing is shared."""
    first, second = _statistics(before), _statistics(after)
    names = [name for name in first if name in second]
    if not names:
        raise InputError(f"{before} and {after} have no benchmark in common")
    found = []
    for name in names:
        old, new = first[name], second[name]
        noise = max(old["iqr"], new["iqr"])
        rise = new["median"] - old["median"]
        found.append(Change(name, old["median"], new["median"], rise > max(noise, tolerance * old["median"])))
    return found


def commits(before: str, after: str, tolerance: float, keyword: str | None = None) -> list[Change]:
    """Run the suites of two commits and compare them; InputError where one of them cannot be run."""
    with tempfile.TemporaryDirectory() as folder:
        paths = [_of_commit(commit, Path(folder) / name, keyword) for commit, name in ((before, "a"), (after, "b"))]
        return compare(paths[0], paths[1], tolerance)


def _of_commit(commit: str, folder: Path, keyword: str | None) -> Path:
    site, out = lay_out(commit, folder), folder / "micro.json"
    command = [sys.executable, "-m", "pairgrade.bench.micro", "run", str(out)] + (["-k", keyword] if keyword else [])
    done = subprocess.run(command, cwd=folder, env=os.environ | {"PYTHONPATH": str(site)})
    if done.returncode or not out.is_file():
        raise InputError(f"the micro-benchmarks of {commit} could not be run (exit code {done.returncode}); see above")
    return out


def _statistics(path: Path) -> dict[str, dict[str, Any]]:
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
        return {row["fullname"].rpartition("/")[2]: row["stats"] for row in table["benchmarks"]}
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from None
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: not a baseline of pytest-benchmark ({type(error).__name__}: {error})") from None


def main() -> None:
    """Parse the options; run or compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    runs = commands.add_parser("run", help="run the suites and write a baseline")
    runs.add_argument("out", type=Path)
    runs.add_argument("-k", dest="keyword", help="only those whose name holds this, as in pytest")
    compares = commands.add_parser("compare", help="compare two baselines")
    compares.add_argument("before", type=Path)
    compares.add_argument("after", type=Path)
    both = commands.add_parser("commits", help="run the suites of two commits and compare them")
    both.add_argument("before", metavar="COMMIT")
    both.add_argument("after", metavar="COMMIT")
    both.add_argument("-k", dest="keyword", help="only those whose name holds this, as in pytest")
    for each in (compares, both):
        each.add_argument("--tolerance", type=float, default=0.1, help="share (default: %(default)s)")
    options = parser.parse_args()
    if options.command == "run":
        sys.exit(run(options.out, options.keyword))
    if options.command == "commits":
        _print(commits(options.before, options.after, options.tolerance, options.keyword))
    else:
        _print(compare(options.before, options.after, options.tolerance))


def _print(changes: Sequence[Change]) -> None:
    """Print a line each, and end with code 1 where one got slower."""
    for change in changes:
        ratio = change.after / change.before
        mark = "  slower" if change.is_slower else ""
        print(f"{change.name:60} {change.before * 1e3:10.3f} ms {change.after * 1e3:10.3f} ms {ratio:6.2f}{mark}")
    sys.exit(any(change.is_slower for change in changes))


if __name__ == "__main__":
    with telling("micro"):
        main()
