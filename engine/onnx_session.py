"""ONNX Runtime sessions as this engine runs them, and what of the processor decides how."""

from __future__ import annotations

import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from pairgrade.denormals import can_flush, flushed_denormals
from pairgrade.errors import ModelError
from pairgrade.extras import unusable
from pairgrade.heap import large_blocks_given_back
from pairgrade.onnx_check import check_onnx
from pairgrade.onnx_manifest import MIN_ONNXRUNTIME, MIN_PYTHON, why_too_old
from pairgrade.onnx_probe import probe_model

CUDA = "CUDAExecutionProvider"
_PROVIDER_OPTIONS = {CUDA: {"use_tf32": "0"}}  # float32 products are in float32: TF32 rounds to 10 bits
_INTERNAL = 3  # log level: errors only
_UNWANTED = (
    "QDQPropagationTransformer",  # moves a rounding before a reshape, which then takes two roundings more
    "SkipLayerNormFusion",  # its operator takes three times as long on a processor as the two that it stands for
)
_FUSES = "QDQSelectorActionTransformer"


def runtime(least: tuple[int, ...] = MIN_ONNXRUNTIME) -> Any:
    """Import onnxruntime; MissingExtraError where it is not installed, ModelError where it is too old or broken.

    ``least``: the oldest that a folder needs; one older than what this engine needs is no help.
    """
    try:
        import onnxruntime
    except ImportError as error:
        if sys.version_info[:2] < MIN_PYTHON:
            wanted, python = (".".join(map(str, version)) for version in (MIN_ONNXRUNTIME, MIN_PYTHON))
            raise ModelError(f"ONNX models need onnxruntime {wanted} or later, and that Python {python}") from None
        raise unusable(error, "a model in an ONNX folder", "onnxruntime", extra="onnx") from None
    why = why_too_old(onnxruntime.__version__, max(least, MIN_ONNXRUNTIME))
    if why:
        raise ModelError(f"onnxruntime {why}")
    return onnxruntime


def open_session(
    path: Path,
    threads: int,
    provider: str,
    *,
    shares_weights: bool = False,
    product: str = "u8u8",
    fuses: bool = True,
    profile: Path | None = None,
) -> Any:
    """Load a graph that reads no file outside its folder; ModelError where it cannot be.

    ``shares_weights``: compute from the mapped file, no packed copy of the weights is made. ``product``: how 8-bit
    products are done, see ``product_kind``; "u8u8" is exact on every processor, and slow on those with VNNI. ``fuses``:
    whether ONNX Runtime may round the activations of products whose weights alone are 8-bit. ``profile``: how the file
    begins into which the session writes what each operator took when it is closed.
    """
    library = runtime()
    check_onnx(path)
    if provider not in library.get_available_providers():
        have = ", ".join(library.get_available_providers())
        raise ModelError(
            f"this onnxruntime has no {provider}, only {have}; CUDA needs onnxruntime-gpu instead of it: "
            "pip uninstall onnxruntime, then pip install 'pairgrade[gpu]'"
        )
    if provider == CUDA:
        library.preload_dlls()  # the CUDA libraries of Python packages, which the loader does not find
    options = library.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = _INTERNAL
    options.enable_mem_pattern = False  # it would keep a plan for each of many shapes
    if product == "u8u8":
        options.add_session_config_entry("session.x64quantprecision", "1")
    if profile is not None:
        options.enable_profiling = True
        options.profile_file_prefix = str(profile)
    if can_flush():
        options.add_session_config_entry("session.set_denormal_as_zero", "1")  # in its own threads
    if shares_weights:
        options.add_session_config_entry("session.disable_prepacking", "1")
    unwanted = [*_UNWANTED] if fuses else [*_UNWANTED, _FUSES]
    try:
        with flushed_denormals(), large_blocks_given_back():  # the library may set the former for this thread, too
            session = library.InferenceSession(
                str(path), options, providers=[(provider, _PROVIDER_OPTIONS.get(provider, {}))],
                disabled_optimizers=unwanted, enable_fallback=0,  # to the processor, in the middle of a run
            )  # fmt: skip
    except Exception as error:  # the library raises its own kinds, which have no common root but this
        raise ModelError(f"{path}: ONNX Runtime cannot load it ({error})") from None
    _require_provider(session, provider)
    return session


def _require_provider(session: Any, provider: str) -> None:
    """Raise ModelError where ONNX Runtime fell back to the processor: it only prints why."""
    if provider not in session.get_providers():
        raise ModelError(
            f"ONNX Runtime cannot load {provider}, and would run on the processor: a driver or a library of CUDA is "
            "missing; pip install 'onnxruntime-gpu[cuda,cudnn]' brings the libraries"
        )


def product_kind(probe: Path | None = None) -> str:
    """Run a graph that multiplies 255 by 127, 64 times: "u8s8" or "u8u8", whichever is exact here; else ModelError.

    ``probe``: the graph of a model's folder; None: the same of our own. u8s8 is one instruction with VNNI. Without,
    ONNX Runtime's u8s8 kernel adds pairs in 16 bits and saturates; its u8u8 kernel does not, and gives the same whole
    numbers: the kind decides the speed, never a grade.
    """
    if probe is None:
        with TemporaryDirectory() as folder:
            probe = Path(folder, "probe.onnx")
            probe.write_bytes(probe_model())
            return product_kind(probe)
    for kind in ("u8s8", "u8u8"):
        session = open_session(probe, 1, "CPUExecutionProvider", product=kind)
        sums = session.run(None, {"x": np.full((8, 64), 255, np.uint8)})[0]
        if (sums == 255 * 127 * 64).all():
            return kind
    raise ModelError("ONNX Runtime's 8-bit product saturates on this processor; use a model in fp32 here")
