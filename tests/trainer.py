"""A double of a cluster with Kubeflow Trainer: takes TrainJobs that fit Trainer's own schema and runs their machines.

The machines are processes with the variables that Trainer's torch plugin gives to pods (``PET_*``). The schema is that
of PyPI's ``kubeflow-trainer-api``; a field that it does not have, at any depth, is refused, as by the real server.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import yaml
from kubeflow_trainer_api import models

from .servers import free_ports

NAMESPACE = "faces"
TOKEN = "token-of-the-service-account"
_JOBS = f"/apis/trainer.kubeflow.org/v1alpha1/namespaces/{NAMESPACE}/trainjobs"
_PODS = f"/api/v1/namespaces/{NAMESPACE}/pods"
_RESERVED = ("PET_NNODES", "PET_NPROC_PER_NODE", "PET_NODE_RANK", "PET_MASTER_ADDR", "PET_MASTER_PORT")


def check(body):
    """Raises ValueError where a TrainJob does not fit Trainer's schema and its further rules."""
    found = models.TrainerV1alpha1TrainJob.from_dict(body)
    lost = _lost(body, json.loads(found.to_json()))
    if lost:
        raise ValueError(f"unknown field {lost}")
    name = body["metadata"]["name"]
    if not re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", name) or len(name) > 63:
        raise ValueError(f"metadata.name {name}")
    reserved = [entry["name"] for entry in body["spec"]["trainer"]["env"] if entry["name"] in _RESERVED]
    if reserved:
        raise ValueError(f"must not have reserved envs {reserved}")
    for patch in body["spec"]["runtimePatches"]:
        for job in patch["trainingRuntimeSpec"]["template"]["spec"]["replicatedJobs"]:
            for container in job["template"]["spec"]["template"]["spec"]["containers"]:
                if "env" in container:
                    raise ValueError("must not have envs for the node container")


def _lost(given, kept, where=""):
    """Returns the place of the first value that a model has not taken over, or an empty text."""
    if isinstance(given, dict):
        missing = [f"{where}.{key}" for key in given if not isinstance(kept, dict) or key not in kept]
        return missing[0] if missing else _first(_lost(given[key], kept[key], f"{where}.{key}") for key in given)
    if isinstance(given, list):
        pairs = enumerate(zip(given, kept, strict=True))
        return _first(_lost(one, other, f"{where}[{index}]") for index, (one, other) in pairs)
    return ""


def _first(places):
    return next((place for place in places if place), "")


