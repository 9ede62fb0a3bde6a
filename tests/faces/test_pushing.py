"""Faces folders in an object store: whole, gone on with, never mixed with something else."""

import hashlib
import json

import pytest
from ferry.common.errors import RetryableError, UserError
from ferry.faces import import_faces, open_faces, push_faces, render_faces
from ferry.faces.addresses import ObjectStoreConfig
from ferry.faces.object_store import ObjectStore
from minio import Minio

from .. import servers

SECRET = "do-not-print-this"


@pytest.fixture(scope="module")
def server():
    with servers.moto() as address:
        yield address


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    folder = tmp_path_factory.mktemp("faces") / "a"
    render_faces(folder, 30, "shaded", 1, size=16, splits={"train": 0.5, "test": 0.5})
    (folder / ".half-written").write_text("x")
    return folder


class Counted(ObjectStore):
    """Notes what is uploaded, and fails at the name that a test wants to fail."""

    def __init__(self, config, failing=""):
        super().__init__(config)
        self.sent, self.failing = [], failing

    def upload(self, path, bucket, key, sha256=""):
        if path.name == self.failing:
            raise RetryableError("The store is away.")
        self.sent.append(path.name)
        return super().upload(path, bucket, key, sha256)


@pytest.fixture
def place(server, request):
    """A client, and a function that makes stores."""
    client = Minio(endpoint=server, access_key="key", secret_key=SECRET, secure=False)
    name = "b" + hashlib.sha256(request.node.name.encode()).hexdigest()[:20]
    client.make_bucket(bucket_name=name)
    client.bucket = name
    client.open = lambda failing="": Counted(ObjectStoreConfig(f"http://{server}", "key", SECRET), failing)
    return client


def names(place):
    return sorted(item.object_name for item in place.list_objects(bucket_name=place.bucket, recursive=True))


def test_what_was_pushed_is_imported_again_as_it_was(place, faces, tmp_path, monkeypatch):
    store = place.open()
    report = push_faces(faces, f"s3://{place.bucket}/sets/a", store)
    assert (report.uri, report.sent, report.kept) == (f"s3://{place.bucket}/sets/a", 3, 0)
    assert report.size == sum(path.stat().st_size for path in faces.iterdir() if path.name != ".half-written")
    assert store.sent[-1] == "faces.json"
    assert names(place) == sorted(f"sets/a/{path.name}" for path in faces.iterdir() if path.name != ".half-written")
    for name, value in zip(
        ("ENDPOINT", "ACCESS_KEY", "SECRET_KEY"), (store.config.endpoint, "key", SECRET), strict=True
    ):
        monkeypatch.setenv(f"S3_{name}", value)
    monkeypatch.setenv("S3_SECURE", "false")
    monkeypatch.setenv("FERRY_CACHE", str(tmp_path / "cache"))
    import_faces(report.uri, tmp_path / "again")
    for split in ("train", "test"):
        one, other = open_faces(faces, split), open_faces(tmp_path / "again", split)
        assert (one.keys, one.labels.tolist()) == (other.keys, other.labels.tolist())
        assert one.digest == other.digest


def test_the_second_push_sends_nothing(place, faces):
    push_faces(faces, f"s3://{place.bucket}/a", place.open())
    store = place.open()
    report = push_faces(faces, f"s3://{place.bucket}/a", store)
    assert (report.sent, report.kept, store.sent) == (0, 3, [])


def test_a_push_that_broke_off_is_no_data_set_and_goes_on(place, faces):
    with pytest.raises(RetryableError):
        push_faces(faces, f"s3://{place.bucket}/a", place.open("train-00000-of-00001.parquet"))
    assert "a/faces.json" not in names(place)
    store = place.open()
    report = push_faces(faces, f"s3://{place.bucket}/a", store)
    assert (report.sent, report.kept) == (2, 1)
    assert store.sent == ["train-00000-of-00001.parquet", "faces.json"]


