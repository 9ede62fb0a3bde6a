"""What an image is asked when it is built."""

import os
from importlib import import_module

import pytest
from ferry.common.errors import UserError
from ferry.pipelines import smoke


@pytest.fixture
def person(monkeypatch, tmp_path):
    """Somebody who is not root, with a home and the commands."""
    for name in ("sh", "python3", "ferry"):
        (tmp_path / name).write_text("#!/bin/sh\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setattr(os, "getuid", lambda: 1000)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    return tmp_path


def test_an_image_with_torch_is_told_from_one_without(person, monkeypatch, capsys):
    torch = import_module("torch")
    kind, other = ("cpu", "cuda") if torch.version.cuda is None else ("cuda", "cpu")
    assert smoke.main([kind]) == 0
    assert f"torch {torch.__version__}" in capsys.readouterr().out
    with pytest.raises(UserError, match=f"`torch` to be built for {other}"):
        smoke.check_image(other)
    with pytest.raises(UserError, match=r"without torch in slim, but got .*torch"):
        smoke.check_image("slim")
    monkeypatch.setattr(smoke, "_distributions", lambda: {"numpy"})
    assert smoke.check_image("slim")[-1] == "no torch"


def test_root_a_home_that_cannot_be_written_and_a_missing_command_are_found(person, monkeypatch, capsys):
    (person / "ferry").unlink()
    with pytest.raises(UserError, match="`PATH` to be folders with ferry"):
        smoke.check_image("cpu")
    monkeypatch.setenv("HOME", str(person / "absent"))
    with pytest.raises(FileNotFoundError):
        smoke.check_image("cpu")
    monkeypatch.setattr(os, "getuid", lambda: 0)
    assert smoke.main(["cpu"]) == 2
    assert "Expected `user` to be another than root" in capsys.readouterr().err


@pytest.mark.parametrize("words", [[], ["gpu"]])
def test_an_unknown_kind_is_refused(words, capsys):
    assert smoke.main(words) == 2
    assert "Expected `kind`" in capsys.readouterr().err
