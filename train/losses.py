"""The loss of an annotator: of its label logits alone, against hard or soft grades."""

from __future__ import annotations

from typing import Any


def label_loss(logits: Any, targets: Any, ordinal_weight: float = 0.0) -> Any:
    """Return the loss of each pair, shape (n,), from label logits and target distributions, both (n, k).

    Cross-entropy over the label tokens, plus ``ordinal_weight`` times the squared earth mover's distance between
    the cumulative distributions (Hou et al. 2016, https://arxiv.org/abs/1611.05916), which makes a miss
    cost more the further it is: a certain one by two grades costs twice what one by one does. The grades count as
    equally far apart.
    """
    import torch

    loss = torch.nn.functional.cross_entropy(logits, targets, reduction="none")
    if ordinal_weight:
        gap = (torch.softmax(logits, 1) - targets).cumsum(1)
        loss = loss + ordinal_weight * gap.square().sum(1)
    return loss
