"""Frames on disk: what is read is what was written, and half-written parts do not exist."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serkd.features.store import (
    list_parts,
    part_path,
    read_block,
    read_frames,
    read_layout,
    read_part,
    stack_frames,
    write_part,
)


def _frames(rng: np.random.Generator, num_frames: int, width: int, dtype: str) -> np.ndarray:
    shape = (num_frames, width) if width else (num_frames,)
    if dtype.startswith("int"):
        return rng.integers(-100, 100, shape).astype(dtype)
    return rng.standard_normal(shape).astype(dtype)


@pytest.mark.parametrize("width", [0, 1, 7])
@pytest.mark.parametrize("dtype", ["float16", "float32", "int32"])
def test_round_trip_of_every_dtype_and_width(tmp_path: Path, dtype: str, width: int) -> None:
    rng = np.random.default_rng(0)
    arrays = [_frames(rng, n, width, dtype) for n in (3, 1, 12)]
    write_part(part_path(tmp_path, 0), ["b", "c", "a"], {"x": arrays})
    found = dict(read_part(part_path(tmp_path, 0), "x"))
    assert list(found) == ["b", "c", "a"]
    for expected, array in zip(arrays, found.values(), strict=True):
        assert array.dtype == expected.dtype
        assert np.array_equal(array, expected)


def test_columns_of_different_shapes_share_a_part(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    columns = {
        "layer_6": [_frames(rng, n, 5, "float16") for n in (4, 2)],
        "layer_9": [_frames(rng, n, 8, "float32") for n in (4, 2)],
        "units": [_frames(rng, n, 0, "int32") for n in (4, 2)],
    }
    write_part(part_path(tmp_path, 0), ["a", "b"], columns)
    for name, arrays in columns.items():
        for (_, found), expected in zip(
            read_part(part_path(tmp_path, 0), name), arrays, strict=True
        ):
            assert np.array_equal(found, expected)
    assert read_layout(part_path(tmp_path, 0))["units"] == {"dtype": "int32", "width": 0}


@settings(max_examples=60, deadline=None)
@given(data=st.data(), lengths=st.lists(st.integers(1, 9), min_size=1, max_size=12))
def test_frames_are_sorted_kept_and_selected_whatever_the_parts(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, lengths: list[int]
) -> None:
    folder = tmp_path_factory.mktemp("parts")
    rng = np.random.default_rng(len(lengths))
    arrays = {f"u{i:02d}": _frames(rng, n, 3, "float16") for i, n in enumerate(lengths)}
    order = data.draw(st.permutations(list(arrays)))
    num_parts = data.draw(st.integers(1, len(order)))
    for part in range(num_parts):
        mine = order[part::num_parts]
        write_part(part_path(folder, part), mine, {"x": [arrays[u] for u in mine]})
    frames = read_frames(folder, "x")
    assert frames.utt_ids == tuple(sorted(arrays))
    assert np.array_equal(frames.values, np.concatenate([arrays[u] for u in sorted(arrays)]))
    assert frames.lengths.tolist() == [len(arrays[u]) for u in sorted(arrays)]
    wanted = data.draw(st.lists(st.sampled_from(order), min_size=1, unique=True))
    kept = read_frames(folder, "x", set(wanted))
    assert kept.utt_ids == tuple(sorted(wanted))
    for source in (frames, kept):
        chosen = source.select(wanted)
        assert chosen.utt_ids == tuple(wanted)
        for i, utt_id in enumerate(wanted):
            assert np.array_equal(chosen[i], arrays[utt_id])


def test_parts_are_listed_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    numbers = [2, 0, 10, 11, 1, 100]
    for number in numbers:
        write_part(part_path(tmp_path, number), ["u"], {"x": [np.zeros(1, np.float16)]})
    assert list_parts(tmp_path) == [part_path(tmp_path, number) for number in sorted(numbers)]


def test_a_torn_temporary_file_is_no_part_and_does_no_harm(tmp_path: Path) -> None:
    good = [np.arange(6, dtype=np.float16).reshape(3, 2)]
    write_part(part_path(tmp_path, 0), ["a"], {"x": good})
    whole = part_path(tmp_path, 0).read_bytes()
    # what a killed process leaves where the next part was being written
    (tmp_path / ".part-00001.parquet.tmp").write_bytes(whole[: len(whole) // 2])
    assert list_parts(tmp_path) == [part_path(tmp_path, 0)]
    assert read_frames(tmp_path, "x").utt_ids == ("a",)
    write_part(part_path(tmp_path, 1), ["b"], {"x": good})
    assert read_frames(tmp_path, "x").utt_ids == ("a", "b")
    assert not list(tmp_path.glob(".*"))


def test_an_unknown_utterance_cannot_be_selected() -> None:
    frames = stack_frames(["a"], [np.zeros((2, 3))])
    with pytest.raises(KeyError):
        frames.select(["b"])


@pytest.mark.parametrize("kept", ["all", "some", "none"])
def test_a_block_is_the_kept_frames_end_to_end(tmp_path: Path, kept: str) -> None:
    rng = np.random.default_rng(0)
    arrays = {f"u{i}": rng.standard_normal((i, 3)).astype(np.float16) for i in (4, 0, 7, 1)}
    columns = {"x": list(arrays.values()), "y": [array + 1 for array in arrays.values()]}
    write_part(part_path(tmp_path, 0), list(arrays), columns)
    keep = {"all": set(arrays), "some": {"u7", "u0", "other"}, "none": set()}[kept]
    found = read_block(part_path(tmp_path, 0), "x", keep)
    expected = [array for name, array in arrays.items() if name in keep]
    assert np.array_equal(found, np.concatenate([np.zeros((0, 3), np.float16), *expected]))
    assert (found.dtype, found.flags.writeable) == (np.float16, True)
