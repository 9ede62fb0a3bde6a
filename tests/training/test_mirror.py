"""Checkpoints in an object store: a training goes on on another machine, and a store that is away stops none."""

from __future__ import annotations

import os
import runpy
import signal
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
from ferry.common import checkpoints
from ferry.common.checkpoints import address_of, checkpoint_path, local_folder
from ferry.common.errors import RetryableError, UserError
from ferry.faces.addresses import ObjectStoreConfig
from ferry.faces.object_store import ObjectStore
from ferry.training.checkpoint import read_checkpoint
from ferry.training.mirror import Mirror

from .. import servers

SCRIPT = Path(__file__).with_name("toy.py")
toy = SimpleNamespace(**runpy.run_path(str(SCRIPT)))


@pytest.fixture(autouse=True)
def _one_thread(one_thread):
    """Every test here."""


@pytest.fixture(scope="module")
def variables():
    with servers.moto_bucket("training") as found:
        yield found


@pytest.fixture
def store(variables, monkeypatch, tmp_path):
    """The environment of a stage on one machine; another one is another folder for temporary files."""
    checkpoints_at = {"FERRY_CHECKPOINTS": f"s3://training/{tmp_path.name}"}
    for name, value in {**variables, **checkpoints_at}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(checkpoints, "_remote", {})
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "first"))
    return ObjectStore(ObjectStoreConfig.from_environment(variables))


def keys(store, tmp_path):
    return [item.key for item in store.list("training", f"{tmp_path.name}/")]


def test_the_path_is_of_this_machine_and_its_address_is_known(store, tmp_path):
    path = checkpoint_path("pretraining", {"a": 1})
    assert path.parent == tmp_path / "first" / "ferry-checkpoints"
    assert address_of(path) == f"s3://training/{tmp_path.name}/{path.name}"
    assert local_folder() is None
    assert checkpoint_path("pretraining", {"a": 2}) != path


def test_folders_have_no_address(monkeypatch, tmp_path):
    monkeypatch.setenv("FERRY_CHECKPOINTS", str(tmp_path))
    path = checkpoint_path("pretraining", {"a": 1})
    assert (path.parent, address_of(path), local_folder()) == (tmp_path, "", tmp_path)
    monkeypatch.setenv("FERRY_CHECKPOINTS", "")
    assert checkpoint_path("pretraining", {"a": 1}) is None


KILLED = """
import runpy, sys, tempfile
tempfile.tempdir = sys.argv[2]
from ferry.common.checkpoints import checkpoint_path
import ferry.training.checkpoint as module
save = module.Checkpoint.save
module.Checkpoint.save = lambda self, content: (save(self, content), self.settle())
toy = runpy.run_path(sys.argv[1])
toy["once"](checkpoint_path("toy", {}), crash=("step", 6))
"""


@pytest.mark.slow
def test_a_training_whose_machine_was_lost_goes_on_on_another_bit_for_bit(store, tmp_path, monkeypatch):
    place = tmp_path / "lost"
    place.mkdir()
    command = [sys.executable, "-c", KILLED, str(SCRIPT), str(place)]
    done = subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, timeout=120)
    assert done.returncode == -signal.SIGKILL, done.stderr
    path = checkpoint_path("toy", {})
    assert keys(store, tmp_path) == [f"{tmp_path.name}/{path.name}"]
    assert not path.exists()  # here nothing is known of it
    resumed = toy.once(path)
    assert resumed["resumed_from"] == 6
    monkeypatch.setenv("FERRY_CHECKPOINTS", "")
    whole = toy.once(None)
    assert resumed["state"] == whole["state"]
    assert resumed["history"] == whole["history"]


def test_the_newest_one_is_there_when_the_training_has_ended(store, tmp_path):
    path = checkpoint_path("toy", {})
    toy.once(path)
    Mirror(address_of(path)).fetch(tmp_path / "copy.pt")
    assert read_checkpoint(tmp_path / "copy.pt")["finished"] is True
    assert (tmp_path / "copy.pt").read_bytes() == path.read_bytes()
    assert sorted(entry.name for entry in path.parent.iterdir()) == [path.name, f"{path.name}.previous"]


