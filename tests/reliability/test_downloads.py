"""What a reference to the hub may name: nothing that leaves the hub's cache, and no network is needed to say so."""

from __future__ import annotations

from pathlib import Path

import pytest

from pairgrade import ModelError
from pairgrade.models import resolve


@pytest.mark.parametrize(
    "text",
    ["org/file.gguf", "org/repo/file.bin", "org/repo/x.gguf@", "", "org/repo/../../x.gguf", "org/../x.gguf",
     "org/repo//etc/x.gguf", "org/repo/x.gguf@../../refs", "org/repo/x.gguf@/etc", "org/repo/a\\..\\x.gguf"],
)  # fmt: skip
def test_a_hub_reference_that_does_not_parse(text: str) -> None:
    with pytest.raises(ModelError, match=r"is not hf:org/repo/file\.gguf@revision"):
        resolve(f"hf:{text}")


@pytest.mark.parametrize("text", ["org/..", "../repo", "org/repo@../../refs", "org/repo@/etc"])
def test_a_hub_folder_that_leaves_the_cache_is_refused(text: str, tmp_path: Path) -> None:
    from pairgrade.train.base_model import resolve_folder

    with pytest.raises(ModelError, match=r"is not hf:org/repo/file\.gguf@revision"):
        resolve_folder(f"hf:{text}", tmp_path / "base")


@pytest.mark.filterwarnings("ignore")
def test_the_hub_offline_is_an_error_of_ours() -> None:
    with pytest.raises(ModelError, match=r"hf:org/repo/f\.gguf@main cannot be had"):
        resolve("hf:org/repo/f.gguf@main")


def test_whatever_the_hub_library_raises_is_an_error_of_ours(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Its transports have errors of their own: a connection that is cut, a proxy that wants a password."""
    import huggingface_hub

    from pairgrade.train.base_model import resolve_folder

    class TransportError(Exception):
        pass

    def cut(*_: object, **__: object) -> str:
        raise TransportError("connection reset by peer\nmore")

    for name in ("hf_hub_download", "snapshot_download"):
        monkeypatch.setattr(huggingface_hub, name, cut)
    with pytest.raises(ModelError, match=r"^hf:org/repo/f\.gguf@main cannot be had: connection reset by peer$"):
        resolve("hf:org/repo/f.gguf@main")
    with pytest.raises(ModelError, match=r"^hf:org/repo cannot be had: connection reset by peer$"):
        resolve_folder("hf:org/repo@main", tmp_path / "base")
