"""Content keys: they change with what a stage depends on, and with nothing else."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import pytest
import torch
import transformers
from pydantic import BaseModel

from serkd.config import Experiment
from serkd.config.active import RULES
from serkd.corpora.manifest import Manifest
from serkd.features.backbone import TINY_HUBERT
from serkd.stages.catalogue import STAGES, STUDENT, TEACHER_OUTPUTS
from serkd.stages.context import Ref
from serkd.stages.graph import Graph

BuildGraph = Callable[..., Graph]
TARGETS = [TEACHER_OUTPUTS, STUDENT]
# see `build_graph`: these decide the fold, which has its own part in the keys
NEVER_IN_A_KEY = ("train.", "protocol.", "corpus.manifest", "corpus.more_manifests")
SPECIAL: dict[str, object] = {
    "protocol.name": "leave_one_speaker_out",
    "protocol.folds": [["f00"], ["m01"], ["f02", "m03", "f04", "m05"]],
    "corpus.manifest": "elsewhere.parquet",
    "corpus.max_duration_s": 1.5,
    "corpus.trim_silence_db": 40.0,
    "backbone.frozen_layers": 1,
    "units.layers": [1, 2],
    "units.num_clusters": [4, 16],
    "units.gender_mode": "shuffled",
    "units.max_points": 500,
    "protocol.test_corpora": ["ravdess"],
    "protocol.labels": ["exc=happy"],
    "corpus.more_manifests": ["more.parquet"],
    "student.kernel_frames": 7,
    "student.num_heads": 8,
    "student.stem": "frames",
    "student.channel_embedding": False,
    "teacher.inner_folds": 0,
    "extractor.augment.noise_snr_db": [5.0, 20.0],
    "extractor.augment.speed": [0.9, 1.1],
    "teacher.answer_speeds": [0.9, 1.0],
    "teacher.stage2.augment.noise_snr_db": [5.0, 20.0],
    "teacher.stage2.augment.speed": [0.9, 1.1],
    "student.augment.noise_snr_db": [5.0, 20.0],
    "curriculum.num_jumps": 3,
    "curriculum.alpha_start": 0.1,
    "curriculum.alpha_end": 0.9,
    "train.resources_per_worker": {"CPU": 2.0},
    "teacher.stage1.scale_weights": [1.0, 2.0],
}


TAKEN = set(STAGES) - {"random_teacher"}  # which stands for the trained one in a control
# stages that a leaf moves to another layer, or makes unnecessary
ELSEWHERE = {
    "backbone.frozen_layers": {"features", "speeds"},
    "extractor.augment.speed": {"speeds"},
    "extractor.augment.noise_snr_db": {"speeds"},
    "units.source": {"extractor", "hidden", "speeds"},
    "teacher.start": {"hidden", "centroids", "units", "teacher_units"},
    "distill.teacher": {
        *("speeds", "extractor", "hidden", "centroids", "units", "teacher_units", "teacher"),
    },
    "teacher.inner_folds": {"teacher_inner_outputs"},
    "teacher.answer_speeds": {"teacher_hidden"},
    "curriculum.pacing": {"teacher_inner_outputs"},
    "meta.order": {"teacher_hidden"},
    "meta.trains": {"teacher_hidden"},
    "train.num_workers": {"teacher_hidden"},
    "student.input": {"logmel"},
    "student.hidden.source": {"logmel"},
    "student.hidden.layer": {"logmel"},
}
# so that every stage takes part
WHOLE: dict[str, object] = {
    "extractor.augment.speed": [1.0, 1.2],
    "teacher.inner_folds": 2,
    "curriculum.pacing": "linear",
    "meta.order": "second",
    "meta.trains": "last_n",
}
# what some leaf's other value cannot be with
WITHOUT: dict[str, dict[str, object]] = {
    "train.num_workers": {"meta.order": "off"},
    "teacher.answer_speeds": {"meta.trains": "head", "teacher.stage2.loss": "cross_entropy"},
    "student.stem": {"student.depth": 3},
}
# what some leaves need to have an effect at all, beside WHOLE
NEEDED: dict[tuple[str, ...], dict[str, object]] = {
    ("backbone.lora.alpha", "backbone.lora.dropout", "backbone.lora.targets"): {
        "backbone.lora.rank": 2
    },
    ("teacher.stage2.probe_l2",): {"teacher.stage2.loss": "cross_entropy"},
    ("teacher.stage2.mask_span_frames",): {"teacher.stage2.mask_start_share": 0.1},
    ("student.hidden.source", "student.hidden.layer"): {"student.input": "hidden"},
    ("student.size",): {"student.width": None},
    ("student.num_heads", "student.ffn_ratio", "student.num_frames", "student.length"): {
        "student.family": "token"
    },
    ("student.channel_embedding", "student.token_pooling", "student.instance_norm"): {
        "student.family": "token"
    },
    ("student.token_depth",): {"student.family": "conv_token"},
    ("distill.dkd_target_weight", "distill.dkd_other_weight"): {"distill.kd": "dkd"},
    ("distill.hint_knee",): {"distill.gamma": 0.5},
    tuple(f"curriculum.temperature_{name}" for name in ("start", "range", "lr", "full_at")): {
        "curriculum.temperature_curriculum": "global"
    },
    ("curriculum.alpha_curriculum",): {"curriculum.alpha_start": 0.2},
    ("curriculum.alpha_start", "curriculum.alpha_full_at"): {
        "curriculum.alpha_curriculum": "linear",
        "curriculum.alpha_end": 0.4,
    },
    ("curriculum.alpha_end",): {
        "curriculum.alpha_curriculum": "linear",
        "curriculum.alpha_start": 0.2,
    },
}
# under these, a rule of `serkd.config.active` says that its keys have no effect
IDLE: dict[str, dict[str, object]] = {
    "backbone.lora.alpha": {},
    "extractor.emotion_weight": {"units.gender_mode": "none"},
    "teacher.stage1.mask_start_share": {"teacher.stage1.frames": "all"},
    "teacher.stage2.scale": {"teacher.stage2.loss": "cross_entropy"},
    "teacher.stage2.mask_span_frames": {},
    "student.logmel.num_mels": {"student.input": "hidden"},
    "student.hidden.source": {},
    "student.size": {},
    "student.kernel_frames": {"student.family": "token"},
    "student.num_heads": {},
    "student.token_pooling": {},
    "student.token_depth": {},
    "student.augment.time_mask_frames": {"student.augment.time_masks": 0},
    "student.augment.mel_mask_bins": {"student.augment.mel_masks": 0},
    "distill.alpha": {
        "curriculum.alpha_curriculum": "linear",
        "curriculum.alpha_start": 0.2,
        "curriculum.alpha_end": 0.8,
    },
    "distill.kd": {"meta.order": "off", "distill.alpha": 0.0},
    "distill.temperature": {"distill.kd": "mse_logits"},
    "distill.dkd_target_weight": {},
    "distill.hint_knee": {"distill.gamma": 0.0},
    "distill.supcon_weight": {"distill.alpha": 1.0},
    "distill.supcon_temperature": {"distill.supcon_weight": 0.0},
    "distill.label_smoothing": {"distill.supcon_weight": 1.0},
    "curriculum.start_share": {"curriculum.pacing": "none"},
    "curriculum.control": {"curriculum.start_share": 1.0},
    "curriculum.num_jumps": {"curriculum.pacing": "step"},
    "curriculum.scorer": {"curriculum.control": "random"},
    "curriculum.temperature_curriculum": {"distill.kd": "mse_logits"},
    "curriculum.temperature_start": {},
    "curriculum.alpha_start": {},
    "meta.trains": {"meta.order": "off"},
    "meta.last_layers": {"meta.trains": "head"},
}


def _leaves(section: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every leaf's dotted path and type."""
    for name, field in section.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from _leaves(kind, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", kind


LEAVES = dict(_leaves(Experiment))


def _get(section: object, dotted: str) -> Any:  # noqa: ANN401  a leaf
    for name in dotted.split("."):
        section = getattr(section, name)
    return section


def _another(dotted: str, value: object) -> object:
    """A different legal value of a leaf."""
    if dotted in SPECIAL:
        return SPECIAL[dotted]
    kind = LEAVES[dotted]
    if get_origin(kind) is Literal:
        return next(choice for choice in get_args(kind) if choice != value)
    if value is None:
        return 3
    if isinstance(value, bool):
        return not value
    assert isinstance(value, int | float), f"{dotted} needs a line in SPECIAL"
    return value + 1 if isinstance(value, int) else value * 0.5 + 0.01


@pytest.fixture(scope="module")
def other_backbone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A HuBERT of the same shape with other weights."""
    folder = tmp_path_factory.mktemp("backbone")
    torch.manual_seed(7)
    transformers.HubertModel(transformers.HubertConfig(**TINY_HUBERT)).save_pretrained(folder)
    return folder


def _expected_to_change(before: Graph, after: Graph, leaf: str, ref: Ref) -> bool:
    """Whether a stage or one of its ancestors declares a leaf, or now has other inputs."""
    stage = STAGES[ref.stage]
    declares = any(leaf == used or leaf.startswith(f"{used}.") for used in stage.uses)
    # a property of a leaf: of that alone a stage's key depends
    properties = [used for used in stage.uses if used.startswith(f"{leaf}.")]
    declares |= any(_get(before.experiment, p) != _get(after.experiment, p) for p in properties)
    if leaf == "backbone.name":
        declares = stage.reads_backbone
    inputs = before.inputs(ref)
    return (
        declares
        or list(inputs) != list(after.inputs(ref))
        or any(_expected_to_change(before, after, leaf, used) for used in inputs)
    )


@pytest.mark.parametrize("leaf", LEAVES)
def test_a_key_changes_with_a_leaf_exactly_where_it_is_declared(
    build_graph: BuildGraph, other_backbone: Path, leaf: str
) -> None:
    needed = next((found for leaves, found in NEEDED.items() if leaf in leaves), {})
    whole = WHOLE | WITHOUT.get(leaf, {}) | needed
    before = build_graph(whole)
    value = _get(before.experiment, leaf)
    changed = str(other_backbone) if leaf == "backbone.name" else _another(leaf, value)
    after = build_graph({**whole, leaf: changed})
    assert _get(after.experiment, leaf) != value
    shared = set(before.closure(TARGETS)) & set(after.closure(TARGETS))
    assert {ref.stage for ref in shared} == TAKEN - ELSEWHERE.get(leaf, set())
    found = {ref for ref in shared if before.key(ref) != after.key(ref)}
    expected = {ref for ref in shared if _expected_to_change(before, after, leaf, ref)}
    assert found == expected
    # apart from what decides the fold or the machine, a leaf that no key has would be a setting
    # that is silently ignored
    assert bool(found) != leaf.startswith(NEVER_IN_A_KEY)


def test_every_rule_of_what_has_no_effect_is_looked_at() -> None:
    assert [rule.keys[0] for rule in RULES] == [*IDLE]


@pytest.mark.parametrize("leaf", [leaf for rule in RULES for leaf in rule.keys])
def test_a_leaf_without_effect_changes_no_key(build_graph: BuildGraph, leaf: str) -> None:
    """So that equal experiments share their stages, whatever their recipes say besides."""
    idle = next(IDLE[rule.keys[0]] for rule in RULES if leaf in rule.keys)
    before = build_graph(WHOLE | idle)
    after = build_graph(WHOLE | idle | {leaf: _another(leaf, _get(before.experiment, leaf))})
    assert _get(after.experiment, leaf) != _get(before.experiment, leaf)
    assert [before.key(ref) for ref in TARGETS] == [after.key(ref) for ref in TARGETS]


def test_a_leaf_deep_in_a_section_is_declared_by_its_section(build_graph: BuildGraph) -> None:
    """The walk above must not agree with the code by never finding anything."""
    before, after = build_graph(), build_graph({"teacher.stage2.fit.lr": 0.123})
    changed = {ref.stage for ref in before.closure(TARGETS) if before.key(ref) != after.key(ref)}
    assert changed == {"teacher", "teacher_outputs", "student"}


def test_scales_have_keys_of_their_own(build_graph: BuildGraph) -> None:
    graph = build_graph({"units.layers": [1, 2], "units.num_clusters": [4, 8]})
    keys = [graph.key(ref) for ref in graph.closure(TARGETS)]
    assert len(set(keys)) == len(keys)


def test_a_scale_is_shared_by_experiments_that_want_others_beside_it(
    build_graph: BuildGraph,
) -> None:
    first, second = (
        build_graph({"units.layers": layers, "units.num_clusters": ks})
        for layers, ks in (([1, 2], [4, 8]), ([2], [8, 16]))
    )
    for ref in (Ref("hidden", (2,)), Ref("centroids", (2, 8)), Ref("units", (2, 8))):
        assert first.key(ref) == second.key(ref)
    assert first.key(Ref("teacher_units")) != second.key(Ref("teacher_units"))


def test_without_distillation_the_student_does_not_depend_on_the_teacher(
    build_graph: BuildGraph,
) -> None:
    changes = {"distill.alpha": 0.0, "curriculum.pacing": "none"}
    plain, other = build_graph(changes), build_graph({**changes, "teacher.stage2.margin": 0.35})
    assert [str(ref) for ref in plain.closure([STUDENT])] == ["logmel", "student"]
    assert plain.key(STUDENT) == other.key(STUDENT)


UNFITTED = {"features", "speeds", "logmel"}


def _changed_stages(before: Graph, after: Graph) -> set[str]:
    # of an inner fold, which may lack what was changed, only what is collected from it
    refs = [ref for ref in before.closure(TARGETS) if ref.inner is None]
    changed = {ref.stage for ref in refs if before.key(ref) != after.key(ref)}
    same = {ref.stage for ref in refs if before.key(ref) == after.key(ref)}
    assert not changed & same
    return changed


def test_another_fold_changes_what_is_fitted_and_shares_the_rest(build_graph: BuildGraph) -> None:
    for fold in (1, 2):
        changed = _changed_stages(build_graph(WHOLE), build_graph(WHOLE, fold=fold))
        assert changed == TAKEN - UNFITTED


def _change(manifest: Manifest, which: str, **changes: str) -> Manifest:
    rows = [replace(u, **changes) if u.utt_id == which else u for u in manifest.utterances]
    return Manifest(tuple(sorted(rows, key=lambda u: u.utt_id)), manifest.class_names)


def test_a_changed_training_label_changes_what_is_fitted(
    build_graph: BuildGraph, manifest: Manifest
) -> None:
    before = build_graph(WHOLE)
    utt_id = next(u for u in before.fold.train if "happy" in u)
    after = build_graph(WHOLE, changed_manifest=_change(manifest, utt_id, emotion="sad"))
    assert _changed_stages(before, after) == TAKEN - UNFITTED


def test_a_changed_dev_label_changes_what_selects_on_dev_and_all_below(
    build_graph: BuildGraph, manifest: Manifest
) -> None:
    before = build_graph(WHOLE)
    utt_id = next(u for u in before.fold.dev if "happy" in u)
    after = build_graph(WHOLE, changed_manifest=_change(manifest, utt_id, emotion="sad"))
    assert _changed_stages(before, after) == TAKEN - UNFITTED


def test_a_changed_test_label_changes_no_key(build_graph: BuildGraph, manifest: Manifest) -> None:
    """Nothing before the final evaluation may depend on it."""
    before = build_graph(WHOLE)
    utt_id = next(u for u in before.fold.test if "happy" in u)
    after = build_graph(WHOLE, changed_manifest=_change(manifest, utt_id, emotion="sad"))
    assert _changed_stages(before, after) == set()


def test_a_changed_training_id_changes_every_key(
    build_graph: BuildGraph, manifest: Manifest
) -> None:
    """Frames are stored by id, so the frames' stages follow as well."""
    before = build_graph(WHOLE)
    utt_id = before.fold.train[0]
    after = build_graph(WHOLE, changed_manifest=_change(manifest, utt_id, utt_id=f"{utt_id}x"))
    assert _changed_stages(before, after) == TAKEN


def test_changed_audio_changes_every_key(build_graph: BuildGraph, manifest: Manifest) -> None:
    before = build_graph(WHOLE)
    changed = _change(manifest, before.fold.test[0], sha256="0" * 64)
    after = build_graph(WHOLE, changed_manifest=changed)
    assert _changed_stages(before, after) == TAKEN


def test_moved_audio_changes_no_key(build_graph: BuildGraph, manifest: Manifest) -> None:
    rows = tuple(replace(u, path=f"/elsewhere/{u.utt_id}.wav") for u in manifest.utterances)
    moved = Manifest(rows, manifest.class_names)
    assert _changed_stages(build_graph(WHOLE), build_graph(WHOLE, changed_manifest=moved)) == set()
