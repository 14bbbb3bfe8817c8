"""Corpora with a table of their own: three formats, one meaning."""

import csv
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from serkd.corpora.build import SourceUtterance, build_manifest
from serkd.corpora.table import scan
from serkd.errors import InputError

Rows = Sequence[Mapping[str, str]]


def _write_csv(path: Path, rows: Rows) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def _write_jsonl(path: Path, rows: Rows) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def _write_parquet(path: Path, rows: Rows) -> None:
    pq.write_table(pa.Table.from_pylist(list(rows)), path)


WRITERS: dict[str, Callable[[Path, Rows], None]] = {
    ".csv": _write_csv,
    ".jsonl": _write_jsonl,
    ".parquet": _write_parquet,
}
formats = pytest.mark.parametrize("ending", WRITERS)


def _write(folder: Path, ending: str, rows: Rows) -> Path:
    path = folder / f"table{ending}"
    WRITERS[ending](path, rows)
    return path


@formats
def test_every_format_says_the_same(tmp_path: Path, ending: str) -> None:
    rows = [
        {
            "utt_id": "a1",
            "path": "wav/a, one.wav",
            "speaker_id": "01",
            "gender": "F",
            "session": "s1",
            "emotion": "angry",
            "split": "train",
            "corpus": "mine",
        },
        {
            "utt_id": "",
            "path": "wav/Überfall.wav",
            "speaker_id": "2",
            "gender": "",
            "session": "",
            "emotion": 'very "sad", really',
            "split": "test",
            "corpus": "mine",
        },
    ]
    path = _write(tmp_path, ending, rows)
    first = 1 if ending == ".jsonl" else 2 if ending == ".csv" else 1
    word = "row" if ending == ".parquet" else "line"
    places = [f"{path}, {word} {first}", f"{path}, {word} {first + 1}"]
    assert scan(path).sources == [
        SourceUtterance(
            "a1", tmp_path / "wav/a, one.wav", "mine", "01", "female", "s1", "angry", "train",
            origin=places[0],
        ),
        SourceUtterance(
            "Überfall", tmp_path / "wav/Überfall.wav", "mine", "2", "unknown", "",
            'very "sad", really', "test", origin=places[1],
        ),
    ]  # fmt: skip


@formats
@pytest.mark.parametrize("speaker", ["01", "1", "1.0", "1e3", "true", "NA", "null", "2024-05-01"])
def test_identifiers_stay_text(tmp_path: Path, ending: str, speaker: str) -> None:
    rows = [
        {"path": "a.wav", "speaker_id": speaker, "emotion": "sad", "session": speaker},
        {"path": "b.wav", "speaker_id": speaker, "emotion": "sad", "session": speaker},
    ]
    sources = scan(_write(tmp_path, ending, rows)).sources
    assert [(s.speaker_id, s.session) for s in sources] == [(speaker, speaker)] * 2


@formats
def test_columns_are_mapped_and_roots_applied(tmp_path: Path, ending: str) -> None:
    rows = [
        {"clip, relative": "x/a.wav", "who": "007", "feeling, by label": "sad", "emotion": "wrong"},
        {"clip, relative": "/abs/b.wav", "who": "008", "feeling, by label": "joy", "emotion": "no"},
    ]
    columns = {"path": "clip, relative", "speaker_id": "who", "emotion": "feeling, by label"}
    sources = scan(_write(tmp_path, ending, rows), columns, {}, tmp_path / "audio").sources
    assert [(str(s.path), s.speaker_id, s.emotion) for s in sources] == [
        (str(tmp_path / "audio/x/a.wav"), "007", "sad"),
        ("/abs/b.wav", "008", "joy"),
    ]


def test_quoted_headers_with_commas_keep_their_columns_as_text(tmp_path: Path) -> None:
    rows = [{"path": f"{i}.wav", "speaker, id": f"0{i}", "emotion": "sad"} for i in range(3)]
    sources = scan(_write(tmp_path, ".csv", rows), {"speaker_id": "speaker, id"}).sources
    assert [s.speaker_id for s in sources] == ["00", "01", "02"]


def test_a_byte_order_mark_is_no_part_of_the_first_column(tmp_path: Path) -> None:
    path = tmp_path / "excel.csv"
    path.write_text("speaker_id,path,emotion\r\n01,a.wav,sad\r\n02,b.wav,sad\r\n", "utf-8-sig")
    assert [s.speaker_id for s in scan(path).sources] == ["01", "02"]


def test_numbers_in_json_become_text(tmp_path: Path) -> None:
    path = tmp_path / "table.jsonl"
    path.write_text('{"path": "a.wav", "speaker_id": 7, "emotion": "sad", "gender": null}\n')
    (source,) = scan(path).sources
    assert (source.speaker_id, source.gender) == ("7", "unknown")


