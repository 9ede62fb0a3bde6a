"""The examples in the docstrings are true."""

from __future__ import annotations

import doctest
import importlib

import pytest


@pytest.mark.parametrize("name", ["formats", "intervals", "metrics", "svg"])
def test_examples_hold(name):
    found = doctest.testmod(importlib.import_module(f"ferry.evaluation.{name}"))
    assert found.attempted > 0
    assert found.failed == 0
