"""Manifests: refusals that name every file, hashes that move when they should, sealed labels."""

import shutil
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile

from serkd.corpora import build
from serkd.corpora.audio import Measured, measure_audio
from serkd.corpora.build import Limits, Listing, SourceUtterance, build_manifest
from serkd.corpora.manifest import SCHEMA, Manifest, Utterance, read_manifest, write_manifest
from serkd.errors import InputError, SealedError


def _write_audio(path: Path, seed: int, *, seconds: float = 0.2) -> None:
    rng = np.random.default_rng(seed)
    samples = rng.integers(-3_000, 3_000, round(seconds * 16_000)).astype(np.int16)
    soundfile.write(path, samples, 16_000, subtype="PCM_16")


def _write_sources(
    folder: Path, count: int = 8, emotions: Sequence[str] = ("angry", "sad"), speakers: int = 4
) -> list[SourceUtterance]:
    folder.mkdir(parents=True, exist_ok=True)
    sources = []
    for i in range(count):
        path = folder / f"u{i:02d}.wav"
        _write_audio(path, seed=i)
        speaker, emotion = f"s{i % speakers}", emotions[i // speakers % len(emotions)]
        sources.append(
            SourceUtterance(path.stem, path, "own", speaker, "unknown", "", emotion, "train")
        )
    return sources


@pytest.fixture
def small(tmp_path: Path) -> Manifest:
    return build_manifest(Listing(_write_sources(tmp_path / "audio")))


def _break(sources: Sequence[SourceUtterance]) -> dict[str, SourceUtterance]:
    """Damage four files, each in another way."""
    bad = {f"u{i:02d}": sources[i] for i in (1, 3, 4, 6)}
    bad["u01"].path.write_bytes(b"")
    bad["u03"].path.unlink()
    bad["u04"].path.write_text("no audio")
    _write_audio(bad["u06"].path, seed=6, seconds=0.05)
    return bad


def test_refusing_names_every_bad_file_at_once(tmp_path: Path) -> None:
    sources = _write_sources(tmp_path)
    bad = _break(sources)
    with pytest.raises(InputError) as refused:
        build_manifest(Listing(sources), on_bad="refuse")
    message = str(refused.value)
    named = {source.utt_id for source in sources if str(source.path) in message}
    assert named == set(bad)
    assert "--on-bad exclude" in message


def test_excluding_keeps_the_good_files_and_names_the_bad_ones(tmp_path: Path) -> None:
    sources = _write_sources(tmp_path)
    bad = _break(sources)
    manifest = build_manifest(Listing(sources, ["old: gone"]), on_bad="exclude")
    assert set(manifest.by_id) == {source.utt_id for source in sources} - set(bad)
    assert manifest.excluded[0] == "old: gone"
    assert len(manifest.excluded) == 1 + len(bad)
    for source in bad.values():
        assert sum(str(source.path) in problem for problem in manifest.excluded) == 1


def test_excluding_everything_is_refused(tmp_path: Path) -> None:
    sources = _write_sources(tmp_path, count=2)
    for source in sources:
        source.path.unlink()
    with pytest.raises(InputError, match="at least one readable utterance"):
        build_manifest(Listing(sources), on_bad="exclude")


def test_a_long_list_of_bad_files_is_cut_and_counted(tmp_path: Path) -> None:
    sources = _write_sources(tmp_path, count=25)
    for source in sources:
        source.path.unlink()
    with pytest.raises(InputError, match=r"\.\.\. and 5 more"):
        build_manifest(Listing(sources))


def test_wrong_descriptions_are_refused_together_before_audio_is_read(tmp_path: Path) -> None:
    good = SourceUtterance("a", tmp_path / "none.wav", "own", "s0", "female", "", "sad")
    sources = [
        good,
        replace(good, speaker_id="s1"),
        replace(good, utt_id="b", gender="woman"),
        replace(good, utt_id="c", emotion=""),
        replace(good, utt_id="d", speaker_id=""),
    ]
    with pytest.raises(InputError) as refused:
        build_manifest(Listing(sources))
    message = str(refused.value)
    assert "'a' is repeated" in message
    assert "b: gender must be one of female, male, unknown, got 'woman'" in message
    assert "c: emotion must not be empty" in message
    assert "d: speaker_id must not be empty" in message
    assert "none.wav" not in message


def test_a_corpus_without_utterances_is_refused() -> None:
    with pytest.raises(InputError, match="at least one utterance"):
        build_manifest(Listing([]))


def test_the_order_of_the_sources_does_not_matter(tmp_path: Path) -> None:
    sources = _write_sources(tmp_path)
    assert build_manifest(Listing(sources)) == build_manifest(Listing(sources[::-1]))


def test_a_speaker_with_two_genders_is_refused(tmp_path: Path) -> None:
    sources = _write_sources(tmp_path, count=8)
    sources[5] = replace(sources[5], gender="female", origin="clips.csv, line 7")
    with pytest.raises(
        InputError, match=r"clips\.csv, line 7: u05: a speaker must have one gender"
    ):
        build_manifest(Listing(sources))


def test_limits_hold_for_training_and_leave_dev_and_test_whole(tmp_path: Path) -> None:
    sources = _write_sources(tmp_path, count=8)
    for i, seconds in ((0, 0.1), (1, 0.1), (2, 0.1), (3, 2.0), (4, 0.2), (5, 1.0)):
        _write_audio(sources[i].path, seed=i, seconds=seconds)
    splits = {1: "dev", 2: "test"}
    sources = [replace(s, split=splits.get(i, "train")) for i, s in enumerate(sources)]
    manifest = build_manifest(Listing(sources), limits=Limits(0.2, 1.0))
    assert set(manifest.by_id) == {"u01", "u02", "u04", "u05", "u06", "u07"}
    assert manifest.excluded == (
        "u00: lasts 0.10 s, not 0.2 to 1 s",
        "u03: lasts 2.00 s, not 0.2 to 1 s",
    )


def test_an_interrupted_run_measures_only_what_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sources, journal = _write_sources(tmp_path / "audio"), tmp_path / ".manifest.measured"
    whole = build_manifest(Listing(sources))
    build_manifest(Listing(sources[:5]), journal=journal)
    with journal.open("ab") as file:
        file.write(b'{"stamp": "torn')  # what a killed process leaves
    _write_audio(sources[1].path, seed=1, seconds=0.5)  # written again since
    read: list[str] = []

    def measure(path: Path) -> Measured:
        read.append(path.stem)
        return measure_audio(path)

    monkeypatch.setattr(build, "measure_audio", measure)
    again = build_manifest(Listing(sources), journal=journal)
    assert sorted(read) == ["u01", "u05", "u06", "u07"]
    assert again.by_id["u01"].num_samples == 8_000
    rest = set(whole.by_id) - {"u01"}
    assert all(again.by_id[utt_id] == whole.by_id[utt_id] for utt_id in rest)


def test_measurements_agree_with_the_files(small: Manifest) -> None:
    for utterance in small.utterances:
        info = soundfile.info(utterance.path)
        assert utterance.num_samples == info.frames == 3_200
        assert utterance.duration_s == pytest.approx(info.duration, abs=1e-9)


def test_written_and_read_again_is_the_same_manifest(tmp_path: Path, small: Manifest) -> None:
    write_manifest(small, tmp_path / "manifest.parquet")
    assert read_manifest(tmp_path / "manifest.parquet") == small


def test_paths_survive_moving_the_folder(tmp_path: Path, small: Manifest) -> None:
    before = tmp_path / "before"
    before.mkdir()
    shutil.move(tmp_path / "audio", before / "audio")
    inside = [
        replace(u, path=str(before / "audio" / Path(u.path).name)) for u in small.utterances[:-1]
    ]
    _write_audio(tmp_path / "outside.wav", seed=99)
    outside = replace(small.utterances[-1], path=str(tmp_path / "outside.wav"))
    manifest = Manifest((*inside, outside), small.class_names)
    write_manifest(manifest, before / "manifest.parquet")
    after = tmp_path / "after" / "deeper"
    shutil.move(before, after)
    moved = read_manifest(after / "manifest.parquet")
    assert all(Path(u.path).is_file() for u in moved.utterances)
    assert Path(moved.utterances[0].path).parent == after / "audio"
    assert moved.audio_hash == manifest.audio_hash


def test_writing_replaces_the_whole_file_and_leaves_nothing_else(
    tmp_path: Path, small: Manifest
) -> None:
    path = tmp_path / "out" / "manifest.parquet"
    write_manifest(small, path)
    write_manifest(Manifest(small.utterances[:6], small.class_names), path)
    assert len(read_manifest(path).utterances) == 6
    assert [found.name for found in path.parent.iterdir()] == [path.name]


# what a field change must do to (audio_hash, label_hash); every field of the schema is listed
_MOVES = {
    "utt_id": (True, True),
    "path": (False, False),
    "corpus": (False, False),
    "speaker_id": (False, True),
    "gender": (False, True),
    "session": (False, False),
    "emotion": (False, True),
    "split": (False, False),
    "votes": (False, False),
    "duration_s": (False, False),
    "num_samples": (False, False),
    "sample_rate": (False, False),
    "sha256": (True, False),
}


@pytest.mark.parametrize("name", [field.name for field in fields(Utterance)])
def test_hashes_move_exactly_with_what_they_stand_for(small: Manifest, name: str) -> None:
    first = small.utterances[0]
    old = getattr(first, name)
    more: dict[type, Any] = {str: f"{old}x", tuple: (("sad", 1),)}
    new = "sad" if name == "emotion" else more[type(old)] if type(old) in more else old + 1
    changed = Manifest((replace(first, **{name: new}), *small.utterances[1:]), small.class_names)
    moves_audio, moves_label = _MOVES[name]
    assert (changed.audio_hash != small.audio_hash) == moves_audio
    assert (changed.label_hash(changed.by_id) != small.label_hash(small.by_id)) == moves_label
    # an utterance that is not asked for has no say
    others = [u.utt_id for u in small.utterances[1:]]
    assert changed.label_hash(others) == small.label_hash(others)


def test_label_hash_depends_on_the_set_of_utterances_and_on_the_classes(small: Manifest) -> None:
    ids = list(small.by_id)
    assert small.label_hash(ids) == small.label_hash(ids[::-1])
    assert small.label_hash(ids) != small.label_hash(ids[:-1])
    wider = Manifest(small.utterances, (*small.class_names, "zeal"))
    assert wider.label_hash(ids) != small.label_hash(ids)


def test_labels_index_the_sorted_class_names(small: Manifest) -> None:
    ids = [u.utt_id for u in small.utterances]
    names = [small.class_names[label] for label in small.labels(ids)]
    assert names == [u.emotion for u in small.utterances]
    assert list(small.class_names) == sorted(small.class_names)


def test_sealing_removes_test_labels_and_nothing_else(small: Manifest) -> None:
    test, others = ["u00", "u05"], ["u01", "u02", "u03", "u04", "u06", "u07"]
    voted = tuple(replace(u, votes=((u.emotion, 3),)) for u in small.utterances)
    small = replace(small, utterances=voted)
    sealed = small.seal(test)
    for utt_id in test:
        with pytest.raises(SealedError):
            sealed.labels([utt_id])
        whole, hidden = small.by_id[utt_id], sealed.by_id[utt_id]
        assert hidden == replace(whole, emotion="", votes=())
    with pytest.raises(SealedError):
        sealed.labels([*others, test[0]])
    assert all(sealed.by_id[utt_id] == small.by_id[utt_id] for utt_id in others)
    assert sealed.class_names == small.class_names
    assert sealed.audio_hash == small.audio_hash
    assert small.labels(test)  # the original keeps them


@pytest.mark.parametrize(
    ("emotions", "speakers", "rule"),
    [
        (("sad",), 4, "at least two emotions, got sad"),
        (("angry", "sad"), 1, "at least three speakers .* got 1"),
        (("angry", "sad"), 2, "at least three speakers .* got 2"),
    ],
)
def test_corpora_nothing_can_be_learned_from_are_refused(
    tmp_path: Path, emotions: Sequence[str], speakers: int, rule: str
) -> None:
    manifest = build_manifest(Listing(_write_sources(tmp_path, 8, emotions, speakers)))
    path = tmp_path / "manifest.parquet"
    write_manifest(manifest, path)
    with pytest.raises(InputError, match=rf"manifest\.parquet: a manifest must have {rule}"):
        read_manifest(path)


def test_both_reasons_are_given_at_once(tmp_path: Path) -> None:
    manifest = build_manifest(Listing(_write_sources(tmp_path, 4, ("sad",), 1)))
    write_manifest(manifest, tmp_path / "manifest.parquet")
    with pytest.raises(InputError, match=r"two emotions[^\n]*\n[^\n]*three speakers"):
        read_manifest(tmp_path / "manifest.parquet")


def _replace_column(path: Path, name: str, values: pa.Array) -> None:
    table = pq.read_table(path)
    pq.write_table(table.set_column(table.column_names.index(name), name, values), path)


def test_files_that_are_no_manifest_are_refused(tmp_path: Path, small: Manifest) -> None:
    path = tmp_path / "manifest.parquet"
    with pytest.raises(InputError, match=r"manifest\.parquet: .* there is none"):
        read_manifest(path)
    path.write_text("utt_id,path\n")
    with pytest.raises(InputError, match=r"manifest\.parquet: must be a Parquet manifest"):
        read_manifest(path)
    write_manifest(small, path)
    pq.write_table(pq.read_table(path).drop_columns(["emotion", "gender"]), path)
    with pytest.raises(InputError, match="it lacks emotion, gender"):
        read_manifest(path)
    write_manifest(small, path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(InputError, match=r"manifest\.parquet: must be a Parquet manifest"):
        read_manifest(path)


def test_repeated_ids_in_a_manifest_are_refused(tmp_path: Path, small: Manifest) -> None:
    path = tmp_path / "manifest.parquet"
    write_manifest(small, path)
    table = pq.read_table(path)
    pq.write_table(pa.concat_tables([table, table.slice(0, 1)]), path)
    with pytest.raises(InputError, match="utt_id must be unique"):
        read_manifest(path)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("emotion", [None] * 8),
        ("emotion", ["angry", "sad", None, "sad", "angry", "sad", "angry", "sad"]),
        ("speaker_id", [None, "s1", "s2", "s3", "s0", "s1", "s2", "s3"]),
        ("num_samples", ["many"] * 8),
        ("gender", ["woman"] * 8),
    ],
)
def test_hand_edited_manifests_with_illegal_values_are_refused(
    tmp_path: Path, small: Manifest, name: str, values: list[str | None]
) -> None:
    path = tmp_path / "manifest.parquet"
    write_manifest(small, path)
    _replace_column(path, name, pa.array(values, pa.string()))
    with pytest.raises(InputError, match=name):
        read_manifest(path)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("duration_s", float("nan")),
        ("duration_s", -1.0),
        ("duration_s", float("inf")),
        ("sample_rate", 0),
        ("num_samples", 0),
        ("votes", [("angry", None)]),
        ("votes", [("angry", -1)]),
    ],
)
def test_hand_edited_numbers_that_cannot_be_are_refused(
    tmp_path: Path, small: Manifest, name: str, value: object
) -> None:
    path = tmp_path / "manifest.parquet"
    write_manifest(small, path)
    values = pq.read_table(path).column(name).to_pylist()
    _replace_column(path, name, pa.array([value, *values[1:]], SCHEMA.field(name).type))
    with pytest.raises(InputError, match=f"{name} must be"):
        read_manifest(path)


