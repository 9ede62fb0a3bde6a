from __future__ import annotations

import base64
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import numpy as np
import pandas as pd
import pytest
from ferry.faces import EXPRESSIONS
from ferry.faces.decode import encode_png
from ferry.networks import load_info, load_source
from ferry.registry import make_card, pack
from mlflow.exceptions import MlflowException

from ..serving.asking import ask, serving
from .conftest import make_evaluation, make_model


@pytest.fixture(scope="module")
def packed(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("packed")
    model = make_model(folder / "adapted")
    evaluation = json.loads((make_evaluation(folder / "e") / "metrics.json").read_text())
    pack(model, folder / "mlflow", make_card("faces", load_info(model), evaluation))
    return folder


@pytest.fixture(scope="module")
def loaded(packed):
    import mlflow.pyfunc

    os.environ["MLFLOW_ALLOW_PICKLE_DESERIALIZATION"] = "false"
    try:
        yield mlflow.pyfunc.load_model(str(packed / "mlflow"))
    finally:
        del os.environ["MLFLOW_ALLOW_PICKLE_DESERIALIZATION"]


@pytest.fixture(scope="module")
def pictures() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (3, 16, 16), dtype=np.uint8)


@pytest.fixture(scope="module")
def files(pictures) -> list[bytes]:
    return [encode_png(picture) for picture in pictures]


@pytest.fixture(scope="module")
def wanted(packed, pictures) -> np.ndarray:
    """What the classifier itself says of these pixels."""
    return load_source(packed / "adapted").outputs(pictures[:, None]).probabilities().numpy()


def text(data: bytes) -> str:
    return base64.b64encode(data).decode()


