"""The benchmarks of clustering, on little data: all ways run, and what they say adds up."""

import json
from pathlib import Path

import pytest

from serkd.bench.__main__ import main


def test_kmeans_says_time_memory_and_inertia_of_each_way(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ways = ["--ways", "serkd,faiss", "--num-clusters", "4,16", "--frames", "3000", "--runs", "1"]
    assert main(["kmeans", *ways, "--json", str(tmp_path / "o.json")]) == 0
    report = json.loads((tmp_path / "o.json").read_text())
    assert report["ways"].keys() == {"serkd", "faiss"}
    for way in report["ways"].values():
        assert way["median_s"] > 0
        assert way["peak_bytes"] > 1e8
        # 400 centres at a distance of about sqrt(2 x 768) from each other, noise of 0.8
        assert 0.64 * 768 < way["inertia"]["16"] < way["inertia"]["4"] < 1.64 * 768
    table = capsys.readouterr().out.splitlines()
    assert sum(line.startswith("|") for line in table) == 4
    assert main(["kmeans", "--ways", "nobody"]) == 2
    assert "--ways must be of serkd, faiss" in capsys.readouterr().err


def test_streaming_is_compared_with_reading_and_with_memory(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    few = ["--frames", "36000", "--num-clusters", "64", "--passes", "4", "--runs", "1"]
    assert main(["stream", *few, "--json", str(tmp_path / "o.json")]) == 0
    ways = json.loads((tmp_path / "o.json").read_text())["ways"]
    assert ways.keys() == {"pyarrow", "faiss", "whole", "share"}
    assert ways["share"]["limit_bytes"] < 36_000 * 768 * 2 / 2
    assert ways["share"]["peak_bytes"] > ways["share"]["idle_bytes"] > 0
    assert all(ways[way]["steady_s"] > 0 for way in ("faiss", "whole", "share"))
    assert "serkd, a share of them fits" in capsys.readouterr().out
