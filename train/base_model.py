"""The model that training starts from: a transformers folder, a hub repository, or a GGUF made trainable."""

from __future__ import annotations

import hashlib
import logging
import re
from functools import partial
from pathlib import Path
from typing import Any

from pairgrade.errors import InputError, ModelError
from pairgrade.export.causal_model import load_causal, quiet_transformers
from pairgrade.export.head import require_known_head
from pairgrade.export.shared_prefix import require_shared_prefix
from pairgrade.extras import unusable
from pairgrade.file_hashes import remembered_sha256
from pairgrade.folder_check import check_folder
from pairgrade.hardware import cpu_features
from pairgrade.hub_cache import verify_snapshot
from pairgrade.models import downloaded, resolve, warn_without_revision
from pairgrade.train.options import TrainOptions

_log = logging.getLogger(__name__)
_SPARE_POSITIONS = 8  # rows of a table of positions that stand for padding
_HUB = re.compile(r"hf:(?!.*\.\.)(?P<repo>[\w.-]+/[\w.-]+)(?:@(?P<revision>\w[\w./-]*))?")
_WANTED = ["*.safetensors", "*.json", "*.jinja", "tokenizer.model", "LICENSE*"]


def resolve_folder(reference: str, dequantized: Path) -> Path:
    """Return the transformers folder of a model reference.

    A folder is itself; ``hf:org/repo@revision`` is downloaded (safetensors only); a GGUF by path, ``pkg:PACKAGE``
    or ``hf:org/repo/file.gguf`` is dequantized into the folder ``dequantized``, unless it lies there already.
    """
    hub = _HUB.fullmatch(reference)
    if hub:
        return _from_hub(hub["repo"], hub["revision"])
    path = Path(reference)
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise ModelError(f"{path} has no config.json; give a folder that transformers' save_pretrained wrote")
        check_folder(path)
        return path
    from pairgrade.train.dequantize import dequantize

    return dequantize(resolve(reference), dequantized)


def folder_digest(folder: Path) -> str:
    """Return one sha256 of a model folder's config, tokenizer and weights."""
    state = hashlib.sha256()
    named = [folder / name for name in ("tokenizer.json", "config.json")]
    beside = [path for path in (folder / "tokenizer_config.json",) if path.is_file()]  # it may ask for an opening token
    for path in sorted([*folder.glob("*.safetensors"), *named, *beside]):
        state.update(f"{path.name} {remembered_sha256(path)}\n".encode())
    return state.hexdigest()


def base_dtype(options: TrainOptions) -> str:
    """Return what a base is computed in, "float32" or "bfloat16", and unless with ``qlora`` kept in.

    What ``options.dtype`` says; of "auto" bfloat16 on CUDA and on a processor with AMX, which multiplies it in tiles.
    """
    if options.dtype != "auto":
        return options.dtype
    if options.qlora or "amx_bf16" in cpu_features():
        return "bfloat16"
    return usual_dtype()


def usual_dtype() -> str:
    """Return what every base was kept in before it could be chosen: bfloat16 on CUDA, float32 on a processor."""
    torch, _ = _libraries()
    return "bfloat16" if torch.cuda.is_available() else "float32"


def load_model(folder: Path, options: TrainOptions) -> Any:
    """Load a causal model without any code of the folder.

    Its weights are kept in ``base_dtype``, or with ``qlora`` in 4 bits, on a CUDA GPU where there is one. Its own
    dropout is switched off: ``options.dropout`` is LoRA's. Switches cuDNN's attention off for the whole process.
    """
    torch, transformers = _libraries()
    if options.qlora:
        settings = _quantized(torch, transformers)
    else:
        dtype = base_dtype(options)
        settings = {"dtype": getattr(torch, dtype)} | ({"device_map": "cuda"} if torch.cuda.is_available() else {})
        _log.info("the base's weights are kept in %s", dtype)
    # its backward pass gives NaN in half precision behind a mask: https://github.com/pytorch/pytorch/issues/196678
    torch.backends.cuda.enable_cudnn_sdp(False)
    if options.threads:
        torch.set_num_threads(options.threads)
    model = load_causal(folder, **settings)
    _switch_dropout_off(model)
    require_shared_prefix(model, folder)
    require_known_head(model, folder)
    _check_positions(model, folder, options.context)
    return model


