"""Inner folds: the training speakers of a fold, dealt so that each is left out once."""

from serkd.corpora.folds import Fold
from serkd.corpora.protocols import balanced_groups
from serkd.errors import InputError

_SEED = 0  # the same training speakers are always dealt alike


def build_inner_folds(fold: Fold, num_folds: int) -> tuple[Fold, ...]:
    """Folds named "<fold>.1", "<fold>.2", ...: each trains without a group of speakers of `fold`.

    To an inner fold, the speakers that it leaves out are test: it knows none of their labels, nor
    those of the test speakers of `fold`. Dev is that of `fold`. Groups are balanced in gender and
    number of speakers, as those of `speaker_kfold`. Where a corpus's own split shares speakers,
    somebody who is left out of train may speak in dev, which selects epochs.

    Raises:
        InputError: fewer training speakers than folds, or an emotion that only a group has.
    """
    by_id = fold.manifest.by_id
    genders = {by_id[utt_id].speaker_id: by_id[utt_id].gender for utt_id in fold.train}
    if num_folds > len(genders):
        raise InputError(
            "teacher.inner_folds must be at most the number of training speakers = "
            f"{len(genders)} in fold {fold.name}, got {num_folds}"
        )
    groups = balanced_groups(genders, num_folds, _SEED)
    return tuple(_leave_out(fold, i, set(group)) for i, group in enumerate(groups, start=1))


def _leave_out(fold: Fold, number: int, speakers: set[str]) -> Fold:
    by_id = fold.manifest.by_id
    left_out = tuple(i for i in fold.train if by_id[i].speaker_id in speakers)
    kept = tuple(i for i in fold.train if by_id[i].speaker_id not in speakers)
    test = (*fold.test, *left_out)
    name = f"{fold.name}.{number}"
    return Fold(name, kept, fold.dev, test, fold.manifest, fold.shares_speakers)
