from __future__ import annotations

import dataclasses
import json

import pytest
import typer
from ferry.common.errors import UserError
from ferry.networks import load_info
from ferry.pipelines.cli import models
from ferry.registry import make_card
from mlflow import MlflowClient
from typer.testing import CliRunner

from .conftest import add_version


@pytest.fixture
def run(uri, monkeypatch, tmp_path):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setenv("FERRY_HOME", str(tmp_path / "ferry-home"))
    app = typer.Typer()
    models.register(app)

    def call(*arguments: str) -> str:
        result = CliRunner().invoke(app, list(arguments), catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return result.stdout

    return call


@pytest.fixture
def versions(uri, model, evaluation, tmp_path):
    found = json.loads((evaluation / "metrics.json").read_text())
    card = dataclasses.asdict(make_card("faces", load_info(model), found))
    tags = {"ferry.method": "clup", "ferry.verdict": "better"}
    for index in range(2):
        add_version(MlflowClient(uri), "faces", tmp_path / f"v{index}", card, **tags)


def test_promote_and_rollback_move_what_models_shows(run, versions):
    assert run("promote", "1") == "faces version 1 is champion: models:/faces@champion\n"
    run("promote", "2", "--name", "faces")
    shown = {entry["version"]: entry["aliases"] for entry in json.loads(run("models", "--json"))}
    assert shown == {"2": ["champion"], "1": ["previous"]}
    assert run("rollback") == "faces version 1 is champion again: models:/faces@champion\n"
    table = run("models", "--name", "faces")
    line = next(line for line in table.splitlines() if "champion" in line)
    assert line.split()[:5] == ["faces", "1", "champion", "clup", "better"]
    assert json.loads(run("rollback", "--json"))["uri"] == "models:/faces/2"


def test_an_empty_registry_is_no_error(run):
    assert run("models") == ""
    assert json.loads(run("models", "--json")) == []


def test_a_wrong_version_reaches_the_caller_as_a_user_error(run, versions):
    with pytest.raises(UserError, match="Expected `version` to be one of 2, 1"):
        run("promote", "5")
