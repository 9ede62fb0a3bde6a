"""A double of Kubeflow Pipelines' API server that refuses what the real one's description does not know.

Routes, query parameters and messages are read from the client that is generated from KFP's OpenAPI description,
``kfp_server_api``: a request to another path, with another query parameter, or with a field that the message does not
have is answered with 400, and so is noticed. Answers are checked against their message in the same way.
"""

from __future__ import annotations

import json
import re
import threading
import uuid
from contextlib import contextmanager
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit

import kfp_server_api


class Route(NamedTuple):
    """One operation of the API."""

    name: str
    method: str
    path: re.Pattern
    query: set
    body: str
    answer: str


@cache
def routes() -> list[Route]:
    """Reads all operations from the sources of the generated client."""
    found = []
    for source in sorted(Path(kfp_server_api.__file__).parent.joinpath("api").glob("*_api.py")):
        text = source.read_text()
        for part in re.split(r"\n    def (?=\w+_with_http_info\()", text)[1:]:
            name = part.split("_with_http_info(")[0]
            place = re.search(r"call_api\(\s*'([^']+)', '(\w+)'", part)
            body = re.search(r"body_params = local_var_params\['(\w+)'\]", part)
            kind = re.search(rf":type {body[1]}: (\w+)", part)[1] if body else ""
            answer = re.search(r"response_type='([^']*)'", part)
            path = re.sub(r"\\\{(\w+)\\\}", r"(?P<\1>[^/]+)", re.escape(place[1]))
            query = set(re.findall(r"query_params\.append\(\('([\w.]+)'", part))
            found.append(Route(name, place[2], re.compile(path), query, kind, answer[1] if answer else ""))
    return found


def check(kind: str, value: Any, where: str) -> None:
    """Raises ValueError where a message has a field that its description does not have, at any depth."""
    listed = re.fullmatch(r"list\[(.+)\]", kind)
    if listed:
        for entry in value:
            check(listed[1], entry, where)
    elif hasattr(kfp_server_api, kind) and isinstance(value, dict):
        message = getattr(kfp_server_api, kind)
        names = {outside: inside for inside, outside in message.attribute_map.items()}
        for key, entry in value.items():
            if key not in names:
                raise ValueError(f"{where}: {kind} has no field {key}")
            check(message.openapi_types[names[key]], entry, f"{where}.{key}")


