"""What a teacher stands on: which part of which backbone is trained, and how it is read."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from serkd import config
from serkd.devices import Precision
from serkd.features.backbone import Backbone, Suffix
from serkd.models.adapters import add_adapters, merge_adapters

LayerMix = Literal[False, True, "concat"]

_NO_LORA = config.Lora()


@dataclass(frozen=True)
class Trunk:
    """A recipe of the trained part of a backbone; cheap to make and to send.

    `layer_mix`: heads read a learned mixture of the suffix's layers, or all of them side by side,
    not the last one. `lora`: adapters instead of
    the weights themselves. `precision` is that of a training step's matrix products. The last two
    are for speed and memory and change no result.
    """

    backbone: Backbone
    frozen_layers: int
    layer_mix: LayerMix = False
    lora: config.Lora = _NO_LORA
    precision: Precision = "float32"
    checkpoint_layers: bool = False
    compile_layers: bool = False

    @property
    def dim(self) -> int:
        """Of hidden states."""
        return self.backbone.dim

    def build_suffix(self, start: Mapping[str, Tensor] | None = None) -> Suffix:
        """The suffix with its pre-trained weights, or with those of `start`."""
        suffix = Suffix(self.backbone, self.frozen_layers)
        if start is not None:
            suffix.load_state_dict(start)
        return suffix

    def prepare(self, suffix: Suffix) -> None:
        """Make a suffix what is to be trained, in place.

        Adapters are drawn from torch's generator; there must be a layer for them.
        """
        if self.lora.rank:
            add_adapters(suffix, self.lora)
        suffix.body.checkpoint_layers = self.checkpoint_layers
        suffix.body.compile_layers = self.compile_layers

    def merge(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Trained weights as a stage publishes them: of a model without adapters."""
        return merge_adapters(weights, self.lora.alpha)
