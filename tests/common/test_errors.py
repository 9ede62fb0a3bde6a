import errno
import re

import pytest
from ferry.common.errors import (
    FerryError,
    RetryableError,
    UserError,
    closest,
    disk_errors,
    expected,
    fields_as,
    of_the_system,
    unknown,
)


def test_the_sentence_names_field_rule_value_and_fix():
    error = expected("lr", "positive", -1.0, "Pass a number such as 0.1.")
    assert str(error) == "Expected `lr` to be positive, but got -1.0. Pass a number such as 0.1."


def test_exit_codes_say_whether_a_retry_can_help():
    assert (UserError.exit_code, RetryableError.exit_code, FerryError.exit_code) == (2, 75, 1)


def test_user_errors_are_value_errors_for_library_users():
    assert issubclass(UserError, ValueError)


@pytest.mark.parametrize(("word", "suggestion"), [("fer2031", "fer2013"), ("rafdb2", "rafdb"), ("zzz", None)])
def test_unknown_suggests_the_closest_match_and_only_a_close_one(word, suggestion):
    message = str(unknown("layout", word, ["fer2013", "rafdb"]))
    assert repr(word) in message
    if suggestion:
        assert f"Did you mean '{suggestion}'?" in message
    else:
        assert "Did you mean" not in message
        assert "fer2013, rafdb" in message


def test_closest_is_empty_without_candidates():
    assert closest("x", []) == ""


def test_long_values_are_shortened():
    assert len(str(expected("x", "short", "a" * 10_000, "Fix."))) < 400


def test_a_field_gets_the_name_that_the_user_knows_and_the_value_stays():
    for field, name in (("epochs", "training_epochs"), ("name", "network"), ("other", "other")):
        with pytest.raises(UserError) as raised, fields_as("training_", "epochs", name="network"):
            raise expected(field, "set", f"`{field}`", "Set it.")
        assert str(raised.value) == f"Expected `{name}` to be set, but got '`{field}`'. Set it."


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "/x/y"), 75, "large enough for /x/y, .* Free some space"),
        (OSError(errno.ENOSPC, "No space left on device"), 75, "large enough for output"),
        (
            PermissionError(errno.EACCES, "Permission denied", "/x/y"),
            2,
            "Expected `/x/y` to be accessible to this user",
        ),
        (
            FileNotFoundError(errno.ENOENT, "No such file or directory", "/x/y"),
            2,
            "Expected `/x/y` to be a usable path",
        ),
        (OSError(errno.EXDEV, "Cross-device link", "/a", None, "/b"), 2, "Expected `/b` to be a usable path"),
        (ConnectionResetError(errno.ECONNRESET, "Connection reset by peer"), 75, "but got 'Connection reset by peer'"),
        (TimeoutError(), 75, "but got 'TimeoutError'"),
    ],
)
def test_what_the_system_refuses_becomes_a_sentence_and_an_exit_code(error, code, message):
    found = of_the_system(error)
    assert found.exit_code == code
    assert re.search(message, str(found))


def test_a_full_disk_is_retryable_and_says_so():
    with pytest.raises(RetryableError, match=r"Expected `disk` to be large enough for shard"):
        with disk_errors("shard"):
            raise OSError(errno.ENOSPC, "No space left on device")


def test_a_forbidden_place_is_the_users_error():
    with pytest.raises(UserError, match="writable"):
        with disk_errors("shard"):
            raise PermissionError(errno.EACCES, "Permission denied")


def test_other_os_errors_pass_unchanged():
    with pytest.raises(FileNotFoundError):
        with disk_errors("shard"):
            raise FileNotFoundError(errno.ENOENT, "gone")
