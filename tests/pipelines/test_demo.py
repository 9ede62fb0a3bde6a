"""The demo as the README's first command runs it: what it reaches, what it leaves behind, what memory it takes."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = [pytest.mark.integration, pytest.mark.timeout(1800)]

FERRY = [sys.executable, "-c", "from ferry.pipelines.cli import main; main()"]
GIBIBYTE = 1024**3


def memory_of(root: int) -> int:
    """Bytes of a process and all below it; a page that several share counts once (Linux)."""
    children: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(path.read_text().rpartition(")")[2].split()[1])
        except OSError:  # it ended meanwhile
            continue
        children.setdefault(parent, []).append(int(path.parent.name))
    total, waiting = 0, [root]
    while waiting:
        process = waiting.pop()
        waiting += children.get(process, [])
        try:
            lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
        except OSError:
            continue
        total += sum(1024 * int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return total


@pytest.fixture(scope="module")
def shown(tmp_path_factory):
    """The demo's JSON and the most memory that its processes had together."""
    home = tmp_path_factory.mktemp("demo")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("FERRY_", "MLFLOW_"))}
    most = 0
    with open(home / "out.json", "wb") as out, open(home / "lines.txt", "wb") as lines:
        command = [*FERRY, "demo", "--home", str(home / "home"), "--json"]
        process = subprocess.Popen(command, stdout=out, stderr=lines, env=kept)
        while process.poll() is None:
            most = max(most, memory_of(process.pid))
            time.sleep(0.5)
    assert process.returncode == 0, (home / "lines.txt").read_text()
    return json.loads((home / "out.json").read_text()), most


def test_the_adapted_model_beats_its_source_and_adabn(shown):
    metrics = shown[0]["clup"]["metrics"]
    source, adabn, adapted = (metrics[name]["mean_class_accuracy"] for name in ("source", "adabn", "adapted"))
    assert adapted > source + 0.08
    assert adapted > adabn + 0.03
    assert {row["n"] for row in metrics.values()} == {1500}
    for row in metrics.values():
        assert all(math.isfinite(value) for value in row.values() if isinstance(value, float))


def test_it_leaves_a_report_a_registered_model_and_short_hand_overs(shown):
    record = shown[0]["clup"]
    assert record["status"] == shown[0]["source"]["status"] == "done"
    assert Path(record["report"]).read_text().startswith("<!doctype html>")
    assert record["model"]["name"] == "ferry-demo"
    assert 0 < sum(shown[0][run]["overhead_seconds"] for run in ("source", "clup")) < 60


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_it_stays_below_three_gibibytes(shown):
    assert 0 < shown[1] < 3 * GIBIBYTE