FORMS = {
    "bytes": lambda pictures, files: files,
    "base64": lambda pictures, files: [text(file) for file in files],
    "base64 with line breaks": lambda pictures, files: [base64.encodebytes(file).decode() for file in files],
    "data URL": lambda pictures, files: [f"data:image/png;base64,{text(file)}" for file in files],
    "arrays": lambda pictures, files: list(pictures),
    "arrays [H, W, 1]": lambda pictures, files: list(pictures[..., None]),
    "arrays [1, H, W]": lambda pictures, files: list(pictures[:, None]),
    "arrays [H, W, 3]": lambda pictures, files: list(np.repeat(pictures[..., None], 3, axis=3)),
    "arrays [3, H, W]": lambda pictures, files: list(np.repeat(pictures[:, None], 3, axis=1)),
    "whole floats": lambda pictures, files: list(pictures.astype(np.float64)),
    "lists": lambda pictures, files: pictures.tolist(),
    "arrays of arrays": lambda pictures, files: [
        np.array([*map(list, one), None], dtype=object)[:-1] for one in pictures
    ],
    "different forms": lambda pictures, files: [files[0], text(files[1]), pictures[2]],
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_a_picture_gives_the_probabilities_of_the_classifier(loaded, pictures, files, wanted, form):
    cells = FORMS[form](pictures, files)
    for table in (pd.DataFrame({"image": cells}, index=[5, 1, 9]), {"image": cells}):
        found = loaded.predict(table)
        assert list(found.columns) == list(EXPRESSIONS)
        assert np.abs(found.to_numpy() - wanted).max() < 1e-6
        assert np.abs(found.to_numpy().sum(axis=1) - 1).max() < 1e-6


def test_ferry_serve_gives_the_very_same_probabilities(loaded, packed, files):
    app = serving(load_source(packed / "adapted")).app
    answer = ask(app, "POST", "/predict", json={"instances": [{"image": text(file)} for file in files]}).json()
    found = pd.DataFrame([one["probabilities"] for one in answer["predictions"]])
    pd.testing.assert_frame_equal(found, loaded.predict({"image": files}), check_exact=True)


def test_one_text_alone_is_one_picture(loaded, files, wanted):
    for table in ({"image": [text(files[1])]}, {"image": text(files[1])}):
        assert np.abs(loaded.predict(table).to_numpy() - wanted[1:2]).max() < 1e-6


def test_a_batch_of_pixels_as_ferry_decodes_them_is_taken(loaded, pictures, wanted):
    for batch in (pictures, pictures[:, None]):
        assert np.abs(loaded.predict({"image": batch}).to_numpy() - wanted).max() < 1e-6


def test_a_picture_of_another_size_is_resized(loaded, pictures):
    large = np.kron(pictures[0], np.ones((4, 4), np.uint8))
    assert loaded.predict({"image": [large, encode_png(large)]}).nunique().max() == 1


def test_no_pictures_give_a_table_without_rows(loaded):
    found = loaded.predict(pd.DataFrame({"image": []}))
    assert (list(found.columns), len(found)) == (list(EXPRESSIONS), 0)


@pytest.mark.parametrize(
    ("cell", "part"),
    [
        ("not base64!", "text that is not base64"),
        (text(b"no picture"), "not an image"),
        (b"", ""),
        (None, "a value of type NoneType"),
        (3.5, "a value of type float"),
        (np.random.default_rng(0).random((16, 16)), "whole numbers from 0 to 255"),
        ([[0, 256], [1, 2]], "from 0 to 256"),
        ([[-1, 2], [1, 2]], "from -1 to 2"),
        ([[1, 2], [3]], "rows of different lengths"),
        ([[float("nan")]], "whole numbers"),
        ([["a"]], "pixels of type"),
        ([], "shape"),
        (np.zeros((16, 16, 4), np.uint8), "pixels of shape [16, 16, 4]"),
        (np.zeros(16, np.uint8), "pixels of shape [16]"),
    ],
)
def test_what_is_no_picture_is_refused_with_its_row(loaded, files, cell, part):
    with pytest.raises(MlflowException, match="Expected `image` in row 1 to be a picture") as caught:
        loaded.predict(pd.DataFrame({"image": pd.Series([files[0], cell], dtype=object)}))
    assert part in str(caught.value)
    assert caught.value.get_http_status_code() == 400


def test_another_column_is_refused_by_the_signature(loaded, files):
    with pytest.raises(MlflowException, match="image"):
        loaded.predict(pd.DataFrame({"picture": files}))


def test_the_signature_names_the_classes_and_the_example_fits_it(loaded):
    signature = loaded.metadata.signature
    assert signature.inputs.input_names() == ["image"]
    assert signature.outputs.input_names() == list(EXPRESSIONS)
    assert loaded.predict(loaded.input_example).shape == (1, len(EXPRESSIONS))
    assert loaded.metadata.metadata["classes"] == list(EXPRESSIONS)


class Server:
    """``mlflow models serve`` in a process group of its own, on a free port."""

    def __init__(self, model: str, log: Path, **variables: str) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.log = log
        command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", model, "--env-manager", "local"]
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        self.process = subprocess.Popen(
            [*command, "--host", "127.0.0.1", "--port", str(self.port), "--workers", "1"],
            env={**os.environ, **variables, "PATH": path},
            stdout=log.open("wb"),
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def wait(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if self.process.poll() is not None:
                break
            try:
                if httpx.get(f"http://127.0.0.1:{self.port}/ping", timeout=2).status_code == 200:
                    return
            except httpx.HTTPError:
                time.sleep(0.5)
        pytest.fail(f"the server did not start:\n{self.log.read_text()[-3000:]}")

    def ask(self, body) -> httpx.Response:
        return httpx.post(f"http://127.0.0.1:{self.port}/invocations", json=body, timeout=60)

    def stop(self) -> None:
        for name in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.killpg(self.process.pid, name)
                self.process.wait(15)
            except ProcessLookupError:
                return
            except subprocess.TimeoutExpired:
                continue


@pytest.mark.integration
@pytest.mark.timeout(300)
def test_a_served_champion_answers_requests_over_http(packed, pictures, files, wanted, uri, tmp_path):
    from ferry.registry import Registry
    from ferry.registry.register import register

    register(packed / "adapted", packed / "e", None, "faces", tracking_uri=uri)
    Registry(uri).promote("faces", "challenger")
    server = Server("models:/faces@champion", tmp_path / "serve.log", MLFLOW_TRACKING_URI=uri, OMP_NUM_THREADS="1")
    coded = [text(file) for file in files]
    bodies = {
        "split": {"dataframe_split": {"columns": ["image"], "data": [[one] for one in coded]}},
        "records": {"dataframe_records": [{"image": one} for one in coded]},
        "inputs": {"inputs": {"image": coded}},
        "bare inputs": {"inputs": coded},
        "instances": {"instances": [{"image": one} for one in coded]},
        "lists in split": {"dataframe_split": {"columns": ["image"], "data": [[one.tolist()] for one in pictures]}},
        "lists in inputs": {"inputs": {"image": pictures.tolist()}},
        "bare lists in inputs": {"inputs": pictures.tolist()},
        "lists in records": {"dataframe_records": [{"image": one.tolist()} for one in pictures]},
    }
    try:
        server.wait(200)
        for name, body in bodies.items():
            answer = server.ask(body)
            assert answer.status_code == 200, (name, answer.text)
            found = pd.DataFrame(answer.json()["predictions"])
            assert list(found.columns) == list(EXPRESSIONS), name
            assert np.abs(found.to_numpy() - wanted).max() < 1e-6, name
        answer = server.ask({"inputs": {"image": [text(b"no picture")]}})
        assert answer.status_code == 400
        assert "Expected `image` in row 0 to be a picture" in answer.json()["message"]
        assert "Traceback" not in answer.text
    finally:
        server.stop()
