"""Low-rank adapters on a suffix's linear layers (LoRA: Hu et al., arXiv 2106.09685)."""

from collections.abc import Mapping

from torch import Tensor

from serkd import config
from serkd.features.backbone import Suffix

_ATTENTION = ("q_proj", "k_proj", "v_proj", "out_proj")
_FEED_FORWARD = ("fc1", "fc2", "intermediate_dense", "output_dense")  # Whisper's, all others'
_TARGETS = {
    "attention": _ATTENTION,
    "feed_forward": _FEED_FORWARD,
    "all": (*_ATTENTION, *_FEED_FORWARD),
}
# peft's names: the layer that is adapted, and the two factors beside it
_BASE, _DOWN, _UP = "base_layer.", "lora_A.default.weight", "lora_B.default.weight"


def add_adapters(suffix: Suffix, lora: config.Lora) -> None:
    """Freeze a suffix and put adapters into its layers, in place.

    They are drawn from torch's generator, and do nothing until they are trained. The suffix must
    have a layer.
    """
    from peft import LoraConfig, inject_adapter_in_model

    # a pattern of the whole name: WavLM's position bias has projections of its own that it ignores
    names = "|".join(_TARGETS[lora.targets])
    settings = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=rf"body\.layers\.\d+\.(?:\w+\.)?(?:{names})",
    )
    inject_adapter_in_model(settings, suffix)


def merge_adapters(weights: Mapping[str, Tensor], alpha: float) -> dict[str, Tensor]:
    """A model's weights without adapters: W + alpha / rank · B A (section 4.1), for any model.

    Weights that have none are returned as they are.
    """
    merged = {}
    for name, value in weights.items():
        stem, is_adapted, kind = name.partition(_BASE)
        if is_adapted and kind == "weight":
            down, up = weights[stem + _DOWN], weights[stem + _UP]
            value = value + alpha / len(down) * (up @ down)
        if not name.endswith((_DOWN, _UP)):
            merged[stem + kind] = value
    return merged
