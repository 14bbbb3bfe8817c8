"""The stage that cuts a teacher in two: states below its last layers, and those layers."""

from safetensors.torch import load_file, save_file

from serkd.features.encoders import SuffixEncoder
from serkd.features.parts import split_frames
from serkd.stages.context import Context
from serkd.stages.frames import extract, prefix_column, read_part, write_json
from serkd.stages.models import find_teacher_file
from serkd.train.stored_teacher import cut_top


def run_teacher_hidden(context: Context) -> None:
    """Every utterance's states below the last n layers, and the teacher's part above them."""
    backbone, frozen = context.backbone, context.config("backbone.frozen_layers")
    path = find_teacher_file(context)
    first = backbone.num_layers - context.config("meta.last_layers")
    device = context.compute.actor_device
    encoder = SuffixEncoder(backbone, frozen, read_part(path, "suffix"), (first,), device)
    parts = split_frames(context.input("features").folder, prefix_column(context))
    extract([context], parts, encoder, [f"layer_{first}"])
    top = cut_top(load_file(path), first - frozen, is_wavlm=backbone.family == "wavlm")
    save_file(top, context.folder / "top.safetensors", context.lineage)
    about = {
        "first_layer": first,
        "layer_mix": context.config("backbone.layer_mix"),
        "stage2": context.config("teacher.stage2").model_dump(mode="json"),
    }
    write_json(context.folder / "top.json", about)