@formats
def test_missing_and_unknown_columns_are_all_named(tmp_path: Path, ending: str) -> None:
    path = _write(tmp_path, ending, [{"path": "a.wav", "who": "1", "sex": "f"}])
    with pytest.raises(InputError) as refused:
        scan(path, {"speaker_id": "whom", "gendre": "sex"})
    message = str(refused.value)
    assert "must have the column 'emotion' for emotion, it has path, who, sex" in message
    assert "must have the column 'whom' for speaker_id" in message
    assert "--column must name one of path, speaker_id" in message
    assert "got 'gendre'" in message


def test_a_mapped_optional_column_must_exist(tmp_path: Path) -> None:
    path = _write(tmp_path, ".csv", [{"path": "a.wav", "speaker_id": "1", "emotion": "sad"}])
    with pytest.raises(InputError, match="must have the column 'sex' for gender"):
        scan(path, {"gender": "sex"})


def _write_broken(path: Path) -> None:
    path.write_bytes(b'{"path": \n"a')


def _write_latin(path: Path) -> None:
    path.write_bytes("path,speaker_id,emotion\nböse.wav,1,wütend\n".encode("latin-1"))


def _write_latin_header(path: Path) -> None:
    path.write_bytes("path,speaker_id,emotion,ärger\nb.wav,1,x,y\n".encode("latin-1"))


@pytest.mark.parametrize(
    ("name", "write", "rule"),
    [
        ("none.csv", lambda path: None, "there is none"),
        ("a.xlsx", lambda path: path.touch(), r"must end in \.csv, \.jsonl, \.parquet"),
        ("a.csv", lambda path: path.touch(), r"must be a readable \.csv table"),
        ("a.jsonl", _write_broken, r"must be a readable \.jsonl table"),
        ("a.parquet", _write_broken, r"must be a readable \.parquet table"),
        ("a.csv", _write_latin, r"must be a readable \.csv table"),
        ("a.csv", _write_latin_header, r"must be a readable \.csv table"),
    ],
)
def test_unreadable_tables_are_refused_by_name(
    tmp_path: Path, name: str, write: Callable[[Path], None], rule: str
) -> None:
    path = tmp_path / name
    write(path)
    with pytest.raises(InputError, match=rf"{name}: {rule}|{name}: must .*{rule}"):
        scan(path)


def _lines(*rows: str) -> str:
    return "".join(f"{row}\n" for row in ("path,speaker_id,emotion,gender,split", *rows))


def test_every_wrong_row_is_named_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "clips.csv"
    path.write_text(
        _lines(
            "a.wav,s1,sad,f,train",
            '"b\nb.wav",,sad,f,train',  # two lines of the file
            "",
            "c.wav,s1,,f,train",
            ",s1,sad,f,train",
            "d.wav,s1,sad,woman,train",
            "e.wav,s1,sad,f,eval",
            "a.wav,s1,sad,f,train",
            "f.wav,s1,sad,m,train",
            "g.wav,s1",
        )
    )
    with pytest.raises(InputError) as refused:
        scan(path)
    assert f"{path}, line 6: emotion must not be empty" in str(refused.value)
    assert f"{path}, line 7: path must not be empty" in str(refused.value)
    assert f"{path}, line 12: emotion must not be empty" in str(refused.value)
    whole = path.read_text().replace("c.wav,s1,,", "c.wav,s1,sad,").replace("\n,s1", "\nz.wav,s1")
    path.write_text(whole.replace("g.wav,s1\n", ""))
    with pytest.raises(InputError) as refused:
        build_manifest(scan(path))
    message = str(refused.value)
    assert f"{path}, line 3: b\nb: speaker_id must not be empty" in message
    assert f"{path}, line 8: d: gender must be one of female, male, unknown, got 'woman'" in message
    assert f"{path}, line 9: e: split must be one of train, dev, test, empty, got 'eval'" in message
    assert f"{path}, line 10: utt_id must be unique, 'a' is repeated (first in {path}, line 2)" in (
        message
    )
    assert f"{path}, line 11: f: a speaker must have one gender" in message


def test_rows_with_too_many_fields_and_lines_that_are_no_objects_are_all_named(
    tmp_path: Path,
) -> None:
    path = tmp_path / "clips.csv"
    path.write_text(_lines("a.wav,s1,sad,f,train,x", "b.wav,s1,sad,f,dev", "c.wav,s,sad,f,dev,,"))
    with pytest.raises(InputError, match=r"line 2 must have no more(.|\n)*line 4 must have no"):
        scan(path)
    path = tmp_path / "clips.jsonl"
    path.write_text('{"path": "a.wav"}\n[1]\n\n{"path": \n')
    with pytest.raises(InputError, match=r"line 2 must be a JSON(.|\n)*line 4 must be a JSON"):
        scan(path)


