"""What all tests share."""

import signal


def pytest_configure():
    # A shell that starts the tests in the background ignores Ctrl-C for them; tests send it on purpose.
    signal.signal(signal.SIGINT, signal.default_int_handler)
