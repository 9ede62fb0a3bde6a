"""Decoded faces: made once, reused, made again when damaged, safe for several processes."""

import errno
import io
import logging
import multiprocessing
import os
from pathlib import Path

import ferry.faces.cache as cache_module
import numpy as np
import pytest
from ferry.common.errors import RetryableError, UserError
from ferry.faces import EXPRESSIONS, FaceRecord, default_cache, face_pixels, open_faces, write_faces
from ferry.faces.parallel import ordered_map
from PIL import Image


def encoded(seed, size=(20, 14)):
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def faces(tmp_path):
    rows = [FaceRecord(encoded(i), f"{i}", i % 7) for i in range(50)]
    write_faces(tmp_path / "faces", {"train": rows}, classes=EXPRESSIONS)
    return open_faces(tmp_path / "faces")


@pytest.fixture
def decoded(monkeypatch):
    """Counts the images that are really decoded."""
    calls = []
    monkeypatch.setattr(cache_module, "face_pixels", lambda *args: calls.append(1) or face_pixels(*args))
    return calls


def only_file(folder):
    (file,) = (folder / "pixels").glob("*.npy")
    return file


@pytest.mark.parametrize("channels", [1, 3])
def test_pixels_are_those_of_every_image_in_order(faces, tmp_path, channels):
    pixels = faces.pixels(9, channels, tmp_path / "cache")
    assert isinstance(pixels, np.memmap)
    assert (pixels.shape, pixels.dtype) == ((50, channels, 9, 9), np.uint8)
    np.testing.assert_array_equal(pixels, np.stack([face_pixels(encoded(i), 9, channels) for i in range(50)]))


def test_pixels_are_made_once_and_reused_by_unlabelled_copies(faces, tmp_path, decoded):
    first = faces.pixels(8, 1, tmp_path / "cache")
    again = faces.without_labels().pixels(8, 1, tmp_path / "cache")
    assert len(decoded) == 50
    np.testing.assert_array_equal(first, again)
    faces.pixels(8, 3, tmp_path / "cache")
    faces.pixels(10, 1, tmp_path / "cache")
    assert len(decoded) == 150
    assert len(list((tmp_path / "cache/pixels").glob("*.npy"))) == 3


def test_other_faces_have_another_file(faces, tmp_path, decoded):
    write_faces(tmp_path / "other", {"train": [FaceRecord(encoded(99), "0", 0)]}, classes=EXPRESSIONS)
    faces.pixels(8, 1, tmp_path / "cache")
    np.testing.assert_array_equal(
        open_faces(tmp_path / "other").pixels(8, 1, tmp_path / "cache")[0], face_pixels(encoded(99), 8, 1)
    )


@pytest.mark.parametrize("damage", [lambda c: c[:-1], lambda c: c + b"x", lambda c: b"", lambda c: b"junk" + c[4:]])
def test_damaged_file_is_made_again_and_said_so(faces, tmp_path, damage, caplog, decoded):
    right = np.array(faces.pixels(8, 1, tmp_path / "cache"))
    file = only_file(tmp_path / "cache")
    file.write_bytes(damage(file.read_bytes()))
    with caplog.at_level(logging.WARNING, "ferry"):
        np.testing.assert_array_equal(faces.pixels(8, 1, tmp_path / "cache"), right)
    assert len(decoded) == 100
    assert "made again" in caplog.text
    assert str(file) in caplog.text


def test_writing_to_the_map_never_reaches_the_file(faces, tmp_path):
    pixels = faces.pixels(8, 1, tmp_path / "cache")
    before = only_file(tmp_path / "cache").read_bytes()
    pixels[:] = 0
    del pixels
    assert only_file(tmp_path / "cache").read_bytes() == before


