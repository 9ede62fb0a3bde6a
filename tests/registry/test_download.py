from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from ferry.common.errors import UserError
from ferry.networks import load_classifier, load_info, load_source
from ferry.registry.register import register
from ferry.training.runs import download_model, version_of
from mlflow import MlflowClient


@pytest.fixture
def registered(model, evaluation, uri, quick):
    """A model with one version, the challenger, without MLflow's own files."""
    return register(model, evaluation, None, "faces", tracking_uri=uri)


def stored(uri) -> Path:
    return next((Path(uri.removeprefix("sqlite:///")).parent / "mlartifacts").rglob("model.safetensors"))


@pytest.mark.parametrize("reference", ["models:/faces@challenger", "models:/faces/1"])
def test_a_registered_model_comes_back_bit_for_bit(registered, model, uri, reference, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    folder = download_model(reference)
    one, other = load_classifier(model).state_dict(), load_classifier(folder).state_dict()
    assert one.keys() == other.keys()
    assert all(torch.equal(one[key], other[key]) for key in one)
    assert load_source(folder).digest == load_info(model).digest
    assert load_info(folder).lineage == load_info(model).lineage


def test_a_model_is_downloaded_once_and_the_registry_keeps_its_own_files(registered, uri, tmp_path):
    folder = download_model(registered.uri, uri)
    assert folder.is_relative_to(tmp_path / "cache")
    shutil.rmtree(stored(uri).parent)
    assert download_model(registered.uri, uri) == folder
    shutil.rmtree(folder)
    with pytest.raises(UserError, match=r"register the model again|was not found|No such"):
        download_model(registered.uri, uri)
    assert not folder.exists()


def test_files_that_were_changed_are_not_taken_for_the_model(registered, model, uri):
    info = stored(uri).with_name("model.json")
    info.write_text(info.read_text().replace(load_info(model).digest, "0" * 64))
    with pytest.raises(UserError, match="The files were changed"):
        download_model(registered.uri, uri)


def test_a_missing_alias_is_refused_with_those_that_exist(registered, uri):
    MlflowClient(uri).set_registered_model_alias("faces", "shadow", "1")
    with pytest.raises(
        UserError, match="Expected `alias` to be one of challenger, shadow, but got 'chalenger'"
    ) as caught:
        download_model("models:/faces@chalenger", uri)
    assert "Did you mean 'challenger'" in str(caught.value)


def test_a_model_without_aliases_says_so(registered, uri):
    MlflowClient(uri).delete_registered_model_alias("faces", "challenger")
    with pytest.raises(UserError, match="It has none"):
        download_model("models:/faces@champion", uri)


def test_an_unknown_version_or_name_is_refused_with_those_that_exist(registered, uri):
    with pytest.raises(UserError, match="Expected `version` to be one of 1, but got '7'"):
        download_model("models:/faces/7", uri)
    with pytest.raises(UserError, match="Expected `model name` to be one of faces, but got 'face'"):
        download_model("models:/face@champion", uri)


def test_a_model_of_somebody_else_is_refused(uri, tmp_path):
    client = MlflowClient(uri)
    client.create_registered_model("theirs")
    client.create_model_version("theirs", source=tmp_path.as_uri())
    with pytest.raises(UserError, match="registered by Ferry"):
        download_model("models:/theirs/1", uri)
    client.set_model_version_tag("theirs", "1", "ferry.model_digest", "../../etc")
    with pytest.raises(UserError, match="registered by Ferry"):
        download_model("models:/theirs/1", uri)


@pytest.mark.parametrize(
    "text", ["models:/", "models:/faces", "models:/faces/latest", "models:/a/b/1", "models:/a@b/1"]
)
def test_a_malformed_address_is_refused_with_the_right_form(text):
    with pytest.raises(UserError, match="models:/NAME@ALIAS or models:/NAME/VERSION"):
        download_model(text, "sqlite:///unused.db")
    with pytest.raises(UserError, match="models:/NAME@ALIAS or models:/NAME/VERSION"):
        version_of(text, "sqlite:///unused.db")
    assert not Path("unused.db").exists()
