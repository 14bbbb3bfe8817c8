"""What a trained model says of every utterance: logits and pooled embedding."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor, nn

from serkd.train.batches import plan_evaluation
from serkd.train.source import Source


@dataclass(frozen=True)
class Outputs:
    """`logits` (U, C) and `embedding` (U, E), float32, in the order of `utt_ids`."""

    utt_ids: tuple[str, ...]
    logits: np.ndarray
    embedding: np.ndarray

    def select(self, utt_ids: Sequence[str]) -> "Outputs":
        """The rows of `utt_ids`, in that order."""
        index = {utt_id: i for i, utt_id in enumerate(self.utt_ids)}
        rows = [index[utt_id] for utt_id in utt_ids]
        return Outputs(tuple(utt_ids), self.logits[rows], self.embedding[rows])


def join_outputs(parts: Sequence[Outputs]) -> Outputs:
    """Those of several groups of utterances, one after the other."""
    return Outputs(
        tuple(utt_id for part in parts for utt_id in part.utt_ids),
        np.concatenate([part.logits for part in parts]),
        np.concatenate([part.embedding for part in parts]),
    )


Forward = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


def forward_pair(model: nn.Module) -> Forward:
    """A teacher or student as a function to (logits, embedding)."""

    def forward(frames: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        output = model(frames, mask)
        return output.logits, output.embedding

    return forward


@torch.inference_mode()
def predict(
    forward: Forward,
    source: Source,
    index: np.ndarray,
    device: torch.device,
    max_frames: int | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Logits and embeddings of some utterances; batches of similar length, results in order."""
    if not len(index):  # of few utterances, some workers have none
        return np.zeros((0, 1), np.float32), np.zeros((0, 1), np.float32)
    plan = plan_evaluation(source.lengths, source.parts, index, max_frames)
    logits: list[np.ndarray] = []
    embeddings: list[np.ndarray] = []
    for batch in source.load(plan, None):
        out, embedding = forward(*batch.to(device))
        logits.append(out.float().cpu().numpy())
        embeddings.append(embedding.float().cpu().numpy())
    order = np.concatenate(plan)
    sorter = np.argsort(order)
    rows = sorter[np.searchsorted(order, index, sorter=sorter)]
    return np.concatenate(logits)[rows], np.concatenate(embeddings)[rows]


def write_outputs(outputs: Outputs, path: Path) -> None:
    """One row per utterance."""
    columns = {
        "utt_id": pa.array(outputs.utt_ids, pa.string()),
        "logits": pa.array(list(outputs.logits), pa.list_(pa.float32())),
        "embedding": pa.array(list(outputs.embedding), pa.list_(pa.float32())),
    }
    pq.write_table(pa.table(columns), path)


def read_outputs(path: Path) -> Outputs:
    """Inverse of `write_outputs`."""
    table = pq.read_table(path)

    def matrix(name: str) -> np.ndarray:
        return np.array(table.column(name).to_pylist(), np.float32)

    return Outputs(tuple(table.column("utt_id").to_pylist()), matrix("logits"), matrix("embedding"))
