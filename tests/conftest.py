"""What all tests share."""

from __future__ import annotations

import gc
import os
import signal
import sqlite3
from contextlib import suppress
from importlib.metadata import version

import pytest

from . import engine as engines
from .preloaded import Preloaded

if "PYTEST_XDIST_WORKER" in os.environ:  # as many processes as cores: one thread for each; read when torch is imported
    os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # MLflow asks when it is imported

# Tests for which something costly is made once stay together in one of the parallel processes.
TOGETHER = {
    "empty_store": (
        "tests/registry/",
        "tests/training/test_nesting.py",
        "tests/training/test_runs.py",
        "tests/training/test_tracking.py",
    ),
    "preloaded": (
        "tests/pretraining/test_exactness.py",
        "tests/pretraining/test_sinkhorn.py",
        "tests/training/test_checkpoint.py",
        "tests/training/test_distributed.py",
        "tests/training/test_resume.py",
    ),
}

gc.disable()  # until all is imported and collected: none of it is garbage


def pytest_configure():
    # A shell that starts the tests in the background ignores Ctrl-C for them; tests send it on purpose.
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Gives parallel processes whole files, so that what is made once for a file is made once."""
    from xdist.scheduler import LoadFileScheduling

    class Scheduling(LoadFileScheduling):
        def _split_scope(self, nodeid):
            file = super()._split_scope(nodeid)
            return next((name for name, files in TOGETHER.items() if file.startswith(files)), file)

    return Scheduling(config, log)


def pytest_collection_finish():
    gc.freeze()  # a million objects of imported modules need no visit from here on
    gc.enable()


@pytest.fixture(autouse=True, scope="session")
def _own_cache(tmp_path_factory):
    """Pixels that an earlier version of the code decoded must not be found again."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FERRY_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True, scope="session")
def _no_disk_flushes():
    """What a power cut leaves is nothing that a test could see, and a thousand flushes take seconds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda handle: None)
        yield


@pytest.fixture
def one_thread():
    """Torch with one thread: sums then have the same order everywhere."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory):
    """The file of a local MLflow store, to be copied: to make its tables takes seconds."""
    from ferry.training.runs import connect
    from sqlalchemy import Engine, event

    @event.listens_for(Engine, "connect")
    def _do_not_wait_for_the_disk(connection, _):
        with suppress(sqlite3.DatabaseError):  # a damaged file, which is MLflow's to find
            connection.execute("PRAGMA synchronous = OFF")

    path = tmp_path_factory.mktemp("store") / "mlflow.db"
    connect(f"sqlite:///{path}")
    return path


@pytest.fixture(scope="session")
def preloaded():
    """A process with torch that runs scripts."""
    with Preloaded() as process:
        yield process


@pytest.fixture(scope="session")
def engine(tmp_path_factory):
    """A container engine."""
    try:
        with engines.Engine(tmp_path_factory.mktemp("engine")) as started:
            yield started
    except engines.Missing as reason:
        pytest.skip(str(reason))


@pytest.fixture(scope="session")
def images(engine, tmp_path_factory):
    """Images by kind: slim and cpu, built from the repository on a base made here."""
    ready = os.environ.get("FERRY_TEST_IMAGES")  # the registry and folder of images that are built already
    if ready:
        return {kind: f"{ready}/ferry-{kind}:{version('ferry-fer')}" for kind in ("slim", "cpu")}
    folder = tmp_path_factory.mktemp("images")
    try:
        engines.make_base(engine, folder)
        return engines.build(engine, folder, ("slim", "cpu"), "ferry-test")
    except engines.Missing as reason:
        pytest.skip(str(reason))
