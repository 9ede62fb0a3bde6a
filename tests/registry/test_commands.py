from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import typer
from ferry.common.errors import UserError
from ferry.networks import load_info
from ferry.pipelines.cli import models, predict
from ferry.registry import make_card
from ferry.registry.register import register
from mlflow import MlflowClient
from PIL import Image
from typer.testing import CliRunner

from .conftest import add_version, make_evaluation, make_model


@pytest.fixture
def run(uri, monkeypatch, tmp_path):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setenv("FERRY_HOME", str(tmp_path / "ferry-home"))
    app = typer.Typer()
    models.register(app)
    predict.register(app)

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
    return card


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


@pytest.mark.parametrize(
    ("changes", "missing"),
    [
        ({"results": {}}, "results"),
        ({"per_class": {"a": {}}}, "per_class.anger, per_class.disgust"),
        ({"data": {"evaluated on": "140 labelled faces"}}, "data.adapted to"),
        ({"prohibited_use": [], "limits": [" "]}, "prohibited_use, limits"),
        ({"results": {"CluP": {"accuracy_measured": False}}}, "results.CluP.label_free"),
    ],
)
def test_promote_refuses_an_incomplete_card_by_name_of_what_is_missing(run, uri, versions, tmp_path, changes, missing):
    add_version(MlflowClient(uri), "faces", tmp_path / "poor", {**versions, **changes})
    with pytest.raises(UserError, match="Expected `model card` to be complete before a promotion") as caught:
        run("promote", "3")
    assert f"nothing under {missing}" in str(caught.value)
    assert {entry["version"]: entry["aliases"] for entry in json.loads(run("models", "--json"))}["3"] == []


def test_promote_takes_a_model_without_a_holdout_whose_card_says_so(run, uri, versions, model, tmp_path):
    found = json.loads((make_evaluation(tmp_path / "e", labelled=False) / "metrics.json").read_text())
    card = dataclasses.asdict(make_card("faces", load_info(model), found))
    add_version(MlflowClient(uri), "faces", tmp_path / "unlabelled", card)
    assert run("promote", "3") == "faces version 3 is champion: models:/faces@champion\n"


def test_predict_uses_what_was_promoted(run, uri, evaluation, quick, tmp_path):
    """Two versions that predict differently; each command reads the alias anew."""
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (48, 48), dtype=np.uint8)).save(tmp_path / "face.png")
    face, said = str(tmp_path / "face.png"), {}
    for version in ("1", "2"):
        folder = make_model(tmp_path / f"model-{version}", seed=int(version))
        register(folder, evaluation, None, "faces", tracking_uri=uri)
        (said[version],) = json.loads(run("predict", str(folder), face, "--json"))
    assert said["1"]["probabilities"] != said["2"]["probabilities"]

    def champion():
        (found,) = json.loads(run("predict", "models:/faces@champion", face, "--json"))
        return found

    for version in ("1", "2"):
        run("promote", version)
        assert champion() == said[version]
    run("rollback")
    assert champion() == said["1"]
    (challenger,) = json.loads(run("predict", "models:/faces/2", face, "--json"))
    assert challenger == said["2"]


def test_an_empty_registry_is_no_error(run):
    assert run("models") == ""
    assert json.loads(run("models", "--json")) == []


def test_a_wrong_version_reaches_the_caller_as_a_user_error(run, versions):
    with pytest.raises(UserError, match="Expected `version` to be one of 2, 1"):
        run("promote", "5")
