"""Asks an application without a server in between, and what can stand in for a model and for a registry."""

from __future__ import annotations

import asyncio
import base64
import threading
from types import SimpleNamespace

import httpx
import numpy as np
import torch
from ferry.networks import Outputs
from ferry.serving import Metrics, ModelHolder, Revision, ServeSettings, make_app

CLASSES = ("anger", "fear", "happiness")


class Double:
    """A model whose first pixel is the class; `work` runs while it computes."""

    classes, channels, input_size, feature_kind, classifier = CLASSES, 1, 8, "features", None

    def __init__(self, digest: str = "d" * 64, work=lambda pixels: None) -> None:
        self.digest, self.work, self.devices = digest, work, []

    def outputs(self, pixels, batch_size=256, device="auto"):
        self.devices.append(device)
        self.work(pixels)
        logits = torch.zeros(len(pixels), len(CLASSES))
        logits[torch.arange(len(pixels)), torch.from_numpy(pixels[:, 0, 0, 0].astype(np.int64)) % len(CLASSES)] = 2.0
        return Outputs(logits, logits)


class Place:
    """An alias that the test moves: version to model, or to what is raised for it."""

    name, moves = "faces", True

    def __init__(self, models, version: str = "1") -> None:
        self.models, self.version, self.looks = models, version, 0
        self.away: Exception | None = None

    def look(self):
        self.looks += 1
        if self.away is not None:
            raise self.away
        return Revision(self.version, f"digest of {self.version}")

    def load(self, revision):
        found = self.models[revision.version]
        if isinstance(found, Exception):
            raise found
        return found


def serving(source=None, loaded: bool = True, place=None, **settings):
    """Returns an application with what it stands on."""
    given, metrics = ServeSettings(**settings), Metrics()
    place = place or Place({"1": source or Double()})
    holder = ModelHolder(place, given, metrics)
    if loaded:
        holder.load_first()
    app = make_app(holder, given, metrics)
    return SimpleNamespace(app=app, holder=holder, metrics=metrics, place=place)


def client(app) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url="http://ferry", timeout=20)


def ask(app, method: str, path: str, **what) -> httpx.Response:
    async def go():
        async with client(app) as one:
            return await one.request(method, path, **what)

    return asyncio.run(go())


def text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def pixels(value: int) -> list[list[int]]:
    return [[value] * 8 for _ in range(8)]


def instances(*cells):
    return {"instances": list(cells)}


class Held:
    """Work that lasts until the test lets it end; counts how many are at work at once."""

    def __init__(self) -> None:
        self.go, self.begun, self.at_once, self.now = threading.Event(), threading.Event(), 0, 0

    def __call__(self, pixels) -> None:
        self.now += 1
        self.at_once = max(self.at_once, self.now)
        self.begun.set()
        held = self.go.wait(20)
        self.now -= 1
        assert held, "the test never let it go on"
