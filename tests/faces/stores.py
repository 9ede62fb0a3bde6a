"""Servers that answer as a test wants, in place of an S3 store."""

import socket
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from ferry.faces.addresses import ObjectStoreConfig
from ferry.faces.object_store import ObjectStore

SECRET = "do-not-print-this"
ERROR = "<?xml version='1.0'?><Error><Code>{}</Code><Message>m</Message></Error>"


def listing(contents, etags, following=""):
    """The answer to a request for a listing of these keys and sizes."""
    rest = f"<NextContinuationToken>{following}</NextContinuationToken>" if following else ""
    entries = "".join(
        f'<Contents><Key>{key}</Key><Size>{size}</Size><ETag>"{etag}"</ETag></Contents>'
        for (key, size), etag in zip(contents, etags, strict=True)
    )
    more = "true" if following else "false"
    return (
        f"<ListBucketResult><Name>b</Name><IsTruncated>{more}</IsTruncated>{rest}{entries}</ListBucketResult>".encode()
    )


@contextmanager
def answering(answer, context=None, put=None):
    """A server that hands GET to `answer(handler)` and PUT to `put`; over TLS with a context. Yields its address."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True  # head and body are sent apart

        def do_GET(self):
            answer(self)

        def do_PUT(self):
            put(self)

        def do_HEAD(self):
            self.reply(200, b"", Last_Modified="Thu, 01 Jan 2026 00:00:00 GMT", ETag='"e"')

        def log_message(self, *arguments):
            pass

        def reply(self, status, body, kind="application/xml", **headers):
            self.send_response(status)
            self.send_header("Content-Type", kind)
            headers.setdefault("Content_Length", len(body))
            for name, value in headers.items():
                self.send_header(name.replace("_", "-"), value)
            self.end_headers()
            self.wfile.write(body)

        def hang_up(self):
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)

    class Server(ThreadingHTTPServer):
        daemon_threads, block_on_close = True, False  # some tests leave answers that never end

        def handle_error(self, request, address):
            pass

    running = Server(("127.0.0.1", 0), Handler)
    if context is not None:
        running.socket = context.wrap_socket(running.socket, server_side=True)
    threading.Thread(target=running.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yield f"http{'s' if context else ''}://127.0.0.1:{running.server_port}"
    finally:
        running.shutdown()
        running.server_close()


def store_at(endpoint, **settings):
    return ObjectStore(ObjectStoreConfig(endpoint, "AKIA", SECRET, region="us-east-1", **settings))
