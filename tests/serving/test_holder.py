"""The model that answers: the first one, its successors, and what happens when there is none to be had."""

from __future__ import annotations

import logging
import threading
import time

import pytest
import torch
from ferry.common.errors import RetryableError, UserError
from ferry.faces import EXPRESSIONS
from ferry.networks import Architecture, FerrySource, build_classifier
from ferry.serving import Metrics, ModelHolder, ServeSettings, holder, origin_of

from .asking import Double, Held, Place, ask, instances, pixels, serving

AWAY = RetryableError("Expected `MLFLOW_TRACKING_URI` to name a server that answers, but got no answer.")


def failed(made) -> float:
    text = made.metrics.text().decode()
    return float(next(line.split()[1] for line in text.splitlines() if line.startswith("ferry_model_refresh_failed ")))


def until(condition) -> None:
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


def test_an_alias_that_moves_swaps_the_model_and_its_numbers(caplog):
    caplog.set_level(logging.INFO)
    made = serving(place=Place({"1": Double("1" * 64), "2": Double("2" * 64)}))
    made.holder.refresh()
    assert ask(made.app, "GET", "/ready").json()["version"] == "1"
    made.place.version = "2"
    made.holder.refresh()
    answer = ask(made.app, "POST", "/predict", json=instances(pixels(1)))
    assert answer.json()["model"] == {"name": "faces", "version": "2", "digest": "2" * 64}
    page = made.metrics.text().decode()
    assert [line for line in page.splitlines() if line.startswith("ferry_model_info{")] == [
        f'ferry_model_info{{digest="{"2" * 64}",name="faces",version="2"}} 1.0'
    ]
    assert [line for line in caplog.messages if "answers" in line and "version 2" in line]
    assert len([one for one in caplog.records if one.name == "ferry"]) == 2, "one line for each model"


@pytest.mark.parametrize("kind", ["away", "damaged", "does not compute", "a fault"])
def test_a_failed_refresh_keeps_the_model_tells_it_once_and_ends_with_the_next_good_one(caplog, kind):
    def wrong(pixels):
        raise UserError("Expected `model outputs` to be finite")

    bad = {"damaged": UserError("damaged"), "does not compute": Double(work=wrong), "a fault": KeyError("x")}
    made = serving(place=Place({"1": Double(), "2": bad.get(kind, Double()), "3": Double("3" * 64)}))
    made.place.version = "2"
    if kind == "away":
        made.place.away = AWAY
    caplog.clear()
    for _ in range(3):
        made.holder.refresh()
    assert failed(made) == 1
    assert ask(made.app, "GET", "/ready").json()["version"] == "1"
    assert ask(made.app, "POST", "/predict", json=instances(pixels(1))).status_code == 200
    assert len([line for line in caplog.messages if "the refresh failed" in line]) == 1
    made.place.version, made.place.away = "3", None
    made.holder.refresh()
    assert failed(made) == 0
    assert ask(made.app, "GET", "/ready").json()["version"] == "3"


def test_a_model_is_only_loaded_when_the_alias_has_moved():
    made = serving()
    loaded = made.holder.current
    made.place.models = {}
    made.holder.refresh()
    assert (made.holder.current, failed(made)) == (loaded, 0)


def test_the_old_model_answers_while_the_new_one_is_loaded():
    slow = Held()
    place = Place({"1": Double(), "2": Double("2" * 64)})
    made = serving(place=place)
    load, place.version = place.load, "2"
    place.load = lambda revision: (slow(None), load(revision))[1]
    thread = threading.Thread(target=made.holder.refresh)
    thread.start()
    slow.begun.wait(20)
    assert ask(made.app, "POST", "/predict", json=instances(pixels(1))).json()["model"]["version"] == "1"
    slow.go.set()
    thread.join(20)
    assert ask(made.app, "POST", "/predict", json=instances(pixels(1))).json()["model"]["version"] == "2"


