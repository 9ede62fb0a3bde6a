"""Killed and resumed equals uninterrupted bit for bit; two processes equal one: for each of Ferry's methods."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import numpy as np
import pytest

SCRIPT = Path(__file__).with_name("exactness.py")


def value(given):
    assert "value" in given, given.get("trace") or given
    return given["value"]


CASES = [
    "swav=2",  # prototypes still frozen, queue just full
    "swav=6",  # prototypes learn, queue in use
    "deepcluster=2",  # inside the first epoch, whose clusters must come from the checkpoint
    "deepcluster=6",
    "finetuning=5",  # inside the second epoch, with mixup
]
METHODS = ["swav", "deepcluster", "finetuning"]


@pytest.fixture(scope="module")
def drilled(preloaded):
    return json.loads(preloaded.run(SCRIPT, "drill", *CASES))


@pytest.fixture(scope="module")
def teams(preloaded):
    return json.loads(preloaded.run(SCRIPT, "team", *METHODS))


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_killed_in_a_step_and_resumed_equals_uninterrupted_bit_for_bit(drilled, case):
    name, step = case.split("=")
    assert drilled[case]["killed"]["signal"] == signal.SIGKILL
    whole, resumed = value(drilled[name]), value(drilled[case]["resumed"])
    assert resumed["resumed_from"] == int(step)
    assert whole["resumed_from"] is None
    assert resumed["state"] == whole["state"]
    assert resumed["history"] == whole["history"]


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
def test_two_processes_end_where_one_does(teams, name):
    one, many = value(teams[name]["one"]), [value(one) for one in teams[name]["many"]]
    assert many[0]["state"] == many[1]["state"]
    for tensor, values in one["tensors"].items():
        gap = np.abs(np.subtract(values, many[0]["tensors"][tensor])).max() if values else 0.0
        assert gap < 2e-3, tensor  # single precision: the order of sums differs
    assert [sorted(record) for record in one["history"]] == [sorted(record) for record in many[0]["history"]]
    for first, second in zip(one["history"], many[0]["history"], strict=True):
        for key in first.keys() - {"kind"}:
            assert second[key] == pytest.approx(first[key], rel=5e-3, abs=5e-3), (key, first["step"])


@pytest.mark.slow
def test_process_0_clusters_for_all(preloaded):
    """On processors that round differently the processes would else have other targets from there on."""
    first, second = (value(one) for one in json.loads(preloaded.run(SCRIPT, "clusters")))
    assert first["state"] == second["state"]
    assert first["error"][0] == "UserError"
    assert second["error"][0] == "RetryableError"
    assert "Process 0 could not go on" in second["error"][1]
