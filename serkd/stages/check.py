"""What cannot work on a fold, known before any work is done."""

import numpy as np

from serkd.config import Experiment
from serkd.corpora.folds import Fold
from serkd.distill.curriculum import compute_epoch_share, rank_within_class
from serkd.distill.quiz import choose_quiz
from serkd.errors import InputError
from serkd.features.backbone import Backbone
from serkd.units.genders import gender_problems


def find_layer_problems(
    experiment: Experiment, backbone: Backbone, *, has_units: bool
) -> list[str]:
    """Layers that a backbone does not have, or of which no units can be."""
    name, limit = backbone.name, backbone.num_layers
    frozen = experiment.backbone.frozen_layers
    problems = _find_unit_layer_problems(experiment, backbone) if has_units else []
    if frozen > limit:
        problems.append(f"backbone.frozen_layers must be at most {limit} for {name}, got {frozen}")
    return problems + _live_layer_problems(experiment, backbone)


def find_adapter_problems(experiment: Experiment, backbone: Backbone) -> list[str]:
    """Adapters where no layer is trained."""
    rank, frozen = experiment.backbone.lora.rank, experiment.backbone.frozen_layers
    if rank == 0 or frozen < backbone.num_layers:
        return []
    return [
        "backbone.lora.rank must be 0 where backbone.frozen_layers leaves no layer to adapt, "
        f"got {rank} with {frozen} frozen layers"
    ]


def find_input_problems(experiment: Experiment, backbone: Backbone) -> list[str]:
    """Hidden states for the student that nobody makes."""
    student, frozen = experiment.student, experiment.backbone.frozen_layers
    if not student.has_backbone:
        return []
    problems, layer, limit = [], student.hidden.layer, backbone.num_layers
    if layer > limit:
        problems.append(
            f"student.hidden.layer must be at most {limit} for {backbone.name}, got {layer}"
        )
    if student.hidden.source == "extractor" and layer < frozen:
        problems.append(
            f"student.hidden.layer must be at least backbone.frozen_layers = {frozen} when "
            f"student.hidden.source is 'extractor' (below, nothing is fine-tuned), got {layer}"
        )
    if student.augment.mel_masks and student.augment.mel_mask_bins > backbone.dim:
        problems.append(
            f"student.augment.mel_mask_bins must be at most the {backbone.dim} channels of "
            f"{backbone.name}, got {student.augment.mel_mask_bins}"
        )
    return problems


def _live_layer_problems(experiment: Experiment, backbone: Backbone) -> list[str]:
    """Layers that would learn from the quiz, and were not trained or are not all that is read."""
    meta, trained = experiment.meta, backbone.num_layers - experiment.backbone.frozen_layers
    if not meta.has_live_layers or trained < 0:
        return []
    if trained == 0:
        return ["meta.trains must be 'head' when all layers are frozen, got 'last_n'"]
    if meta.last_layers > trained:
        return [
            f"meta.last_layers must be at most the {trained} layers of {backbone.name} above "
            f"backbone.frozen_layers, got {meta.last_layers}"
        ]
    if experiment.backbone.layer_mix and meta.last_layers < trained:
        return [
            f"meta.last_layers must be {trained}, all layers above backbone.frozen_layers, when "
            f"backbone.layer_mix is on (the mixture reads them all), got {meta.last_layers}"
        ]
    return []


def _find_unit_layer_problems(experiment: Experiment, backbone: Backbone) -> list[str]:
    limit, frozen = backbone.num_layers, experiment.backbone.frozen_layers
    problems = []
    if above := [layer for layer in experiment.units.layers if layer > limit]:
        problems.append(f"units.layers must be at most {limit} for {backbone.name}, got {above}")
    below = [layer for layer in experiment.units.layers if layer < frozen]
    if below and experiment.units.source == "extractor":
        problems.append(
            f"units.layers must be at least backbone.frozen_layers = {frozen} when "
            f"units.source is 'extractor' (below, nothing is fine-tuned), got {below}"
        )
    return problems


