"""The compiled pass of int8 exports, ``engine/native/pass.cpp``: found, loaded, and told a model's sizes."""

from __future__ import annotations

import ctypes
import importlib.util
import logging
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy.typing as npt

from pairgrade.document_facts import DocumentFacts
from pairgrade.onnx_manifest import OnnxManifest

_KINDS = {1: "vnni", 3: "amx"}
_VERSION = 6  # of what is called; pass.cpp has the same
_log = logging.getLogger(__name__)


@cache
def native_kind() -> str:
    """Return by which instructions the pass multiplies here: "amx", "vnni", or "none" where it is not to be had."""
    library = native_library()
    return _KINDS[library.pairgrade_features()] if library is not None else "none"


@cache
def native_library() -> Any:
    """Load the compiled pass; None where this installation has none."""
    spec = importlib.util.find_spec("pairgrade._native")
    if spec is None or spec.origin is None:
        return None
    try:
        library = ctypes.CDLL(spec.origin)
        if library.pairgrade_version() != _VERSION or not library.pairgrade_features():
            return None
        library.pairgrade_new.restype = ctypes.c_void_p
    except (OSError, AttributeError) as error:  # built for another system, or by another version
        _log.warning("%s cannot be used, and ONNX Runtime computes int8 models: %s", spec.origin, error)
        return None
    return library


class _Sizes(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_int32) for name in ("layers", "hidden", "intermediate", "heads", "kv_heads", "head_dim")),
        *((name, ctypes.c_int32) for name in ("gelu", "turn", "norm_turn", "tail")),
        *((name, ctypes.c_float) for name in ("norm_eps", "attention_cap", "embedding_scale")),
    )


def native_sizes(manifest: OnnxManifest, facts: DocumentFacts) -> Any:
    """Return a model's sizes as ``pairgrade_new`` takes them."""
    sizes = _Sizes(
        **{name: getattr(manifest, name) for name in ("layers", "hidden", "heads", "kv_heads", "head_dim")},
        **{name: getattr(facts, name) for name in ("intermediate", "turn", "norm_turn", "tail")},
        **{name: getattr(facts, name) for name in ("norm_eps", "embedding_scale")},
        gelu=facts.activation == "gelu_tanh",
        attention_cap=facts.attention_cap or 0,
    )
    return ctypes.byref(sizes)


def addresses(arrays: Sequence[npt.NDArray[Any]]) -> Any:
    """Return where arrays lie, as native code takes them; they do not live on with that."""
    return (ctypes.c_void_p * len(arrays))(*(array.ctypes.data for array in arrays))


def address(array: npt.NDArray[Any]) -> ctypes.c_void_p:
    """Return where an array lies; the array lives on with it."""
    return array.ctypes.data_as(ctypes.c_void_p)
