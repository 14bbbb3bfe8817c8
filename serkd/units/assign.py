"""Frames to units: one id per frame, for all scales of a layer at once."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from threading import Lock
from typing import Any

import faiss
import numpy as np

from serkd.features.batching import Columns
from serkd.features.encoders import Encode
from serkd.features.parts import Rows
from serkd.gender import num_units
from serkd.units.nearest import Codebook, Nearest, bfloat16_pays, sieve_pays


@dataclass(frozen=True)
class UnitEncoder:
    """Builds the encoder of stored frames to units.

    `books` maps an output's name to the codebooks of a scale: one for all utterances, or one a
    gender. `genders` maps an utterance to its slot; its units are cluster + K · slot, or the
    cluster where there are no genders. Outputs are (F,) int16, or int32 where ids need it.
    `has_bfloat16` is for `sieve_pays`: measured here, so that all who build it do the same.
    """

    books: Mapping[str, Sequence[Codebook]]
    genders: Mapping[str, int] | None
    has_bfloat16: bool = field(default_factory=bfloat16_pays)

    def build(self) -> Encode:
        scales = {
            name: _Scale(books, self.genders, self.has_bfloat16)
            for name, books in self.books.items()
        }
        # a GPU's index serves one thread at a time
        turn: AbstractContextManager[Any] = Lock() if faiss.get_num_gpus() else nullcontext()

        def encode(rows: Rows) -> list[Columns]:
            with turn:
                found = {name: scale.assign(rows) for name, scale in scales.items()}
            return [{name: units[row] for name, units in found.items()} for row in range(len(rows))]

        return encode


class _Scale:
    """The codebooks of one scale."""

    def __init__(
        self, books: Sequence[Codebook], genders: Mapping[str, int] | None, has_bfloat16: bool
    ) -> None:
        self.num_clusters = len(books[0].centroids)
        use_sieve = sieve_pays(self.num_clusters, has_bfloat16)
        self.books = [Nearest(b.centroids, b.prices, use_sieve=use_sieve) for b in books]
        self.genders = genders
        most = num_units(self.num_clusters, "no" if genders is None else "known")
        self.dtype = np.int16 if most <= np.iinfo(np.int16).max else np.int32

    def assign(self, rows: Rows) -> list[np.ndarray]:
        """(F,) for the (F, D) of each row."""
        slots = [0 if self.genders is None else self.genders[utt_id] for utt_id, _ in rows]
        units = [np.zeros(0, self.dtype)] * len(rows)
        for slot in set(slots):
            mine = [row for row, of in enumerate(slots) if of == slot]
            nearest = self.books[slot if len(self.books) > 1 else 0]
            arrays = [rows[row][1] for row in mine]
            ends = np.cumsum([len(array) for array in arrays])
            found = np.split(nearest.assign(np.concatenate(arrays)), ends[:-1])
            for row, clusters in zip(mine, found, strict=True):
                units[row] = (clusters + self.num_clusters * slot).astype(self.dtype)
        return units
