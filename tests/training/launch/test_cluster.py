"""Trainings as TrainJobs, against a double of a cluster that runs their machines, and an S3 server."""

from __future__ import annotations

import logging
import threading
import time
from pathlib import Path

import pytest
import yaml
from ferry.adaptation.stage import fine_tuning_stage
from ferry.common.errors import Interrupted, RetryableError, UserError
from ferry.faces.addresses import ObjectStoreConfig
from ferry.faces.object_store import ObjectStore
from ferry.networks.trained import load_training
from ferry.training.launch import cluster as module
from ferry.training.launch.calls import Answer
from ferry.training.launch.logs import JobLogs
from ferry.training.launch.trainjob import TrainJob

from ... import servers, trainer
from .test_processes import CHOICES, LONG, largest_difference, wait_for

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def variables():
    with servers.moto_bucket("training") as found:
        yield found


@pytest.fixture
def store(variables, monkeypatch):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    return ObjectStore(ObjectStoreConfig.from_environment(variables))


@pytest.fixture
def cluster(store, variables, tmp_path, monkeypatch):
    folder = tmp_path / "cluster"
    folder.mkdir()
    with trainer.running(folder) as found:
        found.secrets = {"ferry-s3": {"access": "key", "secret": "secret"}, "ferry": {"s3": variables["S3_ENDPOINT"]}}
        monkeypatch.setenv("KUBECONFIG", str(folder / "kubeconfig"))
        monkeypatch.setenv("FERRY_TRAINJOB", job().dump())
        monkeypatch.setenv("FERRY_RUN_ID", "run-7")
        monkeypatch.setattr(module, "_LOOK_EVERY", 0.2)
        monkeypatch.setattr("ferry.training.launch.kubernetes._LOOK_EVERY", 0.1)
        yield found


def job(**changes):
    keys = {"S3_ACCESS_KEY": "access", "S3_SECRET_KEY": "secret"}
    references = [{"name": name, "secret": "ferry-s3", "key": key} for name, key in keys.items()]
    references.append({"name": "S3_ENDPOINT", "config_map": "ferry", "key": "s3"})
    given = dict(
        nodes=2,
        processes=1,
        image="registry.example.org/ferry-cuda:1",
        exchange="s3://training/exchange",
        requests={"cpu": "4", "memory": "8Gi", "nvidia.com/gpu": "1"},
        limits={"memory": "8Gi", "nvidia.com/gpu": "1"},
        shared_memory="2Gi",
        node_selector={"pool": "gpu"},
        tolerations=[{"key": "nvidia.com/gpu", "operator": "Exists"}],
        environment={"NCCL_DEBUG": "WARN"},
        references=references,
        pull_secrets=["pull"],
        labels={"ferry/pipeline": "clup", "ferry/stage": "fine-tune"},
        seconds=3600,
    )
    return TrainJob(**{**given, **changes})


def granted():
    """Returns the verbs and resources of the role in the manifests."""
    role = next(yaml.safe_load_all((ROOT / "manifests" / "base" / "rbac.yaml").read_text()))
    return {f"{verb} {what}" for rule in role["rules"] for what in rule["resources"] for verb in rule["verbs"]}


def left(store):
    return [item.key for item in store.list("training", "exchange/")]


