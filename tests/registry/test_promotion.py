from __future__ import annotations

import dataclasses
import json
import shutil
import threading
import time

import pytest
from ferry.common.errors import RetryableError, UserError
from ferry.networks import load_info
from ferry.registry import Registry, make_card, only_model
from ferry.registry.lock import PREFIX
from mlflow import MlflowClient

from .conftest import add_version, copy_store, make_evaluation, make_model


@pytest.fixture
def client(uri):
    return MlflowClient(uri)


@pytest.fixture(scope="module")
def complete(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    found = json.loads((make_evaluation(folder / "evaluation") / "metrics.json").read_text())
    return dataclasses.asdict(make_card("faces", load_info(make_model(folder / "adapted")), found))


@pytest.fixture
def card(complete):
    return dict(complete)


@pytest.fixture(scope="module")
def three(empty_store, store, complete, tmp_path_factory):
    """A copy of a store with three versions of one model, the last one being the challenger."""
    folder = tmp_path_factory.mktemp("versions")
    copy_store(empty_store, store)
    client = MlflowClient(f"sqlite:///{store}")
    for index in range(3):
        version = add_version(client, "faces", folder / f"v{index}", complete)
    client.set_registered_model_alias("faces", "challenger", version)
    return shutil.copy(store, folder / "three.db")


@pytest.fixture
def registry(uri, three, store):
    copy_store(three, store)
    return Registry(uri)


def aliases(client, name="faces"):
    return {alias: str(version) for alias, version in client.get_registered_model(name).aliases.items()}


def flags(client):
    return [tag for tag in client.get_registered_model("faces").tags if tag.startswith(PREFIX)]


def test_the_first_promotion_has_no_previous(registry, client):
    found = registry.promote("faces", "1")
    assert (found.version, found.aliases, found.uri) == ("1", ("champion",), "models:/faces/1")
    assert "ferry.promoted_at" in found.tags
    assert aliases(client) == {"champion": "1", "challenger": "3"}
    assert flags(client) == []


def test_a_promotion_moves_champion_and_previous_and_takes_the_challenger_away(registry, client):
    registry.promote("faces", "1")
    registry.promote("faces", "3")
    assert aliases(client) == {"champion": "3", "previous": "1"}
    registry.promote("faces", "2")
    assert aliases(client) == {"champion": "2", "previous": "3"}


def test_promoting_the_champion_changes_nothing(registry, client):
    registry.promote("faces", "1")
    registry.promote("faces", "2")
    registry.promote("faces", "2")
    assert aliases(client) == {"champion": "2", "previous": "1", "challenger": "3"}


@pytest.mark.parametrize("moment", ["set_registered_model_alias", "set_model_version_tag"])
def test_a_version_that_becomes_challenger_meanwhile_stays_it(registry, client, card, tmp_path, monkeypatch, moment):
    newer = add_version(client, "faces", tmp_path / "newer", card)
    change = getattr(registry._client, moment)

    def meanwhile(*given):
        change(*given)
        client.set_registered_model_alias("faces", "challenger", newer)

    monkeypatch.setattr(registry._client, moment, meanwhile)
    found = registry.promote("faces", "3")
    assert aliases(client) == {"champion": "3", "challenger": newer}
    assert found.aliases == ("champion",)


def test_a_version_may_be_named_by_its_alias(registry, client):
    assert registry.promote("faces", "challenger").version == "3"
    assert aliases(client) == {"champion": "3"}


def test_a_rollback_goes_back_and_a_second_one_undoes_it(registry, client):
    registry.promote("faces", "1")
    registry.promote("faces", "2")
    assert registry.rollback("faces").version == "1"
    assert aliases(client) == {"champion": "1", "previous": "2", "challenger": "3"}
    assert registry.rollback("faces").version == "2"
    assert aliases(client) == {"champion": "2", "previous": "1", "challenger": "3"}


def test_without_a_previous_champion_there_is_no_rollback(registry, client):
    registry.promote("faces", "1")
    with pytest.raises(UserError, match="Expected `previous`") as caught:
        registry.rollback("faces")
    assert "champion = 1" in str(caught.value)
    assert "promote a version instead" in str(caught.value)
    assert aliases(client) == {"champion": "1", "challenger": "3"}
    assert flags(client) == []


def test_a_promotion_that_was_cut_off_can_be_repeated(registry, client, monkeypatch):
    registry.promote("faces", "1")
    registry.promote("faces", "2")
    put = registry._client.set_registered_model_alias

    def cut(name, alias, version):
        if alias == "champion":
            raise KeyboardInterrupt
        put(name, alias, version)

    monkeypatch.setattr(registry._client, "set_registered_model_alias", cut)
    with pytest.raises(KeyboardInterrupt):
        registry.promote("faces", "3")
    assert aliases(client)["champion"] == "2"
    monkeypatch.undo()
    registry.promote("faces", "3")
    assert aliases(client) == {"champion": "3", "previous": "2"}


def test_an_unknown_version_is_refused_with_those_that_exist(registry, client):
    with pytest.raises(UserError, match="Expected `version` to be one of 3, 2, 1, challenger") as caught:
        registry.promote("faces", "33")
    assert "Did you mean '3'?" in str(caught.value)
    with pytest.raises(UserError, match="Did you mean 'challenger'"):
        registry.promote("faces", "chalenger")
    assert aliases(client) == {"challenger": "3"}


@pytest.mark.parametrize("call", ["versions", "rollback", "promote", "card"])
def test_an_unknown_name_is_refused_with_the_closest(registry, call):
    arguments = ["fces"] if call in ("versions", "rollback") else ["fces", "1"]
    with pytest.raises(
        UserError, match=r"Expected `model name` to be one of faces, but got 'fces'\. Did you mean 'faces'"
    ):
        getattr(registry, call)(*arguments)


def test_in_an_empty_registry_the_advice_is_to_register(uri):
    registry = Registry(uri)
    assert registry.names() == []
    with pytest.raises(UserError, match="ferry run clup"):
        registry.versions("faces")
    with pytest.raises(UserError, match="ferry run clup"):
        only_model(registry, "")


def test_a_version_without_a_complete_card_is_refused_and_what_is_missing_is_named(registry, client, card, tmp_path):
    del card["prohibited_use"]
    version = add_version(client, "faces", tmp_path / "poor", {**card, "limits": [" "]})
    with pytest.raises(UserError, match="Expected `model card` to be complete") as caught:
        registry.promote("faces", version)
    assert "prohibited_use, limits" in str(caught.value)
    assert "champion" not in aliases(client)


def test_a_version_without_any_card_is_refused(registry, client, tmp_path):
    version = add_version(client, "faces", tmp_path / "none", None)
    with pytest.raises(UserError, match=f"among the files of models:/faces/{version}"):
        registry.promote("faces", version)


def test_versions_of_others_are_not_shown_and_not_promoted(registry, client, tmp_path):
    (tmp_path / "theirs").mkdir()
    made = client.create_model_version("faces", source=(tmp_path / "theirs").as_uri())
    client.create_registered_model("theirs")
    client.create_model_version("theirs", source=(tmp_path / "theirs").as_uri())
    assert [version.version for version in registry.versions("faces")] == ["3", "2", "1"]
    assert registry.names() == ["faces"]
    with pytest.raises(UserError, match="Expected `version`"):
        registry.promote("faces", str(made.version))
    with pytest.raises(UserError, match="that Ferry registered"):
        registry.promote("theirs", "1")


def test_the_only_model_needs_no_name(registry, client, card, tmp_path):
    assert only_model(registry, "") == "faces"
    assert only_model(registry, "other") == "other"
    add_version(client, "second", tmp_path / "second", card)
    with pytest.raises(UserError, match="faces, second"):
        only_model(registry, "")


def test_of_two_promotions_at_once_one_comes_after_the_other(registry, client, uri):
    registry.promote("faces", "1")
    start, errors = threading.Barrier(2), []

    def work(version: str) -> None:
        try:
            own = Registry(uri)
            start.wait(30)
            own.promote("faces", version)
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(version,)) for version in ("2", "3")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert errors == []
    found = aliases(client)
    # Whoever was second found the other as champion: overlapping promotions would both leave 1 as previous.
    assert (found["champion"], found["previous"]) in (("2", "3"), ("3", "2"))
    assert flags(client) == []


def test_a_lock_that_is_held_is_a_reason_to_try_again(registry, client, uri):
    client.set_registered_model_tag("faces", PREFIX + "other", f"{time.time():.0f}")
    waiting = Registry(uri, patience=0.1)
    for call in (lambda: waiting.promote("faces", "1"), lambda: waiting.rollback("faces")):
        with pytest.raises(RetryableError, match="Expected `faces` to be free"):
            call()
    assert aliases(client) == {"challenger": "3"}


def test_an_abandoned_lock_is_taken_over(registry, client, uri):
    client.set_registered_model_tag("faces", PREFIX + "killed", f"{time.time() - 3600:.0f}")
    assert Registry(uri, patience=0.1).promote("faces", "1").aliases == ("champion",)
    assert flags(client) == []
