"""The sha256 of large files, remembered, and compared with what a manifest says.

A model of gigabytes is hashed once: the digest is kept under the file's path, size, times and inode in
``~/.cache/pairgrade`` (``XDG_CACHE_HOME`` or ``PAIRGRADE_CACHE`` move it). What sets the time of change back, as
``rsync -t`` does, leaves the inode's own. The memory guards against damage and mix-ups, not against an attacker on
the same account.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
from pathlib import Path

from pairgrade.atomic import write_text
from pairgrade.errors import ModelError, PairgradeError
from pairgrade.foreign_text import shown

MANIFEST = "manifest.json"
_SMALL = 2**20  # bytes; hashing less takes no time worth remembering
_TICK = 50_000_000  # ns; a change so soon after another may leave the file with the same time
_log = logging.getLogger(__name__)


def file_sha256(path: Path) -> str:
    """Return the sha256 of a file's bytes, in hex."""
    state = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(2**22):
            state.update(chunk)
    return state.hexdigest()


def folder_sha256s(folder: Path) -> dict[str, str]:
    """Return the sha256 of each file of a folder by its name, as a manifest lists them."""
    return {path.name: file_sha256(path) for path in sorted(folder.iterdir())}


def remembered_sha256(path: Path) -> str:
    """Return the sha256 of a file, in hex; computed only if the file is not the one that was hashed before."""
    found = path.stat()
    if found.st_size < _SMALL:
        return file_sha256(path)
    key = str(path.resolve())
    state = [found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino]
    entry = _known().get(key)
    if isinstance(entry, list) and entry[:-1] == state:
        return str(entry[-1])
    settled = time.time_ns() - found.st_mtime_ns > _TICK
    digest = file_sha256(path)
    if settled:
        _remember({**_known(), key: [*state, digest]})  # what others added while this was hashed stays
    return digest


def verify_files(model: Path) -> None:
    """Compare a model's files with the manifest in its folder, if there is one that lists them.

    ``model`` is a folder, all of whose listed files are compared, or a file, which alone is; a file's manifest may
    also lie beside it as ``FILE.manifest.json``. ModelError names the file, the sha256 that the manifest gives and
    the one found.
    """
    if model.is_dir():
        _compare(model / MANIFEST, None)
        return
    for manifest in (model.parent / MANIFEST, model.parent / f"{model.name}.{MANIFEST}"):
        _compare(manifest, model.name)


def _compare(manifest: Path, only: str | None) -> None:
    """Compare the files that a manifest lists, or the one of that name."""
    for name, expected in _listed(manifest).items():
        if only not in (None, name):
            continue
        path = manifest.parent / name
        if not os.path.isfile(path):  # False also for a name that no file can have
            raise ModelError(
                f"{manifest} lists {shown(name)}, which is not there; copy all of the folder, or make it again"
            )
        digest = remembered_sha256(path)
        if digest != expected.lower():
            raise ModelError(
                f"{path} is not the file that its manifest describes: its sha256 is {digest}, expected is {expected}"
            )


def _listed(manifest: Path) -> dict[str, str]:
    """Return the files that a manifest lists, with their sha256."""
    try:
        table = json.loads(manifest.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{manifest} is damaged: not JSON ({error})") from None
    except OSError as error:
        raise ModelError(f"{manifest} cannot be read: {error.strerror or error}") from None
    files = table.get("files") if isinstance(table, dict) else None
    if not isinstance(files, dict):
        return {}  # somebody else's manifest
    for name, digest in files.items():
        if Path(name).name != name or not isinstance(digest, str):
            raise ModelError(
                f"{manifest} lists {shown(repr(name))}, which is not a file of its own folder with a sha256"
            )
    return files


def _cache() -> Path:
    own = os.environ.get("PAIRGRADE_CACHE")
    if own:
        return Path(own) / "hashes.json"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pairgrade" / "hashes.json"


def _known() -> dict[str, object]:
    try:
        table = json.loads(_cache().read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return table if isinstance(table, dict) else {}


def _remember(known: dict[str, object]) -> None:
    kept = {path: entry for path, entry in known.items() if os.path.exists(path)}
    try:
        _cache().parent.mkdir(parents=True, exist_ok=True)
        write_text(_cache(), json.dumps(kept, indent=0))
    except (OSError, PairgradeError) as error:  # no place for a cache: hash again next time
        _log.debug("the digest is not remembered: %s", error)
