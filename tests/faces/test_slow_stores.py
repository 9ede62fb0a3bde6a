"""Stores that stop, drip, cut, refuse in the middle or are far away: what comes of it, and how soon."""

import hashlib
import io
import json
import logging
import os
import socket
import ssl
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime, timedelta

import pytest
from ferry.common import progress as progress_module
from ferry.common.errors import RetryableError, UserError
from ferry.faces import downloads, import_faces, object_store, push_faces, render_faces
from ferry.faces.addresses import ObjectInfo, S3Source
from ferry.faces.downloads import Downloads, Stalled
from ferry.faces.object_store import ObjectStore
from ferry.faces.parallel import ordered_map
from ferry.faces.readers.s3 import S3FlatReader
from PIL import Image

from .stores import ERROR, SECRET, answering, listing, store_at

pytestmark = pytest.mark.slow


def picture(index):
    file = io.BytesIO()
    Image.effect_noise((16, 16), 50 + index).save(file, "PNG")
    return file.getvalue()


PICTURES = {f"p/{index:03d}.png": picture(index) for index in range(60)}


class Bucket:
    """Serves the pictures; `fault(handler, key)` may answer in its place and then returns True."""

    def __init__(self, fault=lambda handler, key: False):
        self.fault, self.asked, self.lock = fault, [], threading.Lock()

    def __call__(self, handler):
        path = handler.path.partition("?")[0]
        if "list-type" in handler.path:
            names = list(PICTURES)
            etags = [hashlib.md5(data).hexdigest() for data in PICTURES.values()]
            handler.reply(200, listing([(name, len(PICTURES[name])) for name in names], etags))
            return
        key = path.partition("/bucket/")[2]
        with self.lock:
            self.asked.append(handler.path)
        if not self.fault(handler, key):
            data = PICTURES[key]
            handler.reply(200, data, "image/png", ETag=f'"{hashlib.md5(data).hexdigest()}"')


def imported(endpoint, folder, **settings):
    store = store_at(endpoint)
    return import_faces("s3://bucket/p", folder, S3FlatReader(S3Source("bucket", "p"), store), **settings)


