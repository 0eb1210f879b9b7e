"""A transformers folder as a torch model: safetensors only, whole, and with the attention that its family needs."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pairgrade.advisories import refuse_known_bad
from pairgrade.errors import ModelError, PairgradeError
from pairgrade.extras import unusable
from pairgrade.folder_check import check_folder


def load_causal(folder: Path, **settings: Any) -> Any:
    """Load a causal model, in float32 unless the settings say otherwise; ModelError where it cannot be.

    ``settings`` go to transformers' ``from_pretrained``. A folder that lacks a tensor is refused: transformers would
    draw it at random.
    """
    try:
        import torch
        from transformers import AutoConfig, AutoModelForCausalLM
    except ImportError as error:
        raise unusable(error, "running a transformers folder", "torch", "transformers", extra="train") from None
    refuse_known_bad("torch", "transformers")
    check_folder(folder)
    settings = {"dtype": torch.float32} | settings | {"local_files_only": True, "trust_remote_code": False}
    with quiet_transformers():
        try:
            config = AutoConfig.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
            if getattr(config, "text_config", None) is not None:  # a composite of several models
                raise ModelError(
                    f"{folder}: a model of type '{config.model_type}' reads pictures or sound as well as text; only "
                    "text-only models are run and trained (of Gemma 3 the 270m and 1b)"
                )
            if getattr(config, "attn_logit_softcapping", None):  # the fused attention leaves the cap out
                settings["attn_implementation"] = "eager"
            model, found = AutoModelForCausalLM.from_pretrained(
                str(folder), use_safetensors=True, output_loading_info=True, **settings
            )
        except PairgradeError:
            raise
        except Exception as error:  # its checks of a config have errors of their own, which derive from nothing else
            raise ModelError(f"{folder}: transformers cannot load it as a causal model ({error})") from None
    absent = sorted([*found["missing_keys"], *(str(key[0]) for key in found["mismatched_keys"])])
    if absent:
        raise ModelError(f"{folder} lacks {absent[0]}, or has it in another shape ({len(absent)} such tensors)")
    return model


@contextlib.contextmanager
def quiet_transformers() -> Iterator[None]:
    """Keep transformers' own progress bars and advice off the terminal."""
    from transformers import modeling_gguf_pytorch_utils as their_gguf
    from transformers.utils import logging as their_logging

    shown, level = their_logging.is_progress_bar_enabled(), their_logging.get_verbosity()
    their_logging.disable_progress_bar()
    their_logging.set_verbosity_error()
    bar, their_gguf.tqdm = their_gguf.tqdm, lambda items, **_: items  # this one does not ask their logging
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
            yield
    finally:
        their_gguf.tqdm = bar
        their_logging.set_verbosity(level)
        if shown:
            their_logging.enable_progress_bar()
