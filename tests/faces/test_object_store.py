"""The object store against an S3 server in this process, against servers that misbehave, and against a real one."""

import errno
import hashlib
import os
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from ferry.common.errors import RetryableError, UserError
from ferry.faces import open_faces, render_faces
from ferry.faces.addresses import VARIABLES, ObjectInfo, ObjectStoreConfig, S3Source
from ferry.faces.object_store import _ADVICE, ObjectStore
from ferry.faces.readers import reader
from ferry.faces.readers.s3 import S3FlatReader, S3Reader
from ferry.faces.readers.sync import synchronise
from minio import Minio

from .. import servers
from .stores import ERROR, SECRET, answering, store_at
from .stores import listing as listed


@pytest.fixture(scope="module")
def server():
    # The fake store needs no network, and finding out the machine's own metadata would only cost time.
    with servers.moto() as address:
        yield address


@pytest.fixture
def bucket(server, request):
    name = "b" + hashlib.sha256(request.node.name.encode()).hexdigest()[:20]
    client(server).make_bucket(bucket_name=name)
    return name


@pytest.fixture
def store(server):
    return ObjectStore(ObjectStoreConfig(f"http://{server}", "key", SECRET))


@pytest.fixture
def environment(server, monkeypatch, tmp_path):
    for name in list(os.environ):
        if name.startswith(("S3_", "MINIO_", "AWS_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("S3_ENDPOINT", f"http://{server}")
    monkeypatch.setenv("S3_ACCESS_KEY", "key")
    monkeypatch.setenv("S3_SECRET_KEY", SECRET)
    monkeypatch.setenv("FERRY_CACHE", str(tmp_path / "cache"))


def client(server):
    return Minio(endpoint=server, access_key="key", secret_key=SECRET, secure=False)


def fill(store, tmp_path, bucket, *keys):
    """Uploads objects whose content is their own key."""
    file = tmp_path / "upload"
    for key in keys:
        file.write_bytes(key.encode())
        store.upload(file, bucket, key)


# --- Configuration --------------------------------------------------------------------------------------------------


def config(**variables):
    return ObjectStoreConfig.from_environment(variables)


@pytest.mark.parametrize(
    ("variables", "family"),
    [
        ({"S3_ENDPOINT": "h:1", "S3_ACCESS_KEY": "a", "S3_SECRET_KEY": "s", "S3_REGION": "r"}, "S3"),
        ({"MINIO_ENDPOINT": "h:1", "MINIO_ACCESS_KEY": "a", "MINIO_SECRET_KEY": "s", "MINIO_REGION": "r"}, "MINIO"),
        ({"MINIO_ENDPOINT": "h:1", "MINIO_ROOT_USER": "a", "MINIO_ROOT_PASSWORD": "s", "MINIO_REGION": "r"}, "MINIO"),
        (
            {
                "AWS_ENDPOINT_URL": "https://h:1",
                "AWS_ACCESS_KEY_ID": "a",
                "AWS_SECRET_ACCESS_KEY": "s",
                "AWS_REGION": "r",
            },
            "AWS",
        ),
    ],
)
def test_usual_names_of_variables_are_understood(variables, family):
    found = config(**variables)
    assert (found.endpoint, found.access_key, found.secret_key, found.region) == ("h:1", "a", "s", "r")
    assert found.secure is True
    assert found.variable("secret_key").startswith(family)


def test_own_names_win_and_keys_stay_together():
    found = config(
        S3_ENDPOINT="h", S3_ACCESS_KEY="own", S3_SECRET_KEY="s", AWS_ACCESS_KEY_ID="other", AWS_SESSION_TOKEN="t"
    )
    assert (found.access_key, found.session_token) == ("own", "")
    with pytest.raises(UserError, match=r"`S3_SECRET_KEY` to be set"):
        config(S3_ENDPOINT="h", S3_ACCESS_KEY="own", AWS_SECRET_ACCESS_KEY="not its own")


@pytest.mark.parametrize(
    ("endpoint", "secure", "wanted"),
    [("h:9000", "", True), ("h:9000", "false", False), ("http://h", "", False), ("https://h/", "true", True)],
)
def test_scheme_and_variable_decide_on_tls(endpoint, secure, wanted):
    assert config(S3_ENDPOINT=endpoint, S3_SECURE=secure).secure is wanted


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({}, r"`S3_ENDPOINT` to be set"),
        ({"S3_ENDPOINT": "ftp://h"}, r"`S3_ENDPOINT` to be the address of an S3 store, but got 'ftp://h'"),
        ({"S3_ENDPOINT": "http://"}, r"`S3_ENDPOINT`"),
        ({"S3_ENDPOINT": "http://h", "S3_SECURE": "true"}, r"`S3_SECURE` to be in agreement with http://"),
        ({"S3_ENDPOINT": "h", "S3_SECURE": "maybe"}, r"`S3_SECURE` to be true or false"),
        ({"S3_ENDPOINT": "h", "S3_ACCESS_KEY": "a"}, r"`S3_SECRET_KEY` to be set"),
        ({"S3_ENDPOINT": "h", "MINIO_SECRET_KEY": "s"}, r"`MINIO_ACCESS_KEY` to be set"),
        ({"S3_ENDPOINT": "h", "S3_CA": "/no/such.pem"}, r"`S3_CA` to be an existing PEM file"),
    ],
)
def test_a_wrong_configuration_names_the_variable(variables, message):
    with pytest.raises(UserError, match=message):
        config(**variables)


