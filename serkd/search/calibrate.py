"""What stages will take where none was computed: arithmetic, and how fast this machine is."""

import functools
import time

import torch

from serkd.config import Experiment
from serkd.corpora.folds import Fold
from serkd.errors import InputError
from serkd.features.backbone import find_backbone
from serkd.search.cost import flatten
from serkd.search.count import Node
from serkd.search.footprint import count_student

_SIZE, _SECONDS = 768, 0.3
_SHARE = 0.4  # of the speed of one large product that a training reaches [our guess]
_FRONT_FLOPS = 60e6  # a frame's convolutions in a HuBERT-base, 768 wide
_BASE_LAYERS, _BASE_DIM = 12, 768


@functools.cache
def measure_speed() -> float:
    """Floating-point operations a second of a large product of matrices, on this machine's CPU."""
    left = torch.ones(_SIZE, _SIZE)
    left @ left
    started, count = time.perf_counter(), 0
    while time.perf_counter() - started < _SECONDS:
        left @ left
        count += 1
    return 2 * _SIZE**3 * count / (time.perf_counter() - started)


class Calibration:
    """Seconds and bytes of a node on a fold: the right order of magnitude, not more."""

    def __init__(self, base: Experiment, fold: Fold) -> None:
        self.base, self.num_classes = base, len(fold.manifest.class_names)
        seconds = {u.utt_id: u.duration_s for u in fold.manifest.utterances}
        self.num_frames = 50 * sum(seconds.values())
        self.num_train = 50 * sum(seconds[utt_id] for utt_id in fold.train)
        try:
            backbone = find_backbone(base.backbone.name)
            self.num_layers, self.dim = backbone.num_layers, backbone.dim
        except InputError:  # it will be said when the sweep starts; a plan can do without
            self.num_layers, self.dim = _BASE_LAYERS, _BASE_DIM
        self.layer = 24 * self.dim**2  # operations of a frame in a transformer layer

    def __call__(self, node: Node) -> tuple[float, float]:
        """(seconds, bytes)."""
        flops, num_bytes = self._count(node)
        return flops / (_SHARE * measure_speed()) + 0.2, num_bytes

    def _count(self, node: Node) -> tuple[float, float]:
        """Operations and bytes."""
        used = flatten(node.uses)
        stage, scale = node.ref.stage, node.ref.scale
        frozen = self.base.backbone.frozen_layers
        trained = max(1, self.num_layers - frozen)
        weights = 4.0 * 12 * trained * self.dim**2
        if stage == "features":
            front = _FRONT_FLOPS * (self.dim / _BASE_DIM) ** 2
            flops = self.num_frames * (front + scale[0] * self.layer)
            return flops, 2.0 * self.num_frames * self.dim
        if stage in ("hidden", "teacher_outputs", "teacher_hidden"):
            is_states = stage != "teacher_outputs"
            flops = self.num_frames * trained * self.layer
            return flops, 2.0 * self.num_frames * self.dim if is_states else 1e6
        if stage in ("extractor", "teacher_units", "teacher"):
            epochs = next(value for key, value in used.items() if key.endswith("fit.epochs"))
            # statistics are one pass more, which has no gradient
            passes = 3.0 * epochs + 1.0
            return passes * self.num_train * trained * self.layer, weights
        if stage == "centroids":
            iterations = used["units.max_iterations"]
            return 2.0 * iterations * self.num_train * self.dim * scale[1], 4.0 * self.dim * scale[
                1
            ]
        if stage == "units":
            return 2.0 * self.num_frames * self.dim * scale[1], 4.0 * self.num_frames
        if stage == "student":
            return self._count_student(used)
        return 1e6 * self.num_frames / 50, 320.0 * self.num_frames

    def _count_student(self, used: dict[str, object]) -> tuple[float, float]:
        shape = {
            dotted.removeprefix("student."): value
            for dotted, value in used.items()
            if dotted in ("student.family", "student.width", "student.depth")
        }
        student = self.base.student.model_copy(update=shape)
        experiment = self.base.model_copy(update={"student": student})
        size = count_student(experiment, self.num_classes)
        epochs = float(str(used["student.fit.epochs"]))
        steps = 1.0
        if used.get("meta.order", "off") != "off":  # a lesson takes about two of the student's
            steps += 2.0 / float(str(used["meta.every_steps"]))
        return 6.0 * size * epochs * steps * self.num_train / 2, 4.0 * size