@pytest.mark.parametrize("notes", [b"{", b"[]", b"{}", b'{"excluded": null}', b"\xff"])
def test_foreign_metadata_is_refused(tmp_path: Path, small: Manifest, notes: bytes) -> None:
    path = tmp_path / "manifest.parquet"
    write_manifest(small, path)
    pq.write_table(pq.read_table(path).replace_schema_metadata({b"serkd": notes}), path)
    with pytest.raises(InputError, match="must have the metadata"):
        read_manifest(path)


def test_a_manifest_that_cannot_be_written_leaves_nothing(tmp_path: Path, small: Manifest) -> None:
    path = tmp_path / "manifest.parquet"
    path.mkdir()
    before = list(tmp_path.iterdir())
    with pytest.raises(IsADirectoryError):
        write_manifest(small, path)
    assert list(tmp_path.iterdir()) == before


@pytest.mark.parametrize("line", [b"7", b"{}", b'{"stamp": "s", "old": 1}', b"\0" * 9, b"\xff"])
def test_strange_lines_of_the_journal_are_passed_over(tmp_path: Path, line: bytes) -> None:
    sources, journal = _write_sources(tmp_path / "audio"), tmp_path / ".manifest.measured"
    journal.write_bytes(line + b"\n")
    assert build_manifest(Listing(sources), journal=journal) == build_manifest(Listing(sources))


def test_the_schema_has_a_column_for_every_field() -> None:
    assert [field.name for field in fields(Utterance)] == SCHEMA.names
