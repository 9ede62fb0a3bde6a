"""Downloads over connections that stay open, with less than half of the usual client's work for each object.

A general HTTP client spends more time on a small object than the network does: where an answer takes 5 ms, threads over
the MinIO client's own import 3.8 times as fast as one object at a time, and over this one 9 times
(benchmarks/object_store.py). It knows a single case: a GET that is answered by HTTP/1.1 with status 200 and a length.
Everything else is :class:`Unusual`, and the caller asks again with the general client, which knows redirects, refusals
and other kinds of bodies.
"""

from __future__ import annotations

import re
import socket
import ssl
import time
import weakref
from collections import deque
from collections.abc import Iterator, Mapping
from functools import partial

from .parallel import begin

_STATUS = re.compile(rb"HTTP/1\.1 200(?: |$)")
_MOST_HEAD = 64 << 10
_PIECE = 64 << 10
_SMALL = 256 << 10  # up to here a body is handed out in one piece
_LEAST = 1 << 10
"""Bytes that must come within each period of patience; a byte now and then is a server that has stopped."""


class Unusual(Exception):
    """The answer is not the plain one; nothing of it was handed out."""


class Stalled(Exception):
    """Nothing, or hardly anything, came for too long."""


class Answer:
    """What a server sent for one request: the headers at once, the body while it is iterated over.

    Attributes:
        headers: Names in lower case, and values.
        length: Length of the body in bytes.
    """

    def __init__(
        self, connection: _Connection, headers: Mapping[str, str], length: int, idle: deque[_Connection]
    ) -> None:
        self.headers, self.length = headers, length
        self._connection, self._idle = connection, idle

    def __iter__(self) -> Iterator[bytes]:
        """Yields the body; the connection is kept for the next request only where it came whole.

        Raises:
            Stalled: It stopped coming.
            OSError: The connection broke off.
        """
        try:
            yield from self._connection.body(self.length)
        except BaseException:
            self._connection.close()
            raise
        if self.headers.get("connection", "").lower() == "close":
            self._connection.close()
        else:
            self._idle.append(self._connection)


class Downloads:
    """Makes GET requests; safe to use from several threads, each of which gets connections of its own.

    Args:
        ca: File with the certificates of authorities, PEM, for ``https``.
        connect: Seconds until a connection must be there.
        patience: Seconds until the head of an answer, and then each further kibibyte or the end, must be there.
    """

    def __init__(self, ca: str, connect: float, patience: float) -> None:
        self._ca, self._connect, self._patience = ca, connect, patience
        self._context: ssl.SSLContext | None = None
        self._idle: dict[str, deque[_Connection]] = {}
        weakref.finalize(self, _close_all, self._idle)

    def get(self, url: str, headers: Mapping[str, str]) -> Answer:
        """Asks for a URL and returns the answer as soon as its head is there.

        A connection that the server has closed since its last use is replaced by a new one.

        Args:
            url: With scheme and host; it is sent as it is.
            headers: Sent in addition to ``Host``.

        Raises:
            Unusual: The answer is something else than a body of known length with status 200.
            Stalled: There was no connection or no answer in time.
            OSError: There is no connection to be had, or it broke off.
        """
        scheme, _, rest = url.partition("://")
        host, _, path = rest.partition("/")
        lines = [f"GET /{path} HTTP/1.1", f"Host: {host}", "Accept-Encoding: identity", "User-Agent: ferry"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        request = ("\r\n".join(lines) + "\r\n\r\n").encode("ascii")
        idle = self._idle.setdefault(f"{scheme}://{host}", deque())
        while True:
            try:
                connection, used = idle.pop(), True
            except IndexError:
                connection, used = self._open(scheme, host), False
            try:
                return Answer(connection, *connection.ask(request), idle)
            except OSError:
                connection.close()
                if not used:
                    raise
            except BaseException:
                connection.close()
                raise

    def _open(self, scheme: str, host: str) -> _Connection:
        name, _, port = host.rpartition(":") if re.search(r":\d+$", host) else (host, "", "")
        name = name.strip("[]")
        plain = self._link(name, int(port or (443 if scheme == "https" else 80)))
        try:
            plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if scheme == "https":
                self._context = self._context or ssl.create_default_context(cafile=self._ca)
                return _Connection(self._context.wrap_socket(plain, server_hostname=name), self._patience)
        except BaseException:
            plain.close()
            raise
        return _Connection(plain, self._patience)

    def _link(self, name: str, port: int) -> socket.socket:
        """Connects within the time for it, however many addresses there are and however slow their server is."""
        end = time.monotonic() + self._connect
        try:
            found = begin(partial(socket.getaddrinfo, name, port, 0, socket.SOCK_STREAM)).result(self._connect)
        except TimeoutError as error:
            raise Stalled from error
        reason: OSError | None = None
        for left, (family, kind, protocol, _, address) in zip(range(len(found), 0, -1), found, strict=True):
            link = socket.socket(family, kind, protocol)
            link.settimeout(max((end - time.monotonic()) / left, 0.01))
            try:
                link.connect(address)
                return link
            except OSError as error:
                link.close()
                reason = error
        if isinstance(reason, TimeoutError):
            raise Stalled from reason
        raise reason or OSError(f"no address of {name}")


class _Connection:
    def __init__(self, link: socket.socket, patience: float) -> None:
        self._link, self._patience, self._read = link, patience, b""
        self._deadline = 0.0

    def ask(self, request: bytes) -> tuple[dict[str, str], int]:
        """Sends a request and returns the headers of its answer, and its length."""
        self._deadline = time.monotonic() + self._patience
        self._send(request)
        data = self._read
        while (end := data.find(b"\r\n\r\n")) < 0:
            if len(data) > _MOST_HEAD:
                raise Unusual
            data += self._receive()
        self._read = data[end + 4 :]
        first, *lines = data[:end].split(b"\r\n")
        headers = {}
        for line in lines:
            name, sign, value = line.decode("latin-1").partition(":")
            if not sign or name.lower() in headers:
                raise Unusual
            headers[name.lower()] = value.strip()
        length = headers.get("content-length", "")
        if (
            not _STATUS.match(first)
            or not length.isdecimal()
            or {"transfer-encoding", "content-encoding"} & set(headers)
        ):
            raise Unusual
        return headers, int(length)

    def body(self, length: int) -> Iterator[bytes]:
        """Yields the body, whatever comes at a time; small ones in one piece."""
        if len(self._read) > length:
            raise ConnectionError(f"more than the {length} bytes that were announced")
        left, recent = length - len(self._read), 0
        pieces, self._read = [self._read], b""
        self._deadline = time.monotonic() + self._patience
        while left:
            piece = self._receive(min(left, _PIECE))
            left -= len(piece)
            recent += len(piece)
            if recent >= _LEAST:
                self._deadline, recent = time.monotonic() + self._patience, 0
            pieces.append(piece)
            if length > _SMALL:
                yield b"".join(pieces)
                pieces.clear()
        if pieces:
            yield b"".join(pieces)

    def close(self) -> None:
        self._link.close()

    def _send(self, request: bytes) -> None:
        self._link.settimeout(self._patience)
        try:
            self._link.sendall(request)
        except TimeoutError as error:
            raise Stalled from error

    def _receive(self, most: int = _PIECE) -> bytes:
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise Stalled
        self._link.settimeout(left)
        try:
            data = self._link.recv(most)
        except TimeoutError as error:
            raise Stalled from error
        if not data:
            raise ConnectionError("the connection was closed")
        return data


def _close_all(idle: dict[str, deque[_Connection]]) -> None:
    for connections in idle.values():
        for connection in connections:
            connection.close()
