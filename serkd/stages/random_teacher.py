"""The stage that makes a teacher who knows nothing: a control for what students learn of one."""

from safetensors.torch import save_file

from serkd.config import Augment
from serkd.features.backbone import Suffix
from serkd.stages.context import Context
from serkd.stages.frames import prefix_column
from serkd.stages.models import build_plain_trunk, fold_data
from serkd.train.teacher import EmotionTask


def run_random_teacher(context: Context) -> None:
    """The stage-2 teacher before its first step, with a suffix whose weights are drawn anew.

    A random teacher as in "Random Teachers are Good Teachers" (Sarnthein et al., ICML 2023, arXiv
    2302.12091): the trained one's architecture at its initialisation, never trained. Ours keeps the
    frozen prefix, which no teacher of a recipe trains, and standardises its pooled embeddings by
    training utterances, of which no label is read [both our choice: drawn layers give all
    utterances nearly the same embedding, and without that its logits would be one constant].
    """
    trunk, seed = build_plain_trunk(context), context.config("seed")
    frozen = context.config("backbone.frozen_layers")
    nothing_of_training = {"augment": Augment(), "class_weights": "none", "probe_l2": None}
    settings = context.config("teacher.stage2").model_copy(update=nothing_of_training)
    task = EmotionTask(
        fold_data(context, "features", prefix_column(context)),
        trunk,
        Suffix(context.backbone, frozen, seed).state_dict(),
        settings,
        seed,
        context.compute.device,
    )
    path = context.folder / "model.safetensors"
    weights = {name: value.cpu().contiguous() for name, value in task.model.state_dict().items()}
    save_file({name: value.clone() for name, value in weights.items()}, path, context.lineage)
