"""Runs the server until it is told to end."""

from __future__ import annotations

import errno
import logging
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ..common.errors import expected
from .settings import ServeSettings

logger = logging.getLogger("ferry")


def serve(model: str, settings: ServeSettings | None = None, tracking_uri: str = "") -> None:
    """Serves a classifier over HTTP until SIGTERM or Ctrl-C; requests at work are finished first.

    The server answers at once; ``/ready`` says when the model is there. A registry that does not answer is asked again
    and again.

    Args:
        model: Folder of a Ferry model, ONNX or TorchScript file with its sidecar, ``models:/NAME@ALIAS`` or
            ``models:/NAME/VERSION``.
        settings: Everything else; None takes the defaults.
        tracking_uri: Where the registry is; empty takes ``MLFLOW_TRACKING_URI``.

    Raises:
        UserError: There is no such model, it is damaged, or the address to listen on cannot be used.
    """
    import uvicorn

    from .app import make_app
    from .holder import ModelHolder
    from .metrics import Metrics
    from .origins import origin_of

    settings = settings or ServeSettings()
    metrics = Metrics()
    holder = ModelHolder(origin_of(model, settings, tracking_uri), settings, metrics)
    with _listening(settings.host, settings.port) as listener:
        config = uvicorn.Config(
            make_app(holder, settings, metrics),
            log_config=None,
            access_log=settings.access_log,
            lifespan="off",
            server_header=False,
            timeout_graceful_shutdown=max(round(settings.grace), 1),
        )
        _log_like_ferry("uvicorn.error", logging.WARNING)
        if settings.access_log:
            _log_like_ferry("uvicorn.access", logging.INFO)
        server = uvicorn.Server(config)
        with _ending(server):
            holder.start(lambda: setattr(server, "should_exit", True))
            logger.info("%s: listening on %s", holder.name, _address(listener))
            server.run(sockets=[listener])
    holder.stop()
    if holder.failure is not None:
        raise holder.failure
    logger.info("%s: ended", holder.name)


@contextmanager
def _listening(host: str, port: int) -> Iterator[socket.socket]:
    """Yields a bound socket; uvicorn itself would end the process with a code and a message of its own.

    Raises:
        UserError: The address cannot be used.
    """
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        listener = socket.create_server(address, family=family)
    except (OSError, UnicodeError) as error:
        got = (getattr(error, "strerror", "") or str(error)).partition(" (while")[0]
        if getattr(error, "errno", 0) in (errno.EADDRINUSE, errno.EACCES):
            raise expected("port", "free to listen on", f"{port}: {got}", "Choose another one; 0 takes any.") from None
        fix = "Pass 127.0.0.1, 0.0.0.0 or another address of this machine."
        raise expected("host", "an address of this machine", f"{host}: {got}", fix) from None
    with listener:
        yield listener


def _address(listener: socket.socket) -> str:
    host, port, *_ = listener.getsockname()
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


@contextmanager
def _ending(server: Any) -> Iterator[None]:
    """Makes a signal that asks for the end an ordinary end.

    uvicorn finishes what is at work, and then raises the signal again for the handlers that were there before it:
    Python's own would end the process as if it had failed.
    """
    if threading.current_thread() is not threading.main_thread():  # only that one may set handlers
        yield
        return

    def end(number: int, frame: Any) -> None:
        server.should_exit = True

    before = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _log_like_ferry(name: str, level: int) -> None:
    other = logging.getLogger(name)
    other.handlers, other.propagate = list(logger.handlers), not logger.handlers
    other.setLevel(level)
