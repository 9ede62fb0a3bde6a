"""What bodies of requests hold: one picture, or JSON with instances."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

from starlette.requests import ClientDisconnect, Request

from ..common.errors import expected

Cells = list[tuple[str, Any]]
"""Pictures, still encoded, each with its place for messages."""

_BODY_SECONDS = 60.0


class Refusal(Exception):
    """A request that is not answered.

    Args:
        status: HTTP status.
        message: What was expected, what came, and what to do.
        retry_after: Seconds after which the client may try again; 0 says nothing of it.
    """

    def __init__(self, status: int, message: str, retry_after: int = 0) -> None:
        super().__init__(message)
        self.status = status
        self.headers = {"Retry-After": str(retry_after)} if retry_after else {}


def reader_of(content_type: str) -> Callable[[bytes, int], Cells]:
    """Returns what reads bodies of a media type.

    Raises:
        Refusal: There is nothing that does.
    """
    kind = content_type.partition(";")[0].strip().lower()
    if kind.startswith("image/") or kind == "application/octet-stream":
        return from_picture
    if kind == "application/json":
        return from_json
    rule = "application/json, image/... or application/octet-stream"
    fix = "Send a picture as it is, or JSON with instances."
    raise Refusal(415, str(expected("Content-Type", rule, content_type, fix)))


async def read_body(request: Request, most: int) -> bytes:
    """Reads a body; of one that is too large, no more than `most` bytes are kept.

    Args:
        request: The request.
        most: Largest body, in bytes.

    Raises:
        Refusal: It is larger, comes too slowly, or ends early.
    """
    length = request.headers.get("content-length", "")
    if length.isdecimal() and int(length) > most:
        raise _too_large(f"{int(length):,} bytes", most)
    body = bytearray()
    try:
        async with asyncio.timeout(_BODY_SECONDS):
            async for chunk in request.stream():
                if len(body) + len(chunk) > most:
                    raise _too_large("more", most)
                body += chunk
    except TimeoutError:
        rule = f"whole within {_BODY_SECONDS:.0f} seconds"
        fix = "Send smaller pictures or fewer of them."
        raise Refusal(408, str(expected("body", rule, f"{len(body):,} bytes", fix))) from None
    except ClientDisconnect:
        raise gone() from None
    return bytes(body)


def gone() -> Refusal:
    """Returns what is noted about a client that did not wait for its answer."""
    return Refusal(499, "Expected `client` to wait for its answer, but got 'disconnected'. Try again.")


def from_picture(body: bytes, most: int) -> Cells:
    """Returns the one picture of a body."""
    return [("the body", body)]


def from_json(body: bytes, most: int) -> Cells:
    """Returns the pictures of ``{"instances": [...]}``.

    An instance is ``{"image": PICTURE}`` or the picture alone; a picture is base64 text, a data URL, nested lists of
    pixels, or ``{"b64": TEXT}``.

    Args:
        body: The JSON.
        most: Most instances.

    Raises:
        Refusal: It is no such JSON, or there are too many instances.
    """
    fix = 'Send {"instances": [{"image": "base64 of a picture"}]}.'
    try:
        value = json.loads(body)
    except RecursionError:
        raise Refusal(400, str(expected("body", "JSON", "lists in too many lists", fix))) from None
    except ValueError as error:
        raise Refusal(400, str(expected("body", "JSON", str(error), fix))) from None
    if not isinstance(value, dict) or not isinstance(value.get("instances"), list):
        got = f"keys {', '.join(map(str, value)) or '(none)'}" if isinstance(value, dict) else type(value).__name__
        raise Refusal(400, str(expected("body", "an object with the list instances", got, fix)))
    instances = value["instances"]
    if len(instances) > most:
        fix = "Send them in several requests."
        raise Refusal(413, str(expected("instances", f"at most {most:,}", len(instances), fix)))
    return [(f"instance {index}", _picture(one, index)) for index, one in enumerate(instances)]


def _picture(instance: Any, index: int) -> Any:
    if isinstance(instance, dict) and "b64" not in instance:
        if "image" not in instance:
            got = ", ".join(map(str, instance)) or "no keys"
            raise _not_there(index, f"only {got[:200]}")
        instance = instance["image"]
    if isinstance(instance, dict):
        if not isinstance(instance.get("b64"), str):
            raise _not_there(index, 'an object without text under "b64"')
        return instance["b64"]
    return instance


def _not_there(index: int, got: str) -> Refusal:
    fix = 'Send {"image": "base64 of a picture"}, or pixels from 0 to 255.'
    return Refusal(400, f"Expected `image` in instance {index} to be a picture, but got {got}. {fix}")


def _too_large(got: str, most: int) -> Refusal:
    fix = "Send smaller pictures or fewer of them."
    return Refusal(413, f"Expected `body` to have at most {most:,} bytes, but got {got}. {fix}")
