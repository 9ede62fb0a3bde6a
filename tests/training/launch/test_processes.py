"""Trainings in several processes of this machine, against one process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from ferry.adaptation.stage import fine_tuning_stage
from ferry.common.checkpoints import given_paths
from ferry.common.errors import FerryError, UserError
from ferry.common.files import read_json
from ferry.networks import load_classifier
from ferry.networks.trained import load_training
from ferry.pretraining.stage import run_stage
from ferry.source.stage import train_source_stage

pytestmark = pytest.mark.slow

CHOICES = {"start": "source", "epochs": 2, "batch_size": 16, "precision": "fp32"}
LONG = {**CHOICES, "epochs": 20000}


@pytest.fixture(autouse=True)
def _quiet(monkeypatch):
    monkeypatch.setenv("TORCH_CPP_LOG_LEVEL", "ERROR")


def largest_difference(one, other):
    states = (load_classifier(folder).state_dict() for folder in (one, other))
    first, second = states
    assert first.keys() == second.keys()
    return max(float((first[name].double() - second[name].double()).abs().max()) for name in first)


def training(folder, what="worker"):
    """Returns the processes that train for a stage whose launch folders lie below a folder, or start those."""
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        try:
            command = (place / "cmdline").read_bytes().decode().split("\0")
        except OSError:
            continue
        modules = [word for word in command if word.startswith("ferry.training.launch.")]
        if modules and modules[0].endswith(what) and any(word.startswith(str(folder)) for word in command):
            found.append(int(place.name))
    return found


def wait_for(condition, seconds=120):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.1)


def test_two_processes_fine_tune_as_one_does(inputs, tmp_path, record, monkeypatch, capfd):
    monkeypatch.setenv("FERRY_CHECKPOINTS", str(tmp_path / "checkpoints"))
    monkeypatch.setenv("FERRY_PROCESSES", "2")
    fine_tuning_stage(inputs, tmp_path / "two", record, **CHOICES)
    facts, record.facts = record.facts, {}
    assert facts == {"kept": 70, "steps": 10}
    said = capfd.readouterr().err
    assert said.count("epoch 1 of 2") == 1  # one process speaks for both
    assert "Traceback" not in said
    assert [path for path in given_paths() if path.parent == tmp_path / "checkpoints"]
    monkeypatch.delenv("FERRY_PROCESSES")
    monkeypatch.setenv("FERRY_CHECKPOINTS", "")
    fine_tuning_stage(inputs, tmp_path / "one", record, **CHOICES)
    assert record.facts == facts
    assert largest_difference(tmp_path / "one", tmp_path / "two") < 1e-3
    one, two = (load_training(tmp_path / name)["history"][-1]["loss"] for name in ("one", "two"))
    assert one == pytest.approx(two, rel=1e-4)


def test_two_processes_pretrain(inputs, tmp_path, record, monkeypatch):
    monkeypatch.setenv("FERRY_PROCESSES", "2")
    choices = {"epochs": 2, "batch_size": 16, "prototypes": 12, "precision": "fp32"}
    named = {"method": "swav", "name": "small", "init": str(inputs["pretrained"])}
    run_stage(inputs["target"], inputs["source"], tmp_path / "encoder", record, **named, **choices)
    history = load_training(tmp_path / "encoder")["history"]
    assert record.facts["prototypes"] == 12
    assert [entry["epoch"] for entry in history if entry["kind"] == "epoch"] == [0, 1]


def test_two_processes_train_a_source_model(inputs, tmp_path, record, monkeypatch):
    choices = {"epochs": 2, "batch_size": 16, "precision": "fp32"}
    network = {"name": "resnet10", "width": 4, "input_size": 16}
    faces = str(inputs["target"].with_name("labelled"))
    for processes in ("1", "2"):
        monkeypatch.setenv("FERRY_PROCESSES", processes)
        train_source_stage(faces, "faces", "train", tmp_path / processes, record, network, choices)
    assert largest_difference(tmp_path / "1", tmp_path / "2") < 1e-3
    assert record.facts["steps"] == 10


def test_what_is_wrong_is_said_once_and_as_by_one_process(inputs, tmp_path, record, monkeypatch, capfd):
    monkeypatch.setenv("FERRY_PROCESSES", "3")
    with pytest.raises(UserError, match="Expected `batch_size` to be at least 3: 3 process"):
        fine_tuning_stage(inputs, tmp_path / "out", record, **{**CHOICES, "batch_size": 2})
    said = capfd.readouterr().err
    assert "Traceback" not in said
    assert "ChildFailed" not in said
    assert not (tmp_path / "out").exists()


def test_a_process_that_is_killed_ends_the_others(inputs, tmp_path, record, monkeypatch):
    monkeypatch.setenv("FERRY_PROCESSES", "2")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    def kill():
        wait_for(lambda: len(training(tmp_path)) == 2)
        time.sleep(1)
        os.kill(max(training(tmp_path)), signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    with pytest.raises(FerryError, match=r"ended without a word \(process [01] of 2.*Often its memory was not enough"):
        fine_tuning_stage(inputs, tmp_path / "out", record, **LONG)
    killer.join()
    assert not training(tmp_path)
    assert not (tmp_path / "out").exists()


def test_processes_that_do_not_end_are_ended_for_good(inputs, tmp_path, record, monkeypatch):
    from ferry.common.errors import Interrupted
    from ferry.training.launch import processes

    monkeypatch.setenv("FERRY_PROCESSES", "2")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(processes, "GRACE_SECONDS", 1.0)
    monkeypatch.setattr(processes, "_LATER", 1.0)

    def stop():
        wait_for(lambda: len(training(tmp_path)) == 2)
        wait_for(lambda: len(list(tmp_path.glob("ferry-launch-*/process-*"))) == 2)
        for number in (*training(tmp_path), *training(tmp_path, "agent")):
            os.kill(number, signal.SIGSTOP)  # deaf to everything but SIGKILL
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=stop, daemon=True).start()
    with pytest.raises(Interrupted):
        fine_tuning_stage(inputs, tmp_path / "out", record, **LONG)
    wait_for(lambda: not training(tmp_path), 10)


STAGE = """
import sys, tempfile
tempfile.tempdir = sys.argv[1]
from ferry.adaptation.stage import fine_tuning_stage
from ferry.common.stage import stage
names = ("target", "source", "pretrained", "labels")
with stage("fine-tune") as record:
    choices = dict(start="source", epochs=int(sys.argv[3]), batch_size=16, precision="fp32")
    fine_tuning_stage({name: f"{sys.argv[2]}/{name}" for name in names}, f"{sys.argv[1]}/out", record, **choices)
