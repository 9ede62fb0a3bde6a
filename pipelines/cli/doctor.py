"""``ferry doctor``: is this machine ready?"""

from __future__ import annotations

import os
import platform
from typing import Any

import typer

from .output import HomeOption, JsonOption, print_json, print_table


def register(app: typer.Typer) -> None:
    """Adds the command to the tree."""
    app.command("doctor", epilog="Example: ferry doctor --json")(doctor)


def doctor(
    home: HomeOption = None,
    json: JsonOption = False,
) -> None:
    """Check versions, device, threads, and whether MLflow and S3 answer."""
    checks = [*_software(), *_hardware(), _home(home), _mlflow(home), _s3()]
    if json:
        print_json(checks)
    else:
        marks = {"ok": "ok", "warning": "note", "error": "FAIL"}
        print_table(
            "",
            ["", "check", "found", "advice"],
            [(marks[check["status"]], check["check"], check["found"], check["advice"]) for check in checks],
        )
    if any(check["status"] == "error" for check in checks):
        raise typer.Exit(75)


def _check(name: str, found: Any, status: str = "ok", advice: str = "") -> dict[str, Any]:
    return {"check": name, "found": str(found), "status": status, "advice": advice}


def _software() -> list[dict[str, Any]]:
    from ..runner.record import package_versions

    checks = []
    for name, version in package_versions().items():
        status, advice = ("ok", "") if version else ("error", f"Run: pip install {name}")
        checks.append(_check(name, version or "missing", status, advice))
    return checks


def _hardware() -> list[dict[str, Any]]:
    import torch

    from ...training.devices import resolve_device

    device = resolve_device("auto")
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    checks = [_check("device", f"{device} ({name})")]
    threads = torch.get_num_threads()
    cores = os.cpu_count() or 1
    advice = "" if threads <= cores else "More threads than cores slow training down; set OMP_NUM_THREADS."
    checks.append(_check("threads", f"{threads} of {cores} cores", "warning" if advice else "ok", advice))
    return checks


def _home(home: Any) -> dict[str, Any]:
    import shutil

    from ..runner import Home

    root = Home.find(home).root
    there = next(path for path in (root, *root.parents) if path.exists())
    free = shutil.disk_usage(there).free / 2**30
    found = f"{root}, {free:.0f} GiB free"
    if not os.access(there, os.W_OK):
        return _check("home", f"{found}, not writable", "error", "Pass another --home, or change its permissions.")
    advice = "" if free > 2 else "Less than 2 GiB are free; checkpoints and decoded faces may not fit."
    return _check("home", found, "warning" if advice else "ok", advice)


def _mlflow(home: Any) -> dict[str, Any]:
    from ...training.runs import reachable
    from ..runner import Home

    uri = Home.find(home).tracking_uri
    problem = reachable(uri)
    if problem:
        return _check("MLflow", f"{uri}: {problem}", "error", "Check MLFLOW_TRACKING_URI, or unset it to use the home.")
    return _check("MLflow", uri)


def _s3() -> dict[str, Any]:
    from ...common.errors import FerryError
    from ...faces.addresses import VARIABLES, ObjectStoreConfig
    from ...faces.object_store import ObjectStore

    if not any(os.environ.get(name) for name in VARIABLES["endpoint"]):
        if os.environ.get("S3_BUCKET"):
            return _check("S3", "S3_BUCKET is set, S3_ENDPOINT is not", "warning", "Set S3_ENDPOINT to the store.")
        return _check("S3", "not configured", "ok", "Set S3_ENDPOINT, S3_ACCESS_KEY and S3_SECRET_KEY to use a bucket.")
    bucket = os.environ.get("S3_BUCKET", "")
    if not bucket:
        return _check("S3", "configured, not checked", "warning", "Set S3_BUCKET to the bucket that holds your faces.")
    try:
        ObjectStore(ObjectStoreConfig.from_environment()).check(bucket)
    except FerryError as error:
        return _check("S3", str(error), "error", "Check S3_ENDPOINT, S3_ACCESS_KEY, S3_SECRET_KEY and S3_SECURE.")
    return _check("S3", f"bucket {bucket} is reachable")
