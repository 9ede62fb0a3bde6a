"""Every route, every refusal, and the numbers that are counted."""

from __future__ import annotations

import asyncio
import io
import json
import re
import struct
import zlib

import numpy as np
import pytest
from ferry.faces import EXPRESSIONS
from ferry.faces.decode import encode_png
from ferry.networks import Architecture, build_classifier, load_source, save_model
from ferry.pipelines.api import predict
from ferry.serving import bodies
from ferry.serving.app import ROUTES
from PIL import Image

from .asking import CLASSES, Double, Held, ask, client, instances, pixels, serving, text

MODEL = {"name": "faces", "version": "1", "digest": "d" * 64}


@pytest.fixture(scope="module")
def app():
    return serving().app


def png(value: int) -> bytes:
    return encode_png(np.full((8, 8), value, np.uint8))


def bomb() -> bytes:
    """A PNG of 9,000 x 8,000 pixels in some hundred bytes."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", 9_000, 8_000, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    )


def test_a_loaded_model_is_ready_and_says_what_it_is(app):
    answer = ask(app, "GET", "/ready")
    assert (answer.status_code, answer.json()) == (200, {**MODEL, "classes": list(CLASSES)})
    assert ask(app, "GET", "/health").status_code == 200
    assert ask(app, "GET", "/v1/models").json() == {"models": ["faces"]}
    assert ask(app, "GET", "/v1/models/faces").json() == {"name": "faces", "ready": True}


def test_without_a_model_the_process_lives_but_is_not_ready_and_says_why():
    app = serving(loaded=False).app
    assert ask(app, "GET", "/health").status_code == 200
    for method, path in (("GET", "/ready"), ("GET", "/v1/models/faces"), ("POST", "/v1/models/faces:predict")):
        answer = ask(app, method, path)
        assert answer.status_code == 503
        assert answer.json()["error"] == "Expected `model` to be loaded, but got: the model is being loaded"
        assert int(answer.headers["retry-after"]) > 0


def test_the_list_of_endpoints_is_that_of_the_routes(app):
    found = {f"{(route.methods - {'HEAD'}).copy().pop()} {route.path}" for route in app.routes}
    assert set(ask(app, "GET", "/").json()["endpoints"]) == found == set(ROUTES)


FORMS = {
    "base64": lambda value: text(png(value)),
    "a data URL": lambda value: f"data:image/png;base64,{text(png(value))}",
    "pixels": pixels,
    "image: base64": lambda value: {"image": text(png(value))},
    "image: b64": lambda value: {"image": {"b64": text(png(value))}},
    "image: pixels": lambda value: {"image": pixels(value)},
    "b64": lambda value: {"b64": text(png(value))},
}


@pytest.mark.parametrize("path", ["/predict", "/v1/models/faces:predict"])
@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_an_instance_is_understood(app, path, form):
    answer = ask(app, "POST", path, json=instances(*(FORMS[form](value) for value in (2, 0, 1))))
    assert answer.status_code == 200, answer.text
    assert answer.json()["model"] == MODEL
    found = answer.json()["predictions"]
    assert [one["label"] for one in found] == ["happiness", "anger", "fear"]
    for one in found:
        assert tuple(one["probabilities"]) == CLASSES
        assert max(one["probabilities"], key=one["probabilities"].get) == one["label"]
        assert sum(one["probabilities"].values()) == pytest.approx(1)


@pytest.mark.parametrize("kind", ["image/png", "image/jpeg", "application/octet-stream", "IMAGE/PNG; q=1"])
def test_a_picture_may_be_the_body(app, kind):
    answer = ask(app, "POST", "/predict", content=png(2), headers={"Content-Type": kind})
    assert [one["label"] for one in answer.json()["predictions"]] == ["happiness"]


def test_no_instances_give_no_predictions(app):
    assert ask(app, "POST", "/predict", json=instances()).json() == {"predictions": [], "model": MODEL}


def test_kserve_clients_need_not_name_the_type_of_their_body(app):
    assert ask(app, "POST", "/v1/models/faces:predict", content=json.dumps(instances(pixels(1)))).status_code == 200


@pytest.mark.parametrize(
    ("body", "shown"),
    [
        ("", "Expected `body` to be JSON"),
        ("{", "Expected `body` to be JSON"),
        (b"\xff\xfe\xfd", "Expected `body` to be JSON"),
        ("[" * 100_000, "lists in too many lists"),
        ("[1]", "Expected `body` to be an object with the list instances, but got 'list'"),
        ('{"inputs": []}', "but got 'keys inputs'"),
        ('{"instances": {}}', "Expected `body` to be an object with the list instances"),
    ],
)
def test_a_body_without_instances_is_refused(app, body, shown):
    answer = ask(app, "POST", "/predict", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 400
    assert shown in answer.json()["error"]


@pytest.mark.parametrize(
    ("cell", "shown"),
    [
        ("not base64!", "text that is not base64"),
        ({"image": text(b"no picture")}, "not an image"),
        ({"image": text(b"")}, "empty file"),
        ({"image": text(bomb())}, "too large: 9000x8000 pixels, more than"),
        ({"image": None}, "a value of type NoneType"),
        ({"picture": "x"}, "only picture"),
        ({}, "only no keys"),
        ({"image": {"b64": 3}}, 'an object without text under "b64"'),
        ({"image": {"url": "file:///etc/passwd"}}, 'an object without text under "b64"'),
        (3, "a value of type int"),
        ([[0.5, 0.25]], "whole numbers from 0 to 255"),
        ([[1, 2], [3]], "rows of different lengths"),
        ([[10**30]], "pixels of type object"),
    ],
)
def test_what_is_no_picture_is_refused_with_its_place(app, cell, shown):
    answer = ask(app, "POST", "/predict", json=instances(pixels(1), cell))
    assert answer.status_code == 400
    assert answer.json()["error"].startswith("Expected `image` in instance 1 to be a picture, but got ")
    assert shown in answer.json()["error"]


def test_a_body_that_is_no_picture_is_refused(app):
    cut = encode_png(np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8))[:2000]
    for content, shown in ((b"no", "not an image"), (bomb(), "too large"), (cut, "broken image")):
        answer = ask(app, "POST", "/predict", content=content, headers={"Content-Type": "image/png"})
        assert answer.status_code == 400
        assert f"Expected `image` in the body to be a picture, but got {shown}" in answer.json()["error"]


def test_another_media_type_is_refused(app):
    for headers in ({}, {"Content-Type": "text/plain"}, {"Content-Type": "multipart/form-data; boundary=x"}):
        answer = ask(app, "POST", "/predict", content=png(1), headers=headers)
        assert answer.status_code == 415
        assert "Expected `Content-Type` to be application/json" in answer.json()["error"]


def test_too_many_instances_are_refused():
    app = serving(max_instances=2).app
    assert ask(app, "POST", "/predict", json=instances(*[pixels(1)] * 2)).status_code == 200
    answer = ask(app, "POST", "/predict", json=instances(*[pixels(1)] * 3))
    assert answer.status_code == 413
    assert "Expected `instances` to be at most 2, but got 3" in answer.json()["error"]


def test_a_body_of_the_limit_is_taken_and_a_larger_one_is_refused_unread():
    picture = png(1)
    app = serving(max_bytes=len(picture)).app
    headers = {"Content-Type": "image/png"}
    assert ask(app, "POST", "/predict", content=picture, headers=headers).status_code == 200
    taken = []

    async def endless():
        for _ in range(1000):
            taken.append(1)
            yield bytes(len(picture) // 2 + 1)

    answer = ask(app, "POST", "/predict", content=endless(), headers=headers)
    assert (answer.status_code, len(taken)) == (413, 2), "read until the limit and no further"
    taken.clear()
    answer = ask(app, "POST", "/predict", content=endless(), headers={**headers, "Content-Length": "99999"})
    assert (answer.status_code, len(taken)) == (413, 0)
    assert f"at most {len(picture):,} bytes, but got 99,999 bytes" in answer.json()["error"]


def test_a_body_that_does_not_come_ends_the_request(monkeypatch):
    monkeypatch.setattr(bodies, "_BODY_SECONDS", 0.05)

    async def stuck():
        yield b"x"
        await asyncio.sleep(20)

    answer = ask(serving().app, "POST", "/predict", content=stuck(), headers={"Content-Type": "image/png"})
    assert answer.status_code == 408


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", "/predict", "POST"),
        ("PUT", "/predict", "POST"),
        ("POST", "/health", "GET"),
        ("POST", "/v1/models/faces", "GET"),
        ("GET", "/v1/models/faces:predict", "POST"),
    ],
)
def test_a_wrong_method_is_refused(app, method, path, allowed):
    answer = ask(app, method, path)
    assert answer.status_code == 405
    assert allowed in answer.headers["allow"]
    assert f"but got '{method}'" in answer.json()["error"]


def test_an_unknown_path_or_model_is_refused(app):
    answer = ask(app, "GET", "/nowhere")
    assert answer.status_code == 404
    assert "Expected `path` to be one of the server's, but got '/nowhere'" in answer.json()["error"]
    for method, path in (("GET", "/v1/models/face"), ("POST", "/v1/models/face:predict")):
        answer = ask(app, method, path)
        assert answer.status_code == 404
        assert answer.json()["error"].endswith("but got 'face'. Did you mean 'faces'?")


def broken(error):
    def work(pixels):
        if pixels.any():  # not the blank picture of the start
            raise error

    return work


def test_what_the_model_does_wrong_is_not_the_clients_fault_and_shows_no_path(caplog):
    from ferry.common.errors import UserError

    app = serving(Double(work=broken(UserError("Expected `/secret/model.onnx` to be finite")))).app
    answer = ask(app, "POST", "/predict", json=instances(pixels(1)))
    assert answer.status_code == 500
    assert "secret" not in answer.text
    assert "/secret/model.onnx" in caplog.text


def test_a_fault_of_the_server_is_told_in_json_and_the_next_request_is_answered():
    source = Double(work=broken(RuntimeError("secret")))
    app = serving(source).app
    answer = ask(app, "POST", "/predict", json=instances(pixels(1)))
    assert answer.status_code == 500
    assert "secret" not in answer.text
    assert answer.json()["error"].startswith("Expected `server` to answer")
    source.work = lambda pixels: None
    assert ask(app, "POST", "/predict", json=instances(pixels(1))).status_code == 200
    assert re.search(r'ferry_requests_total\{code="500",route="/predict"\} 1.0', ask(app, "GET", "/metrics").text)


def test_predictions_are_those_of_ferry_predict_to_the_last_bit(tmp_path):
    architecture = Architecture("resnet10", width=8, input_size=24, channels=3)
    save_model(build_classifier(architecture, EXPRESSIONS, seed=3), tmp_path / "m", method="test", lineage={})
    files = []
    for index, (shape, suffix) in enumerate([((40, 33, 3), "png"), ((24, 24), "png"), ((90, 70, 3), "jpg")]):
        picture = np.random.default_rng(index).integers(0, 256, shape, dtype=np.uint8)
        files.append(tmp_path / f"{index}.{suffix}")
        Image.fromarray(picture).save(files[-1])
    app = serving(load_source(tmp_path / "m")).app
    wanted = predict(tmp_path / "m", files)
    answer = ask(app, "POST", "/predict", json=instances(*(text(file.read_bytes()) for file in files))).json()
    assert answer["predictions"] == [{"label": one.label, "probabilities": one.probabilities} for one in wanted]
    (alone,) = predict(tmp_path / "m", files[2])
    headers = {"Content-Type": "image/jpeg"}
    answer = ask(app, "POST", "/predict", content=files[2].read_bytes(), headers=headers).json()
    assert answer["predictions"] == [{"label": alone.label, "probabilities": alone.probabilities}]


def test_the_device_reaches_the_model():
    source = Double()
    ask(serving(source, device="cpu").app, "POST", "/predict", json=instances(pixels(1)))
    assert source.devices == ["cpu", "cpu"], "the blank picture and the request"


def value(page: str, series: str) -> float:
    return float(re.search(rf"^{re.escape(series)} (\S+)$", page, re.MULTILINE)[1])


def test_metrics_count_requests_pictures_and_classes():
    app = serving().app
    ask(app, "POST", "/predict", json=instances(pixels(2), pixels(2), pixels(1)))
    ask(app, "POST", "/predict", json=instances("?"))
    ask(app, "GET", "/nowhere/1")
    ask(app, "GET", "/nowhere/2")
    answer = ask(app, "GET", "/metrics")
    assert answer.headers["content-type"].startswith("text/plain")
    page = answer.text
    assert value(page, 'ferry_requests_total{code="200",route="/predict"}') == 1
    assert value(page, 'ferry_requests_total{code="400",route="/predict"}') == 1
    assert value(page, 'ferry_requests_total{code="404",route="other"}') == 2
    assert value(page, 'ferry_request_seconds_count{route="/predict"}') == 2
    assert value(page, "ferry_images_total") == 3
    assert value(page, 'ferry_predictions_total{label="happiness"}') == 2
    assert value(page, 'ferry_predictions_total{label="fear"}') == 1
    assert value(page, "ferry_confidence_count") == 3
    chance = float(np.exp(2) / (np.exp(2) + 2))
    assert value(page, "ferry_confidence_sum") == pytest.approx(3 * chance, abs=1e-5)
    assert value(page, "ferry_requests_in_flight") == 0
    assert value(page, "ferry_model_refresh_failed") == 0
    assert value(page, f'ferry_model_info{{digest="{"d" * 64}",name="faces",version="1"}}') == 1
    other = ask(serving().app, "GET", "/metrics").text
    assert value(other, "ferry_images_total") == 0, "every application has numbers of its own"


def test_one_request_is_at_work_some_wait_the_next_is_refused_and_the_server_answers_meanwhile():
    made = serving(max_waiting=2)
    held = made.holder.current.source.work = Held()

    async def go():
        async with client(made.app) as one:

            def send():
                return asyncio.create_task(one.post("/predict", json=instances(pixels(1))))

            taken = [send() for _ in range(3)]
            await asyncio.to_thread(held.begun.wait, 20)
            refused = await asyncio.wait_for(send(), 5)
            assert refused.status_code == 503
            assert "Expected `requests waiting` to be at most 2" in refused.json()["error"]
            assert int(refused.headers["retry-after"]) > 0
            assert (await one.get("/health")).status_code == 200
            assert value((await one.get("/metrics")).text, "ferry_requests_in_flight") == 3
            assert not any(task.done() for task in taken)
            held.go.set()
            assert [(await task).status_code for task in taken] == [200] * 3
            assert (await send()).status_code == 200, "a place is free again"

    asyncio.run(go())
    assert held.at_once == 1


def test_a_request_whose_client_went_away_while_it_waited_is_not_worked_on():
    made = serving()
    source, sent = made.holder.current.source, []
    held = source.work = Held()

    async def go():
        left, asked = asyncio.Event(), asyncio.Event()

        async def receive():
            if not asked.is_set():
                asked.set()
                return {"type": "http.request", "body": png(1), "more_body": False}
            await left.wait()
            return {"type": "http.disconnect"}

        async def send(message):
            sent.append(message)

        headers = [(b"content-type", b"image/png")]
        scope = {"type": "http", "method": "POST", "path": "/predict", "query_string": b"", "headers": headers}
        async with client(made.app) as one:
            first = asyncio.create_task(one.post("/predict", json=instances(pixels(1))))
            await asyncio.to_thread(held.begun.wait, 20)
            second = asyncio.create_task(made.app(scope, receive, send))
            await asyncio.wait_for(asked.wait(), 20)
            await asyncio.sleep(0.02)
            left.set()
            held.go.set()
            assert (await first).status_code == 200
            await asyncio.wait_for(second, 20)

    asyncio.run(go())
    assert sent[0]["status"] == 499
    assert len(source.devices) == 2, "the blank picture and the first request"


def test_no_part_of_a_picture_is_logged(caplog):
    caplog.set_level("DEBUG")
    app, picture = serving().app, text(png(1))
    ask(app, "POST", "/predict", json=instances(picture))
    ask(app, "POST", "/predict", json=instances(picture + "?"))
    buffer = io.BytesIO()
    Image.new("F", (8, 8)).save(buffer, "TIFF")
    ask(app, "POST", "/predict", json=instances(text(buffer.getvalue())))
    assert picture[:20] not in caplog.text
    assert text(buffer.getvalue())[:20] not in caplog.text
