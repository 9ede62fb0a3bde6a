"""What can be set about a server."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ..common.errors import expected


@dataclass(frozen=True)
class ServeSettings:
    """What can be set about a server.

    Attributes:
        host: Address to listen on; ``0.0.0.0`` listens on all.
        port: Port; 0 takes a free one, which is logged.
        name: Name of the model in answers and addresses; empty takes the registry's name, else the folder's or file's.
        refresh: Seconds between two looks at an alias; 0 looks only at the start.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        trust: Whether a TorchScript file may be opened: it runs code from the file.
        max_bytes: Largest body of a request.
        max_instances: Most pictures of a request.
        max_waiting: Requests that may wait while one is at work.
        grace: Seconds that requests at work get after SIGTERM.
        access_log: Whether every request is logged.
    """

    host: str = "127.0.0.1"
    port: int = 8080
    name: str = ""
    refresh: float = 60.0
    device: str = "auto"
    trust: bool = False
    max_bytes: int = 32 << 20
    max_instances: int = 256
    max_waiting: int = 64
    grace: float = 25.0
    access_log: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65535:
            raise expected("port", "from 0 to 65535", self.port, "Choose one such as 8080.")
        for name, least in (("max_bytes", 1), ("max_instances", 1), ("max_waiting", 0)):
            if getattr(self, name) < least:
                raise expected(name, f"at least {least}", getattr(self, name), "Pass a larger number.")
        for name in ("refresh", "grace"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise expected(name, "a number of seconds, 0 or more", value, "Pass a number such as 60.")
        check_name(self.name or "model", self.name)


def check_name(name: str, given: str) -> None:
    """Refuses a model's name that no address can hold.

    Args:
        name: The name.
        given: What it was made from, for the message.

    Raises:
        UserError: It is empty, or has a slash, a colon or what cannot be printed.
    """
    if not name or not name.isprintable() or any(sign in name for sign in "/:"):
        raise expected("name", "printable, without / and :", given, "Pass --name NAME.")