class Double:
    """The server's state and operations.

    Attributes:
        uri: Its address.
        asked: Names of the operations that were called, in order.
        refused: Requests that the description does not know.
        fail: Operation to HTTP status, for faults.
        states: States that a run goes through, one for each look.
    """

    def __init__(self) -> None:
        self.asked, self.refused, self.fail = [], [], {}
        self.pipelines, self.versions, self.experiments, self.runs = {}, {}, {}, {}
        self.schedules = {}
        self.states = ["PENDING", "RUNNING", "SUCCEEDED"]
        self.token, self.error, self.tasks = "", "", []

    def healthz_service_get_healthz(self, **_):
        return {"multi_user": False}

    def pipeline_service_list_pipelines(self, query, **_):
        return {"pipelines": matching(self.pipelines.values(), query)} if self.pipelines else {}

    def upload_pipeline(self, query, upload, **_):
        made = {"pipeline_id": new(), "display_name": query["name"], "namespace": query.get("namespace", "")}
        self.pipelines[made["pipeline_id"]] = made
        self.upload_pipeline_version({"name": query["name"], "pipelineid": made["pipeline_id"]}, upload)
        return made

    def upload_pipeline_version(self, query, upload, **_):
        made = {
            "pipeline_id": query["pipelineid"],
            "pipeline_version_id": new(),
            "display_name": query["name"],
        }
        self.versions[made["pipeline_version_id"]] = {**made, "upload": upload}
        return made

    def pipeline_service_list_pipeline_versions(self, query, pipeline_id, **_):
        found = [without_upload(one) for one in self.versions.values() if one["pipeline_id"] == pipeline_id]
        start = int(query.get("page_token") or 0)
        page = {"pipeline_versions": found[start : start + 2], "total_size": len(found)}  # small pages: all are read
        return {**page, "next_page_token": str(start + 2)} if len(found) > start + 2 else page

    def experiment_service_list_experiments(self, query, **_):
        return {"experiments": matching(self.experiments.values(), query)} if self.experiments else {}

    def experiment_service_create_experiment(self, body, **_):
        made = {**body, "experiment_id": new()}
        self.experiments[made["experiment_id"]] = made
        return made

    def run_service_create_run(self, body, **_):
        reference = body["pipeline_version_reference"]
        if reference["pipeline_version_id"] not in self.versions:
            raise LookupError("no such version")
        made = {**body, "run_id": new(), "state": "PENDING"}
        self.runs[made["run_id"]] = {**made, "looks": 0}
        return made

    def run_service_get_run(self, run_id, **_):
        run = self.runs[run_id]
        state = self.states[min(run["looks"], len(self.states) - 1)]
        run["looks"] += 1
        tasks = [{"display_name": name, "state": state} for name in self.tasks]
        found = {key: value for key, value in run.items() if key != "looks"}
        found |= {"state": state, "run_details": {"task_details": tasks}}
        return {**found, "error": {"code": 13, "message": self.error}} if self.error else found

    def recurring_run_service_create_recurring_run(self, body, **_):
        made = {**body, "recurring_run_id": new(), "status": "ENABLED" if body["mode"] == "ENABLE" else "DISABLED"}
        self.schedules[made["recurring_run_id"]] = made
        return made

    def recurring_run_service_list_recurring_runs(self, query, **_):
        found = list(self.schedules.values())
        start = int(query.get("page_token") or 0)
        page = {"recurringRuns": found[start : start + 2]} if found else {}
        return {**page, "next_page_token": str(start + 2)} if len(found) > start + 2 else page

    def recurring_run_service_delete_recurring_run(self, recurring_run_id, **_):
        del self.schedules[recurring_run_id]
        return {}

    def recurring_run_service_disable_recurring_run(self, recurring_run_id, **_):
        self.schedules[recurring_run_id].update(status="DISABLED", mode="DISABLE")
        return {}

    def recurring_run_service_enable_recurring_run(self, recurring_run_id, **_):
        self.schedules[recurring_run_id].update(status="ENABLED", mode="ENABLE")
        return {}


def matching(entries, query):
    wanted = [one["stringValue"] for one in json.loads(query.get("filter") or "{}").get("predicates", [])]
    return [entry for entry in entries if not wanted or entry["display_name"] in wanted]


def without_upload(version):
    return {key: value for key, value in version.items() if key != "upload"}


def new() -> str:
    return str(uuid.uuid4())


class _Handler(BaseHTTPRequestHandler):
    def _answer(self, method: str) -> None:
        double, parts = self.server.double, urlsplit(self.path)
        data = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        route = next((one for one in routes() if one.method == method and one.path.fullmatch(parts.path)), None)
        try:
            if route is None:
                raise ValueError(f"no operation at {method} {parts.path}")
            double.asked.append(route.name)
            if double.token and self.headers.get("Authorization") != f"Bearer {double.token}":
                return self._send(401, {"message": "Unauthenticated"})
            if route.name in double.fail:
                return self._send(double.fail[route.name], {"error_message": "as the test wants\nstack"})
            query = {key: values[0] for key, values in parse_qs(parts.query).items()}
            if set(query) - route.query:
                raise ValueError(f"{route.name} knows no {sorted(set(query) - route.query)}")
            given = {key: unquote(value) for key, value in route.path.fullmatch(parts.path).groupdict().items()}
            if route.body:
                given["body"] = json.loads(data)
                check(route.body, given["body"], route.name)
            elif data:
                given["upload"] = data
            answer = getattr(double, route.name)(query=query, **given)
            check(route.answer, answer, f"answer of {route.name}")
            self._send(200, answer)
        except LookupError as error:
            self._send(404, {"error_message": str(error)})
        except ValueError as error:
            double.refused.append(str(error))
            self._send(400, {"error_message": str(error)})

    def _send(self, status: int, answer: Any) -> None:
        text = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def do_GET(self) -> None:
        self._answer("GET")

    def do_POST(self) -> None:
        self._answer("POST")

    def do_DELETE(self) -> None:
        self._answer("DELETE")

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def serving():
    """Runs a double; yields it."""
    double = Double()
    with ThreadingHTTPServer(("127.0.0.1", 0), _Handler) as server:
        server.double = double
        double.uri = f"http://127.0.0.1:{server.server_port}"
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        try:
            yield double
        finally:
            server.shutdown()