class Cluster:
    """What the double knows and has seen.

    Attributes:
        refusals: Status and message by verb and resource, such as ``create trainjobs``.
        restarts: How often a machine that failed was started anew, by job; JobSet's default lets six times pass.
        secrets: Values by secret and key.
        jobs: TrainJobs that are there, by name.
        seen: Verbs and resources that were asked for.
        removed: Names of TrainJobs that were deleted.
        pending: Whether pods stay pending.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.refusals, self.secrets = folder, {}, {}
        self.jobs, self.seen, self.removed, self.pending = {}, [], [], False
        self.machines, self.restarts = {}, {}

    def create(self, body):
        check(body)
        name = body["metadata"]["name"]
        self.jobs[name] = body
        if not self.pending:
            self.port = free_ports(1)[0]
            count = body["spec"]["trainer"]["numNodes"]
            self.machines[name] = [self._machine(body, number) for number in range(count)]
        return body

    def _machine(self, body, number):
        trainer = body["spec"]["trainer"]
        given = {entry["name"]: self._value(entry) for entry in trainer["env"]}
        torch = dict(PET_NNODES=trainer["numNodes"], PET_NPROC_PER_NODE=trainer["numProcPerNode"], PET_NODE_RANK=number)
        torch.update(PET_MASTER_ADDR="127.0.0.1", PET_MASTER_PORT=self.port)
        plain = {name: os.environ[name] for name in ("PATH", "HOME", "FERRY_CACHE") if name in os.environ}
        environment = {**plain, "OMP_NUM_THREADS": "1", "TORCH_CPP_LOG_LEVEL": "ERROR", **given}
        environment.update({name: str(value) for name, value in torch.items()})
        command = [sys.executable, *trainer["command"][1:], *trainer["args"]]
        with open(self.log(body["metadata"]["name"], number), "ab") as log:
            return subprocess.Popen(command, env=environment, stdout=log, stderr=log, cwd=self.folder)

    def _value(self, entry):
        if "value" in entry:
            return entry["value"]
        source = entry["valueFrom"].get("secretKeyRef") or entry["valueFrom"]["configMapKeyRef"]
        return self.secrets[source["name"]][source["key"]]

    def log(self, name, number):
        return self.folder / f"{name}-{number}.log"

    def with_state(self, name):
        """Returns a job with the conditions that its machines have by now; those that failed are started anew."""
        machines = self.machines.get(name, [])
        for number, machine in enumerate(machines):
            if machine.poll() and self.restarts.get(name, 0) < 6:
                self.restarts[name] = self.restarts.get(name, 0) + 1
                machines[number] = self._machine(self.jobs[name], number)
        codes = [machine.poll() for machine in machines]
        kind = "Failed" if any(codes) else "Complete" if codes and None not in codes else ""
        about = {"reason": "JobsFailed" if kind == "Failed" else "JobsCompleted", "message": f"codes {codes}"}
        moment = "2026-01-01T00:00:00Z"
        conditions = [{"type": kind, "status": "True", "lastTransitionTime": moment, **about}] if kind else []
        return {**self.jobs[name], "status": {"conditions": conditions}}

    def stop(self, name):
        for machine in self.machines.get(name, []):
            if machine.poll() is None:
                machine.terminate()
        for machine in self.machines.get(name, []):
            try:
                machine.wait(30)
            except subprocess.TimeoutExpired:
                machine.kill()

    def delete(self, name):
        """Answers at once; the machines go in their own time."""
        del self.jobs[name]
        self.removed.append(name)
        threading.Thread(target=self.stop, args=(name,), daemon=True).start()

    def pods(self, selector):
        name = dict(part.split("=") for part in selector.split(","))["jobset.sigs.k8s.io/jobset-name"]
        if name in self.jobs and self.pending:
            why = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "no GPU is free"}
            count = self.jobs[name]["spec"]["trainer"]["numNodes"]
            waits = {"phase": "Pending", "conditions": [why]}
            return [_pod(name, number, waits if number else {"phase": "Running"}) for number in range(count)]
        codes = [machine.poll() for machine in self.machines.get(name, [])]
        if name not in self.jobs:
            return [_pod(name, number, {"phase": "Running"}) for number, code in enumerate(codes) if code is None]
        phases = ["Running" if code is None else "Failed" if code else "Succeeded" for code in codes]
        return [_pod(name, number, {"phase": phase}) for number, phase in enumerate(phases)]

    def of_labels(self, selector):
        wanted = dict(part.split("=") for part in selector.split(",")) if selector else {}
        return [job for job in self.jobs.values() if wanted.items() <= job["metadata"]["labels"].items()]


def _pod(name, number, status):
    about = {"name": f"{name}-node-0-{number}-abcde", "creationTimestamp": "2026-01-01T00:00:00Z"}
    about["labels"] = {"batch.kubernetes.io/job-completion-index": str(number)}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": about, "spec": {"containers": []}, "status": status}


class _Handler(BaseHTTPRequestHandler):
    cluster: Cluster
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self._answer(self._get)

    def do_POST(self):
        self._answer(self._post)

    def do_DELETE(self):
        self._answer(self._delete)

    def _get(self, path, query):
        if path == _JOBS:
            return self._allowed("list trainjobs") or {
                "items": self.cluster.of_labels(query.get("labelSelector", [""])[0])
            }
        if path == _PODS:
            return self._allowed("list pods") or {"items": self.cluster.pods(query["labelSelector"][0])}
        if path.startswith(f"{_PODS}/") and path.endswith("/log"):
            assert (query["container"], query["timestamps"]) == (["node"], ["True"])
            return self._allowed("get pods/log") or self._stream(path.split("/")[-2])
        name = path.removeprefix(f"{_JOBS}/")
        refused = self._allowed("get trainjobs")
        return refused or (self.cluster.with_state(name) if name in self.cluster.jobs else _status(404, "not found"))

    def _post(self, path, query):
        assert path == _JOBS
        assert query["fieldValidation"] == ["Strict"]  # else what the server does not know would be dropped
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        refused = self._allowed("create trainjobs")
        try:
            return refused or self.cluster.create(body)
        except ValueError as error:
            return _status(422, str(error))

    def _delete(self, path, query):
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        refused = self._allowed("delete trainjobs")
        name = path.removeprefix(f"{_JOBS}/")
        if not refused and name not in self.cluster.jobs:
            return _status(404, "not found")
        if not refused:
            self.cluster.delete(name)
        return refused or _status(200, "deleted")

    def _allowed(self, what):
        """Returns the refusal of a verb, or None."""
        self.cluster.seen.append(what)
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return _status(401, "Unauthorized")
        return _status(*self.cluster.refusals[what]) if what in self.cluster.refusals else None

    def _stream(self, pod):
        name, number = re.fullmatch(r"(.+)-node-0-(\d+)-abcde", pod).groups()
        machine = self.cluster.machines[name][int(number)]
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        with open(self.cluster.log(name, int(number)), "rb") as log:
            ended, count = False, 0
            while not ended:
                ended = machine.poll() is not None
                for line in log.read().splitlines(keepends=True):
                    part = b"2026-01-01T00:00:00.%09dZ %s" % (count := count + 1, line)
                    self.wfile.write(b"%x\r\n%s\r\n" % (len(part), part))
                time.sleep(0.1)
        self.wfile.write(b"0\r\n\r\n")

    def _answer(self, work):
        parts = urlsplit(self.path)
        try:
            answer = work(parts.path, parse_qs(parts.query))
        except Exception as error:
            answer = _status(500, repr(error))
        if answer is not None:
            data = json.dumps(answer).encode()
            self.send_response(answer.get("code", 200) if answer.get("kind") == "Status" else 200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

    def log_message(self, *_):
        pass


def _status(code, message):
    return {"kind": "Status", "apiVersion": "v1", "code": code, "message": message}


@contextmanager
def running(folder: Path):
    """Yields a cluster; ``folder/kubeconfig`` leads to it."""
    cluster = Cluster(folder)
    handler = type("Handler", (_Handler,), {"cluster": cluster})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_address[1]}"
    context = {"cluster": "c", "user": "u", "namespace": NAMESPACE}
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "x",
        "clusters": [{"name": "c", "cluster": {"server": address}}],
        "users": [{"name": "u", "user": {"token": TOKEN}}],
        "contexts": [{"name": "x", "context": context}],
    }
    (folder / "kubeconfig").write_text(yaml.safe_dump(config))
    try:
        yield cluster
    finally:
        for name in list(cluster.machines):
            cluster.stop(name)
        server.shutdown()
        server.server_close()
