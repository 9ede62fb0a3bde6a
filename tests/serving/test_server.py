"""Starting and ending the server in this process."""

from __future__ import annotations

import logging
import signal
import socket
import threading

import pytest
from ferry.common.errors import UserError
from ferry.serving import ServeSettings, serve


@pytest.fixture(autouse=True)
def _own_handlers():
    """The server sends uvicorn's lines where Ferry's go."""
    loggers = [logging.getLogger(name) for name in ("uvicorn.error", "uvicorn.access")]
    before = [(one, one.handlers, one.propagate, one.level) for one in loggers]
    yield
    for one, handlers, propagate, level in before:
        one.handlers, one.propagate = handlers, propagate
        one.setLevel(level)


def test_a_port_that_is_taken_is_refused_before_anything_is_loaded(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=f"to be free to listen on, but got '{port}: Address already in use'"):
            serve(str(tmp_path), ServeSettings(port=port))


@pytest.mark.parametrize("thread", [False, True])
def test_a_missing_model_ends_the_server_and_leaves_nothing_behind(tmp_path, thread):
    handler, threads, caught = signal.getsignal(signal.SIGTERM), threading.active_count(), []

    def go():
        with pytest.raises(UserError, match="Expected `source` to be an existing file or folder"):
            serve(str(tmp_path / "lost"), ServeSettings(port=0))
        caught.append(True)

    if thread:
        other = threading.Thread(target=go)
        other.start()
        other.join(20)
    else:
        go()
    assert caught == [True]
    assert signal.getsignal(signal.SIGTERM) is handler
    assert threading.active_count() == threads