def test_the_documentation_has_every_name_and_every_refusal():
    page = (Path(__file__).resolve().parents[2] / "docs" / "object-store.md").read_text(encoding="utf-8")
    for names in VARIABLES.values():
        assert "| " + ", ".join(f"`{name}`" for name in names) + " |" in page
    for code in (*_ADVICE, "RequestTimeTooSkewed"):
        assert f"`{code}`" in page


def test_an_endpoint_with_a_path_is_refused():
    with pytest.raises(UserError, match=r"`S3_ENDPOINT` to be host:port without a path"):
        ObjectStore(ObjectStoreConfig("http://h:9000/minio"))


def test_secrets_are_not_shown():
    shown = repr(config(S3_ENDPOINT="h", S3_ACCESS_KEY="AKIA", S3_SECRET_KEY=SECRET, S3_SESSION_TOKEN="tok"))
    assert SECRET not in shown
    assert "AKIA" not in shown
    assert "tok" not in shown


@pytest.mark.parametrize(
    ("uri", "bucket", "prefix"),
    [
        ("s3://b", "b", ""),
        ("s3://b/", "b", ""),
        ("s3://b/a/c/", "b", "a/c"),
        ("minio://b/a", "b", "a"),
        (Path("s3://b/a"), "b", "a"),
        ("S3://b/x y.csv", "b", "x y.csv"),
    ],
)
def test_uris_are_read(uri, bucket, prefix):
    assert S3Source.parse(uri) == S3Source(bucket, prefix)


@pytest.mark.parametrize("uri", ["s3://", "/data", "http://b/a"])
def test_other_uris_are_refused(uri):
    with pytest.raises(UserError, match="s3://bucket/prefix"):
        S3Source.parse(uri)


# --- Objects --------------------------------------------------------------------------------------------------------


def test_listing_is_sorted_and_goes_on_behind_a_key(store, bucket, tmp_path):
    fill(store, tmp_path, bucket, "p/c", "p/a", "p/b/x", "q")
    listed = list(store.list(bucket, "p/"))
    assert [item.key for item in listed] == ["p/a", "p/b/x", "p/c"]
    assert listed[0] == ObjectInfo("p/a", 3, hashlib.md5(b"p/a").hexdigest())
    assert [item.key for item in store.list(bucket, "p/", start_after="p/a")] == ["p/b/x", "p/c"]
    assert [item.key for item in store.list(bucket)] == ["p/a", "p/b/x", "p/c", "q"]


def test_listing_reads_one_page_ahead_and_only_for_those_who_go_on():
    asked = []

    def answer(handler):
        token = parse_qs(urlsplit(handler.path).query).get("continuation-token", ["0"])[0]
        asked.append(token)
        number = int(token)
        following = str(number + 1) if number < 2 else ""
        size = 1000 if following else 7
        contents = [(f"{number}/{index:03d}", 1) for index in range(size)]
        handler.reply(200, listed(contents, "e" * size, following))

    with answering(answer) as endpoint:
        store = store_at(endpoint)
        store.check("bucket")
        asked.clear()
        listing = store.list("bucket")
        assert next(listing) == ObjectInfo("0/000", 1, "e")
        time.sleep(0.2)
        assert asked == ["0"]
        next(listing)
        wait_until(lambda: asked == ["0", "1"])
        time.sleep(0.2)
        assert asked == ["0", "1"]
        assert len(list(listing)) == 2005
        assert asked == ["0", "1", "2"]


