"""The shipped pipelines, whole, through the command, on a few rendered faces; killed at several moments and gone on."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from ferry.faces import render_faces

pytestmark = [pytest.mark.integration, pytest.mark.timeout(1800)]

FERRY = [sys.executable, "-c", "from ferry.pipelines.cli import main; main()"]

# A checkpoint after every step, so that a training of seconds can be killed in its midst.
EVERY_STEP = """
from ferry.training.config import LoopConfig
names = list(LoopConfig.__dataclass_fields__)
required = len(names) - len(LoopConfig.__init__.__defaults__)
defaults = list(LoopConfig.__init__.__defaults__)
defaults[names.index("checkpoint_seconds") - required] = 0.0
LoopConfig.__init__.__defaults__ = tuple(defaults)
"""

SOURCE = {"training_epochs": 6, "network_width": 8, "training_batch_size": 32}
CLUP = {
    "pretraining_epochs": 4,
    "pretraining_batch_size": 32,
    "pretraining_prototypes": 32,
    "finetuning_epochs": 4,
    "finetuning_batch_size": 16,
    "labelling_score": "confidence",
    "holdout_classes": "anger,fear,happiness,sadness,surprise",
    "seed": 5,
}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Rendered faces of two domains, and the folder of the change that makes checkpoints frequent."""
    root = tmp_path_factory.mktemp("whole")
    render_faces(root / "source", 140, "shaded", 1, splits={"train": 1.0})
    render_faces(root / "target", 200, "low_light", 2, splits={"train": 0.7, "test": 0.3})
    (root / "often").mkdir()
    (root / "often" / "sitecustomize.py").write_text(EVERY_STEP)
    return root


def environment(place, **changes):
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("FERRY_", "MLFLOW_"))}
    return {**kept, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(place / "often"), **changes}


def command(place, home, pipeline, **parameters):
    pairs = [word for name, value in parameters.items() for word in ("-p", f"{name}={value}")]
    return [*FERRY, "run", pipeline, "--home", str(place / home), "--json", *pairs]


def finish(place, home, pipeline, **parameters):
    found = subprocess.run(
        command(place, home, pipeline, **parameters), capture_output=True, text=True, env=environment(place)
    )
    assert found.returncode == 0, found.stderr
    return json.loads(found.stdout)


def weights(record, task):
    folder = next(Path(entry["artifacts"]["model"]) for entry in record["tasks"] if entry["name"] == task)
    return hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def trained(place):
    return finish(place, "calm", "source", faces=place / "source", **SOURCE)


@pytest.fixture(scope="module")
def given(place, trained):
    model = trained["tasks"][0]["artifacts"]["model"]
    return {"target": place / "target", "holdout": place / "target", "source": model, **CLUP}


@pytest.fixture(scope="module")
def adapted(place, given):
    return finish(place, "calm", "clup", **given)


def test_a_source_model_comes_out_and_nothing_is_left_over(trained, place):
    assert (trained["status"], trained["error"]) == ("done", "")
    assert not list((place / "calm" / "checkpoints").iterdir())


def test_the_whole_main_job_is_in_run_json(adapted, place):
    assert adapted["status"] == "done"
    assert len(adapted["tasks"]) == 11
    assert all(task["status"] == "done" for task in adapted["tasks"])
    assert set(adapted["metrics"]) == {"source", "adabn", "adapted"}
    for row in adapted["metrics"].values():
        assert {"accuracy", "mean_class_accuracy", "class_std", "min_class_accuracy", "per_class", "ece", "n"} <= set(
            row
        )
    assert (adapted["model"]["name"], adapted["model"]["version"]) == ("ferry-clup", "1")
    assert adapted["report"].endswith("/report.html")
    assert Path(adapted["report"]).read_text().lstrip().startswith("<!doctype html")
    assert 0 < adapted["overhead_seconds"] < adapted["seconds"]
    assert not list((place / "calm" / "checkpoints").iterdir())


def test_adabn_alone_is_an_adaptation_with_report_and_version(adapted, given, place):
    wanted = ("target", "holdout", "source", "holdout_classes", "seed")
    found = finish(place, "calm", "adabn", **{name: given[name] for name in wanted})
    assert found["status"] == "done"
    assert set(found["metrics"]) == {"source", "adapted"}
    assert found["metrics"]["adapted"] == adapted["metrics"]["adabn"]
    assert found["metrics"]["source"] == adapted["metrics"]["source"]
    assert (found["model"]["name"], found["model"]["version"]) == ("ferry-adabn", "1")
    assert weights(found, "re-estimate-statistics") == weights(adapted, "re-estimate-statistics")
    assert "AdaBN adaptation report" in Path(found["report"]).read_text()


