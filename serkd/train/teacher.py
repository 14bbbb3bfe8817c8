"""The teacher's tasks: multi-task extractor, stage 1 on units, stage 2 on emotions (GMP-TL)."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from serkd import config
from serkd.features.backbone import Backbone, Suffix
from serkd.features.store import Frames, read_frames
from serkd.losses.logits import cross_entropy
from serkd.losses.margin import aam_softmax, am_softmax
from serkd.losses.terms import Term
from serkd.losses.units import multi_scale_cross_entropy
from serkd.models.teacher import EmotionTeacher, MultiTaskExtractor, UnitTeacher
from serkd.train.batches import draw_spans, pad_frames, pad_units
from serkd.train.data import FoldData
from serkd.train.loop import Step, Task, seed_torch
from serkd.train.outputs import forward_pair, predict
from serkd.train.workers import Workers


class SuffixTask(Task):
    """What the three tasks share: a suffix with its own learning rate, padded hidden states."""

    def __init__(
        self,
        name: str,
        data: FoldData,
        backbone: Backbone,
        frozen_layers: int,
        fit: config.BackboneFit,
        seed: int,
        device: str,
    ) -> None:
        self.name, self.data, self.seed = name, data, seed
        self.backbone_lr, self.layer_decay, self.fit = fit.backbone_lr, fit.layer_decay, fit
        self.device = torch.device(device)
        self.suffix = Suffix(backbone, frozen_layers)
        self.dim = backbone.dim
        seed_torch(seed)

    @property
    def lengths(self) -> np.ndarray:
        return self.data.train_lengths

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

    def batch(self, index: np.ndarray) -> tuple[Tensor, Tensor]:
        """Hidden states (B, F, D) and valid frames (B, F) on the device."""
        hidden, mask = pad_frames(self.data.frames, index)
        return hidden.to(self.device), mask.to(self.device)

    def fit_statistics(self, model: MultiTaskExtractor | EmotionTeacher) -> None:
        """Statistics of the untrained model's embeddings of the training utterances."""
        model.eval()

        def pooled(hidden: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
            embedding = model.pool(hidden, mask)
            return embedding, embedding

        index = np.arange(len(self.data.train_ids))
        embeddings, _ = predict(pooled, self.data.frames, index, self.device)
        model.standardise.fit(torch.from_numpy(embeddings))

    def labels(self, index: np.ndarray) -> Tensor:
        """Emotions (B,) on the device."""
        return torch.from_numpy(self.data.labels[index]).to(self.device)


class ExtractorTask(SuffixTask):
    """L = a·CE_emotion + (1 - a)·CE_gender; unknown genders are left out (after GEmo-CLAP)."""

    selection = "dev_uar"

    def __init__(
        self,
        data: FoldData,
        backbone: Backbone,
        frozen_layers: int,
        settings: config.Extractor,
        has_gender_task: bool,
        seed: int,
        device: str,
    ) -> None:
        super().__init__("extractor", data, backbone, frozen_layers, settings.fit, seed, device)
        self.emotion_weight = settings.emotion_weight if has_gender_task else 1.0
        self.model = MultiTaskExtractor(
            self.suffix, self.dim, data.num_classes, settings.pooling
        ).to(self.device)
        self.fit_statistics(self.model)

    def terms(self, index: np.ndarray, step: Step) -> dict[str, Term]:
        emotion, gender = self.model(*self.batch(index))
        terms = {"emotion": cross_entropy(emotion, self.labels(index), weight=self.emotion_weight)}
        if self.emotion_weight < 1.0:
            genders = torch.from_numpy(self.data.genders[index]).to(self.device)
            terms["gender"] = cross_entropy(gender, genders, weight=1.0 - self.emotion_weight)
        return terms

    def evaluate(self, workers: Workers) -> dict[str, float]:
        self.model.eval()
        index = workers.share(self.data.dev_index)
        logits, _ = predict(self.model, self.data.frames, index, self.device)
        return self.data.dev_metrics(logits, index, workers)


class UnitsTask(SuffixTask):
    """Stage 1: predict the units of masked (or all) frames, from the pre-trained suffix."""

    def __init__(
        self,
        data: FoldData,
        unit_folders: Sequence[Path],
        num_units: Sequence[int],
        backbone: Backbone,
        frozen_layers: int,
        settings: config.Stage1,
        seed: int,
        device: str,
    ) -> None:
        super().__init__("teacher_units", data, backbone, frozen_layers, settings.fit, seed, device)
        self.settings = settings
        keep = set(data.utt_ids)
        self.units: list[Frames] = [
            read_frames(folder, "units", keep).select(data.utt_ids) for folder in unit_folders
        ]
        self.model = UnitTeacher(self.suffix, self.dim, num_units).to(self.device)

    def terms(self, index: np.ndarray, step: Step) -> dict[str, Term]:
        hidden, mask = self.batch(index)
        masked = self._masked(mask)
        units = [pad_units(scale, index).to(self.device) for scale in self.units]
        counted = mask if masked is None else masked
        return multi_scale_cross_entropy(self.model(hidden, mask, masked), units, counted)

    def _masked(self, mask: Tensor) -> Tensor | None:
        if self.settings.frames == "all":
            return None
        spans = draw_spans(
            mask.cpu(), self.settings.mask_start_share, self.settings.mask_span_frames
        )
        return spans.to(self.device)

    @torch.inference_mode()
    def evaluate(self, workers: Workers) -> dict[str, float]:
        """Share of dev frames whose unit is predicted, per scale, nothing masked."""
        self.model.eval()
        counts = np.zeros((len(self.units), 2))
        index = workers.share(self.data.dev_index)
        for start in range(0, len(index), self.fit.batch_size):
            some = index[start : start + self.fit.batch_size]
            hidden, mask = self.batch(some)
            for scale, logits in enumerate(self.model(hidden, mask, None)):
                units = pad_units(self.units[scale], some).to(self.device)
                hits = (logits.argmax(-1) == units)[mask]
                counts[scale] += [float(hits.sum()), hits.numel()]
        hits, frames = np.sum(workers.collect(counts), axis=0).T
        return {f"dev_unit_accuracy_{s}": v for s, v in enumerate((hits / frames).tolist())}


class EmotionTask(SuffixTask):
    """Stage 2: emotions from the pooled embedding, from stage 1's suffix."""

    selection = "dev_uar"

    def __init__(
        self,
        data: FoldData,
        backbone: Backbone,
        frozen_layers: int,
        start: Mapping[str, Tensor] | None,
        settings: config.Stage2,
        seed: int,
        device: str,
    ) -> None:
        super().__init__("teacher", data, backbone, frozen_layers, settings.fit, seed, device)
        self.settings = settings
        if start is not None:
            self.suffix.load_state_dict(start)
        self.model = build_teacher(settings, self.suffix, self.dim, data.num_classes)
        self.model.to(self.device)
        self.fit_statistics(self.model)
        self.class_weights = None
        if settings.class_weights == "balanced":
            self.class_weights = balance_classes(data).to(self.device)

    def terms(self, index: np.ndarray, step: Step) -> dict[str, Term]:
        hidden, mask = self.batch(index)
        masked = None
        if self.settings.mask_start_share > 0:
            spans = self.settings.mask_span_frames
            masked = draw_spans(mask.cpu(), self.settings.mask_start_share, spans).to(self.device)
        logits, labels = self.model(hidden, mask, masked).logits, self.labels(index)
        weights = self.class_weights
        if self.settings.loss == "cross_entropy":
            return {"emotion": cross_entropy(logits, labels, class_weights=weights)}
        loss = am_softmax if self.settings.loss == "am_softmax" else aam_softmax
        scale, margin = self.settings.scale, self.settings.margin
        term = loss(logits / scale, labels, scale=scale, margin=margin, class_weights=weights)
        return {"emotion": term}

    def evaluate(self, workers: Workers) -> dict[str, float]:
        self.model.eval()
        index = workers.share(self.data.dev_index)
        logits, _ = predict(forward_pair(self.model), self.data.frames, index, self.device)
        return self.data.dev_metrics(logits, index, workers)


def balance_classes(data: FoldData) -> Tensor:
    """(C,) float32: the same sum for every class of train, and 1 on average over its samples."""
    counts = np.bincount(data.labels[: len(data.train_ids)], minlength=data.num_classes)
    return torch.from_numpy(
        counts.sum() / (np.count_nonzero(counts) * np.maximum(counts, 1))
    ).float()


def build_teacher(
    settings: config.Stage2, suffix: Suffix, dim: int, num_classes: int
) -> EmotionTeacher:
    """The stage-2 model around a suffix."""
    return EmotionTeacher(
        suffix,
        dim,
        num_classes,
        pooling=settings.pooling,
        dropout=settings.dropout,
        scale=None if settings.loss == "cross_entropy" else settings.scale,
    )
