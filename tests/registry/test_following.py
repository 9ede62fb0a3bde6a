"""What `ferry serve` sees of a registry: an alias that moves, and a server that is away."""

from __future__ import annotations

import pytest
from ferry.common.errors import RetryableError, UserError
from ferry.networks import load_info
from ferry.registry.register import register
from ferry.serving import Metrics, ModelHolder, ServeSettings, origin_of
from mlflow import MlflowClient

from ..servers import free_ports
from ..serving.asking import ask, serving
from .conftest import make_model


@pytest.fixture
def versions(model, evaluation, uri, quick, tmp_path):
    """Two versions; `champion` is the first."""
    models = [model, make_model(tmp_path / "other", seed=1)]
    for one in models:
        register(one, evaluation, None, "my faces", tracking_uri=uri)
    MlflowClient(uri).set_registered_model_alias("my faces", "champion", "1")
    return models


def test_the_version_behind_an_alias_answers_and_the_next_one_takes_its_place(versions, uri):
    made = serving(place=origin_of("models:/my faces@champion", ServeSettings(), uri))
    digests = [load_info(one).digest for one in versions]
    for number in ("1", "2", "1"):
        MlflowClient(uri).set_registered_model_alias("my faces", "champion", number)
        made.holder.refresh()
        answer = ask(made.app, "GET", "/ready").json()
        digest = digests[int(number) - 1]
        assert (answer["name"], answer["version"], answer["digest"]) == ("my faces", number, digest)
    MlflowClient(uri).delete_registered_model_alias("my faces", "champion")
    made.holder.refresh()
    assert "ferry_model_refresh_failed 1.0" in made.metrics.text().decode()
    assert ask(made.app, "GET", "/ready").json()["version"] == "1"
    assert ask(made.app, "GET", "/v1/models/my%20faces").status_code == 200


def test_a_version_is_served_also_under_another_name(versions, uri):
    made = serving(place=origin_of("models:/my faces/2", ServeSettings(name="other"), uri))
    wanted = {"name": "other", "version": "2", "digest": load_info(versions[1]).digest}
    assert made.holder.current.to_json() == wanted


@pytest.mark.parametrize("address", ["models:/nobody@champion", "models:/my faces@chmpion", "models:/my faces/9"])
def test_what_is_not_in_the_registry_is_the_users_mistake(versions, uri, address):
    with pytest.raises(UserError, match="but got '"):
        serving(place=origin_of(address, ServeSettings(), uri))


def test_a_registry_that_is_away_is_no_mistake():
    (port,) = free_ports(1)
    origin = origin_of("models:/faces@champion", ServeSettings(), f"http://127.0.0.1:{port}")
    assert ModelHolder(origin, ServeSettings(), Metrics()).current is None
    with pytest.raises(RetryableError, match="no answer from"):
        origin.look()
