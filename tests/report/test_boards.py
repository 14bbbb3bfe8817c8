"""The folders of TensorBoard: which trials are shown, whatever their arms are called."""

from pathlib import Path

import pytest

from serkd.report.boards import Boards
from serkd.report.hparams import HParams
from serkd.search.dimension import Dimension
from serkd.search.replay import Replay

NAMES = ["plain", "../../outside", "a/b", "<script>", "..", "x" * 300]


def _play(boards: Boards, replay: Replay, **record: object) -> None:
    replay.apply({"time": 0.0, **record})
    boards({"time": 0.0, **record}, replay)


def _shown(folder: Path, kind: str) -> set[str]:
    return {path.name for path in (folder / "tensorboard" / kind).glob("*")}


def test_running_trials_are_shown_while_they_run_and_then_the_best(tmp_path: Path) -> None:
    replay = Replay()
    boards = Boards(tmp_path, replay)
    for number in range(25):
        _play(boards, replay, event="proposed", trial=number, params={})
        _play(boards, replay, event="started", trial=number)
        assert _shown(tmp_path, "running") == {f"trial-{number:05d}"}
        (tmp_path / "events" / f"trial-{number:05d}" / "events").touch()
        _play(boards, replay, event="finished", trial=number, value=number / 25)
    assert _shown(tmp_path, "running") == set()
    assert _shown(tmp_path, "best") == {f"trial-{number:05d}" for number in range(5, 25)}
    # what is linked can be read through the link
    assert (tmp_path / "tensorboard" / "best" / "trial-00024" / "events").is_file()


@pytest.mark.parametrize("name", NAMES)
def test_an_arm_is_one_folder_whatever_it_is_called(tmp_path: Path, name: str) -> None:
    folder, replay = tmp_path / "sweeps" / "it", Replay()
    boards = Boards(folder, replay)
    for number in range(2):
        _play(boards, replay, event="proposed", trial=number, params={}, label={"arm": name})
        _play(boards, replay, event="started", trial=number)
    (link,) = (folder / "tensorboard" / "arms").iterdir()
    assert link.resolve() == (folder / "events" / "trial-00000").resolve()
    assert {path.name for path in tmp_path.iterdir()} == {"sweeps"}
    # as it is seen where only files are kept
    link.unlink()
    Boards(folder, replay).link_all(replay)
    assert [link] == list((folder / "tensorboard" / "arms").iterdir())
    assert _shown(folder, "running") == {"trial-00000", "trial-00001"}


def test_hyper_parameters_are_written_at_the_start_and_again_with_the_value(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.hparams import plugin_data_pb2

    dimensions = {
        "distill.alpha": Dimension(float=(0.1, 0.9)),
        "units.num_clusters": Dimension(choice=([4], [4, 8])),
        "curriculum.start_share": Dimension(float=(0.2, 0.6)),
    }
    replay = Replay()
    rows = HParams(tmp_path / "tensorboard" / "hparams", dimensions, ("dev_uar",))
    boards = Boards(tmp_path, replay, rows)
    params = {"distill.alpha": 0.5, "units.num_clusters": [4, 8]}
    _play(boards, replay, event="proposed", trial=0, params=params)
    _play(boards, replay, event="started", trial=0)
    folder = tmp_path / "tensorboard" / "hparams" / "trial-00000"

    def read() -> tuple[dict[str, plugin_data_pb2.HParamsPluginData], dict[str, float]]:
        board = EventAccumulator(str(folder)).Reload()
        about = board.SummaryMetadata("_hparams_/session_start_info").plugin_data
        found = {}
        for tag in board.PluginTagToContent("hparams"):
            content = board.SummaryMetadata(tag).plugin_data.content
            found[tag] = plugin_data_pb2.HParamsPluginData.FromString(content)
        assert about.plugin_name == "hparams"
        return found, {tag: board.Scalars(tag)[-1].value for tag in board.Tags()["scalars"]}

    found, values = read()
    shown = found["_hparams_/session_start_info"].session_start_info.hparams
    assert {name: value.ListFields()[0][1] for name, value in shown.items()} == {
        "distill.alpha": 0.5,
        "units.num_clusters": "[4, 8]",
    }
    assert values == {}
    _play(boards, replay, event="finished", trial=0, value=0.75, values={"dev_uar": 0.75}, epochs=9)
    found, values = read()
    assert values == {"dev_uar": 0.75}
    assert "_hparams_/session_end_info" in found
