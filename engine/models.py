"""From a model reference to a file: a path, ``pkg:PACKAGE`` or ``hf:org/repo/file.gguf@revision``.

Nothing leaves the machine unless the reference starts with ``hf:`` (or an input with ``irds:``: ``pairgrade.irds``);
the hub's own environment variables (HF_HUB_OFFLINE, HF_HOME, HF_TOKEN) are honoured.
"""

from __future__ import annotations

import importlib.util
import logging
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path

from pairgrade.errors import ModelError
from pairgrade.file_hashes import verify_files
from pairgrade.gguf_check import check_gguf
from pairgrade.hub_cache import verify_blob

_HF = re.compile(  # no .. and no absolute path: such a name would leave the cache
    r"(?!.*\.\.)(?P<repo>[\w.-]+/[\w.-]+)/(?P<file>\w[\w./-]*\.gguf)(?:@(?P<revision>\w[\w./-]*))?"
)
_FORMS = (
    "a path to a .gguf file, pkg:PACKAGE (a GGUF inside an installed Python package), hf:org/repo/file.gguf@revision "
    "or a folder: of an ONNX export to label with, of transformers to train or export"
)
_log = logging.getLogger(__name__)


def resolve(reference: str | Path) -> Path:
    """Return the GGUF file that a reference names, downloading it for ``hf:``; ModelError where there is none."""
    text = str(reference)
    if text.startswith("pkg:"):
        return _from_package(text[4:])
    if text.startswith("hf:"):
        return _from_hub(text[3:])
    path = Path(text)
    if path.is_dir():
        inside = sorted(p.name for p in path.glob("*.gguf"))
        if inside:
            raise ModelError(f"{text} is a folder; name one file in it: {', '.join(inside)}")
        if (path / "config.json").is_file():
            raise ModelError(f"{text} is a transformers folder; pairgrade export makes a model to label with of it")
        raise ModelError(f"{text} is a folder without a model; a model is {_FORMS}")
    if not path.is_file():
        raise ModelError(f"no model file {text}; a model is {_FORMS}")
    return _checked(path)


def package_files(name: str, pattern: str) -> list[Path]:
    """Return the files of that name pattern inside an installed Python package; ModelError where it is none."""
    module = name.replace("-", "_")
    try:
        spec = importlib.util.find_spec(module) if module.isidentifier() else None
    except ValueError:  # a module without a spec, such as __main__
        spec = None
    if spec is None or not spec.submodule_search_locations:
        raise ModelError(f"no installed package '{name}'; install it with: pip install {name.replace('_', '-')}")
    return sorted(p for root in spec.submodule_search_locations for p in Path(root).rglob(pattern))


def _from_package(name: str) -> Path:
    found = package_files(name, "*.gguf")
    if len(found) != 1:
        listed = ", ".join(str(p) for p in found) or "none"
        raise ModelError(f"package '{name}' holds {len(found)} GGUF files ({listed}); name one by its path")
    return _checked(found[0])


def downloaded(name: str, download: Callable[[], str]) -> Path:
    """Return where the hub library put ``hf:name``; ModelError with the first line of its message where it cannot."""
    try:
        return Path(download())
    except Exception as error:  # those of its transports derive from nothing that they share
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ModelError(f"hf:{name} cannot be had: {first}") from None


def warn_without_revision(name: str, revision: str | None) -> None:
    """Say that what ``hf:name`` stands for may change, if no revision is named."""
    if revision is None:
        _log.warning("hf:%s names no revision: give hf:%s@REVISION to get the same weights next time", name, name)


def _from_hub(text: str) -> Path:
    match = _HF.fullmatch(text)
    if match is None:
        raise ModelError(f"'hf:{text}' is not hf:org/repo/file.gguf@revision")
    from huggingface_hub import hf_hub_download

    warn_without_revision(text, match["revision"])
    path = downloaded(text, partial(hf_hub_download, match["repo"], match["file"], revision=match["revision"]))
    verify_blob(path)
    return _checked(path)


def _checked(path: Path) -> Path:
    """Return the path of a file that llama.cpp may load: the sha256 of its manifest, if any, and a sound header."""
    verify_files(path)
    check_gguf(path)
    return path
