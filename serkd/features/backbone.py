"""Pretrained encoders split into a frozen prefix and a trainable suffix.

``layer`` counts as in transformers: 0 is what enters the first transformer layer, 1..L are the
layers' outputs; L includes the encoder's final layer norm where it has one. The prefix of
``frozen_layers = n`` ends with layer n, so suffix(prefix(x)) is the whole encoder.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from serkd.errors import InputError
from serkd.features.blocks import Body, HubertFront, WhisperFront, frame_mask
from serkd.features.prepare import build_preparer

# No layer norm in the feature projection and wide initial weights: with random convolutions, the
# usual settings lose the energy contour.
TINY_HUBERT: dict[str, Any] = {
    "conv_dim": (64,) * 7,
    "conv_kernel": (10, 3, 3, 3, 3, 2, 2),
    "conv_stride": (5, 2, 2, 2, 2, 2, 2),
    "conv_bias": True,
    "feat_extract_norm": "group",
    "feat_proj_layer_norm": False,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 128,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 16,
    "initializer_range": 0.1,
    "hidden_dropout": 0.0,
    "activation_dropout": 0.0,
    "attention_dropout": 0.0,
    "feat_proj_dropout": 0.0,
    "layerdrop": 0.0,
    "mask_time_prob": 0.0,
}
_TINY_SEED = 0
_DRAWN = 1  # beside a seed, so that no drawn encoder is the built-in one
FAMILIES = ("hubert", "wavlm", "wav2vec2", "data2vec-audio", "whisper")


@dataclass(frozen=True)
class Backbone:
    """Where a backbone comes from and what identifies its weights; cheap to make and to send.

    `folder` is None for the built-in model. `weight_hash` is over the weight and config files.
    """

    name: str
    folder: str | None
    family: str
    num_layers: int
    dim: int
    weight_hash: str


def find_backbone(name: str) -> Backbone:
    """Resolve 'tiny-hubert', a folder or a hub name without loading weights.

    Raises:
        InputError: no such model, no safetensors weights, or a family that is not supported.
    """
    if name == "tiny-hubert":
        text = json.dumps([TINY_HUBERT, _TINY_SEED, torch.__version__.partition("+")[0]])
        digest = hashlib.sha256(text.encode()).hexdigest()
        layers, dim = TINY_HUBERT["num_hidden_layers"], TINY_HUBERT["hidden_size"]
        return Backbone(name, None, "hubert", layers, dim, digest)
    folder = Path(name) if Path(name).is_dir() else _download(name)
    config_path, weights = folder / "config.json", sorted(folder.glob("*.safetensors"))
    for found, what in ((config_path.is_file(), "config.json"), (weights, "*.safetensors weights")):
        if not found:
            raise InputError(f"backbone.name: the folder {folder} must hold {what}, it has none")
    try:
        config = json.loads(config_path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"backbone.name: {config_path} must be JSON: {error}") from error
    family = config.get("model_type", "")
    if family not in FAMILIES:
        raise InputError(
            f"backbone.name: {folder} must be one of {', '.join(FAMILIES)}, got {family!r}"
        )
    layers = config.get("encoder_layers") or config["num_hidden_layers"]
    dim = config.get("d_model") or config["hidden_size"]
    digest = _hash_files([*weights, config_path, folder / "preprocessor_config.json"])
    return Backbone(name, str(folder.resolve()), family, layers, dim, digest)


def _download(name: str) -> Path:
    import huggingface_hub

    if name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise InputError(f"backbone.name: must be a folder with a model, {name!r} is none")
    try:
        patterns = ["*.json", "*.safetensors"]
        return Path(huggingface_hub.snapshot_download(name, allow_patterns=patterns))
    except Exception as error:  # the hub client raises a dozen unrelated types
        raise InputError(
            f"backbone.name: must be 'tiny-hubert', a folder or a model of the hub; {name!r} is no "
            f"folder, and the hub answered: {' '.join(str(error).split())[:200]}"
        ) from error


def _hash_files(paths: Sequence[Path]) -> str:
    total = hashlib.sha256()
    for path in paths:
        if path.is_file():
            about = path.stat()
            total.update(path.name.encode())
            total.update(_hash_file(path.resolve(), about.st_size, about.st_mtime_ns))
    return total.hexdigest()


@lru_cache
def _hash_file(path: Path, size: int, time_ns: int) -> bytes:
    """Read once as long as its size and time are the same: an ablation asks for each cell."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def load_encoder(backbone: Backbone) -> nn.Module:
    """The transformers encoder in float32 and eval mode."""
    import transformers

    transformers.utils.logging.disable_progress_bar()  # it would draw over ours
    if backbone.folder is None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(_TINY_SEED)
            return transformers.HubertModel(transformers.HubertConfig(**TINY_HUBERT)).eval()
    options = {"use_safetensors": True, "dtype": torch.float32, "local_files_only": True}
    if backbone.family == "whisper":
        return _load_whisper(backbone.folder, options)
    model = transformers.AutoModel.from_pretrained(backbone.folder, **options)
    return model.eval()


