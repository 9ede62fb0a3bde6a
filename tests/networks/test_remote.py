"""Source models through an object store: what goes up comes down the same."""

from __future__ import annotations

import json

import pytest
from ferry.common.errors import UserError
from ferry.common.stage import StageRecord
from ferry.faces.addresses import ObjectStoreConfig
from ferry.faces.object_store import ObjectStore
from ferry.networks import fetch_model, load_source, push_model, save_model
from ferry.networks.stage import import_model_stage
from ferry.pipelines.snapshots import state_of

from .. import servers
from .test_foreign import describe_picker, picker


@pytest.fixture(scope="module")
def variables():
    with servers.moto_bucket("models") as found:
        yield found


@pytest.fixture(autouse=True)
def store(variables, monkeypatch):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    return ObjectStore(ObjectStoreConfig.from_environment(variables))


@pytest.fixture
def own(classifier, tmp_path):
    save_model(classifier.eval(), tmp_path / "own", method="supervised", lineage={})
    return tmp_path / "own"


@pytest.fixture
def onnx(tmp_path):
    (tmp_path / "given").mkdir()
    model = picker(tmp_path / "given" / "fer.onnx")
    describe_picker(model)
    return model


def keys(store, prefix):
    return [item.key for item in store.list("models", prefix)]


def test_a_model_of_ferry_goes_up_and_comes_down_the_same(own, store, tmp_path):
    report = push_model(own, "s3://models/own/one")
    assert (report.uri, report.sent, report.kept) == ("s3://models/own/one", 2, 0)
    assert push_model(own, "s3://models/own/one").sent == 0  # the same call again
    there = fetch_model(report.uri, tmp_path / "down")
    assert load_source(there).digest == load_source(own).digest


def test_a_foreign_model_goes_with_its_sidecar_whichever_is_named(onnx, store, tmp_path):
    for given, prefix in ((onnx, "onnx/one"), (onnx.with_name("fer.onnx.json"), "onnx/two")):
        report = push_model(given, f"s3://models/{prefix}")
        assert report.uri == f"s3://models/{prefix}/fer.onnx"
        assert keys(store, prefix) == [f"{prefix}/fer.onnx", f"{prefix}/fer.onnx.json"]
        there = fetch_model(report.uri, tmp_path / prefix)
        assert there.name == "fer.onnx"
        assert load_source(there).digest == load_source(onnx).digest


@pytest.mark.parametrize("name", ["own", "onnx"])
def test_a_run_takes_it_from_there(request, name, tmp_path):
    model = request.getfixturevalue(name)
    uri = push_model(model, f"s3://models/run/{name}").uri
    found = import_model_stage(uri, tmp_path / "model", StageRecord("import-model"))
    assert found["source"] == uri
    assert found["digest"] == load_source(model).digest


@pytest.mark.slow
@pytest.mark.parametrize("beside", ["fer-2026{:04}", "fer2{:04}"])
def test_models_beside_it_do_not_matter(own, store, tmp_path, beside):
    (tmp_path / "x").write_text("x")
    place = beside[3]
    for number in range(60):
        for name in ("a", "b"):
            store.upload(tmp_path / "x", "models", f"{place}/{beside.format(number)}/{name}")
    uri = push_model(own, f"s3://models/{place}/fer").uri
    assert load_source(fetch_model(uri, tmp_path / "down")).digest == load_source(own).digest


def test_the_state_of_a_file_is_that_of_its_sidecar_too(onnx, store):
    uri = push_model(onnx, "s3://models/state").uri
    before = state_of(uri)
    assert state_of(uri) == before
    sidecar = onnx.with_name("fer.onnx.json")
    sidecar.write_text(json.dumps({**json.loads(sidecar.read_text()), "output": "probabilities"}))
    store.upload(sidecar, "models", "state/fer.onnx.json")
    assert state_of(uri) != before


def test_what_is_no_model_never_goes_up(tmp_path, store):
    (tmp_path / "notes.md").write_text("x")
    with pytest.raises(UserError, match=r"notes\.md"):
        push_model(tmp_path / "notes.md", "s3://models/none")
    assert keys(store, "none") == []


@pytest.mark.parametrize(
    ("objects", "message"),
    [
        ([], "with no files"),
        (["many-2026/x", "many2/x"], "with no files"),
        ([f"many/{number}" for number in range(101)], "more than a hundred files"),
        (["many/../x"], "plain names"),
    ],
)
def test_a_prefix_that_holds_no_model_is_named(objects, message, tmp_path, monkeypatch):
    from ferry.faces.addresses import ObjectInfo

    class Listing:
        find = ObjectStore.find

        def list(self, bucket, prefix):
            return iter([ObjectInfo(key, 1, "e") for key in sorted(objects) if key.startswith(prefix)])

        def save(self, bucket, item, path):
            raise AssertionError("nothing is to be downloaded")

    with pytest.raises(UserError, match=message):
        fetch_model("s3://models/many", tmp_path / "down", Listing())
