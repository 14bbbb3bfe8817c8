"""The benchmark of extraction: that it runs, compares the same numbers, and refuses what it must.

No time is asserted.
"""

import json
import os
from pathlib import Path

import pytest

from serkd.bench.__main__ import main

_SHARED = Path(os.environ.get("SERKD_REAL_DATA", Path(__file__).resolve().parents[3] / "shared"))
_ENCODER = _SHARED / "models" / "whisper-tiny.en-encoder"


def test_serkd_and_the_plain_loop_compute_the_same(
    manifest_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "bench.json"
    options = ["--manifest", str(manifest_path), "--limit", "5", "--runs", "1", "--layers", "0,2"]
    assert main(["extract", *options, "--json", str(out)]) == 0
    report = json.loads(out.read_text())
    assert report["num_utterances"] == 5
    assert report["layers"] == [0, 2]
    assert [way["way"] for way in report["ways"]] == ["serkd", "loop"]
    assert all(way["median_s"] > 0 and way["peak_bytes"] > 10**8 for way in report["ways"])
    assert 0 < report["ways"][0]["relative"] <= 1e-3
    assert "| transformers, one by one |" in capsys.readouterr().out


@pytest.mark.real
@pytest.mark.skipif(not _ENCODER.is_dir(), reason="SERKD_REAL_DATA holds no real data")
def test_whispers_window_is_another_function(manifest_path: Path, tmp_path: Path) -> None:
    out = tmp_path / "bench.json"
    options = ["--backbone", str(_ENCODER), "--manifest", str(manifest_path), "--json", str(out)]
    assert main(["extract", *options, "--limit", "3", "--runs", "1"]) == 0
    ways = {way["way"]: way for way in json.loads(out.read_text())["ways"]}
    assert ways["serkd"]["relative"] <= 1e-3 < 0.1 < ways["window"]["relative"]


def test_wrong_options_are_refused(manifest_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["extract", "--manifest", str(manifest_path), "--layers", "3"]) == 2
    assert "--layers must be 0 to 2, got 3" in capsys.readouterr().err
    assert main(["extract", "--manifest", "/nowhere.parquet"]) == 2
    with pytest.raises(SystemExit):
        main(["nothing"])
