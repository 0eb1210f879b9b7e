"""The hub's cache: which links are its own, and the sha256 that it files large files under.

::

    models--ORG--REPO/blobs/SHA256                  a large file; a small one is named by its git hash of 40 digits
    models--ORG--REPO/snapshots/REVISION/...        links to them
"""

from __future__ import annotations

import re
from pathlib import Path

from pairgrade.errors import ModelError
from pairgrade.file_hashes import remembered_sha256

_SHA256 = re.compile(r"[0-9a-f]{64}")


def is_foreign_link(folder: Path, path: Path) -> bool:
    """Whether a path inside a model's folder is a link that is not one of the hub's cache into its own blobs."""
    if not path.is_symlink():
        return False
    for snapshots in folder.absolute().parents:
        if snapshots.name == "snapshots":
            blobs = snapshots.parent / "blobs"
            return blobs.is_symlink() or path.resolve().parent != blobs.resolve()
    return True


def verify_blob(path: Path) -> None:
    """Compare a file of the hub's cache with the sha256 that it is filed under; one in git itself has none.

    ModelError where they differ; the file is removed then, so that it is fetched anew the next time.
    """
    blob = path.resolve()
    if not _SHA256.fullmatch(blob.name):
        return
    found = remembered_sha256(path)
    if found == blob.name:
        return
    for damaged in {path, blob}:
        damaged.unlink(missing_ok=True)
    raise ModelError(
        f"{path} is damaged: its sha256 is {found}, the hub's is {blob.name}; it was removed from the cache: run again "
        "to fetch it anew"
    )


def verify_snapshot(folder: Path) -> None:
    """Compare every file of a repository's folder in the hub's cache, as ``verify_blob`` does."""
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            verify_blob(path)
