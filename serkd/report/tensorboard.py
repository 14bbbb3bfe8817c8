"""TensorBoard events of experiments and trials."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from serkd.events import Observer


class TensorBoard(Observer):
    """Writes each epoch's numbers below `folder`, as ``stage/name`` over epochs.

    Opening it starts the folder anew: stored stages replay their epochs, so nothing is lost.
    """

    def __init__(self, folder: Path) -> None:
        from torch.utils.tensorboard import SummaryWriter

        folder.mkdir(parents=True, exist_ok=True)
        for path in folder.rglob("*"):
            if path.is_file():  # and not the folder: another process may be writing to it too
                path.unlink(missing_ok=True)
        self.folder, self.projected = folder, list[str]()
        self.writer = SummaryWriter(str(folder))

    def epoch(self, stage: str, record: Mapping[str, Any]) -> None:
        for name, value in record.items():
            if name != "epoch" and math.isfinite(value):
                self.writer.add_scalar(f"{stage}/{name}", value, record["epoch"])
        self.writer.flush()

    def image(self, name: str, figure: Figure) -> None:
        """A picture at step 0."""
        from matplotlib.backends.backend_agg import FigureCanvasAgg

        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        pixels = np.asarray(canvas.buffer_rgba())[..., :3]
        self.writer.add_image(name, pixels, dataformats="HWC")

    def scalars(self, values: Mapping[str, float]) -> None:
        """Final numbers, at step 0."""
        for name, value in values.items():
            self.writer.add_scalar(name, value, 0)

    def embeddings(
        self,
        name: str,
        embeddings: np.ndarray,
        header: Sequence[str],
        about: Sequence[Sequence[str]],
    ) -> None:
        """Points (U, E) of the PROJECTOR tab, and under `header` what each is of."""
        rows = [header, *about]
        lines = ["\t".join(" ".join(text.split()) for text in row) for row in rows]
        # text, too: four decimals are a third of the bytes
        points = ["\t".join(f"{value:.4f}" for value in point) for point in embeddings]
        shown = {
            "tensor_name": name,
            "tensor_path": self._write(f"{name}_points.tsv", points),
            "metadata_path": self._write(f"{name}_about.tsv", lines),
        }
        fields = " ".join(f'{field}: "{value}"' for field, value in shown.items())
        self.projected.append(f"embeddings {{ {fields} }}")
        self._write("projector_config.pbtxt", self.projected)

    def _write(self, name: str, lines: Sequence[str]) -> str:
        # the writer's own method prints to standard output when a folder is used again
        (self.folder / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
        return name

    def close(self) -> None:
        """Flush and close the event file."""
        self.writer.close()
