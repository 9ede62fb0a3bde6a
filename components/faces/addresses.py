"""Where an S3-compatible store is, how to get in, and what lies there.

Configuration comes from the environment: ``S3_ENDPOINT``, ``S3_ACCESS_KEY``, ``S3_SECRET_KEY``, ``S3_SESSION_TOKEN``,
``S3_REGION``, ``S3_SECURE`` and ``S3_CA``. The usual names of MinIO and AWS are understood where those are not set.
Keys are never printed.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from ..common.errors import UserError, expected
from ..common.parameters import convert

VARIABLES: Mapping[str, tuple[str, ...]] = {
    "endpoint": ("S3_ENDPOINT", "MINIO_ENDPOINT", "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"),
    "access_key": ("S3_ACCESS_KEY", "MINIO_ACCESS_KEY", "MINIO_ROOT_USER", "AWS_ACCESS_KEY_ID"),
    "secret_key": ("S3_SECRET_KEY", "MINIO_SECRET_KEY", "MINIO_ROOT_PASSWORD", "AWS_SECRET_ACCESS_KEY"),
    "session_token": ("S3_SESSION_TOKEN", "MINIO_SESSION_TOKEN", "AWS_SESSION_TOKEN"),
    "region": ("S3_REGION", "MINIO_REGION", "AWS_REGION", "AWS_DEFAULT_REGION"),
    "secure": ("S3_SECURE", "MINIO_SECURE"),
    "ca": ("S3_CA", "AWS_CA_BUNDLE"),
}
"""Environment variables by setting, the first that is set wins."""
_EXAMPLE = "Set it to host:port, such as minio.example.org:9000, or s3.amazonaws.com for AWS."


class Refused(UserError):
    """The store refuses everything, not one object: a wrong or expired key, a wrong bucket or region, a wrong clock."""


@dataclass(frozen=True)
class ObjectStoreConfig:
    """Where the store is and how to get in.

    Attributes:
        endpoint: Host and, where needed, port; ``http://`` or ``https://`` before it sets `secure`.
        access_key: Access key; empty for anonymous access.
        secret_key: Secret key.
        session_token: Token of temporary keys.
        region: Region; found out by a request where empty.
        secure: TLS or not; None takes the endpoint's scheme, else TLS.
        ca: File with certificates of private authorities, PEM.
        origin: Setting to the environment variable that it came from, for messages.
    """

    endpoint: str
    access_key: str = field(default="", repr=False)
    secret_key: str = field(default="", repr=False)
    session_token: str = field(default="", repr=False)
    region: str = ""
    secure: bool | None = None
    ca: str = ""
    origin: Mapping[str, str] = field(default_factory=dict, repr=False, compare=False)

    def __post_init__(self) -> None:
        scheme, sign, host = self.endpoint.strip().rpartition("://")
        if not host.strip("/") or (sign and scheme.lower() not in ("http", "https")):
            raise expected(self.variable("endpoint"), "the address of an S3 store", self.endpoint, _EXAMPLE)
        by_scheme = scheme.lower() == "https" if sign else None
        if self.secure is not None and by_scheme is not None and self.secure != by_scheme:
            fix = f"Change one of {self.variable('endpoint')} and {self.variable('secure')}."
            raise expected(self.variable("secure"), f"in agreement with {scheme}://", self.secure, fix)
        object.__setattr__(self, "endpoint", host.strip("/"))
        object.__setattr__(self, "secure", self.secure if self.secure is not None else by_scheme is not False)
        if bool(self.access_key) != bool(self.secret_key):
            missing = "secret_key" if self.access_key else "access_key"
            fix = "Only one of the two keys is set: set both, or neither for anonymous access."
            raise expected(self.variable(missing), "set", "", fix)
        if self.ca and not Path(self.ca).is_file():
            raise expected(self.variable("ca"), "an existing PEM file", self.ca, "Check the path.")

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None) -> ObjectStoreConfig:
        """Reads the configuration from environment variables.

        The two keys and the token are taken from one family of names only, so that they belong together.

        Args:
            environment: Names and values; the process's own by default.

        Raises:
            UserError: The endpoint is not set, or the settings contradict each other.
        """
        there = {name: value for name, value in (os.environ if environment is None else environment).items() if value}
        origin = {
            setting: next((name for name in names if name in there), names[0]) for setting, names in VARIABLES.items()
        }
        family = origin["access_key"] if origin["access_key"] in there else origin["secret_key"]
        for setting in ("access_key", "secret_key", "session_token"):
            same = [name for name in VARIABLES[setting] if name.split("_")[0] == family.split("_")[0]]
            origin[setting] = next((name for name in same if name in there), same[0])
        values: dict[str, Any] = {setting: there[name] for setting, name in origin.items() if name in there}
        if "endpoint" not in values:
            raise expected("S3_ENDPOINT", "set", "", _EXAMPLE)
        if "secure" in values:
            values["secure"] = convert(origin["secure"], values["secure"], bool)
        return cls(**values, origin=origin)

    def variable(self, setting: str) -> str:
        """Returns the environment variable that holds a setting."""
        return self.origin.get(setting, VARIABLES[setting][0])


@dataclass(frozen=True)
class ObjectInfo:
    """One object of a listing.

    Attributes:
        key: Name inside the bucket.
        size: Length in bytes.
        etag: The store's fingerprint: the MD5 of the content, except for multipart and encrypted objects.
    """

    key: str
    size: int
    etag: str


@dataclass(frozen=True)
class S3Source:
    """A bucket and what lies under a prefix: ``s3://bucket/prefix``.

    Attributes:
        bucket: The bucket.
        prefix: Beginning of the keys, no slash at the end; empty for the whole bucket.
    """

    bucket: str
    prefix: str = ""

    @classmethod
    def parse(cls, uri: str | os.PathLike[str]) -> S3Source:
        """Reads ``s3://bucket/prefix``; ``minio://`` means the same, and a Path that lost a slash is understood.

        Raises:
            UserError: The text is no such URI.
        """
        match = re.fullmatch(r"(?:s3|minio):/{1,2}([^/]+)/*(.*?)/*", os.fspath(uri), re.IGNORECASE)
        if match is None:
            raise expected("source", "an S3 URI", os.fspath(uri), "Write it as s3://bucket/prefix.")
        return cls(match[1], match[2])

    @classmethod
    def folder(cls, uri: str | os.PathLike[str], field: str) -> S3Source:
        """Reads an address that must name a prefix, not a whole bucket.

        Args:
            uri: The address.
            field: What the caller's user calls it.

        Raises:
            UserError: It is no such address.
        """
        found = cls.parse(uri)
        if not found.prefix:
            raise expected(field, "a prefix below a bucket", os.fspath(uri), "Write it as s3://bucket/prefix.")
        return found

    @property
    def uri(self) -> str:
        """The source as a URI."""
        return f"s3://{self.bucket}/{self.prefix}".rstrip("/")

    @property
    def below(self) -> str:
        """What the keys of the objects inside begin with."""
        return f"{self.prefix}/" if self.prefix else ""


def is_plain_name(name: str) -> bool:
    """Tells whether a key can be a path below a folder: relative, without steps upwards and odd characters.

    Args:
        name: The key, or what of it is below a prefix.
    """
    parts = PurePosixPath(name).parts
    return not name.startswith("/") and ".." not in parts and "\\" not in name and "\0" not in name
