"""The stage that collects what the teachers of inner folds say of those whom they never met."""

import numpy as np

from serkd.stages.context import Context
from serkd.stages.frames import write_json
from serkd.train.metrics import compute_confusion, compute_metrics
from serkd.train.outputs import join_outputs, read_outputs, write_outputs


def run_teacher_inner_outputs(context: Context) -> None:
    """Of every training utterance, what the teacher of the inner fold without its speaker says."""
    fold, found, about = context.fold, [], []
    for inner, path in context.inner_files("teacher_outputs", "head.safetensors"):
        left_out = set(fold.train) - set(inner.train)
        ids = [utt_id for utt_id in fold.train if utt_id in left_out]
        found.append(read_outputs(path.with_name("outputs.parquet")).select(ids))
        key = path.parent.name
        about.append(
            {"fold": inner.name, "train_hash": inner.train_hash, "key": key, "left_out": ids}
        )
    outputs = join_outputs(found).select(fold.train)
    write_outputs(outputs, context.folder / "outputs.parquet")
    labels = np.array(fold.manifest.labels(fold.train), np.int64)
    confusion = compute_confusion(labels, outputs.logits.argmax(axis=1), outputs.logits.shape[1])
    about_all = {"train": compute_metrics(confusion), "inner_folds": about}
    write_json(context.folder / "inner.json", {**context.facts, **about_all})