def wait_until(true, seconds=10):
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_content_comes_back_and_is_saved_whole(store, bucket, tmp_path):
    fill(store, tmp_path, bucket, "a b/ä.txt")
    item = next(store.list(bucket))
    assert store.get(bucket, item) == store.get(bucket, item.key) == "a b/ä.txt".encode()
    store.save(bucket, item, tmp_path / "deep" / "copy")
    assert (tmp_path / "deep" / "copy").read_bytes() == "a b/ä.txt".encode()


def test_large_files_go_up_in_parts(store, bucket, tmp_path):
    file = tmp_path / "large"
    file.write_bytes(os.urandom(11 << 20))
    item = store.upload(file, bucket, "large")
    assert item.size == 11 << 20
    store.save(bucket, item, tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == file.read_bytes()


def test_a_missing_file_is_not_uploaded(store, bucket, tmp_path):
    with pytest.raises(UserError, match="`path` to be an existing file"):
        store.upload(tmp_path / "gone", bucket, "x")


def test_a_missing_bucket_or_object_is_the_users_error(store, bucket):
    with pytest.raises(UserError, match=r"`bucket nosuchbucket` to be an existing bucket, but got 'NoSuchBucket'"):
        list(store.list("nosuchbucket"))
    with pytest.raises(UserError, match=r"`bucket xx` to be a valid name"):
        list(store.list("xx"))
    with pytest.raises(UserError, match=r"to be an existing object, but got 'NoSuchKey'"):
        store.get(bucket, "gone")


def test_an_object_that_was_replaced_is_worth_a_retry(store, bucket, tmp_path):
    fill(store, tmp_path, bucket, "x")
    stale = ObjectInfo("x", 1, "0" * 32)
    with pytest.raises(RetryableError):
        store.get(bucket, stale)


# --- Servers that misbehave -----------------------------------------------------------------------------------------

LISTING = b"""<?xml version="1.0"?><ListBucketResult><Name>b</Name><IsTruncated>false</IsTruncated>
<Contents><Key>k</Key><Size>4</Size><ETag>"%s"</ETag><LastModified>2026-01-01T00:00:00.000Z</LastModified></Contents>
</ListBucketResult>"""


@pytest.mark.parametrize(
    ("code", "status", "variable"),
    [
        ("InvalidAccessKeyId", 403, "S3_ACCESS_KEY"),
        ("InvalidToken", 400, "S3_SESSION_TOKEN"),
        ("SignatureDoesNotMatch", 403, "S3_SECRET_KEY"),
        ("ExpiredToken", 400, "S3_SESSION_TOKEN"),
        ("AuthorizationHeaderMalformed", 400, "S3_REGION"),
        ("RequestTimeTooSkewed", 403, "clock"),
        ("Whatever", 400, "S3_ENDPOINT"),
    ],
)
def test_refusals_name_the_variable_and_no_secret(code, status, variable):
    refusal = ERROR.format(code).encode()
    with answering(lambda handler: handler.reply(status, refusal)) as endpoint, pytest.raises(UserError) as error:
        store_at(endpoint).check("bucket")
    assert error.value.exit_code == 2
    assert f"`{variable}`" in str(error.value)
    assert code in str(error.value)
    assert SECRET not in str(error.value)


def test_a_missing_right_to_list_leaves_single_objects_readable():
    def answer(handler):
        if "list-type" in handler.path:
            handler.reply(403, ERROR.format("AccessDenied").encode())
        else:
            handler.reply(200, b"data", ETag=f'"{hashlib.md5(b"data").hexdigest()}"')

    with answering(answer) as endpoint:
        store = store_at(endpoint)
        assert store.get("bucket", "k") == b"data"
        with pytest.raises(UserError, match=r"`S3_ACCESS_KEY` to be a key with the right"):
            list(store.list("bucket"))


@pytest.mark.parametrize("body", [ERROR.format("SlowDown").encode(), b"gateway"])
def test_a_store_out_of_order_is_worth_a_retry(body):
    retryable = pytest.raises(RetryableError, match="S3_ENDPOINT")
    with answering(lambda handler: handler.reply(503, body)) as endpoint, retryable:
        store_at(endpoint).check("bucket")


@pytest.mark.parametrize("status", [200, 404])
@pytest.mark.parametrize("body", [b"<html><p>", b"<html/>", b"hello"])
def test_another_kind_of_server_is_the_users_error(status, body):
    wrong = pytest.raises(UserError, match=r"`S3_ENDPOINT` to be the address of an S3 store.*no S3 answer")
    with answering(lambda handler: handler.reply(status, body, "text/html")) as endpoint, wrong:
        store_at(endpoint).check("bucket")


def test_tls_to_a_plain_server_names_the_variables():
    wrong = pytest.raises(UserError, match=r"S3_CA \(certificates\) and S3_SECURE")
    with answering(lambda handler: handler.reply(200, b"")) as endpoint, wrong:
        store_at(endpoint.replace("http://", "https://")).check("bucket")


class Flaky:
    """Serves ``data`` well only from the given request on."""

    def __init__(self, well_from, fault):
        self.requests, self.well_from, self.fault = 0, well_from, fault

    def __call__(self, handler):
        if "list-type" in handler.path:
            handler.reply(200, LISTING % hashlib.md5(b"data").hexdigest().encode())
            return
        self.requests += 1
        if self.requests < self.well_from:
            self.fault(handler)
        else:
            handler.reply(200, b"data", ETag=f'"{hashlib.md5(b"data").hexdigest()}"')


def damaged(handler):
    handler.reply(200, b"dat4", ETag=f'"{hashlib.md5(b"data").hexdigest()}"')


def cut_off(handler):
    handler.reply(200, b"da", Content_Length=4)
    handler.close_connection = True
    handler.connection.shutdown(socket.SHUT_RDWR)


def short(handler):
    handler.reply(200, b"dat", ETag='"no-md5"')


@pytest.mark.parametrize("fault", [damaged, cut_off, short])
@pytest.mark.parametrize("by", ["get", "save"])
def test_damaged_transfers_are_repeated_and_then_given_up(tmp_path, monkeypatch, fault, by):
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    target = tmp_path / "copy"

    def fetch(store, item):
        return store.get("bucket", item) if by == "get" else store.save("bucket", item, target)

    flaky = Flaky(3, fault)
    with answering(flaky) as endpoint:
        store = store_at(endpoint)
        item = next(store.list("bucket"))
        got = fetch(store, item)
        assert (got if by == "get" else target.read_bytes()) == b"data"
        assert flaky.requests == 3
        flaky.well_from = 100
        target.unlink(missing_ok=True)
        with pytest.raises(RetryableError, match="object bucket/k"):
            fetch(store, item)
    assert not target.exists()
    assert flaky.requests == 6


def test_encrypted_objects_are_not_held_to_their_etag():
    def answer(handler):
        if "list-type" in handler.path:
            handler.reply(200, LISTING % (b"0" * 32))
        else:
            handler.reply(200, b"data", ETag='"' + "0" * 32 + '"', x_amz_server_side_encryption="aws:kms")

    with answering(answer) as endpoint:
        store = store_at(endpoint)
        assert store.get("bucket", next(store.list("bucket"))) == b"data"


def test_an_unreachable_store_is_reported_soon():
    with socket.socket() as taken:  # bound and not listening: connections are refused
        taken.bind(("127.0.0.1", 0))
        store = store_at(f"http://127.0.0.1:{taken.getsockname()[1]}")
        began = time.monotonic()
        with pytest.raises(RetryableError, match=r"`S3_ENDPOINT` to be reachable, but got NewConnectionError"):
            store.check("bucket")
        assert time.monotonic() - began < 30


@pytest.mark.slow
def test_a_store_that_never_answers_is_reported_within_half_a_minute():
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        store = store_at(f"http://127.0.0.1:{silent.getsockname()[1]}")
        began = time.monotonic()
        with pytest.raises(RetryableError, match="`S3_ENDPOINT` to go on answering"):
            store.check("bucket")
        assert time.monotonic() - began < 30


# --- Readers over a prefix ------------------------------------------------------------------------------------------


def test_unlabelled_images_are_streamed(environment, store, bucket, tmp_path):
    fill(store, tmp_path, bucket, "new/b.jpg", "new/a/1.PNG", "new/readme.txt", "newer/z.jpg", "top.jpg")
    chosen = reader("flat", f"s3://{bucket}/new")
    faces = list(chosen.read(Path("ignored"), {}))
    assert (chosen.name, chosen.labelled) == ("flat", False)
    assert [(face.key, face.label, face.split) for face in faces] == [("a/1.PNG", None, ""), ("b.jpg", None, "")]
    assert [face.load() for face in faces] == [b"new/a/1.PNG", b"new/b.jpg"]
    assert not (tmp_path / "cache").exists()
    assert [face.key for face in reader("flat", f"s3://{bucket}").read(Path(), {})] == [
        "new/a/1.PNG",
        "new/b.jpg",
        "newer/z.jpg",
        "top.jpg",
    ]


class Counting:
    """A store of many small objects that counts what was fetched."""

    config = ObjectStoreConfig("h")

    def __init__(self, number, size=4):
        self.number, self.size, self.fetched = number, size, 0
        self.lock = threading.Lock()

    def list(self, bucket, prefix="", start_after=""):
        return (ObjectInfo(f"{index:06d}.jpg", self.size, "e") for index in range(self.number))

    def get(self, bucket, item):
        with self.lock:
            self.fetched += 1
        return b"data"


def test_streaming_runs_only_a_little_ahead():
    store = Counting(10_000)
    faces = S3FlatReader(S3Source("b"), store).read(Path(), {})
    first = next(faces)
    assert first.load() == b"data"
    faces.close()
    assert 1 <= store.fetched <= 100


def test_large_objects_are_fetched_only_when_asked_for():
    store = Counting(3, size=100 << 20)
    faces = list(S3FlatReader(S3Source("b"), store).read(Path(), {}))
    assert store.fetched == 0
    assert faces[0].load() == b"data"
    assert store.fetched == 1


def test_an_object_that_vanishes_while_streaming_is_an_error_of_that_face(environment, store, bucket, tmp_path):
    fill(store, tmp_path, bucket, "a.jpg", "b.jpg")

    class Vanishing(ObjectStore):
        def get(self, bucket, item):
            return super().get(bucket, ObjectInfo("gone.jpg", 1, "") if item.key == "a.jpg" else item)

    first, second = S3FlatReader(S3Source(bucket), Vanishing()).read(Path(), {})
    with pytest.raises(UserError, match="an existing object"):
        first.load()
    assert second.load() == b"b.jpg"


def test_a_prefix_without_images_is_the_users_error(environment, store, bucket, tmp_path):
    fill(store, tmp_path, bucket, "x/readme.txt")
    with pytest.raises(UserError, match=rf"a prefix with images, but got 's3://{bucket}/x'"):
        list(reader("flat", f"s3://{bucket}/x").read(Path(), {}))
    with pytest.raises(UserError, match=rf"a prefix with objects, but got 's3://{bucket}/y'"):
        reader("folder", f"s3://{bucket}/y").read(Path(), {})


@pytest.mark.parametrize("layout", ["folder", "auto"])
def test_a_labelled_layout_is_read_from_a_copy(environment, store, bucket, tmp_path, layout):
    fill(store, tmp_path, bucket, "d/train/happy/1.jpg", "d/train/sad/2.jpg", "d/test/sad/3.jpg", "dx/sad/4.jpg")
    chosen = reader(layout, f"s3://{bucket}/d/")
    faces = list(chosen.read(Path("ignored"), {}))
    assert (chosen.name, chosen.labelled) == ("folder", True)
    assert [(face.key, face.label, face.split) for face in faces] == [
        ("train/happy/1.jpg", "happiness", "train"),
        ("train/sad/2.jpg", "sadness", "train"),
        ("test/sad/3.jpg", "sadness", "test"),
    ]
    assert faces[0].load() == b"d/train/happy/1.jpg"


def test_a_manifest_without_labels_says_so_from_s3_too(environment, store, bucket, tmp_path):
    fill(store, tmp_path, bucket, "m/a.jpg")
    (tmp_path / "manifest.csv").write_text("path\na.jpg\n")
    store.upload(tmp_path / "manifest.csv", bucket, "m/manifest.csv")
    chosen = reader("manifest", f"s3://{bucket}/m")
    faces = list(chosen.read(Path(), {}))
    assert not chosen.labelled
    assert faces[0].load() == b"m/a.jpg"


def test_a_single_object_is_a_source(environment, store, bucket, tmp_path):
    (tmp_path / "list.csv").write_text("path,label\n/x/a.jpg,happy\n")
    store.upload(tmp_path / "list.csv", bucket, "lists/list.csv")
    faces = list(reader("manifest", f"s3://{bucket}/lists/list.csv").read(Path(), {}))
    assert [(face.key, face.label) for face in faces] == [("/x/a.jpg", "happiness")]


def counts(copy):
    return copy.fetched, copy.kept, copy.removed


def test_a_copy_fetches_only_what_changed(store, bucket, tmp_path):
    fill(store, tmp_path, bucket, *(f"p/{number}" for number in range(6)))
    source = S3Source(bucket, "p")
    first = synchronise(store, source, tmp_path / "cache")
    assert counts(first) == (6, 0, 0)
    assert counts(synchronise(store, source, tmp_path / "cache")) == (0, 6, 0)

    (tmp_path / "upload").write_bytes(b"N/E")  # the same size, other content
    store.upload(tmp_path / "upload", bucket, "p/1")
    (first.path / "2").write_bytes(b"cut")
    (first.path / "3").write_bytes(b"")
    (first.path / "4").unlink()
    assert counts(synchronise(store, source, tmp_path / "cache")) == (3, 3, 0)
    assert (first.path / "1").read_bytes() == b"N/E"
    assert (first.path / "4").read_bytes() == b"p/4"


def test_what_was_deleted_in_the_store_is_deleted_in_the_copy(store, server, bucket, tmp_path):
    fill(store, tmp_path, bucket, "p/a", "p/b")
    source = S3Source(bucket, "p")
    copy = synchronise(store, source, tmp_path / "cache")
    client(server).remove_object(bucket_name=bucket, object_name="p/a")
    assert counts(synchronise(store, source, tmp_path / "cache")) == (0, 1, 1)
    assert sorted(path.name for path in copy.path.iterdir()) == ["b"]


def test_an_interrupted_copy_goes_on_where_it_stopped(store, bucket, tmp_path, monkeypatch):
    fill(store, tmp_path, bucket, *(f"p/{number:02d}" for number in range(24)))
    source, save, saved = S3Source(bucket, "p"), store.save, []

    def failing(bucket, item, path):
        if item.key == "p/18":
            raise RetryableError("the network went away")
        save(bucket, item, path)
        saved.append(item.key)

    monkeypatch.setattr(store, "save", failing)
    with pytest.raises(RetryableError, match="network went away"):
        synchronise(store, source, tmp_path / "cache")
    monkeypatch.setattr(store, "save", save)
    again = synchronise(store, source, tmp_path / "cache")
    assert again.kept >= 18
    assert again.fetched == 24 - again.kept
    assert sorted(path.read_bytes() for path in again.path.iterdir()) == [f"p/{n:02d}".encode() for n in range(24)]


def test_files_that_a_killed_copy_left_behind_are_removed(store, bucket, tmp_path):
    fill(store, tmp_path, bucket, "p/a", "p/d/b")
    copy = synchronise(store, S3Source(bucket, "p"), tmp_path / "cache")
    (copy.path / "d" / ".b.x1y2z3").write_bytes(b"half")
    (copy.path / "gone").write_bytes(b"fetched, but never noted down")
    assert counts(synchronise(store, S3Source(bucket, "p"), tmp_path / "cache")) == (0, 2, 2)
    assert sorted(path.name for path in copy.path.rglob("*")) == ["a", "b", "d"]


def test_copies_at_the_same_time_agree(store, bucket, tmp_path):
    fill(store, tmp_path, bucket, *(f"p/{number}" for number in range(12)))
    copies = []
    threads = [
        threading.Thread(target=lambda: copies.append(synchronise(store, S3Source(bucket, "p"), tmp_path / "cache")))
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(counts(copy) for copy in copies) == [(0, 12, 0), (0, 12, 0), (12, 0, 0)]


def test_keys_that_cannot_be_files_are_skipped(store, bucket, tmp_path):
    fill(store, tmp_path, bucket, "p/a", "p/a/b", "p/" + "x" * 300, "p/ok")
    copy = synchronise(store, S3Source(bucket, "p"), tmp_path / "cache")
    # Of "a" and "a/b" only one can be there; which one is up to the threads.
    assert (copy.fetched, copy.skipped) == (2, 2)


def test_a_full_disk_is_worth_a_retry_and_keeps_what_was_there(store, bucket, tmp_path, monkeypatch):
    fill(store, tmp_path, bucket, "p/a", "p/b")
    source, save = S3Source(bucket, "p"), store.save

    def full(bucket, item, path):
        if item.key == "p/b":
            raise OSError(errno.ENOSPC, "No space left on device")
        save(bucket, item, path)

    monkeypatch.setattr(store, "save", full)
    with pytest.raises(RetryableError, match="`disk` to be large enough"):
        synchronise(store, source, tmp_path / "cache")
    monkeypatch.setattr(store, "save", save)
    assert counts(synchronise(store, source, tmp_path / "cache")) == (1, 1, 0)


def test_a_damaged_index_only_costs_the_download(store, bucket, tmp_path):
    fill(store, tmp_path, bucket, "p/a")
    copy = synchronise(store, S3Source(bucket, "p"), tmp_path / "cache")
    (copy.path.parent / "index.sqlite").write_bytes(b"no database" * 100)
    assert counts(synchronise(store, S3Source(bucket, "p"), tmp_path / "cache")) == (1, 0, 0)


def test_keys_cannot_leave_the_copy(tmp_path):
    class Hostile(Counting):
        find = ObjectStore.find

        def list(self, bucket, prefix="", start_after=""):
            for key in ("p/../../evil", "p//etc/passwd", "p/a\\b", "p/x\0y", "p/folder/", "p/good.jpg"):
                yield ObjectInfo(key, 4, "e")

        def save(self, bucket, item, path):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"data")

    copy = synchronise(Hostile(0), S3Source("b", "p"), tmp_path / "cache")
    assert (copy.fetched, copy.skipped) == (1, 4)
    assert [path.name for path in copy.path.rglob("*")] == ["good.jpg"]
    assert not (tmp_path / "evil").exists()


def test_reading_again_sees_new_objects(environment, store, bucket, tmp_path):
    fill(store, tmp_path, bucket, "d/happy/1.jpg", "d/sad/1.jpg")
    chosen = S3Reader(S3Source(bucket, "d"), "folder", reader)
    assert len(list(chosen.read(Path(), {}))) == 2
    fill(store, tmp_path, bucket, "d/sad/2.jpg")
    assert len(list(chosen.read(Path(), {}))) == 3


# --- A real server --------------------------------------------------------------------------------------------------


@pytest.fixture(params=["seaweed", "minio"])
def real(request):
    """A server that checks credentials: SeaweedFS, and MinIO where there is one."""
    try:
        with getattr(servers, request.param)("AKIATEST", SECRET, "faces") as endpoint:
            yield endpoint
    except servers.Missing as reason:
        pytest.skip(str(reason))


@pytest.mark.integration
def test_a_real_server_end_to_end(real, tmp_path, monkeypatch):
    store = ObjectStore(ObjectStoreConfig(real, "AKIATEST", SECRET))
    fill(store, tmp_path, "faces", "d/happy/1.jpg", "d/sad/ä 2.jpg", "new/a.jpg")
    large = tmp_path / "large.jpg"
    large.write_bytes(os.urandom(12 << 20))
    assert store.upload(large, "faces", "new/large.jpg").size == 12 << 20

    assert [item.key for item in store.list("faces", "d/")] == ["d/happy/1.jpg", "d/sad/ä 2.jpg"]
    assert [item.key for item in store.list("faces", "d/", start_after="d/happy/1.jpg")] == ["d/sad/ä 2.jpg"]
    first, second = S3FlatReader(S3Source("faces", "new"), store).read(Path(), {})
    assert (first.load(), second.load()) == (b"new/a.jpg", large.read_bytes())

    copied = S3Reader(S3Source("faces", "d"), "folder", reader, store, tmp_path / "cache")
    assert [(face.label, face.load()) for face in copied.read(Path(), {})] == [
        ("happiness", b"d/happy/1.jpg"),
        ("sadness", "d/sad/ä 2.jpg".encode()),
    ]
    assert counts(synchronise(store, S3Source("faces", "d"), tmp_path / "cache")) == (0, 2, 0)

    with pytest.raises(RetryableError, match="stay as it was listed"):
        store.get("faces", ObjectInfo("d/happy/1.jpg", 13, "0" * 32))
    with pytest.raises(UserError, match="an existing object"):
        store.get("faces", "gone")
    with pytest.raises(UserError, match="an existing bucket"):
        store.check("nosuchbucket")
    with pytest.raises(UserError, match="`S3_ACCESS_KEY`"):
        ObjectStore(ObjectStoreConfig(real, "AKIAOTHER", SECRET)).check("faces")
    with pytest.raises(UserError, match="`S3_SECRET_KEY`") as error:
        ObjectStore(ObjectStoreConfig(real, "AKIATEST", "wrong")).check("faces")
    assert SECRET not in str(error.value)


@pytest.mark.integration
def test_the_commands_work_with_a_real_server(real, tmp_path, monkeypatch):
    """Push, import, and a key that is wrong; nothing but the names that MinIO itself uses."""
    for name in list(os.environ):
        if name.startswith(("S3_", "MINIO_", "AWS_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("MINIO_ENDPOINT", real)
    monkeypatch.setenv("MINIO_ROOT_USER", "AKIATEST")
    monkeypatch.setenv("FERRY_CACHE", str(tmp_path / "cache"))

    def ferry(secret, *words):
        environment = {**os.environ, "MINIO_ROOT_PASSWORD": secret}
        code = "from ferry.pipelines.cli import main; main()"
        command = [sys.executable, "-c", code, "faces", *words]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
        assert SECRET not in done.stdout + done.stderr
        return done.returncode, done.stderr

    render_faces(tmp_path / "given", 40, "shaded", 1, size=16, splits={"train": 1.0})
    assert ferry(SECRET, "push", str(tmp_path / "given"), "s3://faces/sets/a")[0] == 0
    assert ferry(SECRET, "import", "s3://faces/sets/a", "-o", str(tmp_path / "again"))[0] == 0
    assert open_faces(tmp_path / "again", "train").digest == open_faces(tmp_path / "given", "train").digest
    code, message = ferry("wrong-secret", "import", "s3://faces/sets/a", "-o", str(tmp_path / "other"))
    assert (code, "`MINIO_ROOT_PASSWORD`" in message) == (2, True), message
    code, message = ferry(SECRET, "import", "s3://nosuchbucket/sets/a", "-o", str(tmp_path / "other"))
    assert (code, "an existing bucket" in message) == (2, True), message


@pytest.mark.integration
def test_a_real_server_that_goes_away_ends_the_import_and_a_new_one_is_gone_on_with(tmp_path):
    """The same command fetches what was not there yet."""
    try:
        with servers.seaweed("AKIATEST", SECRET, "faces") as endpoint:
            store = ObjectStore(ObjectStoreConfig(endpoint, "AKIATEST", SECRET))
            fill(store, tmp_path, "faces", *(f"p/{number:03d}" for number in range(150)))
            with relay(endpoint) as (address, cut):
                far = ObjectStore(ObjectStoreConfig(address, "AKIATEST", SECRET))
                save, saved = far.save, []

                def saving(bucket, item, path):
                    if len(saved) >= 60:
                        cut()
                    save(bucket, item, path)
                    saved.append(item.key)

                far.save = saving
                with pytest.raises(RetryableError, match=r"(?i)run (it|the same command) again"):
                    synchronise(far, S3Source("faces", "p"), tmp_path / "cache")
            with relay(endpoint, int(address.rpartition(":")[2])) as (again, _):
                copy = synchronise(
                    ObjectStore(ObjectStoreConfig(again, "AKIATEST", SECRET)),
                    S3Source("faces", "p"),
                    tmp_path / "cache",
                )
    except servers.Missing as reason:
        pytest.skip(str(reason))
    assert (copy.fetched + copy.kept, copy.kept > 0) == (150, True)
    assert sorted(path.read_bytes() for path in copy.path.iterdir()) == [f"p/{n:03d}".encode() for n in range(150)]


@contextmanager
def relay(endpoint, port=0):
    """Passes connections on to a server until they are cut; yields its address and what cuts them."""
    listening = socket.create_server(("127.0.0.1", port))
    links, lock = [listening], threading.Lock()

    def copy(source, target):
        try:
            while data := source.recv(1 << 16):
                target.sendall(data)
        except OSError:
            pass
        end(source)
        end(target)

    def accept():
        while True:
            try:
                near, _ = listening.accept()
                far = socket.create_connection(("127.0.0.1", int(endpoint.rpartition(":")[2])))
            except OSError:
                return
            with lock:
                links.extend((near, far))
            for pair in ((near, far), (far, near)):
                threading.Thread(target=copy, args=pair, daemon=True).start()

    def end(link):
        try:
            link.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass

    def cut():
        with lock:
            for link in links:
                end(link)
        listening.close()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}", cut
    finally:
        cut()
        for link in links:
            link.close()
