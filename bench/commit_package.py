"""The package as it was at a commit, laid out so that Python can import it; nothing is installed or downloaded."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from pairgrade.errors import InputError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


def lay_out(commit: str, folder: Path) -> Path:
    """Return a folder for PYTHONPATH with the package of a commit of the repository that this is called in.

    InputError where there is no such repository or commit.
    """
    root = Path(_git(Path.cwd(), "rev-parse", "--show-toplevel"))
    name = _git(root, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{commit}^{{commit}}")
    tree, site = folder / "tree", folder / "site"
    tree.mkdir(parents=True)
    index = folder / "index"  # of its own, so that the repository's stays as it is
    _git(root, "read-tree", name, index=index)
    _git(root, "checkout-index", "--all", f"--prefix={tree}/", index=index)
    settings = tomllib.loads((tree / "pyproject.toml").read_text(encoding="utf-8"))
    for package, place in sorted(settings["tool"]["setuptools"]["package-dir"].items()):  # a package before its parts
        shutil.copytree(tree / place, site.joinpath(*package.split(".")))
    return site


def _git(folder: Path, *arguments: str, index: Path | None = None) -> str:
    own = {"GIT_INDEX_FILE": str(index.absolute())} if index else {}
    try:
        done = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, env=os.environ | own)
    except OSError as error:
        raise InputError(f"git cannot be started: {error.strerror or error}") from None
    if done.returncode:
        said = done.stderr.strip() or "no such commit"
        raise InputError(f"git {' '.join(arguments)}: {said}")
    return done.stdout.strip()