def find_fold_problems(experiment: Experiment, fold: Fold) -> list[str]:
    """More clusters than training frames, or a gender mode that the fold does not allow."""
    mode, by_gender = experiment.units.gender_mode, most_train_frames(experiment, fold)
    problems = gender_problems(mode, fold, by_gender)
    is_apart = mode.is_apart and not problems
    frames = min(by_gender.values()) if is_apart else sum(by_gender.values())
    if too_many := [count for count in experiment.units.num_clusters if count > frames]:
        problems.append(
            "units.num_clusters must be at most the number of training frames"
            f"{' of a gender' if is_apart else ''}, about {frames} "
            f"in fold {fold.name}, got {too_many}"
        )
    return problems


def find_vote_problems(experiment: Experiment, fold: Fold) -> list[str]:
    """Utterances that cannot be ranked by what their annotators said."""
    votes = [fold.manifest.by_id[utt_id].votes for utt_id in fold.train]
    missing = sum(not known for known in votes)
    if not (experiment.curriculum.needs_votes and missing):
        return []
    return [
        "curriculum.scorer must not be 'annotator_disagreement' unless the manifest has votes for "
        f"every training utterance, {missing} of {len(votes)} in fold {fold.name} have none"
    ]


def find_quiz_problems(experiment: Experiment, fold: Fold) -> list[str]:
    """Speakers of whom none can be spared for the quiz."""
    if experiment.meta.order == "off":
        return []
    speakers = [fold.manifest.by_id[utt_id].speaker_id for utt_id in fold.train]
    labels = np.array(fold.manifest.labels(fold.train))
    try:
        choose_quiz(speakers, labels, experiment.meta.quiz_share, experiment.seed)
    except InputError as error:
        return [f"{error}, in fold {fold.name}"]
    return []


def find_kd_problems(experiment: Experiment, fold: Fold) -> list[str]:
    """DKD's part of the other classes is nothing where there is one other class."""
    distill, num_classes = experiment.distill, len(fold.manifest.class_names)
    is_nothing = distill.kd == "dkd" and not distill.dkd_target_weight and num_classes == 2
    if not (experiment.has_kd and is_nothing):
        return []
    return [
        "distill.dkd_target_weight must be above 0 for a corpus of 2 emotions (their other part is "
        "always 0, so that nothing would be distilled), got 0"
    ]


def find_contrast_problems(experiment: Experiment, fold: Fold) -> list[str]:
    """Batches in which no utterance has another of its class: the contrastive term is always 0."""
    fit, distill = experiment.student.fit, experiment.distill
    num_classes = len(set(fold.manifest.labels(fold.train)))
    least = num_classes + 1 if fit.batches == "class_balanced" else 2
    is_used = distill.supcon_weight > 0 and experiment.learns_labels
    if not is_used or distill.supcon_views > 1 or fit.batch_size >= least:
        return []
    return [
        f"student.fit.batch_size must be at least {least} with {fit.batches} batches when "
        "distill.supcon_weight is above 0 and distill.supcon_views 1 (no utterance would have "
        f"another of its emotion in its batch), got {fit.batch_size}"
    ]


def find_share_problems(experiment: Experiment, fold: Fold) -> list[str]:
    """A first epoch of fewer utterances than workers."""
    curriculum, workers = experiment.curriculum, experiment.train.num_workers
    labels = np.array(fold.manifest.labels(fold.train))
    share = compute_epoch_share(curriculum, 0, experiment.student.fit.epochs)
    position = rank_within_class(np.zeros(len(labels)), labels, "random", 0)
    if (used := int((position < share).sum())) >= workers:
        return []
    return [
        f"curriculum.start_share must leave an utterance for each of the {workers} workers in the "
        f"first epoch, got {curriculum.start_share}, {used} utterances of fold {fold.name}"
    ]


def most_train_frames(experiment: Experiment, fold: Fold) -> dict[str, int]:
    """Upper bounds for each gender: no encoder makes more than one frame every 20 ms."""
    longest = experiment.corpus.max_duration_s
    seconds: dict[str, float] = {}
    for utterance in map(fold.manifest.by_id.__getitem__, fold.train):
        known = seconds.get(utterance.gender, 0.0)
        seconds[utterance.gender] = known + min(utterance.duration_s, longest)
    return {gender: int(50 * total) for gender, total in seconds.items()}