def test_the_object_fits_trainers_schema_and_says_what_it_should():
    body = job().body("ferry-x", "faces", "s3://training/x", {"FERRY_RUN_ID": "r"}, {"name": "p", "uid": "1"})
    trainer.check(body)
    assert body["metadata"]["ownerReferences"] == [{"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "1"}]
    spec = body["spec"]
    assert (spec["trainer"]["numNodes"], spec["trainer"]["numProcPerNode"]) == (2, 1)
    assert spec["trainer"]["resourcesPerNode"]["limits"] == {"memory": "8Gi", "nvidia.com/gpu": "1"}
    assert spec["activeDeadlineSeconds"] == 3600
    (replicated,) = spec["runtimePatches"][0]["trainingRuntimeSpec"]["template"]["spec"]["replicatedJobs"]
    template = replicated["template"]["spec"]["template"]
    labels = {"ferry/pipeline": "clup", "ferry/stage": "fine-tune", "sidecar.istio.io/inject": "false"}
    assert template["metadata"]["labels"] == labels
    assert body["metadata"]["labels"]["ferry/run"] == "r"
    pod = template["spec"]
    assert pod["securityContext"] == {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
    assert pod["volumes"] == [{"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": "2Gi"}}]
    assert pod["tolerations"][0]["key"] == "nvidia.com/gpu"
    assert pod["imagePullSecrets"] == [{"name": "pull"}]
    assert pod["terminationGracePeriodSeconds"] == 90
    assert "secret" not in str([entry.get("value") for entry in spec["trainer"]["env"]])


def test_the_smallest_object_fits_too_and_what_it_is_not_told_it_does_not_say():
    small = TrainJob(nodes=2, processes=1, image="i:1", exchange="s3://b/p")
    body = small.body("ferry-x", "faces", "s3://b/p/x", {}, None)
    trainer.check(body)
    assert "ownerReferences" not in body["metadata"]
    assert "resourcesPerNode" not in body["spec"]["trainer"]
    assert "activeDeadlineSeconds" not in body["spec"]
    assert TrainJob.parse(small.dump()) == small


@pytest.mark.parametrize("change", [{"spec": {"podTemplateOverrides": []}}, {"spec": {"trainer": {"numProc": 1}}}])
def test_the_double_refuses_what_the_schema_does_not_know(change):
    body = job().body("ferry-x", "faces", "s3://training/x", {}, None)
    body["spec"] = {**body["spec"], **change["spec"]}
    body["spec"]["trainer"] = {**job().body("x", "f", "u", {}, None)["spec"]["trainer"], **body["spec"]["trainer"]}
    with pytest.raises(ValueError, match="unknown field"):
        trainer.check(body)


def test_a_description_that_is_none_is_named(monkeypatch, inputs, tmp_path, record):
    monkeypatch.setenv("FERRY_TRAINJOB", "two machines")
    with pytest.raises(UserError, match="`FERRY_TRAINJOB` to be JSON"):
        fine_tuning_stage(inputs, tmp_path / "out", record, **CHOICES)


@pytest.mark.slow
def test_two_machines_train_as_one_does(cluster, store, inputs, tmp_path, record, monkeypatch, capfd, caplog):
    caplog.set_level(logging.INFO, "ferry")
    fine_tuning_stage(inputs, tmp_path / "two", record, **CHOICES)
    facts, record.facts = record.facts, {}
    assert facts == {"kept": 70, "steps": 10}
    said = capfd.readouterr().err
    assert said.count("epoch 2 of 2") == 1
    (name,) = cluster.removed
    assert left(store) == []
    assert set(cluster.seen) <= granted()  # what the manifests let runs do is enough
    assert f"TrainJob {name}: created, 2 machines with 1 processes each" in caplog.text
    monkeypatch.delenv("FERRY_TRAINJOB")
    fine_tuning_stage(inputs, tmp_path / "one", record, **CHOICES)
    assert facts == record.facts
    assert largest_difference(tmp_path / "one", tmp_path / "two") < 1e-3
    assert load_training(tmp_path / "two")["steps"] == 10


@pytest.mark.slow
def test_what_is_wrong_on_the_machines_is_said_as_on_this_one(cluster, store, inputs, tmp_path, record, monkeypatch):
    monkeypatch.setenv("FERRY_TRAINJOB", job(processes=2).dump())
    with pytest.raises(UserError, match="Expected `batch_size` to be at least 4: 4 process"):
        fine_tuning_stage(inputs, tmp_path / "out", record, **{**CHOICES, "batch_size": 3})
    assert cluster.removed == []  # it is kept for its pods' logs
    assert cluster.restarts == {}  # a machine that has answered ends well, whatever it answered
    assert left(store) == []
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_machine_that_dies_ends_the_stage(cluster, store, inputs, tmp_path, record):
    def kill():
        wait_for(lambda: any(b"epoch 1 of" in cluster.log(name, 0).read_bytes() for name in cluster.machines))
        (machines,) = cluster.machines.values()
        machines[1].kill()

    killer = threading.Thread(target=kill)
    killer.start()
    with pytest.raises(RetryableError, match=r"machine 1 of the TrainJob started anew: its node or its memory went"):
        fine_tuning_stage(inputs, tmp_path / "out", record, **LONG)
    killer.join()
    assert sum(cluster.restarts.values()) == 1  # it was started anew once, and did not train
    assert left(store) == []


def interrupt(condition):
    """Raises KeyboardInterrupt in the main thread when a condition holds, as a signal would."""
    import _thread

    def wait():
        wait_for(condition)
        time.sleep(0.3)
        _thread.interrupt_main()

    threading.Thread(target=wait, daemon=True).start()


def test_an_interrupted_stage_removes_its_job(cluster, store, inputs, tmp_path, record, caplog):
    caplog.set_level(logging.INFO, "ferry")
    cluster.pending = True
    interrupt(lambda: "no GPU is free" in caplog.text)
    with pytest.raises(Interrupted, match=r"its TrainJob ferry-test-[0-9a-f]+ was removed"):
        fine_tuning_stage(inputs, tmp_path / "out", record, **CHOICES)
    assert len(cluster.removed) == 1
    assert cluster.jobs == {}
    assert left(store) == []
    assert "Unschedulable: no GPU is free" in caplog.text


@pytest.mark.slow
def test_an_interrupted_stage_leaves_nothing_although_its_machines_still_end(cluster, store, inputs, tmp_path, record):
    interrupt(lambda: any(b"epoch 1 of" in cluster.log(name, 0).read_bytes() for name in cluster.machines))
    with pytest.raises(Interrupted):
        fine_tuning_stage(inputs, tmp_path / "out", record, **LONG)
    (machines,) = cluster.machines.values()
    assert [machine.poll() for machine in machines] == [75, 75]
    assert left(store) == []


def test_a_stage_that_is_started_again_removes_what_its_earlier_pod_left(
    cluster, store, inputs, tmp_path, record, monkeypatch
):
    left_one = job().body(
        "ferry-fine-tune-old", "faces", "s3://training/exchange/ferry-fine-tune-old", {"FERRY_RUN_ID": "run-7"}, None
    )
    of_another = job().body("ferry-fine-tune-other", "faces", "s3://training/x", {"FERRY_RUN_ID": "run-8"}, None)
    cluster.pending = True
    cluster.create(left_one)
    cluster.create(of_another)
    (tmp_path / "x").write_text("x")
    store.upload(tmp_path / "x", "training", "exchange/ferry-fine-tune-old/inputs/x")
    cluster.refusals["create trainjobs"] = (503, "because")
    with pytest.raises(RetryableError):
        fine_tuning_stage(inputs, tmp_path / "out", record, **CHOICES)
    assert "ferry-fine-tune-old" in cluster.removed
    assert list(cluster.jobs) == ["ferry-fine-tune-other"]
    assert left(store) == []


def test_an_older_trainer_is_named(cluster, store, inputs, tmp_path, record):
    said = 'strict decoding error: unknown field "spec.runtimePatches"'
    cluster.refusals["create trainjobs"] = (400, said)
    with pytest.raises(UserError, match=r"`Kubeflow Trainer` to be one that knows runtimePatches.*2\.2 or newer"):
        fine_tuning_stage(inputs, tmp_path / "out", record, **CHOICES)


@pytest.mark.slow
def test_a_machine_that_failed_ends_a_job_whose_others_wait_for_it(
    cluster, store, inputs, tmp_path, record, monkeypatch
):
    """As with NCCL, where they would wait for many minutes."""
    monkeypatch.setattr(module, "_ANSWERS_EVERY", 0.1)
    monkeypatch.setattr(module, "_AFTER_A_FAILURE", 0.5)
    cluster.pending = True

    def answer():
        wait_for(lambda: cluster.jobs)
        (name,) = cluster.jobs
        Answer(1, "UserError", "Expected `x` to be y.").save(tmp_path)
        store.upload(tmp_path / "answer-1.json", "training", f"exchange/{name}/answers/answer-1.json")

    threading.Thread(target=answer, daemon=True).start()
    with pytest.raises(UserError, match="Expected `x` to be y"):
        fine_tuning_stage(inputs, tmp_path / "out", record, **CHOICES)
    assert len(cluster.removed) == 1  # it was still running
    assert left(store) == []


def test_the_plugins_run_is_handed_on_with_its_server(monkeypatch):
    monkeypatch.setenv("MLFLOW_RUN_ID", "r")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://plugin:5000")
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "secret")
    reference = {"name": "MLFLOW_TRACKING_URI", "config_map": "ferry", "key": "uri"}
    body = job(references=[reference]).body("x", "f", "u", module._variables(), None)
    trainer.check({**body, "metadata": {"name": "x"}})
    variables = {entry["name"]: entry.get("value") for entry in body["spec"]["trainer"]["env"]}
    assert variables["MLFLOW_TRACKING_URI"] == "http://plugin:5000"
    assert variables["MLFLOW_RUN_ID"] == "r"
    assert "MLFLOW_TRACKING_TOKEN" not in variables


def test_lines_that_the_cluster_tells_again_are_not_copied_again(capsys, monkeypatch):
    first = b"2026-01-01T00:00:01.5Z one\n2026-01-01T00:00:01.50000002Z two\n2026-01-01T00:00:02Z thr"
    again = b"2026-01-01T00:00:01.50000002Z two\n2026-01-01T00:00:02Z three\n2026-01-01T00:00:02Z four\n"

    class Told:
        parts = iter([[first[:30], first[30:68]], [again]])

        def follow_log(self, pod, since):
            return iter(next(self.parts))

    logs = JobLogs(Told(), "job")
    logs._follow("pod")
    logs._follow("pod")
    assert capsys.readouterr().err == "one\ntwo\nthree\nfour\n"


def test_a_job_that_somebody_removes_ends_the_stage(cluster, store, inputs, tmp_path, record):
    cluster.pending = True

    def remove():
        wait_for(lambda: cluster.jobs)
        cluster.jobs.clear()

    threading.Thread(target=remove, daemon=True).start()
    with pytest.raises(RetryableError, match="Somebody removed it"):
        fine_tuning_stage(inputs, tmp_path / "out", record, **CHOICES)


@pytest.mark.parametrize(
    ("verb", "status", "kind", "message"),
    [
        (
            "list trainjobs",
            404,
            UserError,
            r"`nodes` to be 1 on a cluster without Kubeflow Trainer, but got 2\.",
        ),
        ("list trainjobs", 403, UserError, r"allowed to list trainjobs.*in namespace faces.*manifests/base/rbac\.yaml"),
        ("create trainjobs", 403, UserError, r"allowed to create trainjobs"),
        ("create trainjobs", 403, UserError, r"`TrainJob` to be one that the cluster accepts"),
        ("create trainjobs", 422, UserError, r"`TrainJob` to be one that the cluster accepts, but got 'because'"),
        ("create trainjobs", 503, RetryableError, r"`Kubernetes` to answer, but got 'because' \(503\)"),
    ],
)
def test_refusals_are_said_before_anything_is_left_behind(
    cluster, store, inputs, tmp_path, record, verb, status, kind, message
):
    webhook = "TrainJob" in message and status == 403
    cluster.refusals[verb] = (status, "admission webhook denied the request" if webhook else "because")
    with pytest.raises(kind, match=message):
        fine_tuning_stage(inputs, tmp_path / "out", record, **CHOICES)
    assert left(store) == []
    assert cluster.jobs == {}


def test_without_a_cluster_it_says_so(store, inputs, tmp_path, record, monkeypatch):
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    monkeypatch.setenv("FERRY_TRAINJOB", job().dump())
    with pytest.raises(UserError, match=r"`cluster` to be reachable.*set KUBECONFIG"):
        fine_tuning_stage(inputs, tmp_path / "out", record, **CHOICES)
