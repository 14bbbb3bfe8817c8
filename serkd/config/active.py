"""Which settings have no effect beside the others of an experiment."""

from collections.abc import Callable, Container
from dataclasses import dataclass

from serkd.config import Experiment


@dataclass(frozen=True)
class Rule:
    """`keys` (settings or sections) change nothing unless `matters`; `unless` says that in words.

    A key stands here only if a training with another value of it would end in the same bits.
    """

    keys: tuple[str, ...]
    unless: str
    matters: Callable[[Experiment], bool]


def _keys(section: str, names: str) -> tuple[str, ...]:
    return tuple(f"{section}.{name}" for name in names.split())


def _starts_at_alpha(experiment: Experiment) -> bool:
    curriculum = experiment.curriculum
    is_given = curriculum.alpha_start is not None and curriculum.alpha_end is not None
    return curriculum.alpha_curriculum == "off" or not is_given


RULES = (
    Rule(
        _keys("backbone.lora", "alpha dropout targets"),
        "backbone.lora.rank is above 0",
        lambda e: e.backbone.lora.rank > 0,
    ),
    Rule(
        ("extractor.emotion_weight",),
        "units.gender_mode has a gender task",
        lambda e: e.units.gender_mode.has_task,
    ),
    Rule(
        _keys("teacher.stage1", "mask_start_share mask_span_frames"),
        "teacher.stage1.frames is 'masked'",
        lambda e: e.teacher.stage1.frames == "masked",
    ),
    Rule(
        _keys("teacher.stage2", "scale margin"),
        "teacher.stage2.loss is a margin loss",
        lambda e: e.teacher.stage2.loss != "cross_entropy",
    ),
    Rule(
        ("teacher.stage2.mask_span_frames",),
        "teacher.stage2.mask_start_share is above 0",
        lambda e: e.teacher.stage2.mask_start_share > 0,
    ),
    Rule(
        _keys("student.logmel", "num_mels frame_rate_hz"),
        "student.input is 'logmel'",
        lambda e: e.student.input == "logmel",
    ),
    Rule(
        _keys("student.hidden", "source layer"),
        "student.input is 'hidden'",
        lambda e: e.student.input == "hidden",
    ),
    Rule(
        ("student.size",),
        "student.width or depth is left to it",
        lambda e: e.student.width is None or e.student.depth is None,
    ),
    Rule(
        _keys("student", "kernel_frames stem reduction"),
        "student.family has convolutions",
        lambda e: e.student.family != "token",
    ),
    Rule(
        _keys("student", "num_heads ffn_ratio num_frames length channel_embedding"),
        "student.family has tokens",
        lambda e: e.student.family != "conv",
    ),
    Rule(
        _keys("student", "token_pooling instance_norm"),
        "student.family is 'token'",
        lambda e: e.student.family == "token",
    ),
    Rule(
        ("student.token_depth",),
        "student.family is 'conv_token'",
        lambda e: e.student.family == "conv_token",
    ),
    Rule(
        ("student.augment.time_mask_frames",),
        "student.augment.time_masks is above 0",
        lambda e: e.student.augment.time_masks > 0,
    ),
    Rule(
        ("student.augment.mel_mask_bins",),
        "student.augment.mel_masks is above 0",
        lambda e: e.student.augment.mel_masks > 0,
    ),
    Rule(
        ("distill.alpha",),
        "curriculum.alpha_start or alpha_end is left to it",
        _starts_at_alpha,
    ),
    Rule(("distill.kd",), "KD has a weight", lambda e: e.has_kd),
    Rule(
        ("distill.temperature",),
        "KD has a weight and distill.kd is not 'mse_logits'",
        lambda e: e.has_temperature,
    ),
    Rule(
        _keys("distill", "dkd_target_weight dkd_other_weight"),
        "distill.kd is 'dkd'",
        lambda e: e.has_kd and e.distill.kd == "dkd",
    ),
    Rule(
        ("distill.hint_knee",),
        "distill.gamma is above 0",
        lambda e: e.distill.gamma > 0,
    ),
    Rule(
        ("distill.supcon_weight",),
        "the weight of KD is ever below 1",
        lambda e: e.learns_labels,
    ),
    Rule(
        ("distill.supcon_temperature",),
        "distill.supcon_weight is above 0 and the weight of KD ever below 1",
        lambda e: e.distill.supcon_weight > 0 and e.learns_labels,
    ),
    Rule(
        ("distill.label_smoothing",),
        "cross-entropy has a weight",
        lambda e: e.distill.supcon_weight < 1 and e.learns_labels,
    ),
    Rule(
        ("curriculum.start_share",),
        "curriculum.pacing is not 'none'",
        lambda e: e.curriculum.pacing != "none",
    ),
    Rule(
        _keys("curriculum", "control full_at num_jumps"),
        "curriculum.pacing is not 'none' and curriculum.start_share below 1",
        lambda e: e.curriculum.is_paced,
    ),
    Rule(
        ("curriculum.num_jumps",),
        "curriculum.pacing rises before its end, as 'step' does not",
        lambda e: e.curriculum.pacing != "step",
    ),
    Rule(
        ("curriculum.scorer",),
        "curriculum.pacing is not 'none', start_share below 1 and control not 'random'",
        lambda e: e.curriculum.ranks,
    ),
    Rule(
        ("curriculum.temperature_curriculum",),
        "KD has a weight and distill.kd is not 'mse_logits'",
        lambda e: e.has_temperature,
    ),
    Rule(
        _keys(
            "curriculum",
            "temperature_start temperature_range temperature_lr temperature_full_at",
        ),
        "curriculum.temperature_curriculum is on, KD has a weight and is not 'mse_logits'",
        lambda e: e.curriculum.temperature_curriculum != "off" and e.has_temperature,
    ),
    Rule(
        _keys("curriculum", "alpha_start alpha_end alpha_full_at"),
        "curriculum.alpha_curriculum is on",
        lambda e: e.curriculum.alpha_curriculum != "off",
    ),
    Rule(
        _keys("meta", "trains last_layers rho quiz_share pilot_lr teacher_lr every_steps"),
        "meta.order is on",
        lambda e: e.meta.order != "off",
    ),
    Rule(
        ("meta.last_layers",),
        "meta.trains is 'last_n'",
        lambda e: e.meta.trains == "last_n",
    ),
)


def find_inactive(experiment: Experiment, among: Container[str] | None = None) -> dict[str, str]:
    """The settings without effect, by dotted path, each with what it would need to have one.

    Of those `among` some paths only, if they are given.
    """
    found: dict[str, str] = {}
    for rule in RULES:
        asked = rule.keys if among is None else [key for key in rule.keys if key in among]
        if asked and not rule.matters(experiment):
            found |= {key: rule.unless for key in asked if key not in found}
    return found