def test_labels_are_mapped_kept_or_left_out(tmp_path: Path) -> None:
    path = tmp_path / "clips.csv"
    emotions = ["exc", "hap", "sad", "xxx", "xxx"]
    path.write_text(_lines(*(f"{i}.wav,s{i},{e},f,valid" for i, e in enumerate(emotions))))
    listing = scan(path, labels={"exc": "hap", "xxx": ""})
    assert [s.emotion for s in listing.sources] == ["hap", "hap", "sad"]
    assert {s.split for s in listing.sources} == {"dev"}
    assert listing.notes == ["left out: 2 utterances labelled xxx"]
    with pytest.raises(InputError, match=r"--label must name emotions .*exc, hap.*got 'happy'"):
        scan(path, labels={"happy": "hap"})


def test_a_bad_file_is_named_with_its_row(tmp_path: Path) -> None:
    path = tmp_path / "clips.csv"
    path.write_text(_lines("a.wav,s1,sad,f,train"))
    with pytest.raises(InputError, match=rf"{path}, line 2: {tmp_path}/a\.wav: must be an audio"):
        build_manifest(scan(path))


def test_json_strings_may_hold_any_separator_and_files_a_byte_order_mark(tmp_path: Path) -> None:
    path = tmp_path / "clips.jsonl"
    row = {"path": "a.wav", "speaker_id": "s1", "emotion": "sad\u2028\x85ish"}
    path.write_text("\ufeff" + json.dumps(row, ensure_ascii=False) + "\r\n", encoding="utf-8")
    assert [s.emotion for s in scan(path).sources] == ["sad\u2028\x85ish"]


@pytest.mark.parametrize("ending", [".csv", ".parquet"])
def test_a_column_that_is_there_twice_is_refused(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"clips{ending}"
    names = ["path", "speaker_id", "emotion", "emotion"]
    if ending == ".csv":
        path.write_text(",".join(names) + "\na.wav,s1,sad,angry\n")
    else:
        pq.write_table(pa.table([pa.array(["x"])] * 4, names=names), path)
    with pytest.raises(InputError, match=r"must have a column once, it has 'emotion' 2 times"):
        scan(path)


def test_text_that_is_not_utf8_is_named_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "clips.csv"
    rows = [f"{i}.wav,s1,sad,f,train" for i in range(2_000)]
    path.write_bytes(_lines(*rows).encode() + "x.wav,Jörg,sad,m,train\n".encode("latin-1"))
    with pytest.raises(InputError, match=r"line 2002 is not UTF-8"):
        scan(path)


def _deep(path: Path) -> None:
    path.write_text("[" * 100_000)


def _torn(path: Path) -> None:
    pq.write_table(pa.table({"path": [f"{i}.wav" for i in range(99)]}), path)
    content = path.read_bytes()
    path.write_bytes(content[:20] + b"\xff" * 40 + content[60:])


def _far_away(path: Path) -> None:
    pq.write_table(pa.table({"when": pa.array([2**62], pa.timestamp("us"))}), path)


@pytest.mark.parametrize(
    ("name", "write"),
    [("a.jsonl", _deep), ("a.parquet", _torn), ("a.parquet", _far_away)],
)
def test_what_its_reader_cannot_take_is_refused(
    tmp_path: Path, name: str, write: Callable[[Path], None]
) -> None:
    write(tmp_path / name)
    with pytest.raises(InputError, match=rf"{name}: must be a readable"):
        scan(tmp_path / name)


def test_a_missing_value_is_missing_in_every_form(tmp_path: Path) -> None:
    path = tmp_path / "clips.jsonl"
    path.write_text('{"path": "a.wav", "speaker_id": NaN, "emotion": "sad", "gender": NaN}\n')
    with pytest.raises(InputError, match="speaker_id must not be empty"):
        build_manifest(scan(path))
    assert scan(path).sources[0].gender == "unknown"


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"speaker_id": "\ud800"}, r"line 1: the speaker_id must be UTF-8, got '\\ud800'"),
        ({"emotion": "\ud800"}, r"line 1: the emotion must be UTF-8"),
        ({"path": "x" * 400 + ".wav"}, r"line 1: .*must be an audio file, but there is none"),
    ],
)
def test_values_that_no_file_can_hold_are_named_with_their_row(
    tmp_path: Path, changes: Mapping[str, str], rule: str
) -> None:
    path = tmp_path / "clips.jsonl"
    _write_jsonl(path, [{"path": "a.wav", "speaker_id": "s1", "emotion": "sad", **changes}])
    with pytest.raises(InputError, match=rule):
        build_manifest(scan(path))


def test_a_folder_named_like_a_partition_adds_no_column(tmp_path: Path) -> None:
    folder = tmp_path / "speaker_id=9"
    folder.mkdir()
    _write_parquet(folder / "a.parquet", [{"path": "a", "speaker_id": "1", "emotion": "sad"}])
    assert [s.speaker_id for s in scan(folder / "a.parquet").sources] == ["1"]
