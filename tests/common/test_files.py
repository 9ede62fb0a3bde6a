import errno
import json
import os

import numpy as np
import pytest
from ferry.common.errors import RetryableError, UserError
from ferry.common.files import (
    atomic_file,
    atomic_folder,
    digest_of,
    digest_of_file,
    finite,
    read_json,
    write_json,
)


def test_a_file_appears_only_when_it_is_complete(tmp_path):
    path = tmp_path / "a" / "b.bin"
    with atomic_file(path) as file:
        file.write(b"new")
        assert not path.exists()
    assert path.read_bytes() == b"new"


def test_an_error_leaves_the_old_file_and_no_temporary_one(tmp_path):
    path = tmp_path / "b.bin"
    path.write_bytes(b"old")
    with pytest.raises(KeyboardInterrupt), atomic_file(path) as file:
        file.write(b"half")
        raise KeyboardInterrupt
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["b.bin"]


def test_a_full_disk_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "b.bin"
    path.write_bytes(b"old")

    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RetryableError, match="disk"), atomic_file(path) as file:
        file.write(b"new")
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["b.bin"]


@pytest.mark.parametrize("make", [atomic_file, atomic_folder])
def test_an_error_names_the_path_that_was_asked_for_and_no_temporary_one(tmp_path, make):
    path = tmp_path / (300 * "x")
    with pytest.raises(OSError, match="File name too long") as caught, make(path):
        pass
    assert caught.value.filename == str(path)


def test_a_folder_is_replaced_whole(tmp_path):
    path = tmp_path / "folder"
    for content in ("one", "two"):
        with atomic_folder(path) as temporary:
            (temporary / content).write_text(content)
    assert [entry.name for entry in path.iterdir()] == ["two"]
    assert [entry.name for entry in tmp_path.iterdir()] == ["folder"]


def test_an_error_leaves_the_old_folder(tmp_path):
    path = tmp_path / "folder"
    path.mkdir()
    (path / "old").write_text("old")
    with pytest.raises(ZeroDivisionError), atomic_folder(path) as temporary:
        (temporary / "new").write_text("new")
        raise ZeroDivisionError
    assert [entry.name for entry in path.iterdir()] == ["old"]
    assert [entry.name for entry in tmp_path.iterdir()] == ["folder"]


def test_a_folder_that_cannot_be_put_in_place_leaves_the_old_one(tmp_path, monkeypatch):
    path = tmp_path / "folder"
    path.mkdir()
    (path / "old").write_text("old")
    rename = os.replace

    def interrupted(source, target):
        if target == path and "was" not in str(source):
            raise KeyboardInterrupt
        rename(source, target)

    monkeypatch.setattr(os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt), atomic_folder(path) as temporary:
        (temporary / "new").write_text("new")
    assert [entry.name for entry in path.iterdir()] == ["old"]
    assert [entry.name for entry in tmp_path.iterdir()] == ["folder"]


def test_written_files_have_the_usual_permissions(tmp_path):
    write_json(tmp_path / "a.json", {})
    with open(tmp_path / "plain", "w"):
        pass
    assert (tmp_path / "a.json").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_everything_in_a_folder_has_at_least_the_usual_permissions(tmp_path):
    before = os.umask(0o027)
    try:
        with atomic_folder(tmp_path / "folder") as temporary:
            (temporary / "below").mkdir(mode=0o500)
            (temporary / "below" / "private").write_text("x")
            os.chmod(temporary / "below" / "private", 0o400)
            (temporary / "tool").write_text("x")
            os.chmod(temporary / "tool", 0o755)
            os.symlink("nowhere", temporary / "link")
    finally:
        os.umask(before)
    modes = {
        name: (tmp_path / "folder" / name).stat().st_mode & 0o777 for name in (".", "below", "below/private", "tool")
    }
    assert modes == {".": 0o750, "below": 0o750, "below/private": 0o640, "tool": 0o755}


def test_json_never_holds_nan_and_takes_numpy(tmp_path):
    write_json(tmp_path / "a.json", {"a": float("nan"), "b": [np.float32(0.5), float("inf")], "c": np.arange(2)})
    assert json.loads((tmp_path / "a.json").read_text()) == {"a": None, "b": [0.5, None], "c": [0, 1]}


def test_finite_keeps_what_is_finite():
    assert finite({"x": (1, 2.5, "y", None, True)}) == {"x": [1, 2.5, "y", None, True]}


def test_reading_json_names_what_is_wrong(tmp_path):
    with pytest.raises(UserError, match="Expected `labels` to be an existing file"):
        read_json(tmp_path / "none.json", "labels")
    (tmp_path / "half.json").write_text('{"a": ')
    with pytest.raises(UserError, match=r"Expected `labels` to be valid JSON.*half\.json"):
        read_json(tmp_path / "half.json", "labels")


def test_digests_do_not_depend_on_key_order_but_on_values():
    assert digest_of({"a": 1, "b": 2}) == digest_of({"b": 2, "a": 1})
    assert digest_of({"a": 1}) != digest_of({"a": 2})
    assert digest_of({"a": 1}) != digest_of({"a": "1"})


def test_the_digest_of_a_file_is_its_sha256(tmp_path):
    (tmp_path / "x").write_bytes(b"abc")
    assert digest_of_file(tmp_path / "x") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
