"""A trained teacher as a folder that transformers loads, in a program that has no serkd."""

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn
from transformers import Wav2Vec2FeatureExtractor, WhisperFeatureExtractor

from serkd.features.backbone import load_encoder
from serkd.features.prepare import is_normalised
from serkd.files import write_json
from serkd.models.heads import POOLINGS
from serkd.models.teacher import EmotionTeacher
from serkd.models.trunk import Trunk
from serkd.report.transformers_model import modeling_serkd
from serkd.report.transformers_model.modeling_serkd import SerkdConfig, SerkdForAudioClassification

_CODE = Path(modeling_serkd.__file__)
# of whoever loads the encoder, or of the machine that it was saved on
_NOT_SHAPE = ("_name_or_path", "architectures", "dtype", "torch_dtype", "transformers_version")


@dataclass(frozen=True)
class TransformersExport:
    """A stage-2 teacher on its trunk, its classes in the order of its logits, and a model card.

    The folder holds config.json with the label map, model.safetensors with the whole encoder and
    its heads, preprocessor_config.json, the code of the model, README.md with the card, and in
    encoder/ the bare encoder as transformers' own class.
    """

    teacher: EmotionTeacher
    trunk: Trunk
    class_names: Sequence[str]
    card: str
    trim_silence_db: float | None = None

    def write(self, folder: Path) -> None:
        """Fill an empty folder."""
        encoder = self.build_encoder()
        # without the folder it was read from
        encoder.config._name_or_path = ""
        encoder.save_pretrained(folder / "encoder")
        self._write_preprocessor(folder / "encoder")
        self.build_model(encoder).save_pretrained(folder)
        self._write_preprocessor(folder, **self._own_preprocessor)
        shutil.copyfile(_CODE, folder / _CODE.name)
        (folder / "README.md").write_text(self.card, encoding="utf-8")

    def build_encoder(self) -> Any:  # noqa: ANN401  a transformers model
        """The pre-trained encoder with the trained layers in their places."""
        encoder: Any = load_encoder(self.trunk.backbone)
        stack = encoder if self._is_whisper else encoder.encoder
        trained: Any = self.teacher.suffix.body
        for place, layer in enumerate(trained.layers, start=self.trunk.frozen_layers):
            stack.layers[place].load_state_dict(layer.state_dict())
        if trained.final_norm is not None:
            stack.layer_norm.load_state_dict(trained.final_norm.state_dict())
        return encoder

    def build_model(self, encoder: nn.Module) -> SerkdForAudioClassification:
        """The exported model, which shares the encoder's tensors."""
        model = SerkdForAudioClassification(self._config(encoder)).eval()
        model.encoder.load_state_dict(encoder.state_dict())
        for name in ("mix", "pooling", "standardise", "classifier"):
            if (part := getattr(self.teacher, name)) is not None:
                getattr(model, name).load_state_dict(part.state_dict())
        return model

    def _config(self, encoder: Any) -> SerkdConfig:  # noqa: ANN401  a transformers model
        shape = {k: v for k, v in encoder.config.to_dict().items() if k not in _NOT_SHAPE}
        # whoever trains on does it as the teacher was trained
        off = {"layerdrop": 0.0, "apply_spec_augment": False}
        shape |= {name: value for name, value in off.items() if name in shape}
        pooling = self.teacher.pooling
        return SerkdConfig(
            encoder_config=shape,
            frozen_layers=self.trunk.frozen_layers,
            layer_mix=self.teacher.layer_mix,
            pooling=next(name for name, kind in POOLINGS.items() if type(pooling) is kind),
            scale=self.teacher.scale,
            id2label=dict(enumerate(self.class_names)),
            label2id={name: i for i, name in enumerate(self.class_names)},
            problem_type="single_label_classification",
            auto_map={
                "AutoConfig": f"{_CODE.stem}.SerkdConfig",
                "AutoModelForAudioClassification": f"{_CODE.stem}.SerkdForAudioClassification",
            },
        )

    @property
    def _is_whisper(self) -> bool:
        return self.trunk.backbone.family == "whisper"

    @property
    def _own_preprocessor(self) -> dict[str, Any]:
        """Settings of a feature extractor of ours, where transformers' own would not do."""
        if not self._is_whisper and self.trim_silence_db is None:
            return {}
        kind = "Whisper" if self._is_whisper else "Waveform"
        return {
            "trim_silence_db": self.trim_silence_db,
            "auto_map": {"AutoFeatureExtractor": f"{_CODE.stem}.Serkd{kind}FeatureExtractor"},
        }

    def _write_preprocessor(self, folder: Path, **own: Any) -> None:  # noqa: ANN401
        """What makes the encoder's input of a waveform, always with a mask of what is padding."""
        backbone = self.trunk.backbone
        if self._is_whisper:
            found = WhisperFeatureExtractor.from_pretrained(backbone.folder, local_files_only=True)
        else:
            found = Wav2Vec2FeatureExtractor(do_normalize=is_normalised(backbone.folder))
        settings = json.loads(found.to_json_string()) | {"return_attention_mask": True, **own}
        write_json(folder / "preprocessor_config.json", settings)
