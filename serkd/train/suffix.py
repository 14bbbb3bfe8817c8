"""What the teacher's tasks share: a backbone's suffix that is trained on the prefix's frames."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from serkd import config
from serkd.devices import choose_device, choose_precision
from serkd.models.linear import speed_up_training
from serkd.models.teacher import EmotionTeacher, MultiTaskExtractor
from serkd.models.trunk import Trunk
from serkd.train.data import FoldData
from serkd.train.outputs import Forward, predict
from serkd.train.source import Source
from serkd.train.speeds import change_training
from serkd.train.task import Task, seed_torch


class SuffixTask(Task):
    """What the three tasks share: a suffix with its own learning rate, padded hidden states."""

    def __init__(
        self,
        name: str,
        data: FoldData,
        trunk: Trunk,
        fit: config.BackboneFit,
        seed: int,
        device: str,
        start: Mapping[str, Tensor] | None = None,
        augment: config.Augment | None = None,
    ) -> None:
        self.name, self.data, self.seed = name, data, seed
        self.backbone_lr, self.layer_decay, self.fit = fit.backbone_lr, fit.layer_decay, fit
        self.device = torch.device(choose_device(device))
        self.trunk, self.precision = trunk, choose_precision(trunk.precision, self.device, name)
        self.source, self.max_frames = data.source, data.train.max_frames
        if augment is not None and augment.is_on:
            self.source = change_training(data, trunk, augment, seed, str(self.device))
        self.suffix = trunk.build_suffix(start)
        speed_up_training(self.suffix, self.device)
        seed_torch(seed)
        trunk.prepare(self.suffix)

    @property
    def lengths(self) -> np.ndarray:
        return self.data.train_lengths

    @property
    def train_labels(self) -> np.ndarray:
        return self.data.train_labels

    @property
    def parts(self) -> np.ndarray:
        return self.data.train_parts

    def parameter_groups(self) -> Sequence[tuple[str, nn.Module | nn.Parameter, float]]:
        heads = [m for name, m in self.model.named_children() if name != "suffix"]
        groups: list[tuple[str, nn.Module | nn.Parameter, float]] = [
            ("heads", nn.ModuleList(heads), self.fit.lr)
        ]
        return [*self._suffix_groups(), *groups]

    def _suffix_groups(self) -> list[tuple[str, nn.Module, float]]:
        """One, or one of each layer: below the top one learning rates decay."""
        decay, body = self.layer_decay, self.suffix.body
        if decay == 1.0:
            return [("backbone", self.suffix, self.backbone_lr)]
        layers = enumerate(body.layers, start=self.suffix.first_layer + 1)
        top = self.suffix.first_layer + len(body.layers)
        groups: list[tuple[str, nn.Module, float]] = [
            (f"layer_{n}", layer, self.backbone_lr * decay ** (top - n)) for n, layer in layers
        ]
        norm = (
            [] if body.final_norm is None else [("final_norm", body.final_norm, self.backbone_lr)]
        )
        return [*groups, *norm]

    def predict(self, forward: Forward, index: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Two outputs of some utterances; see `predict`."""
        return predict(forward, self.source, index, self.device, self.max_frames)

    def fit_statistics(self, model: MultiTaskExtractor | EmotionTeacher) -> np.ndarray:
        """Statistics of the untrained model's embeddings of the training utterances.

        Returns those embeddings, not standardised: (U, E).
        """
        embeddings = self.embed_training(model, self.source)
        model.standardise.fit(torch.from_numpy(embeddings))
        return embeddings

    def embed_training(
        self, model: MultiTaskExtractor | EmotionTeacher, source: Source
    ) -> np.ndarray:
        """What a model pools of the training utterances of a source, not standardised: (U, E)."""
        model.eval()

        def pooled(hidden: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
            embedding = model.pool(hidden, mask)
            return embedding, embedding

        index = np.arange(len(self.data.train_ids))
        return predict(pooled, source, index, self.device, self.max_frames)[0]

    def labels(self, index: np.ndarray) -> Tensor:
        """Emotions (B,) on the device."""
        return torch.from_numpy(self.data.labels[index]).to(self.device)
