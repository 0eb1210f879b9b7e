"""The layers below the trained ones: what they make of a prompt never changes, so it is computed once and kept.

With adapters in the last layers only, a step runs these layers alone, forward and backward, on the hidden states that
the layers below left for them. The gradient is the same; the more epochs, the smaller the share of the layers below.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from pairgrade.tokenizer import Ids

_LIMIT = 4 * 2**30  # bytes of hidden states that are kept; what comes later is computed each time


class Trunk:
    """The first ``depth`` layers of a transformers decoder, none of which is trained."""

    def __init__(self, decoder: Any, depth: int, limit: int = _LIMIT) -> None:
        self._decoder, self._depth, self._limit = decoder, depth, limit
        self._kept: dict[bytes, Any] = {}  # ids of prefix and prompt -> (tokens, hidden)
        self._size = 0
        self._openings: dict[bytes, list[tuple[Any, Any]]] = {}  # a prefix's keys and values in these layers

    def states(self, prompts: Sequence[Ids], prefix: Ids | None) -> Any:
        """Return the hidden states that the layers above see, (n, longest, hidden), padded at the end."""
        import torch

        with torch.inference_mode(False), torch.no_grad():  # states made in inference mode could not be trained on
            return torch.nn.utils.rnn.pad_sequence(self._rows(prompts, prefix), batch_first=True)

    @contextmanager
    def skipped(self, states: Any) -> Iterator[None]:
        """Let a call of the decoder begin above these layers, with those hidden states."""

        def give(_: Any, arguments: tuple[Any, ...], named: dict[str, Any]) -> Any:
            return (states, *arguments[1:]), named

        with _passed_through(self._decoder.layers[: self._depth]), self._hooked(give):
            yield

    def _rows(self, prompts: Sequence[Ids], prefix: Ids | None) -> list[Any]:
        keys = [_key(prefix, prompt) for prompt in prompts]
        found = {key: self._kept[key] for key in keys if key in self._kept}
        absent = {key: prompt for key, prompt in zip(keys, prompts, strict=True) if key not in found}
        for key, prompt in absent.items():  # one by one: what is kept must not depend on the batch it came with
            found[key] = self._run([prompt], filled_cache(self._opening(prefix), 1))[0].clone()
            self._keep(key, found[key])
        return [found[key].to(self._device) for key in keys]

    @property
    def _device(self) -> Any:
        return next(self._decoder.parameters()).device

    def _keep(self, key: bytes, states: Any) -> None:
        size = states.numel() * states.element_size()
        if self._size + size <= self._limit:
            self._kept[key] = states.cpu()
            self._size += size

    def _opening(self, prefix: Ids | None) -> list[tuple[Any, Any]]:
        """Return a prefix's keys and values in these layers."""
        if prefix is None:
            return []
        key = prefix.tobytes()
        if key not in self._openings:
            cache = filled_cache([], 1)
            self._run([prefix], cache)
            self._openings[key] = [(layer.keys, layer.values) for layer in cache.layers[: self._depth]]
        return self._openings[key]

    def _run(self, prompts: Sequence[Ids], cache: Any) -> Any:
        seen: list[Any] = []

        def take(_: Any, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
            seen.append(arguments[0])

        layers, was_training = self._decoder.layers, self._decoder.training
        self._decoder.eval()
        try:
            with _passed_through(layers[self._depth :]), self._hooked(take):
                self._decoder(input_ids=padded(prompts, self._device), past_key_values=cache, use_cache=True)
        finally:
            self._decoder.train(was_training)
        return seen[0]

    @contextmanager
    def _hooked(self, hook: Callable[..., Any]) -> Iterator[None]:
        handle = self._decoder.layers[self._depth].register_forward_pre_hook(hook, with_kwargs=True)
        try:
            yield
        finally:
            handle.remove()


def padded(prompts: Sequence[Ids], device: Any) -> Any:
    """Return token ids as one tensor (n, longest), padded at the end: what is there no real token can see."""
    import torch

    ids = np.zeros((len(prompts), max(map(len, prompts))), np.int64)
    for row, prompt in enumerate(prompts):
        ids[row, : len(prompt)] = prompt
    return torch.as_tensor(ids, device=device)


def _key(prefix: Ids | None, prompt: Ids) -> bytes:
    opening = b"" if prefix is None else prefix.tobytes()
    return len(opening).to_bytes(8, "little") + opening + prompt.tobytes()


def filled_cache(layers: Sequence[tuple[Any, Any]], batch: int) -> Any:
    """Return a fresh cache that holds each layer's keys and values, of one prompt, for each of ``batch`` prompts."""
    from transformers import DynamicCache

    cache = DynamicCache()
    for number, (keys, values) in enumerate(layers):
        cache.update(keys.expand(batch, -1, -1, -1), values.expand(batch, -1, -1, -1), number)
    return cache


@contextmanager
def _passed_through(layers: Any) -> Iterator[None]:
    """Let layers hand their input on, unchanged; they keep their place, by which the decoder picks their mask."""
    for layer in layers:
        layer.forward = _unchanged
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward


def _unchanged(hidden_states: Any, *_: Any, **__: Any) -> Any:
    return hidden_states
