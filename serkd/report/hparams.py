"""Rows of TensorBoard's HPARAMS tab: written when a trial starts, and again with its values."""

import math
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
from tensorboard.plugins.hparams import metadata
from tensorboard.plugins.hparams import summary_v2 as hp
from tensorboard.plugins.hparams.api_pb2 import STATUS_FAILURE, STATUS_SUCCESS
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData, SessionEndInfo
from tensorboard.summary.writer.record_writer import RecordWriter

from serkd.search.dimension import Dimension
from serkd.search.replay import Trial


class HParams:
    """One folder for each trial; keys that are inactive in it have no cell."""

    def __init__(
        self, folder: Path, dimensions: Mapping[str, Dimension], objective: Sequence[str]
    ) -> None:
        self.folder, self.dimensions, self.objective = folder, dimensions, objective

    def start(self, trial: Trial) -> None:
        """Its settings, without a value yet."""
        shown = {name: _cell(value, self.dimensions[name]) for name, value in self._params(trial)}
        start = hp.hparams_pb(shown, trial_id=f"trial-{trial.number:05d}")
        self._write(trial, [self._describe(), start], {})

    def end(self, trial: Trial) -> None:
        """How it ended, with the best values of dev."""
        values = trial.facts.get("values") or {}
        if not values and trial.value is not None:
            values = {self.objective[0]: trial.value}
        status = STATUS_FAILURE if trial.state == "failed" else STATUS_SUCCESS
        self._write(trial, [_describe_end(status)], values)

    def _params(self, trial: Trial) -> list[tuple[str, object]]:
        return [(name, trial.params[name]) for name in self.dimensions if name in trial.params]

    def _describe(self) -> Summary:
        """The columns; the same in every folder, since the tab reads any one of them."""
        columns = [
            hp.HParam(name, _domain(dimension)) for name, dimension in self.dimensions.items()
        ]
        return hp.hparams_config_pb(columns, [hp.Metric(name) for name in self.objective])

    def _write(self, trial: Trial, parts: Sequence[Summary], values: Mapping[str, float]) -> None:
        scalars = [
            Summary(value=[Summary.Value(tag=name, simple_value=value)])
            for name, value in values.items()
            if math.isfinite(value)
        ]
        now = time.time()
        events = [
            Event(wall_time=now, file_version="brain.Event:2"),
            *(Event(wall_time=now, step=0, summary=part) for part in parts),
            *(Event(wall_time=now, step=trial.epochs, summary=scalar) for scalar in scalars),
        ]
        folder = self.folder / f"trial-{trial.number:05d}"
        folder.mkdir(parents=True, exist_ok=True)
        # torch's writer starts a thread for each file: here there are two files for every trial
        name = f"events.out.tfevents.{time.time_ns():020d}.{os.getpid()}"
        with (folder / name).open("wb") as file:
            writer = RecordWriter(file)
            for event in events:
                writer.write(event.SerializeToString())


def _describe_end(status: int) -> Summary:
    """TensorBoard's own function for it needs TensorFlow."""
    content = HParamsPluginData(
        session_end_info=SessionEndInfo(status=status), version=metadata.PLUGIN_DATA_VERSION
    )
    plugin = SummaryMetadata.PluginData(
        plugin_name=metadata.PLUGIN_NAME, content=content.SerializeToString()
    )
    about = SummaryMetadata(plugin_data=plugin)
    return Summary(value=[Summary.Value(tag=metadata.SESSION_END_INFO_TAG, metadata=about)])


def _domain(dimension: Dimension) -> hp.Domain:
    if dimension.choice is not None:
        return hp.Discrete(sorted({str(value) for value in dimension.choice}))
    if dimension.int is not None:
        return hp.IntInterval(*dimension.int)
    assert dimension.float is not None
    return hp.RealInterval(*dimension.float)


def _cell(value: object, dimension: Dimension) -> str | float:
    """Choices as text, since those of one key may be of several types."""
    if dimension.choice is not None:
        return str(value)
    assert isinstance(value, int | float)
    return value
