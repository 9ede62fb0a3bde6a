"""Connections of the general S3 client whose waits are bounded, and which give slow lines the time that they need."""

from __future__ import annotations

from typing import Any

import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import ReadTimeoutError

_PIECE = 64 << 10
_BUSY = (500, 502, 503, 504)


class _Patient(HTTPConnection):
    """Sends piece by piece, each of which may take as long as an answer.

    Otherwise a whole part of an upload, 5 MB or more, would have to leave within the time for connecting.
    """

    send_within: float = 0.0

    def send(self, data: Any) -> None:
        if self.sock is None:
            self.connect()
        self.sock.settimeout(self.send_within)
        if isinstance(data, bytes) and len(data) > _PIECE:
            view = memoryview(data)
            for start in range(0, len(data), _PIECE):
                super().send(view[start : start + _PIECE])
        else:
            super().send(data)


class _PatientWithTls(_Patient, HTTPSConnection):
    """The same over TLS."""


class _Impatient(urllib3.Retry):
    """Repeats requests whose connection broke off or that were turned away, and none that had no answer in time."""

    def increment(self, *given: Any, error: Exception | None = None, **named: Any) -> _Impatient:
        if isinstance(error, ReadTimeoutError):
            raise error
        again: _Impatient = super().increment(*given, error=error, **named)
        return again


def connections(ca: str, connect: float, read: float, repeats: int, most: int) -> urllib3.PoolManager:
    """Makes the pool for a client.

    Args:
        ca: File with the certificates of authorities, PEM.
        connect: Seconds until a connection must be there.
        read: Seconds without anything from the server; also for each 64 KiB that are sent.
        repeats: How often a request is repeated whose connection broke off, or that was turned away.
        most: Connections that are kept open.
    """

    class Plain(urllib3.HTTPConnectionPool):
        class ConnectionCls(_Patient):  # type: ignore[misc]
            send_within = read

    class WithTls(urllib3.HTTPSConnectionPool):
        class ConnectionCls(_PatientWithTls):  # type: ignore[misc]
            send_within = read

    pool = urllib3.PoolManager(
        timeout=urllib3.Timeout(connect=connect, read=read),
        retries=_Impatient(total=repeats, backoff_factor=0.3, status_forcelist=_BUSY),
        maxsize=most,
        cert_reqs="CERT_REQUIRED",
        ca_certs=ca,
    )
    pool.pool_classes_by_scheme = {"http": Plain, "https": WithTls}
    return pool
