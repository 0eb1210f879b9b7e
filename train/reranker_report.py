"""The report of a re-ranker's training: JSON, a picture of the curves, and a short model card."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pairgrade.atomic import write_text
from pairgrade.train.checkpoint import State
from pairgrade.train.curves import new_figure, running_mean, save_figure
from pairgrade.train.reranker_options import LOSSES


def write_report(folder: Path, state: State, facts: Mapping[str, Any], metrics: Mapping[str, Any]) -> None:
    """Write report.json, curves.png and README.md into the re-ranker's folder."""
    curve = [{"step": found.step, "ndcg@10": found.ndcg} for found in state.evaluations]
    table = dict(facts) | {
        "steps": state.step,
        "stopped_early": state.stopped_early,
        "best_step": state.best.step,
        "dev": curve,
        "metrics": dict(metrics),
        "losses": state.losses,
    }
    write_text(folder / "report.json", json.dumps(table, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
    _draw(state, folder / "curves.png")
    write_text(folder / "README.md", _card(state, facts, metrics))


def _draw(state: State, path: Path) -> None:
    figure, (left, right) = new_figure(2, (9.0, 3.6))
    steps = range(1, len(state.losses) + 1)
    left.plot(steps, state.losses, color="0.8", linewidth=0.8, label="step")
    left.plot(steps, running_mean(state.losses), color="tab:blue", label="running mean")
    left.set_ylabel("loss")
    left.legend(frameon=False)
    right.plot([e.step for e in state.evaluations], [e.ndcg for e in state.evaluations], color="tab:green", marker="o")
    right.axvline(state.best.step, color="0.8", linewidth=0.8)
    right.set_ylabel("nDCG@10 on the dev queries")
    for axes in (left, right):
        axes.set_xlabel("step")
        axes.spines[["top", "right"]].set_visible(False)
    save_figure(figure, path)


def _card(state: State, facts: Mapping[str, Any], metrics: Mapping[str, Any]) -> str:
    options, fp32, int8 = facts["options"], metrics["fp32"], metrics["int8"]
    verdict = "" if int8["kept"] else "; it was not kept, for it ranks too differently"
    return f"""# {facts["name"]}

A re-ranker trained by pairgrade {facts["pairgrade"]} from the encoder `{facts["base"]}`: a cross-encoder that reads a
query and a document together, {options["max_length"]} tokens at most, and gives one score (a logit).

- Trained on {facts["train_queries"]} queries with {facts["train_documents"]} labelled documents; loss: \
{LOSSES[options["loss"]]}; seed {options["seed"]}; best at step {state.best.step} of {state.step}.
- nDCG@10 on {facts["dev_queries"]} dev queries, which also chose the step: {fp32["ndcg"]:.4f} in fp32, \
{int8["ndcg"]:.4f} in int8 (rank correlation with fp32 by query: mean {int8["rho"]:.4f}, \
lowest {int8["lowest_rho"]:.4f}){verdict}.
- Licence and limits are those of the encoder and of the training data.

```python
from pairgrade import Reranker

with Reranker.open("{facts["name"]}") as reranker:
    print(reranker.rank("a query", ["a document", "another"], return_documents=True))
```

`sentence_transformers.CrossEncoder("{facts["name"]}")` opens the same folder, with torch.
"""