def _switch_dropout_off(model: Any) -> None:
    """Set every share of dropout that a model's own configuration asks for to 0, wherever its family keeps it."""
    import torch

    for module in model.modules():
        if isinstance(module, torch.nn.modules.dropout._DropoutNd):
            module.p = 0.0
        for owner in (module, getattr(module, "config", None)):
            for name, value in list(vars(owner).items()) if owner is not None else ():
                if isinstance(value, float) and ("dropout" in name or name.endswith("pdrop")):
                    setattr(owner, name, 0.0)


def _check_positions(model: Any, folder: Path, context: int) -> None:
    """Warn of prompts longer than a model was made for; InputError where it has no positions for them."""
    import torch

    positions = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if positions is None or context <= positions:
        return
    tables = (m for m in model.modules() if isinstance(m, torch.nn.Embedding) and m is not model.get_input_embeddings())
    if any(positions <= table.num_embeddings <= positions + _SPARE_POSITIONS for table in tables):  # learned ones
        raise InputError(
            f"{folder} has {positions:,} positions and --context is {context:,}; lower it, or take another base"
        )
    _log.warning(
        "%s was made for %d tokens, and --context is %d: longer prompts are untried", folder, positions, context
    )


def add_lora(model: Any, options: TrainOptions) -> Any:
    """Put LoRA matrices beside all linear layers but the head (https://arxiv.org/abs/2106.09685), seeded.

    InputError where ``options.layers`` are more than the model has.
    """
    import torch
    from peft import LoraConfig, get_peft_model

    deep = model.config.num_hidden_layers
    if options.layers > deep:
        raise InputError(f"{options.layers} layers are to be adapted; the model has {deep}")
    torch.manual_seed(options.seed)
    if options.gradient_checkpointing:
        model.gradient_checkpointing_enable()
        model.enable_input_require_grads()
    config = LoraConfig(
        r=options.rank,
        lora_alpha=options.alpha,
        lora_dropout=options.dropout,
        **_placed(model, options.layers),
        task_type="CAUSAL_LM",
    )
    with quiet_transformers():
        return get_peft_model(model, config)


def _placed(model: Any, layers: int) -> dict[str, Any]:
    """Return where peft puts the matrices: everywhere but at the head, or in the last so many layers."""
    import torch

    if not layers:
        return {"target_modules": "all-linear"}
    blocks = getattr(model.get_decoder(), "layers", None)
    if blocks is None:
        raise InputError(
            f"--layers: a model of type '{model.config.model_type}' does not name its layers as Llama does; leave the "
            "option out to adapt all of them"
        )
    last = blocks[-1].named_modules()
    names = {name.rpartition(".")[2] for name, module in last if isinstance(module, torch.nn.Linear)}
    return {"target_modules": sorted(names), "layers_to_transform": list(range(len(blocks) - layers, len(blocks)))}


def _libraries() -> tuple[Any, Any]:
    for package in ("torch", "transformers", "peft"):
        try:
            __import__(package)
        except ImportError as error:
            raise unusable(error, "training", package, extra="train") from None
    import torch
    import transformers

    return torch, transformers


def _quantized(torch: Any, transformers: Any) -> dict[str, Any]:
    if not torch.cuda.is_available():
        raise InputError(
            "--qlora needs a CUDA GPU, and torch sees none here; leave it out to keep the base as --dtype says. "
            "With a GPU it also needs bitsandbytes: pip install bitsandbytes"
        )
    try:
        import bitsandbytes  # type: ignore[import-not-found, unused-ignore]  # noqa: F401
    except ImportError as error:
        raise unusable(error, "--qlora", "bitsandbytes") from None
    config = transformers.BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.bfloat16
    )
    return {"quantization_config": config, "device_map": "cuda"}


def _from_hub(repo: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download

    warn_without_revision(repo, revision)
    folder = downloaded(repo, partial(snapshot_download, repo, revision=revision, allow_patterns=_WANTED))
    verify_snapshot(folder)
    check_folder(folder)
    return folder
