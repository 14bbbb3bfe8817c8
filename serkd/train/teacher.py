"""The teacher's tasks: multi-task extractor, stage 1 on units, stage 2 on emotions (GMP-TL)."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from serkd import config
from serkd.features.backbone import Suffix
from serkd.losses.logits import cross_entropy
from serkd.losses.margin import aam_softmax, am_softmax
from serkd.losses.terms import Term
from serkd.models.teacher import EmotionTeacher, MultiTaskExtractor, UnitTeacher
from serkd.models.trunk import Trunk
from serkd.train.batches import draw_spans, plan_evaluation, valid_frames
from serkd.train.data import FoldData
from serkd.train.outputs import forward_pair
from serkd.train.probe import fit_probe
from serkd.train.source import Padded
from serkd.train.speeds import SpeedSource
from serkd.train.suffix import SuffixTask
from serkd.train.task import Step
from serkd.train.units import KeptUnits, UnitRegulariser, UnitScale, UnitTargets
from serkd.train.workers import Workers


class ExtractorTask(SuffixTask):
    """L = a·CE_emotion + (1 - a)·CE_gender; unknown genders are left out (after GEmo-CLAP)."""

    selection = "dev_uar"

    def __init__(
        self,
        data: FoldData,
        trunk: Trunk,
        settings: config.Extractor,
        has_gender_task: bool,
        seed: int,
        device: str,
    ) -> None:
        super().__init__(
            "extractor", data, trunk, settings.fit, seed, device, augment=settings.augment
        )
        self.emotion_weight = settings.emotion_weight if has_gender_task else 1.0
        self.model = MultiTaskExtractor(
            self.suffix,
            trunk.dim,
            data.num_classes,
            settings.pooling,
            layer_mix=trunk.layer_mix,
        ).to(self.device)
        self.fit_statistics(self.model)

    def counts(self, index: np.ndarray, step: Step) -> dict[str, float]:
        counts = {"emotion": float(len(index))}
        if self.emotion_weight < 1.0:
            counts["gender"] = float((self.data.genders[index] >= 0).sum())
        return counts

    def terms(self, index: np.ndarray, batch: Padded, step: Step) -> dict[str, Term]:
        emotion, gender = (logits.float() for logits in self.model(*batch.to(self.device)))
        terms = {"emotion": cross_entropy(emotion, self.labels(index), weight=self.emotion_weight)}
        if self.emotion_weight < 1.0:
            genders = torch.from_numpy(self.data.genders[index]).to(self.device)
            terms["gender"] = cross_entropy(gender, genders, weight=1.0 - self.emotion_weight)
        return terms

    def evaluate(self, workers: Workers) -> dict[str, float]:
        self.model.eval()
        index = workers.share(self.data.dev_index)
        logits, _ = self.predict(self.model, index)
        return self.data.dev_metrics(logits, index, workers)


class UnitsTask(SuffixTask):
    """Stage 1: predict the units of masked (or all) frames, from the pre-trained suffix."""

    def __init__(
        self,
        data: FoldData,
        scales: Sequence[UnitScale],
        trunk: Trunk,
        settings: config.Stage1,
        seed: int,
        device: str,
    ) -> None:
        super().__init__("teacher_units", data, trunk, settings.fit, seed, device)
        self.settings = settings
        self.targets = UnitTargets(scales, data)
        num_units = [scale.num_units for scale in scales]
        self.model = UnitTeacher(self.suffix, trunk.dim, num_units, layer_mix=trunk.layer_mix).to(
            self.device
        )

    def counts(self, index: np.ndarray, step: Step) -> dict[str, float]:
        counted = float(self._counted(index, step).sum())
        return dict.fromkeys(self.targets.term_names, counted)

    def terms(self, index: np.ndarray, batch: Padded, step: Step) -> dict[str, Term]:
        hidden, mask = batch.to(self.device)
        counted = self._counted(index, step).to(self.device)
        masked = counted if self.settings.frames == "masked" else None
        return self.targets.terms(self.model(hidden, mask, masked), index, counted)

    def _counted(self, index: np.ndarray, step: Step) -> Tensor:
        """Frames (B, F) that are to be predicted: the masked ones, or all valid ones."""
        lengths = self.source.lengths[index]
        if self.settings.frames == "all":
            return valid_frames(lengths)
        start_share, span_frames = self.settings.mask_start_share, self.settings.mask_span_frames
        return draw_spans(lengths, start_share, span_frames, step.generators(index))

    @torch.inference_mode()
    def evaluate(self, workers: Workers) -> dict[str, float]:
        """Share of dev frames whose unit is predicted, per scale, nothing masked."""
        self.model.eval()
        counts = np.zeros((len(self.targets.scales), 2))
        index = workers.share(self.data.dev_index)
        plan = plan_evaluation(self.source.lengths, self.source.parts, index, self.max_frames)
        for some, batch in zip(plan, self.source.load(plan, None), strict=True):
            hidden, mask = batch.to(self.device)
            counts += self.targets.count_hits(self.model(hidden, mask, None), some, mask)
        hits, frames = np.sum(workers.collect(counts), axis=0).T
        names = [f"dev_unit_accuracy/{scale.name}" for scale in self.targets.scales]
        return dict(zip(names, (hits / frames).tolist(), strict=True))


class EmotionTask(SuffixTask):
    """Stage 2: emotions from the pooled embedding, with or without stage 1's loss.

    `start` is the suffix's weights, None the pre-trained ones.
    """

    selection = "dev_uar"

    def __init__(
        self,
        data: FoldData,
        trunk: Trunk,
        start: Mapping[str, Tensor] | None,
        settings: config.Stage2,
        seed: int,
        device: str,
        kept: KeptUnits | None = None,
    ) -> None:
        super().__init__(
            "teacher", data, trunk, settings.fit, seed, device, start, settings.augment
        )
        self.settings = settings
        self.model = build_teacher(settings, self.suffix, trunk, data.num_classes)
        self.model.to(self.device)
        embeddings = self.fit_statistics(self.model)
        self.class_weights = None
        if settings.class_weights == "balanced":
            self.class_weights = balance_classes(data).to(self.device)
        if settings.probe_l2 is not None:
            self._fit_probe(self.model, embeddings, settings.probe_l2)
        self.units: UnitRegulariser | None = None
        if kept is not None:  # after the model, whose random start must not depend on it
            self.units = UnitRegulariser(kept, self.model.frame_dim, data, settings.unit_weight)
            self.units.heads.to(self.device)

    def _fit_probe(self, model: EmotionTeacher, embeddings: np.ndarray, l2: float) -> None:
        """On the training utterances' embeddings, and those at other speeds of training."""
        classifier = model.classifier
        assert isinstance(classifier, nn.Linear), "Stage2 refuses a probe of cosines"
        found = [embeddings]
        if isinstance(self.source, SpeedSource):
            others = [each for speed, each in self.source.sources.items() if speed != 1.0]
            found += [self.embed_training(model, each) for each in others]
        with torch.no_grad():
            joined = torch.from_numpy(np.concatenate(found)).to(self.device)
            standard = model.standardise(joined).cpu().numpy()
        labels = np.tile(self.data.train_labels, len(found))
        fit_probe(classifier, standard, labels, l2, self.class_weights)

    def parameter_groups(self) -> Sequence[tuple[str, nn.Module | nn.Parameter, float]]:
        groups = super().parameter_groups()
        return groups if self.units is None else [*groups, ("units", self.units.heads, self.fit.lr)]

    def extra_state(self) -> dict[str, Tensor]:
        return {} if self.units is None else self.units.heads.state_dict()

    def load_extra_state(self, tensors: dict[str, Tensor]) -> None:
        if self.units is not None:
            self.units.heads.load_state_dict(tensors)

    def counts(self, index: np.ndarray, step: Step) -> dict[str, float]:
        counts = {"emotion": float(len(index))}
        if self.class_weights is not None:
            counts["emotion"] = float(self.class_weights[self.labels(index)].sum())
        if self.units is not None:
            num_frames = float(self.source.lengths[index].sum())
            counts |= dict.fromkeys(self.units.targets.term_names, num_frames)
        return counts

    def terms(self, index: np.ndarray, batch: Padded, step: Step) -> dict[str, Term]:
        hidden, mask = batch.to(self.device)
        masked = None
        if (start_share := self.settings.mask_start_share) > 0:
            lengths, span_frames = batch.mask.sum(dim=1).numpy(), self.settings.mask_span_frames
            masked = draw_spans(lengths, start_share, span_frames, step.generators(index))
            masked = masked.to(self.device)
        output = self.model(hidden, mask, masked)
        terms = {"emotion": self._emotion_term(output.logits.float(), self.labels(index))}
        return terms | (self.units.terms(output.frames, index, mask) if self.units else {})

    def _emotion_term(self, logits: Tensor, labels: Tensor) -> Term:
        weights = self.class_weights
        if self.settings.loss == "cross_entropy":
            return cross_entropy(logits, labels, class_weights=weights)
        loss = am_softmax if self.settings.loss == "am_softmax" else aam_softmax
        scale, margin = self.settings.scale, self.settings.margin
        return loss(logits / scale, labels, scale=scale, margin=margin, class_weights=weights)

    def evaluate(self, workers: Workers) -> dict[str, float]:
        self.model.eval()
        index = workers.share(self.data.dev_index)
        logits, _ = self.predict(forward_pair(self.model), index)
        return self.data.dev_metrics(logits, index, workers)


def balance_classes(data: FoldData) -> Tensor:
    """(C,) float32: the same sum for every class of train, and 1 on average over its samples."""
    counts = np.bincount(data.train_labels, minlength=data.num_classes)
    return torch.from_numpy(
        counts.sum() / (np.count_nonzero(counts) * np.maximum(counts, 1))
    ).float()


def build_teacher(
    settings: config.Stage2, suffix: Suffix, trunk: Trunk, num_classes: int
) -> EmotionTeacher:
    """The stage-2 model around a trunk's suffix."""
    return EmotionTeacher(
        suffix,
        trunk.dim,
        num_classes,
        layer_mix=trunk.layer_mix,
        pooling=settings.pooling,
        dropout=settings.dropout,
        scale=None if settings.loss == "cross_entropy" else settings.scale,
    )
