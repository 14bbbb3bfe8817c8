"""A stage-2 teacher as it is stored, and the part of it that can learn on.

That is its head, on stored embeddings, or its last layers and all above them, on the stored hidden
states below them.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from serkd import config
from serkd.features.backbone import Backbone
from serkd.features.cache import PartCache, find_frames
from serkd.features.store import stack_frames
from serkd.models.heads import CosineClassifier
from serkd.models.trunk import Trunk
from serkd.train.batches import pad_frames
from serkd.train.moving import MovingTeacher, Says
from serkd.train.outputs import Outputs, read_outputs
from serkd.train.teacher import build_teacher

_LAYERS, _BIAS_SOURCE = "suffix.body.layers.", "suffix.body.bias_source."


class Head(nn.Module):
    """The classifier alone, on stored embeddings."""

    def __init__(self, classifier: nn.Module, scale: float) -> None:
        super().__init__()
        self.classifier, self.scale = classifier, scale

    def forward(self, embedding: Tensor) -> Says:
        """Embeddings (B, E) to logits (B, C)."""
        return Says(self.scale * self.classifier(embedding), embedding)


class EmbeddingInputs:
    """Stored embeddings (U, E)."""

    def __init__(self, embedding: np.ndarray) -> None:
        self.embedding = torch.from_numpy(embedding)
        self.lengths = np.ones(len(embedding), np.int64)
        self.parts = np.zeros(len(embedding), np.int64)

    def __call__(self, index: np.ndarray, stretch: Tensor | None) -> tuple[Tensor, ...]:
        """Of the whole utterance: an embedding cannot be cut."""
        return (self.embedding[index],)


class StateInputs:
    """Stored hidden states of some utterances: their parts are read when asked for and held while
    they fit into `max_bytes`.
    """

    def __init__(self, folder: Path, column: str, utt_ids: Sequence[str], max_bytes: float) -> None:
        stored = find_frames(folder, column, utt_ids)
        self.cache = PartCache(stored, max_bytes)
        self.lengths, self.parts = stored.lengths, stored.parts

    def __call__(self, index: np.ndarray, stretch: Tensor | None) -> tuple[Tensor, ...]:
        found: dict[int, np.ndarray] = {}
        for i in index[np.argsort(self.parts[index], kind="stable")].tolist():
            found[i] = self.cache[i]  # part by part: each is read once
        values = [found[i] for i in index.tolist()]
        if stretch is not None:
            values = [_cut(v, *ends) for v, ends in zip(values, stretch.tolist(), strict=True)]
        rows = stack_frames(list(map(str, index)), values)
        return pad_frames(rows, np.arange(len(index)))


def _cut(frames: np.ndarray, start: float, end: float) -> np.ndarray:
    """The frames (F, D) of a stretch from one share of an utterance to another; one at least."""
    first = min(int(start * len(frames)), len(frames) - 1)
    return frames[first : max(first + 1, math.ceil(end * len(frames)))]


@dataclass(frozen=True)
class StoredTop:
    """A teacher's last layers with all above them, and where the states below them are stored."""

    folder: Path
    backbone: Backbone

    def build(self, num_classes: int) -> tuple[nn.Module, str]:
        """The module, and the column that it reads."""
        about = json.loads((self.folder / "top.json").read_text(encoding="utf-8"))
        trunk = Trunk(self.backbone, about["first_layer"], about["layer_mix"])
        stage2 = config.Stage2.model_validate_json(json.dumps(about["stage2"]))
        model = build_teacher(stage2, trunk.build_suffix(), trunk, num_classes)
        model.load_state_dict(load_file(self.folder / "top.safetensors"))
        return model, f"layer_{trunk.frozen_layers}"


def cut_top(weights: Mapping[str, Tensor], dropped: int, *, is_wavlm: bool) -> dict[str, Tensor]:
    """A teacher's weights without its suffix's first layers, the others numbered from 0."""
    found: dict[str, Tensor] = {}
    for name, value in weights.items():
        number, _, rest = name.removeprefix(_LAYERS).partition(".")
        if not name.startswith(_LAYERS):
            found[name] = value
        elif int(number) >= dropped:
            found[f"{_LAYERS}{int(number) - dropped}.{rest}"] = value
        elif number == "0" and is_wavlm and rest.startswith("attention."):
            # the layers above go on with the position bias of the first one
            found.setdefault(_BIAS_SOURCE + rest.removeprefix("attention."), value)
    own = {name: value for name, value in weights.items() if name.startswith(_BIAS_SOURCE)}
    return found | own


@dataclass(frozen=True)
class StoredTeacher:
    """A teacher's outputs, and its head: `weights` of the classifier, scale None for a Linear.

    `top` is what moves where it is more than the head.
    """

    outputs: Outputs
    weights: dict[str, Tensor]
    scale: float | None
    top: StoredTop | None = None

    def build(
        self, utt_ids: Sequence[str], lr: float, device: torch.device, train: config.Train
    ) -> MovingTeacher:
        """What can move, for utterances in this order."""
        num_classes, width = self.weights["weight"].shape
        if self.top is not None:
            model, column = self.top.build(num_classes)
            inputs = StateInputs(self.top.folder, column, utt_ids, train.cache_gb * 1e9)
            return MovingTeacher(model, inputs, lr, device, train.max_frames)
        is_linear = self.scale is None
        head = nn.Linear(width, num_classes) if is_linear else CosineClassifier(width, num_classes)
        head.load_state_dict(self.weights)
        embedding = EmbeddingInputs(self.outputs.select(utt_ids).embedding)
        return MovingTeacher(Head(head, self.scale or 1.0), embedding, lr, device)


def read_teacher(folder: Path, top: StoredTop | None = None) -> StoredTeacher:
    """Read what the stage teacher_outputs wrote."""
    model = json.loads((folder / "model.json").read_text(encoding="utf-8"))
    outputs = read_outputs(folder / "outputs.parquet")
    return StoredTeacher(outputs, load_file(folder / "head.safetensors"), model["scale"], top)
