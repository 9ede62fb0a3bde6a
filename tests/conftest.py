"""What all tests share."""

from __future__ import annotations

import gc
import os
import signal

import pytest

from .preloaded import Preloaded

if "PYTEST_XDIST_WORKER" in os.environ:  # as many processes as cores: one thread for each; read when torch is imported
    os.environ.setdefault("OMP_NUM_THREADS", "1")

gc.disable()  # until all is imported and collected: none of it is garbage


def pytest_configure():
    # A shell that starts the tests in the background ignores Ctrl-C for them; tests send it on purpose.
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    for item in items:  # parallel processes are given whole files, so that a module's fixtures are made once
        if item.get_closest_marker("xdist_group") is None:
            item.add_marker(pytest.mark.xdist_group(item.path.stem))


def pytest_collection_finish():
    gc.freeze()  # a million objects of imported modules need no visit from here on
    gc.enable()


@pytest.fixture(autouse=True, scope="session")
def _no_disk_flushes():
    """What a power cut leaves is nothing that a test could see, and a thousand flushes take seconds."""
    patch = pytest.MonkeyPatch()
    patch.setattr(os, "fsync", lambda handle: None)
    yield
    patch.undo()


@pytest.fixture(scope="session")
def preloaded():
    """A process with torch that runs scripts; the tests that use it are the group of that name."""
    with Preloaded() as process:
        yield process