def _load_whisper(folder: str, options: dict[str, Any]) -> nn.Module:
    from transformers import WhisperModel
    from transformers.models.whisper.modeling_whisper import WhisperEncoder

    config = json.loads((Path(folder) / "config.json").read_text(encoding="utf-8"))
    if config.get("architectures") == ["WhisperEncoder"]:
        return WhisperEncoder.from_pretrained(folder, **options).eval()
    return WhisperModel.from_pretrained(folder, **options).encoder.eval()


def draw_encoder(backbone: Backbone, seed: int) -> nn.Module:
    """An encoder of the same shape whose weights are drawn, as its family's were before training.

    By transformers' own initialisation; torch's generator is left as it was.
    """
    encoder: Any = load_encoder(backbone)
    own = np.random.SeedSequence((seed, _DRAWN)).generate_state(1)[0]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(own))
        return type(encoder)(encoder.config).eval()


class Prefix(nn.Module):
    """Waveforms to layers 0..n.

    Utterances of a batch do not see each other or the padding: their frames are those that they
    have alone, to the rounding of float32. Where `is_paddable` is false, a batch must be of one.
    """

    def __init__(self, backbone: Backbone, frozen_layers: int) -> None:
        super().__init__()
        encoder = load_encoder(backbone)
        self.prepare = build_preparer(backbone.family, backbone.folder)
        self.embed = WhisperFront(encoder) if backbone.family == "whisper" else HubertFront(encoder)
        self.body = Body(encoder, 0, frozen_layers)
        self.eval().requires_grad_(False)

    @property
    def is_paddable(self) -> bool:
        """Whether utterances of different lengths may share a batch."""
        return self.embed.is_paddable

    @torch.inference_mode()
    def states(self, waveforms: Sequence[np.ndarray]) -> tuple[list[Tensor], list[int]]:
        """Waveforms, (T,) each at 16 kHz, to layers 0..n, (B, F, D) float32, and each one's frames.

        What lies behind an utterance's frames is of no meaning.
        """
        device = next(self.embed.parameters()).device
        inputs = [torch.tensor(self.prepare(waveform), device=device) for waveform in waveforms]
        hidden, num_frames = self.embed(inputs)
        return self.body(hidden, frame_mask(num_frames, device)), num_frames

    def forward(self, waveform: np.ndarray) -> Tensor:
        """Waveform (T,) at 16 kHz to layer n, (F, D) float32."""
        return self.states([waveform])[0][-1][0]


class Suffix(nn.Module):
    """Layer n to layers n..L, for padded batches; `seed` draws its weights anew."""

    def __init__(self, backbone: Backbone, frozen_layers: int, seed: int | None = None) -> None:
        super().__init__()
        encoder = load_encoder(backbone) if seed is None else draw_encoder(backbone, seed)
        self.first_layer = frozen_layers
        self.body = Body(encoder, frozen_layers, backbone.num_layers)

    def forward(self, hidden: Tensor, mask: Tensor | None) -> list[Tensor]:
        """Hidden states (B, F, D) and valid frames (B, F) bool to layers n..L, each (B, F, D)."""
        return self.body(hidden, mask)
