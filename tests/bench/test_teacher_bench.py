"""The benchmark of training: that it runs, that both ways learn the same, what it refuses.

No time is asserted.
"""

import json
from pathlib import Path

import numpy as np
import pytest

from serkd.bench.__main__ import main
from serkd.bench.speech import read_durations, spread
from serkd.bench.steps import padding_shares

SMALL = ["--backbone", "tiny-hubert", "--utterances", "6", "--batch-size", "3", "--epochs", "1"]


def test_both_ways_have_the_same_losses_and_all_numbers_are_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, table = tmp_path / "bench.json", tmp_path / "clips.csv"
    table.write_text("name,seconds\n" + "".join(f"{i},{0.4 + 0.1 * i}\n" for i in range(12)))
    options = [*SMALL, "--durations", f"{table}:seconds", "--steps", "4", "--layers", "0,1"]
    assert main(["teacher", *options, "--json", str(out)]) == 0
    report = json.loads(out.read_text())
    assert report["num_utterances"] == 6
    assert report["mean_s"] == pytest.approx(0.95, abs=0.1)
    assert [one["frozen_layers"] for one in report["prefix"]] == [0, 1]
    for one in report["prefix"]:
        losses = one["losses"]
        assert len(losses["stored"]) == len(losses["recomputed"]) == 4
        np.testing.assert_allclose(losses["stored"], losses["recomputed"], atol=1e-4)
        assert one["largest_loss_gap"] <= 1e-4
        assert losses["stored"][0] != losses["stored"][-1]
        assert min(one["stored_s"], one["recomputed_s"], one["ratio"]) > 0
    assert set(report["padding"]) == {"3", "8", "16", "32", "64"}
    assert min(report["batches"]["seconds"].values()) > 0
    assert "| frozen layers |" in capsys.readouterr().out


def test_it_takes_the_audio_of_a_corpus(manifest_path: Path, tmp_path: Path) -> None:
    out = tmp_path / "bench.json"
    options = [*SMALL, "--manifest", str(manifest_path), "--steps", "1"]
    assert main(["teacher", *options, "--json", str(out)]) == 0
    report = json.loads(out.read_text())
    assert report["num_durations"] == 48
    assert [one["frozen_layers"] for one in report["prefix"]] == [0]  # L - 2 is 0 too


def test_padding_is_counted_as_by_hand_and_least_in_similar_lengths() -> None:
    assert padding_shares(np.array([10, 5]), 2) == {"bucketed": 0.25, "random": 0.25}
    lengths = np.random.default_rng(0).integers(20, 400, 500)
    shares = padding_shares(lengths, 16)
    assert 0 < shares["bucketed"] < 0.1 < 0.3 < shares["random"]


def test_a_sample_has_the_durations_of_all() -> None:
    drawn = np.random.default_rng(0).permutation(np.linspace(1, 9, 801))
    assert spread(drawn, 4).tolist() == [2.0, 4.0, 6.0, 8.0]
    assert spread(drawn, 801).tolist() == sorted(drawn)


def test_wrong_options_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = tmp_path / "clips.csv"
    table.write_text("name,seconds\na,1.5\nb,-1\n")
    for options, problem in (
        (["--backbone", "tiny-hubert", "--layers", "3"], "--layers must be 0 to 2, got 3"),
        (["--steps", "0"], "must be 1 or more"),
        (["--backbone", "tiny-hubert", "--durations", "/no.csv:s"], "must be CSV:COLUMN"),
        (["--backbone", "tiny-hubert", "--durations", f"{table}:length"], "has name, seconds"),
        (["--backbone", "tiny-hubert", "--durations", f"{table}:seconds"], "must be positive"),
    ):
        assert main(["teacher", *options]) == 2
        assert problem in capsys.readouterr().err
    table.write_text("seconds\n0.01\n99\n")
    assert read_durations(f"{table}:seconds").tolist() == [0.3, 30.0]
