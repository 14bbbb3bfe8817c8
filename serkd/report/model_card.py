"""The README of an exported teacher."""

from collections.abc import Sequence
from pathlib import Path

from serkd import __version__
from serkd.corpora.folds import Fold
from serkd.features.backbone import Backbone
from serkd.report.results import FinishedRun

_CARD = """\
---
library_name: transformers
pipeline_tag: audio-classification
tags: [speech-emotion-recognition, serkd]
---
# {name}: {count} emotions in speech

{backbone}, fine-tuned by serkd {version} on {corpora}. Classes, in the order of the logits:
{classes}.

```python
from transformers import pipeline

classify = pipeline("audio-classification", model="THIS FOLDER", trust_remote_code=True)
classify("speech.wav")  # 16 kHz, mono
```

`AutoFeatureExtractor` and `AutoModelForAudioClassification` load it as well, with
`trust_remote_code=True`: the code is `modeling_serkd.py`, which needs torch and transformers (5 or
newer) alone. Batches may be padded where the feature extractor's `attention_mask` is passed on.
The bare fine-tuned encoder is in `encoder/`, for {encoder}.

## How it was trained and measured

| | |
|---|---|
| protocol | {protocol}, {speakers} |
| fold | {fold}: {train:,} utterances to train, {dev:,} dev |
| longest utterance | {longest:g} s: what lay behind was cut off |
| silence at both ends | {silence} |
| dev UAR (mean recall) | {uar:.1f} % |
| dev WAR (accuracy) | {war:.1f} % |
| dev weighted F1 | {wf1:.1f} % |

Recall on dev: {recalls}.{speeds}

Dev chose the epoch, so these figures are optimistic. The fold's test split of {test:,} utterances
is sealed: no figure here is of it.
"""


_SILENCE = {False: "heard", True: "cut, as the feature extractor does it"}


def write_card(run: FinishedRun, fold: Fold, backbone: Backbone) -> str:
    """Markdown: classes, corpus, protocol, fold, figures on dev, and how to load the folder."""
    manifest, results = fold.manifest, run.results
    metrics = results["folds"][fold.name]["teacher"]["dev"]
    rates = zip(manifest.class_names, metrics["per_class_recall"], strict=True)
    is_folder = Path(backbone.name).is_dir()
    return _CARD.format(
        name=results["name"],
        count=len(manifest.class_names),
        # where it lies on this machine is nobody's business
        backbone=Path(backbone.name).resolve().name if is_folder else backbone.name,
        version=__version__,
        corpora=", ".join(sorted({manifest.by_id[i].corpus for i in fold.train})),
        classes=", ".join(manifest.class_names),
        encoder="`WhisperEncoder`" if backbone.family == "whisper" else "`AutoModel`",
        protocol=results["protocol"],
        speakers="speakers of train too" if fold.shares_speakers else "unseen speakers",
        fold=fold.name,
        train=len(fold.train),
        dev=len(fold.dev),
        test=len(fold.test),
        longest=run.experiment.corpus.max_duration_s,
        speeds=_tell_speeds(run.experiment.teacher.answer_speeds),
        silence=_SILENCE[run.experiment.corpus.trim_silence_db is not None],
        **{name: 100 * metrics[name] for name in ("uar", "war", "wf1")},
        recalls=", ".join(f"{name} {_percent(rate)}" for name, rate in rates),
    )


def _tell_speeds(speeds: Sequence[float]) -> str:
    """The exported model hears an utterance once, whatever serkd does."""
    if tuple(speeds) == (1.0,):
        return ""
    listed = ", ".join(f"{speed:g}" for speed in speeds)
    return (
        f"\n\nThese figures are of logits averaged over the speeds {listed} of an utterance; this "
        "model hears it once, as it is."
    )


def _percent(rate: float | None) -> str:
    """None is of a class that dev does not have."""
    return "-" if rate is None else f"{100 * rate:.0f} %"