@pytest.fixture
def environment(monkeypatch, tmp_path):
    """A function that points the usual variables at a server."""
    for name in list(os.environ):
        if name.startswith(("S3_", "MINIO_", "AWS_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("S3_ACCESS_KEY", "AKIA")
    monkeypatch.setenv("S3_SECRET_KEY", SECRET)
    monkeypatch.setenv("S3_REGION", "us-east-1")
    monkeypatch.setenv("FERRY_CACHE", str(tmp_path / "cache"))
    return lambda endpoint: monkeypatch.setenv("S3_ENDPOINT", endpoint)


@pytest.fixture
def soon(monkeypatch):
    """The waits of the object store, shortened."""
    for name, seconds in {"_STALL": 0.3, "_READ": 0.5, "_FIRST_READ": 0.5, "_PATIENCE": 1.0, "_CONNECT": 0.5}.items():
        monkeypatch.setattr(object_store, name, seconds)


# --- How long people wait -------------------------------------------------------------------------------------------


def test_the_real_waits_add_up_to_less_than_half_a_minute():
    waits = object_store
    # A download: a connection and a standstill, each as often as a standstill is put up with, and the pauses.
    download = waits._STALLS * (waits._CONNECT + waits._STALL) + waits._PAUSE * sum(range(1, waits._ATTEMPTS))
    # A request of the general client that has no answer; such a request is not repeated.
    request = waits._CONNECT + waits._READ
    # The first contact, and a page of a listing, whatever name servers and the client do.
    assert max(download, request, waits._PATIENCE) + 2 < 30


def stop(handler, rest=b""):
    """Sends the beginning of an answer, and then a byte now and then."""
    handler.wfile.write(rest)
    handler.wfile.flush()
    end = time.monotonic() + 20
    try:
        while time.monotonic() < end:
            time.sleep(0.05)
            handler.wfile.write(b"x")
            handler.wfile.flush()
    except OSError:
        handler.close_connection = True


def silence(handler, key):
    handler.connection.settimeout(5)
    try:
        handler.connection.recv(1)
    except OSError:
        pass
    handler.close_connection = True
    return True


def dripping_head(handler, key):
    stop(handler, b"HTTP/1.1 200 OK\r\nX-Slow: ")
    return True


def dripping_body(handler, key):
    stop(handler, b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
    return True


def standing_body(handler, key):
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nhalf")
    return silence(handler, key)


@pytest.mark.parametrize("fault", [silence, dripping_head, dripping_body, standing_body])
def test_a_store_that_stops_in_the_middle_is_given_up(soon, tmp_path, fault):
    bucket = Bucket(lambda handler, key: key.endswith("030.png") and fault(handler, key))
    with answering(bucket) as endpoint:
        began = time.monotonic()
        with pytest.raises(RetryableError, match=r"`S3_ENDPOINT` to go on answering.*object bucket/p/030.png") as error:
            imported(endpoint, tmp_path / "faces")
    assert time.monotonic() - began < 5
    assert error.value.exit_code == 75
    assert sum("/030.png" in path for path in bucket.asked) <= 2
    assert not (tmp_path / "faces").exists()


def test_a_store_that_stops_once_costs_only_the_wait(soon, tmp_path):
    once = iter([silence])
    bucket = Bucket(lambda handler, key: key.endswith("030.png") and next(once, lambda *_: False)(handler, key))
    with answering(bucket) as endpoint:
        assert imported(endpoint, tmp_path / "faces").count == 60


@pytest.mark.parametrize(
    "start", [b"", b"HTTP/1.1 200 OK\r\nX-Slow: ", b"HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\n"]
)
def test_a_store_that_drips_from_the_start_is_given_up(soon, start):
    with answering(lambda handler: stop(handler, start)) as endpoint:
        began = time.monotonic()
        with pytest.raises(RetryableError, match=r"`S3_ENDPOINT` to answer within 1 s, but got no whole answer"):
            store_at(endpoint).check("bucket")
    assert time.monotonic() - began < 5


def test_a_slow_upload_is_no_broken_one(monkeypatch, tmp_path):
    """The time for connecting must not be that for sending."""
    monkeypatch.setattr(object_store, "_CONNECT", 0.2)
    got = []

    def slow(handler):
        left = int(handler.headers["Content-Length"])
        while left:
            time.sleep(0.02)
            left -= len(handler.rfile.read(min(left, 256 << 10)))
        got.append(handler.path)
        handler.reply(200, b"", ETag='"e"')

    with answering(lambda handler: handler.reply(200, listing([], [])), put=slow) as endpoint:
        large = tmp_path / "large"
        large.write_bytes(bytes(5 << 20))
        began = time.monotonic()
        store_at(endpoint).upload(large, "bucket", "k")
    assert time.monotonic() - began > 0.3
    assert len(got) == 1


# --- Cut, refused, damaged ------------------------------------------------------------------------------------------


def test_an_import_goes_on_after_cut_connections(tmp_path):
    """Every third object comes only when it is asked for again: cut before the answer, in its head, in its body."""
    starts = [b"", b"HTTP/1.1 200", b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nhalf"]
    left = dict.fromkeys(list(PICTURES)[::3], 2)

    def cut(handler, key):
        times = left.get(key, 0)
        if times:
            left[key] = times - 1
            handler.wfile.write(starts[int(key[2:5]) // 3 % 3])
            handler.hang_up()
        return times > 0

    with answering(Bucket()) as endpoint:
        whole = imported(endpoint, tmp_path / "whole")
    with answering(Bucket(cut)) as endpoint:
        report = imported(endpoint, tmp_path / "cut")
    assert report.count == 60
    assert report.digests == whole.digests
    assert not report.skipped
    assert not any(left.values())


@pytest.mark.parametrize(
    ("code", "status", "variable"),
    [
        ("ExpiredToken", 400, "S3_SESSION_TOKEN"),
        ("RequestTimeTooSkewed", 403, "clock"),
    ],
)
@pytest.mark.parametrize("size", ["small", "large"])
def test_keys_that_end_in_the_middle_end_the_import(monkeypatch, tmp_path, code, status, variable, size):
    """The pictures are not at fault, so they must not be counted as skipped."""
    if size == "large":
        monkeypatch.setattr("ferry.faces.readers.s3._PREFETCH_BYTES", 1)

    def expire(handler, key):
        if key > "p/030":
            handler.reply(status, ERROR.format(code).encode())
        return key > "p/030"

    bucket = Bucket(expire)
    with answering(bucket) as endpoint, pytest.raises(UserError, match=rf"`{variable}`.*{code}") as error:
        imported(endpoint, tmp_path / "faces", max_skipped=1.0)
    assert error.value.exit_code == 2
    assert not (tmp_path / "faces").exists()


def test_a_replaced_object_ends_the_import(tmp_path):
    def replaced(handler, key):
        asked = handler.headers["If-Match"]
        assert asked == f'"{hashlib.md5(PICTURES[key]).hexdigest()}"'
        if key == "p/030.png":
            handler.reply(412, ERROR.format("PreconditionFailed").encode())
        return key == "p/030.png"

    with answering(Bucket(replaced)) as endpoint, pytest.raises(RetryableError, match="stay as it was listed"):
        imported(endpoint, tmp_path / "faces")


def test_content_that_belies_its_etag_ends_the_import(monkeypatch, tmp_path):
    monkeypatch.setattr(object_store, "_PAUSE", 0)

    def damaged(handler, key):
        if key == "p/030.png":
            other = bytes(len(PICTURES[key]))
            handler.reply(200, other, ETag=f'"{hashlib.md5(PICTURES[key]).hexdigest()}"')
        return key == "p/030.png"

    with answering(Bucket(damaged)) as endpoint, pytest.raises(RetryableError, match=r"030.png` to have .* with MD5"):
        imported(endpoint, tmp_path / "faces")


# --- The general client takes over ----------------------------------------------------------------------------------


def chunked(handler, key):
    data = PICTURES[key]
    handler.send_response(200)
    handler.send_header("Transfer-Encoding", "chunked")
    handler.end_headers()
    handler.wfile.write(b"%x\r\n%s\r\n0\r\n\r\n" % (len(data), data))
    return True


def unsigned(handler, key):
    if "Signature" in handler.path:
        handler.reply(403, ERROR.format("AccessDenied").encode())
    return "Signature" in handler.path


@pytest.mark.parametrize("fault", [chunked, unsigned])
def test_answers_out_of_the_ordinary_are_understood(tmp_path, fault):
    bucket = Bucket(fault)
    with answering(bucket) as endpoint:
        store = store_at(endpoint)
        for item in store.list("bucket", "p/"):
            assert store.get("bucket", item) == PICTURES[item.key]
    assert len(bucket.asked) == 60 + object_store._MOST_UNUSUAL  # after some it is asked directly


def test_connections_stay_open_and_idle_ones_that_were_closed_do_not_matter():
    seen = set()

    def note(handler, key):
        seen.add(handler.client_address)
        if key == "p/020.png":
            data = PICTURES[key]
            handler.reply(200, data, Connection="close")
        return key == "p/020.png"

    def hang_up_later(handler, key):
        note(handler, key)
        if key == "p/040.png":
            data = PICTURES[key]
            handler.reply(200, data)
            handler.hang_up()
        return key in ("p/020.png", "p/040.png")

    with answering(Bucket(hang_up_later)) as endpoint:
        store = store_at(endpoint)
        for item in store.list("bucket", "p/"):
            assert store.get("bucket", item.key) == PICTURES[item.key]
    assert len(seen) == 3


# --- Far away -------------------------------------------------------------------------------------------------------


def test_many_objects_are_under_way_at_once(tmp_path):
    together = threading.Barrier(16)  # nobody is answered before so many ask

    def far(handler, key):
        if key < "p/032":
            together.wait(30)
        return False

    with answering(Bucket(far)) as endpoint:
        assert imported(endpoint, tmp_path / "faces").count == 60


def test_what_is_under_way_is_limited_in_bytes():
    loads, now = [], 0
    lock = threading.Lock()

    def work(size):
        nonlocal now
        with lock:
            now += size
            loads.append(now)

    for size, _ in ordered_map(work, [40] * 50, 16, chunk=1, weight=int, budget=100):
        with lock:
            now -= size
    assert max(loads) <= 120 + 40  # one is handed out while the next begins


def test_large_pictures_do_not_pile_up():
    class Photos:
        under_way = most = 0
        lock = threading.Lock()

        def list(self, bucket, prefix=""):
            return (ObjectInfo(f"{index}.jpg", 2 << 20, "") for index in range(400))

        def get(self, bucket, item):
            with self.lock:
                self.under_way += 1
                self.most = max(self.most, self.under_way)
            return b"x"

    store = Photos()
    for _ in S3FlatReader(S3Source("b"), store).read(None, {}):
        store.under_way -= 1
    assert store.most <= 36


# --- The command ----------------------------------------------------------------------------------------------------


def command(*words):
    began = time.monotonic()
    code = "import sys; from ferry.pipelines.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, timeout=60)
    assert time.monotonic() - began < 30
    assert "Traceback" not in done.stderr
    assert SECRET not in done.stdout + done.stderr
    return done.returncode, " ".join(done.stderr.split())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("status", "code", "exit_code", "words"),
    [
        (403, "SignatureDoesNotMatch", 2, "`S3_SECRET_KEY` to be the secret that belongs to the access key"),
        (404, "NoSuchBucket", 2, "`bucket bucket` to be an existing bucket"),
        (400, "ExpiredToken", 2, "`S3_SESSION_TOKEN` to be a token that is still valid"),
        (503, "SlowDown", 75, "run the same command again"),
    ],
)
def test_the_command_says_what_is_wrong(environment, tmp_path, status, code, exit_code, words):
    with answering(lambda handler: handler.reply(status, ERROR.format(code).encode())) as endpoint:
        environment(endpoint)
        found = command("faces", "import", "s3://bucket/p", "-o", str(tmp_path / "faces"))
    assert found[0] == exit_code, found
    assert words in found[1]


@pytest.mark.slow
@pytest.mark.parametrize("words", ["import", "push"])
def test_the_command_gives_up_a_silent_store_within_half_a_minute(environment, tmp_path, words):
    render_faces(tmp_path / "given", 4, "shaded", 1, size=16, splits={"train": 1.0})
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        environment(f"http://127.0.0.1:{silent.getsockname()[1]}")
        arguments = {
            "import": ("s3://bucket/p", "-o", str(tmp_path / "faces")),
            "push": (str(tmp_path / "given"), "s3://bucket/p"),
        }
        exit_code, message = command("faces", words, *arguments[words])
    assert exit_code == 75
    assert "`S3_ENDPOINT`" in message


@pytest.mark.parametrize(("layout", "said"), [("flat", "importing faces"), ("folder", "copying s3://bucket/p")])
def test_progress_is_shown(environment, tmp_path, monkeypatch, caplog, layout, said):
    monkeypatch.setattr(progress_module, "_SHOW_AFTER", 0.0)
    monkeypatch.setattr(progress_module, "_LOG_EVERY", 0.0)
    monkeypatch.setattr(progress_module, "_STATE_EVERY", 0.0)
    monkeypatch.setenv(progress_module.STATE_VARIABLE, str(tmp_path / "state.json"))
    with answering(Bucket()) as endpoint, caplog.at_level(logging.INFO, "ferry"):
        environment(endpoint)
        try:
            import_faces("s3://bucket/p", tmp_path / "faces", layout)
        except UserError:
            assert layout == "folder"  # the pictures lie in no folders of classes; the copy is what counts here
    lines = [record.getMessage() for record in caplog.records if record.getMessage().startswith(said)]
    assert "1 " in lines[0]
    assert "60 " in lines[-1]
    assert "/s" in lines[-1]
    assert json.loads((tmp_path / "state.json").read_text())["done"] == 60


# --- TLS ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    """A certificate for this machine that no public authority has signed: a context for a server, and the PEM file."""
    x509 = pytest.importorskip("cryptography.x509")
    import ipaddress

    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key, name = ec.generate_private_key(ec.SECP256R1()), x509.Name([x509.NameAttribute(x509.OID_COMMON_NAME, "here")])
    now = datetime.now(UTC)
    here = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    made = x509.CertificateBuilder(name, name, key.public_key(), 1, now - timedelta(1), now + timedelta(1))
    signed = made.add_extension(here, critical=False).sign(key, hashes.SHA256())
    folder = tmp_path_factory.mktemp("tls")
    (folder / "ca.pem").write_bytes(signed.public_bytes(serialization.Encoding.PEM))
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (folder / "key.pem").write_bytes(key.private_bytes(*form))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "ca.pem", folder / "key.pem")
    return context, str(folder / "ca.pem")


def test_a_private_authority_is_trusted_when_it_is_named(authority, environment, monkeypatch, tmp_path):
    context, ca = authority
    with answering(Bucket(), context) as endpoint:
        environment(endpoint)
        monkeypatch.setenv("S3_CA", ca)
        assert import_faces("s3://bucket/p", tmp_path / "faces", "flat").count == 60
        monkeypatch.delenv("S3_CA")
        with pytest.raises(UserError, match=r"`S3_ENDPOINT` to be a store with a valid certificate.*S3_CA"):
            ObjectStore().check("bucket")


def test_a_push_that_is_refused_says_so(environment, tmp_path):
    render_faces(tmp_path / "given", 4, "shaded", 1, size=16, splits={"train": 1.0})

    def refuse(handler):
        handler.rfile.read(int(handler.headers.get("Content-Length", 0)))
        handler.reply(403, ERROR.format("AccessDenied").encode())

    with answering(lambda handler: handler.reply(200, listing([], [])), put=refuse) as endpoint:
        environment(endpoint)
        with pytest.raises(UserError, match=r"`S3_ACCESS_KEY` to be a key with the right to do this"):
            push_faces(tmp_path / "given", "s3://bucket/p")


# --- Names and addresses --------------------------------------------------------------------------------------------


def test_an_address_that_does_not_answer_leaves_time_for_the_next(monkeypatch):
    """Also where the first of two is a black hole, as with a half-configured IPv6."""
    real = socket.socket.connect

    class Hole(socket.socket):
        def connect(self, address):
            if address[0] == "127.9.9.9":
                time.sleep(self.gettimeout())
                raise TimeoutError
            real(self, address)

    def found(name, port, *rest):
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (host, port)) for host in ("127.9.9.9", "127.0.0.1")]

    with answering(Bucket()) as endpoint:
        monkeypatch.setattr(downloads.socket, "socket", Hole)
        monkeypatch.setattr(downloads.socket, "getaddrinfo", found)
        began = time.monotonic()
        answer = Downloads("", 1.0, 5.0).get(f"{endpoint}/bucket/p/000.png", {})
        assert b"".join(answer) == PICTURES["p/000.png"]
        assert 0.4 < time.monotonic() - began < 5


def test_a_name_server_that_does_not_answer_is_not_waited_for(monkeypatch):
    free = threading.Event()
    monkeypatch.setattr(downloads.socket, "getaddrinfo", lambda *arguments: free.wait(30))
    began = time.monotonic()
    with pytest.raises(Stalled):
        Downloads("", 0.2, 5.0).get("http://store.example/k", {})
    free.set()
    assert time.monotonic() - began < 5