def test_a_registry_that_is_away_at_the_start_is_asked_again_and_the_reason_is_shown(monkeypatch, caplog):
    monkeypatch.setattr(holder, "_FIRST_PAUSE", 0.001)
    monkeypatch.setattr(holder, "_LONGEST_PAUSE", 0.01)
    place = Place({"1": Double()})
    place.away = AWAY
    made = serving(place=place, loaded=False)
    gave_up = []
    made.holder.start(lambda: gave_up.append(1))
    until(lambda: place.looks > 3)
    answer = ask(made.app, "GET", "/ready")
    assert answer.status_code == 503
    assert "but got no answer" in answer.json()["error"]
    place.away = ConnectionResetError("reset")  # of the system, named by no library
    until(lambda: "reset" in made.holder.reason)
    place.away = None
    until(lambda: made.holder.current is not None)
    assert ask(made.app, "GET", "/ready").status_code == 200
    made.holder.stop()
    assert (gave_up, made.holder.failure) == ([], None)
    assert len([line for line in caplog.messages if "no model yet" in line]) == 2, "one line for each reason"


@pytest.mark.parametrize("error", [UserError("no such model"), FileNotFoundError(2, "none", "x"), KeyError("a fault")])
def test_what_no_retry_helps_ends_the_start(error):
    made = serving(place=Place({"1": error}), loaded=False)
    ended = threading.Event()
    made.holder.start(ended.set)
    assert ended.wait(20)
    made.holder.stop()
    wanted = UserError if isinstance(error, OSError) else type(error)
    assert isinstance(made.holder.failure, wanted)
    assert made.place.looks == 1


@pytest.mark.parametrize(("moves", "refresh", "again"), [(True, 0.005, True), (True, 0, False), (False, 0.005, False)])
def test_only_an_alias_is_looked_at_again_and_only_where_it_is_wanted(moves, refresh, again):
    place = Place({"1": Double()})
    place.moves = moves
    made = serving(place=place, loaded=False, refresh=refresh)
    made.holder.start(lambda: None)
    until(lambda: made.holder.current is not None)
    if again:
        until(lambda: place.looks > 3)
    else:
        time.sleep(0.05)
        assert place.looks == 1
    made.holder.stop()
    looks = place.looks
    time.sleep(0.03)
    assert place.looks == looks, "nobody looks after the end"


def test_weights_are_put_in_place_once():
    model = build_classifier(Architecture("resnet10", width=8, input_size=16), EXPRESSIONS)
    made = serving(place=Place({"1": FerrySource(model)}))
    kernels = [weight for weight in made.holder.current.source.classifier.parameters() if weight.ndim == 4]
    assert all(weight.is_contiguous(memory_format=torch.channels_last) for weight in kernels)


@pytest.mark.parametrize(
    ("model", "given", "name", "moves"),
    [
        ("models:/my faces@champion", "", "my faces", True),
        ("models:/faces/3", "", "faces", False),
        ("models:/faces@champion", "other", "other", True),
        ("some/model.onnx", "", "model", False),
        (".", "other", "other", False),
    ],
)
def test_the_name_is_the_registrys_or_the_files_unless_it_is_given(model, given, name, moves):
    origin = origin_of(model, ServeSettings(name=given))
    assert (origin.name, origin.moves) == (name, moves)


def test_a_folder_gives_its_name_and_a_wrong_path_is_the_users_mistake(tmp_path):
    place = tmp_path / "nice.model"
    place.mkdir()
    assert origin_of(f"{place}/", ServeSettings()).name == "nice.model"
    lost = ModelHolder(origin_of(str(tmp_path / "lost"), ServeSettings()), ServeSettings(), Metrics())
    with pytest.raises(UserError, match="Expected `source` to be an existing file or folder"):
        lost.load_first()
    with pytest.raises(UserError, match="Expected `name` to be printable, without / and :"):
        origin_of(str(tmp_path / "a:b"), ServeSettings())


@pytest.mark.parametrize(
    ("field", "wrong"),
    [
        ("port", 70_000),
        ("port", -1),
        ("max_bytes", 0),
        ("max_instances", 0),
        ("max_waiting", -1),
        ("refresh", -1.0),
        ("refresh", float("nan")),
        ("grace", float("inf")),
        ("name", "a/b"),
    ],
)
def test_wrong_settings_are_named(field, wrong):
    with pytest.raises(UserError, match=f"Expected `{field}` to be "):
        ServeSettings(**{field: wrong})
