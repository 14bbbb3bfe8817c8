"""The built-in corpus: reproducible to the sample, balanced, and not solved by averages."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import recall_score
from sklearn.model_selection import GroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from serkd.corpora.audio import read_audio
from serkd.corpora.build import SourceUtterance
from serkd.corpora.synthetic import EMOTIONS, write_corpus
from serkd.features.logmel import compute_logmel


def _pcm(sources: list[SourceUtterance]) -> dict[str, bytes]:
    return {s.utt_id: soundfile.read(s.path, dtype="int16")[0].tobytes() for s in sources}


def test_samples_depend_on_the_seed_and_the_utterance_only(tmp_path: Path) -> None:
    small = _pcm(
        write_corpus(tmp_path / "a", num_speakers=3, utterances_per_emotion=1, seed=5).sources
    )
    # other speakers and takes in between
    wide = _pcm(
        write_corpus(tmp_path / "b", num_speakers=4, utterances_per_emotion=2, seed=5).sources
    )
    assert small.keys() < wide.keys()
    assert all(wide[utt_id] == pcm for utt_id, pcm in small.items())
    other = _pcm(
        write_corpus(tmp_path / "c", num_speakers=3, utterances_per_emotion=1, seed=6).sources
    )
    assert other.keys() == small.keys()
    assert not set(other.values()) & set(small.values())
    assert len(set(wide.values())) == len(wide)  # no two utterances are the same recording


def test_takes_and_emotions_have_chances_of_their_own(tmp_path: Path) -> None:
    sources = write_corpus(tmp_path, num_speakers=3, utterances_per_emotion=3, seed=0).sources
    lengths = {soundfile.info(source.path).frames for source in sources}
    # of 200 possible lengths, 36 draws repeat a few; a shared stream leaves nine at most
    assert len(lengths) > 18


def test_writing_again_repairs_and_changes_nothing(tmp_path: Path) -> None:
    first = write_corpus(tmp_path, num_speakers=3, utterances_per_emotion=1, seed=0).sources
    before = {source.path: source.path.read_bytes() for source in first}
    first[0].path.write_bytes(b"damaged")
    assert write_corpus(tmp_path, num_speakers=3, utterances_per_emotion=1, seed=0).sources == first
    assert {path: path.read_bytes() for path in (tmp_path / "audio").iterdir()} == before


@pytest.mark.parametrize("num_speakers", [3, 6, 7])
def test_genders_and_emotions_are_balanced(tmp_path: Path, num_speakers: int) -> None:
    sources = write_corpus(tmp_path, num_speakers=num_speakers, utterances_per_emotion=1).sources
    genders = {s.speaker_id: s.gender for s in sources}
    women = sum(gender == "female" for gender in genders.values())
    assert len(genders) == num_speakers
    assert women - (num_speakers - women) == num_speakers % 2
    cells = {(s.speaker_id, s.emotion) for s in sources}
    assert len(sources) == len(cells) == num_speakers * len(EMOTIONS)


def _probe(features: np.ndarray, sources: list[SourceUtterance]) -> float:
    """UAR on unseen speakers of a linear classifier, four folds of speakers."""
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.05))
    emotions = [source.emotion for source in sources]
    speakers = [source.speaker_id for source in sources]
    guessed = cross_val_predict(model, features, emotions, groups=speakers, cv=GroupKFold(4))
    return float(recall_score(emotions, guessed, average="macro"))


def test_averages_are_a_poor_guide_and_movement_a_better_one(tmp_path: Path) -> None:
    sources = write_corpus(tmp_path, num_speakers=16, utterances_per_emotion=4, seed=0).sources
    mels = [compute_logmel(read_audio(s.path).waveform, 40, 50) for s in sources]
    means = np.array([mel.mean(axis=0) for mel in mels])
    moves = np.array([np.r_[mel.std(axis=0), np.diff(mel, axis=0).std(axis=0)] for mel in mels])
    level = _probe(means, sources)
    assert level < 0.6
    # otherwise it would be easier to reach the bound with noise than with speech
    assert _probe(moves, sources) > max(level, 0.4)
