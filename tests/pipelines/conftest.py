from __future__ import annotations

import logging
import os

import pytest
from ferry.pipelines.runner import Home


@pytest.fixture(autouse=True)
def _own_surroundings(monkeypatch, tmp_path):
    """No home, store or bucket of whoever runs the tests."""
    for name in ("FERRY_HOME", "MLFLOW_TRACKING_URI", "MLFLOW_RUN_ID", "FERRY_CACHE", "FERRY_IMAGE_REGISTRY"):
        monkeypatch.delenv(name, raising=False)
    for name in [name for name in os.environ if name.startswith(("S3_", "MINIO_", "AWS_"))]:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def home(tmp_path) -> Home:
    return Home.at(tmp_path / "home")


@pytest.fixture
def untracked(monkeypatch):
    """Runs without MLflow: its import alone takes seconds."""
    from ferry.pipelines.runner import local

    monkeypatch.setattr(local, "open_tracking", lambda home, record: {"tracking_uri": "", "run_id": ""})


@pytest.fixture
def ferry(monkeypatch, capsys):
    """Runs the command in this process; returns exit code, standard output and standard error."""
    from ferry.pipelines import cli

    def call(*words):
        monkeypatch.setattr("sys.argv", ["ferry", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        shown = capsys.readouterr()
        return ended.value.code or 0, shown.out, shown.err

    logger = logging.getLogger("ferry")
    before = logger.handlers[:], logger.level, logger.propagate
    environment = dict(os.environ)
    yield call
    logger.handlers[:], logger.level, logger.propagate = before
    for name in set(os.environ) - set(environment):  # the command sets defaults for MLflow
        del os.environ[name]
