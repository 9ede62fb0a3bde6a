"""The state of a place is another one whenever an import could give another result, and the same otherwise."""

from __future__ import annotations

import os
import shutil

import pytest
from ferry.common.errors import RetryableError, UserError
from ferry.pipelines import snapshots
from ferry.pipelines.snapshots import code_state, state_of
from minio import Minio
from mlflow import MlflowClient

from .. import servers


@pytest.fixture
def folder(tmp_path):
    place = tmp_path / "faces"
    (place / "happy").mkdir(parents=True)
    for name in ("a.jpg", "happy/b.jpg"):
        (place / name).write_text(name)
        os.utime(place / name, (1_700_000_000, 1_700_000_000))
    return place


def changed_time(place):
    os.utime(place / "a.jpg", (1_700_000_001, 1_700_000_001))


@pytest.mark.parametrize(
    "change",
    [
        lambda place: (place / "c.jpg").write_text("c"),
        lambda place: (place / "a.jpg").unlink(),
        lambda place: (place / "a.jpg").rename(place / "z.jpg"),
        lambda place: (place / "happy").rename(place / "sad"),
        lambda place: (place / "a.jpg").write_text("longer than before"),
        changed_time,
    ],
    ids=["new", "gone", "renamed", "moved", "size", "time"],
)
def test_a_folder_whose_files_change_has_another_state(folder, change):
    before = state_of(str(folder))
    assert len(before) == 64
    assert state_of(str(folder)) == state_of(f" {folder} ") == before
    change(folder)
    assert state_of(str(folder)) != before


def test_a_model_file_has_another_state_with_another_sidecar(tmp_path):
    model, sidecar = tmp_path / "m.onnx", tmp_path / "m.onnx.json"
    model.write_text("m")
    alone = state_of(str(model))
    sidecar.write_text("{}")
    described = state_of(str(model))
    (tmp_path / "other.onnx").write_text("other")
    assert described == state_of(str(model)) != alone


def test_another_ferry_has_another_state(folder, monkeypatch):
    before = state_of(str(folder))
    monkeypatch.setattr(snapshots, "code_state", lambda: "0.1.0-of-tomorrow")
    assert state_of(str(folder)) != before


def test_the_code_s_state_follows_the_code(tmp_path, monkeypatch):
    assert code_state().startswith("0.1.0-")
    assert code_state() == code_state.__wrapped__()
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "a.py").write_text("a = 1")
    monkeypatch.setattr(snapshots, "package_file", str(tmp_path / "__init__.py"))
    first = code_state.__wrapped__()
    assert first != code_state()
    (tmp_path / "sub" / "a.py").write_text("a = 2")
    assert code_state.__wrapped__() != first
    (tmp_path / "sub" / "a.pyc").write_text("compiled")
    (tmp_path / "sub" / "a.py").write_text("a = 1")
    assert code_state.__wrapped__() == first


def test_nothing_is_no_state_and_what_is_not_there_is_an_error(tmp_path):
    assert state_of("") == state_of("  ") == ""
    with pytest.raises(UserError, match="`source` to be an existing path"):
        state_of(str(tmp_path / "absent"))


@pytest.fixture
def bucket(monkeypatch):
    with servers.moto() as host:
        client = Minio(endpoint=host, access_key="key", secret_key="secret", secure=False)
        client.make_bucket(bucket_name="faces")
        for name, value in (("ENDPOINT", f"http://{host}"), ("ACCESS_KEY", "key"), ("SECRET_KEY", "secret")):
            monkeypatch.setenv(f"S3_{name}", value)
        yield client


def test_a_prefix_whose_objects_change_has_another_state_and_its_neighbours_do_not_matter(bucket, tmp_path):
    def put(key, text):
        path = tmp_path / "object"
        path.write_text(text)
        bucket.fput_object(bucket_name="faces", object_name=key, file_path=str(path))

    put("new/a.jpg", "a")
    before = state_of("s3://faces/new")
    put("newer/a.jpg", "a")
    assert state_of("s3://faces/new/") != before  # the text of the place is part of its state
    assert state_of("s3://faces/new") == before
    put("new/a.jpg", "b")  # as long as before
    other = state_of("s3://faces/new")
    assert other != before
    put("new/b.jpg", "b")
    assert state_of("s3://faces/new") not in (before, other)
    with pytest.raises(UserError, match="a prefix with objects"):
        state_of("s3://faces/ne")


def test_a_store_that_is_away_is_known_before_anything_is_read(monkeypatch):
    monkeypatch.setenv("S3_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(RetryableError, match="S3_ENDPOINT"):
        state_of("s3://faces/new")
    monkeypatch.delenv("S3_ENDPOINT")
    with pytest.raises(UserError, match="`S3_ENDPOINT` to be set"):
        state_of("s3://faces/new")


def test_an_alias_that_moves_is_another_state(empty_store, tmp_path, monkeypatch):
    uri = f"sqlite:///{shutil.copy(empty_store, tmp_path / 'mlflow.db')}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    client = MlflowClient(uri)
    client.create_registered_model("fer")
    for _ in range(2):
        client.create_model_version("fer", "file:///nowhere")
    client.set_registered_model_alias("fer", "champion", "1")
    first = state_of("models:/fer@champion")
    assert state_of("models:/fer@champion") == first
    client.set_registered_model_alias("fer", "champion", "2")
    assert state_of("models:/fer@champion") != first
    with pytest.raises(UserError, match="`version`"):
        state_of("models:/fer/7")
