#!/usr/bin/env python3
"""A `kubectl` for the tests of the documentation: applies to a folder instead of a cluster.

What is applied is built by the real kubectl; secrets are kept; `rollout status` and `port-forward` know only what was
applied, and a forwarded port leads to a server of the test (``FORWARD``: JSON, service to host and port).
"""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import threading
from pathlib import Path

import yaml

PLACE = Path(os.environ.get("KUBECTL_STATE", "."))


def main(words: list[str]) -> int:
    namespace = words[words.index("-n") + 1] if "-n" in words else "default"
    match words:
        case ["apply", "-k", folder]:
            built = subprocess.run([os.environ["KUBECTL"], "kustomize", folder], capture_output=True, text=True)
            if built.returncode:
                print(built.stderr, file=sys.stderr)
                return built.returncode
            keep(list(yaml.safe_load_all(built.stdout)))
        case ["apply", "-f", file]:
            keep(list(yaml.safe_load_all(Path(file).read_text())))
        case ["create", "secret", "generic", name, *_]:
            pairs = [word.removeprefix("--from-literal=").partition("=") for word in words if "--from-literal=" in word]
            keep([thing("Secret", namespace, name, data={key: value for key, _, value in pairs})], new=True)
        case ["get", "secret", name, "-n", _]:
            return int(not path_of("Secret", namespace, name).exists())
        case ["get", "secret", name, *_]:
            (key,) = re.findall(r'index \.data "([^"]+)" \| base64decode', words[-1])
            print(find("Secret", namespace, name)["data"][key])
        case ["rollout", "status", *_] | ["wait", *_]:
            kind, _, name = next(word for word in words if "/" in word).partition("/")
            find({"statefulset": "StatefulSet", "deployment": "Deployment", "job": "Job"}[kind], namespace, name)
        case ["port-forward", *_]:
            name = next(word for word in words if word.startswith("service/")).removeprefix("service/")
            local, remote = map(int, words[-1].split(":"))
            ports = [port["port"] for port in find("Service", namespace, name)["spec"]["ports"]]
            assert remote in ports, f"{name} has the ports {ports}"
            forward(local, tuple(json.loads(os.environ["FORWARD"])[name]))
        case _:
            print(f"kubectl: {' '.join(words)} is not known here", file=sys.stderr)
            return 1
    return 0


def thing(kind, namespace, name, **more):
    return {"kind": kind, "metadata": {"name": name, "namespace": namespace}, **more}


def path_of(kind, namespace, name):
    return PLACE / f"{kind}.{namespace}.{name}.json"


def keep(objects, new=False):
    for one in objects:
        about = one["metadata"]
        path = path_of(one["kind"], about.get("namespace", ""), about["name"])
        assert not (new and path.exists()), f"{path.name} already exists"
        path.write_text(json.dumps(one))


def find(kind, namespace, name):
    path = path_of(kind, namespace, name)
    assert path.exists(), f"{path.name} was not applied"
    return json.loads(path.read_text())


def forward(local, target):
    with socket.create_server(("127.0.0.1", local)) as server:
        while True:
            here, _ = server.accept()
            there = socket.create_connection(target)
            for one, other in ((here, there), (there, here)):
                threading.Thread(target=copy, args=(one, other), daemon=True).start()


def copy(one, other):
    try:
        while part := one.recv(1 << 16):
            other.sendall(part)
        other.shutdown(socket.SHUT_WR)
    except OSError:
        pass


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