"""


def begun(folder, inputs, epochs):
    """Starts the stage with two processes, as a pod would."""
    environment = {**os.environ, "FERRY_PROCESSES": "2", "FERRY_CHECKPOINTS": str(folder / "checkpoints")}
    environment.update(FERRY_STAGE_FOLDER=str(folder), FERRY_PROGRESS_FILE=str(folder / "progress.json"))
    command = [sys.executable, "-c", STAGE, str(folder), str(inputs["target"].parent), str(epochs)]
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)


def has_begun(folder):
    file = folder / "progress.json"
    return file.exists() and "fine-tuning" in file.read_text()


def checkpoints(folder):
    return list((folder / "checkpoints").glob("*.pt"))


def test_sigterm_lets_the_processes_write_their_checkpoint(inputs, tmp_path):
    process = begun(tmp_path, inputs, 20000)
    wait_for(lambda: has_begun(tmp_path) or process.poll() is not None)
    process.terminate()
    _, said = process.communicate(timeout=60)
    assert process.returncode == 75, said
    assert "run the same command again to continue" in said
    assert not training(tmp_path)
    record = read_json(tmp_path / "fine-tune.json")
    assert (record["status"], record["exit_code"]) == ("failed", 75)
    assert record["checkpoints"] == [str(path) for path in checkpoints(tmp_path)]


def test_a_stage_that_is_killed_leaves_no_process(inputs, tmp_path):
    process = begun(tmp_path, inputs, 20000)
    wait_for(lambda: len(training(tmp_path)) == 2 or process.poll() is not None)
    process.kill()
    process.wait()  # else it is still there, as a zombie
    wait_for(lambda: not training(tmp_path), 30)
    process.communicate()