def test_one_that_is_here_already_is_not_fetched_and_another_key_is_not_taken(store, tmp_path):
    (tmp_path / "c.pt").write_bytes(b"here")
    (tmp_path / "other").write_bytes(b"there")
    store.upload(tmp_path / "other", "training", f"{tmp_path.name}/c.pt.previous")
    mirror = Mirror(f"s3://training/{tmp_path.name}/c.pt")
    mirror.fetch(tmp_path / "c.pt")
    assert (tmp_path / "c.pt").read_bytes() == b"here"
    mirror.fetch(tmp_path / "d.pt")
    assert not (tmp_path / "d.pt").exists()


class Slow:
    """A store in which an upload waits until it may."""

    def __init__(self):
        self.may, self.begun, self.sent = threading.Event(), threading.Event(), []

    def upload(self, path, bucket, key):
        content = path.read_bytes()
        self.begun.set()
        assert self.may.wait(20)
        self.sent.append(content)


def test_while_one_is_on_its_way_only_the_newest_waits(tmp_path):
    slow = Slow()
    mirror = Mirror("s3://training/c.pt", slow)
    for content in (b"one", b"two", b"three"):
        (tmp_path / "c.pt").unlink(missing_ok=True)
        (tmp_path / "c.pt").write_bytes(content)
        mirror.send(tmp_path / "c.pt")
        assert slow.begun.wait(20)
    slow.may.set()
    mirror.settle()
    assert slow.sent == [b"one", b"three"]
    assert [entry.name for entry in tmp_path.iterdir()] == ["c.pt"]


@pytest.mark.parametrize("error", [OSError("gone"), RuntimeError("odd")])
def test_one_upload_that_fails_does_not_end_the_next(tmp_path, caplog, error):
    class Odd(Slow):
        def upload(self, path, bucket, key):
            if not self.begun.is_set():
                self.begun.set()
                raise error
            self.sent.append(path.read_bytes())

    store = Odd()
    mirror = Mirror("s3://training/c.pt", store)
    for content in (b"one", b"two"):
        (tmp_path / "c.pt").unlink(missing_ok=True)
        (tmp_path / "c.pt").write_bytes(content)
        mirror.send(tmp_path / "c.pt")
        mirror.settle()
    assert store.sent == [b"two"]
    assert "stays on this machine" in caplog.text


def test_a_store_that_goes_away_stops_no_training(store, tmp_path, monkeypatch, caplog):
    def away(self, path, bucket, key):
        raise RetryableError("Expected `S3_ENDPOINT` to be reachable, but got nothing.")

    monkeypatch.setattr(ObjectStore, "upload", away)
    assert toy.once(checkpoint_path("toy", {"away": 1}))["steps"] == 12
    assert caplog.text.count("The checkpoint stays on this machine.") == 1


def test_a_store_that_is_away_at_the_start_is_no_reason_to_begin_anew(store, monkeypatch):
    monkeypatch.setenv("S3_ENDPOINT", f"http://127.0.0.1:{servers.free_ports(1)[0]}")
    with pytest.raises(RetryableError, match="S3_ENDPOINT"):
        toy.once(checkpoint_path("toy", {"gone": 1}))


def test_a_wrong_address_is_named(store, monkeypatch):
    monkeypatch.setenv("FERRY_CHECKPOINTS", "s3://no-such-bucket/x")
    with pytest.raises(UserError, match="bucket no-such-bucket"):
        toy.once(checkpoint_path("toy", {"bucket": 1}))


def test_what_waits_too_long_is_said(tmp_path, monkeypatch, caplog):
    import ferry.training.mirror as module

    monkeypatch.setattr(module, "_LAST_SECONDS", 0.05)
    slow = Slow()
    mirror = Mirror("s3://training/c.pt", slow)
    (tmp_path / "c.pt").write_bytes(b"one")
    mirror.send(tmp_path / "c.pt")
    mirror.settle()
    assert "may not have reached s3://training/c.pt" in caplog.text
    slow.may.set()