def test_cache_folder_follows_the_environment(faces, tmp_path, monkeypatch):
    monkeypatch.setenv("FERRY_CACHE", str(tmp_path / "von der Umgebung"))
    assert default_cache() == tmp_path / "von der Umgebung"
    faces.pixels(8)
    assert only_file(tmp_path / "von der Umgebung").is_file()
    monkeypatch.delenv("FERRY_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert default_cache() == tmp_path / "home/.cache/ferry"


def test_wrong_size_and_channels_are_refused(faces):
    with pytest.raises(UserError, match="`size` to be between 1 and 4096 pixels, but got 0"):
        faces.pixels(0)
    with pytest.raises(UserError, match="`channels` to be 1 or 3, but got 4"):
        faces.pixels(8, 4)


def test_unusable_cache_folder_is_named(faces, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match=r"`cache` to be a folder that can be written.*Set FERRY_CACHE"):
        faces.pixels(8, 1, tmp_path / "file")


def test_a_cache_of_another_user_is_named(faces, tmp_path, monkeypatch):
    def forbidden(path, *mode):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(cache_module, "open", forbidden, raising=False)
    with pytest.raises(UserError, match=r"`cache` to be a folder that can be written.*Set FERRY_CACHE"):
        faces.pixels(8, 1, tmp_path / "cache")


def test_full_disk_is_retryable_and_leaves_no_half_file(faces, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RetryableError, match="Free some space"):
        faces.pixels(8, 1, tmp_path / "cache")
    monkeypatch.undo()
    assert not [path for path in (tmp_path / "cache/pixels").iterdir() if not path.name.endswith(".lock")]
    assert len(faces.pixels(8, 1, tmp_path / "cache")) == 50


def test_what_a_killed_process_left_is_removed(faces, tmp_path):
    folder = tmp_path / "cache/pixels"
    made = Path(faces.pixels(8, 1, tmp_path / "cache").filename)
    made.unlink()
    (folder / f".{made.name}.abcd1234").write_bytes(b"half")
    (folder / ".other-8x8x1-v1.npy.abcd1234").write_bytes(b"half of another, which may be in work")
    assert len(faces.pixels(8, 1, tmp_path / "cache")) == 50
    left = {made.name, f".{made.name}.lock", ".other-8x8x1-v1.npy.abcd1234"}
    assert {path.name for path in folder.iterdir()} == left


def test_image_that_cannot_be_decoded_names_key_and_folder(tmp_path):
    rows = [FaceRecord(encoded(0), "good", 0), FaceRecord(b"text", "the bad one", 1)]
    write_faces(tmp_path / "faces", {"train": rows}, classes=EXPRESSIONS)
    with pytest.raises(UserError, match=r"image of 'the bad one'` to be a readable image, but got 'not an image"):
        open_faces(tmp_path / "faces").pixels(8, 1, tmp_path / "cache")


def _ask(root, cache, start, results):
    calls = []
    decode = cache_module.face_pixels
    cache_module.face_pixels = lambda *args: calls.append(1) or decode(*args)
    start.wait()
    results.put((int(open_faces(root).pixels(16, 3, cache).astype(np.int64).sum()), len(calls)))


def test_two_processes_at_once_get_the_same_and_only_one_decodes(faces, tmp_path):
    context = multiprocessing.get_context("fork")
    start, results = context.Event(), context.Queue()
    workers = [context.Process(target=_ask, args=(faces.root, tmp_path / "cache", start, results)) for _ in range(2)]
    for worker in workers:
        worker.start()
    start.set()
    (sum_a, calls_a), (sum_b, calls_b) = results.get(timeout=60), results.get(timeout=60)
    for worker in workers:
        worker.join()
    assert sum_a == sum_b == int(faces.pixels(16, 3, tmp_path / "cache").astype(np.int64).sum())
    assert sorted((calls_a, calls_b)) == [0, 50]


@pytest.mark.parametrize("workers", [1, 3])
def test_ordered_map_keeps_order_and_stays_bounded(workers):
    taken = []

    def stream():
        for i in range(1000):
            taken.append(i)
            yield i

    mapped = ordered_map(lambda i: i * i, stream(), workers, chunk=4)
    assert [next(mapped) for _ in range(3)] == [(0, 0), (1, 1), (2, 4)]
    assert len(taken) <= 3 * workers * 4
    assert list(mapped) == [(i, i * i) for i in range(3, 1000)]


def test_ordered_map_raises_the_error_of_an_item_at_its_place():
    mapped = ordered_map(lambda i: 1 // (i - 20), range(100), 2, chunk=4)
    with pytest.raises(ZeroDivisionError):
        list(mapped)