def test_an_object_of_the_same_name_is_never_replaced(place, faces, tmp_path):
    """Neither one that says what it is nor one that does not; two data sets have shards of the same names."""
    shard = "test-00000-of-00001.parquet"
    other = tmp_path / shard
    other.write_bytes(bytes((faces / shard).stat().st_size))  # as long as ours
    place.fput_object(bucket_name=place.bucket, object_name=f"a/{shard}", file_path=str(other))
    with pytest.raises(UserError, match=rf"{shard} that was not pushed from here"):
        push_faces(faces, f"s3://{place.bucket}/a", place.open())
    place.open().upload(other, place.bucket, f"b/{shard}", sha256="0" * 64)
    with pytest.raises(UserError, match=rf"{shard} with other content"):
        push_faces(faces, f"s3://{place.bucket}/b", place.open())
    assert names(place) == [f"a/{shard}", f"b/{shard}"]


def test_two_pushes_at_once_never_make_one_data_set_of_both(place, faces, tmp_path):
    render_faces(tmp_path / "b", 30, "line", 2, size=16, splits={"train": 0.5, "other": 0.5})
    theirs = tmp_path / "b" / "other-00000-of-00001.parquet"

    class Meanwhile(Counted):
        def upload(self, path, bucket, key, sha256=""):
            super().upload(theirs, bucket, "a/other-00000-of-00001.parquet", "0" * 64)
            return super().upload(path, bucket, key, sha256)

    with pytest.raises(UserError, match="other-00000-of-00001"):
        push_faces(faces, f"s3://{place.bucket}/a", Meanwhile(place.open().config))
    assert "a/faces.json" not in names(place)


def test_another_data_set_and_other_objects_are_left_alone(place, faces, tmp_path):
    push_faces(faces, f"s3://{place.bucket}/a", place.open())
    render_faces(tmp_path / "b", 30, "line", 2, size=16, splits={"train": 0.5, "test": 0.5})
    store = place.open()
    with pytest.raises(
        UserError, match=r"`target` to be a prefix without other objects.*faces.json with other content"
    ):
        push_faces(tmp_path / "b", f"s3://{place.bucket}/a", store)
    for number in range(5):
        place.fput_object(bucket_name=place.bucket, object_name=f"c/{number}.jpg", file_path=str(faces / "faces.json"))
    with pytest.raises(UserError, match=r"c with 0.jpg, 1.jpg, 2.jpg and 2 more'\. Choose another one"):
        push_faces(faces, f"s3://{place.bucket}/c", store)
    assert store.sent == []
    push_faces(faces, f"s3://{place.bucket}/aa", store)  # a longer name is another prefix
    assert len(store.sent) == 3


@pytest.mark.parametrize("uri", ["s3://bucket", "s3://bucket/", "file:///x", "faces"])
def test_a_target_that_is_no_prefix_is_refused(place, faces, uri):
    with pytest.raises(UserError, match=r"Expected `(target|source)` to be"):
        push_faces(faces, uri, place.open())


def test_what_is_no_data_set_is_refused_before_the_store_is_asked(tmp_path):
    with pytest.raises(UserError):
        push_faces(tmp_path, "s3://b/p", object())


@pytest.mark.integration
def test_a_real_server_keeps_the_digest_also_of_an_object_in_parts(tmp_path, faces):
    try:
        with servers.seaweed("AKIATEST", SECRET, "faces") as endpoint:
            store = Counted(ObjectStoreConfig(endpoint, "AKIATEST", SECRET))
            large = tmp_path / "large"
            large.mkdir()
            for path in faces.glob("*.*"):
                (large / path.name).write_bytes(path.read_bytes())
            (large / "notes.bin").write_bytes(json.dumps(list(range(3_000_000))).encode())
            assert push_faces(large, "s3://faces/x", store).sent == 4
            assert push_faces(large, "s3://faces/x", store).kept == 4
            assert "-" in next(item.etag for item in store.list("faces", "x/notes"))
    except servers.Missing as reason:
        pytest.skip(str(reason))