def test_only_the_scored_classes_count(adapted):
    scored = set(CLUP["holdout_classes"].split(","))
    row = adapted["metrics"]["adapted"]
    assert {name for name, values in row["per_class"].items() if values["n"]} == scored
    assert row["n"] < 60


class Running:
    """A run in a process of its own."""

    def __init__(self, place, home, pipeline, **parameters):
        self.home = place / home
        before = set(self.home.glob("runs/*"))
        self.log = open(place / "run.log", "w+")  # noqa: SIM115
        words = command(place, home, pipeline, **parameters)
        self.process = subprocess.Popen(
            words, stdout=subprocess.DEVNULL, stderr=self.log, env=environment(place), start_new_session=True
        )
        self.folder = self.wait(lambda: next(iter(set(self.home.glob("runs/*")) - before), None))

    def wait(self, condition, seconds=300):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if found := condition():
                return found
            if self.process.poll() is not None:
                self.log.seek(0)
                raise AssertionError(f"ended early: {self.log.read()}")
            time.sleep(0.01)
        raise AssertionError("waited in vain")

    def at(self, stage, checkpoint):
        """Waits until a stage has written its first checkpoint, and returns the stage's process."""
        path = self.folder / "stages" / f"{stage}.json"
        self.wait(path.exists)
        self.wait(lambda: list((self.home / "checkpoints").glob(f"{checkpoint}*.pt")))
        return json.loads(path.read_text())["pid"]

    def record(self):
        return json.loads((self.folder / "run.json").read_text())


def parent_of(pid):
    return int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1])


def gone(pid):
    end = time.monotonic() + 20
    while time.monotonic() < end:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z":
                return True
        except OSError:
            return True
        time.sleep(0.05)
    return False


def resumed(record, task, output):
    folder = next(Path(entry["artifacts"][output]) for entry in record["tasks"] if entry["name"] == task)
    return json.loads((folder / "training.json").read_text())["resumed_from"]


def test_a_source_training_goes_on_after_the_whole_command_was_killed(place, trained):
    run = Running(place, "killed", "source", faces=place / "source", **SOURCE)
    stage = run.at("train-source", "source")
    executor = parent_of(stage)
    refused = subprocess.run(
        command(place, "killed", "source", faces=place / "source"),
        capture_output=True,
        text=True,
        env=environment(place),
    )
    assert refused.returncode == 75
    assert f"process id {run.process.pid} " in refused.stderr
    assert refused.stdout == ""
    run.process.kill()
    assert gone(stage)
    assert gone(executor)
    again = finish(place, "killed", "source", faces=place / "source", **SOURCE)
    assert resumed(again, "train-source", "model") is not None
    assert weights(again, "train-source") == weights(trained, "train-source")
    assert run.record()["status"] == "killed"
    assert not list((place / "killed" / "checkpoints").iterdir())


def test_an_adaptation_goes_on_after_every_kind_of_end(place, given, adapted):
    run = Running(place, "killed", "clup", **given)
    os.kill(run.at("pretrain", "pretrain"), signal.SIGKILL)
    assert run.process.wait(60) == 75
    assert "was killed" in run.record()["error"]

    run = Running(place, "killed", "clup", **given)
    stage = run.at("fine-tune", "fine-tuning")
    os.kill(parent_of(stage), signal.SIGKILL)
    assert run.process.wait(60) == 75
    assert gone(stage)
    assert run.record()["status"] == "failed"

    run = Running(place, "killed", "clup", **given)
    stage = run.at("fine-tune", "fine-tuning")
    run.process.send_signal(signal.SIGINT)
    assert run.process.wait(90) == 75
    assert gone(stage)
    assert run.record()["status"] == "interrupted"
    assert list((place / "killed" / "checkpoints").iterdir())

    again = finish(place, "killed", "clup", **given)
    assert resumed(again, "pretrain", "encoder") is not None
    assert resumed(again, "fine-tune", "model") is not None
    assert weights(again, "fine-tune") == weights(adapted, "fine-tune")
    assert again["metrics"] == adapted["metrics"]
    assert not list((place / "killed" / "checkpoints").iterdir())
