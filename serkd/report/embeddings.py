"""What models make of dev utterances, for TensorBoard's projector."""

from collections.abc import Mapping

import numpy as np

from serkd.corpora.folds import Fold
from serkd.report.tensorboard import TensorBoard
from serkd.stages.catalogue import MODELS
from serkd.stages.context import Ref
from serkd.stages.store import Artifact
from serkd.train.outputs import read_outputs

MOST_UTTERANCES = 1_000  # files are text, and a browser holds all of it
# the first is what points are labelled by until somebody chooses another
_HEADER = ("emotion", "predicted", "utt_id", "speaker_id", "gender")


def show_embeddings(board: TensorBoard, artifacts: Mapping[Ref, Artifact], fold: Fold) -> None:
    """Pooled embeddings of dev, of every model that there is; of a large dev a random part."""
    chosen = _choose(fold.dev)
    names, rows = fold.manifest.class_names, [fold.manifest.by_id[utt_id] for utt_id in chosen]
    for model, ref in MODELS.items():
        if ref not in artifacts:
            continue
        outputs = read_outputs(artifacts[ref].folder / "outputs.parquet").select(chosen)
        said = [names[i] for i in outputs.logits.argmax(axis=1)]
        about = [
            (row.emotion, guess, row.utt_id, row.speaker_id, row.gender)
            for row, guess in zip(rows, said, strict=True)
        ]
        board.embeddings(f"{model}_dev", outputs.embedding, _HEADER, about)


def _choose(utt_ids: tuple[str, ...]) -> list[str]:
    """The same ones for every model, so that both pictures are of the same utterances."""
    if len(utt_ids) <= MOST_UTTERANCES:
        return list(utt_ids)
    drawn = np.random.default_rng(0).choice(len(utt_ids), MOST_UTTERANCES, replace=False)
    return [utt_ids[i] for i in np.sort(drawn)]
