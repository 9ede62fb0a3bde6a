"""S3-compatible stores through the MinIO client: bounded waits, checked bytes, and errors that name the variable.

Configuration comes from the environment: ``S3_ENDPOINT``, ``S3_ACCESS_KEY``, ``S3_SECRET_KEY``, ``S3_SESSION_TOKEN``,
``S3_REGION``, ``S3_SECURE`` and ``S3_CA``. The usual names of MinIO and AWS are understood where those are not set.
Keys are never printed.
"""

from __future__ import annotations

import hashlib
import mimetypes
import os
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar
from xml.etree.ElementTree import ParseError

import certifi
import urllib3
from minio import Minio
from minio.error import InvalidResponseError, S3Error, ServerError
from urllib3.exceptions import HTTPError, ProtocolError, ReadTimeoutError, ResponseError, SSLError

from ..common.errors import RetryableError, UserError, expected
from ..common.files import atomic_file
from ..common.parameters import convert

T = TypeVar("T")

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
_CHUNK = 1 << 20
_ATTEMPTS = 3
_CONNECTIONS = 32
_MD5 = re.compile(r"[0-9a-f]{32}")
_RETRY_CODES = ("InternalError", "ServiceUnavailable", "SlowDown", "RequestTimeout", "OperationAborted")
_ADVICE: Mapping[str, tuple[str, str]] = {
    "InvalidAccessKeyId": ("access_key", "a key that the store knows"),
    "SignatureDoesNotMatch": ("secret_key", "the secret that belongs to the access key"),
    "ExpiredToken": ("session_token", "a token that is still valid"),
    "InvalidToken": ("session_token", "a valid token"),
    "AuthorizationHeaderMalformed": ("region", "the bucket's region"),
    "PermanentRedirect": ("region", "the bucket's region"),
    "AccessDenied": ("access_key", "a key with the right to do this"),
}


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

    @property
    def uri(self) -> str:
        """The source as a URI."""
        return f"s3://{self.bucket}/{self.prefix}".rstrip("/")

    @property
    def below(self) -> str:
        """What the keys of the objects inside begin with."""
        return f"{self.prefix}/" if self.prefix else ""


class ObjectStore:
    """An S3-compatible store.

    The first request to a bucket has short timeouts: a store that cannot be reached is reported within half a minute.
    Later ones wait for slow answers, and transfers that fail are repeated. Safe to use from several threads.

    Args:
        config: Where the store is; from the environment by default.
    """

    def __init__(self, config: ObjectStoreConfig | None = None) -> None:
        self.config = config or ObjectStoreConfig.from_environment()
        self._client = self._connect(connect=5, read=30, retries=2)
        self._reached: set[str] = set()
        self._lock = threading.Lock()

    def check(self, bucket: str) -> None:
        """Makes sure that the store answers, knows the keys and has the bucket.

        Raises:
            RetryableError: The store cannot be reached or is out of order.
            UserError: A key, the region or the bucket is wrong; the message names the environment variable.
        """
        with self._lock:
            if bucket in self._reached:
                return
            client = self._connect(connect=4, read=9, retries=1)
            try:
                with self._translated(f"bucket {bucket}"):
                    next(iter(client.list_objects(bucket_name=bucket)), None)
            except _NoRight:
                pass  # keys may be good for single objects and not for listings: the next request will tell
            self._reached.add(bucket)

    def list(self, bucket: str, prefix: str = "", start_after: str = "") -> Iterator[ObjectInfo]:
        """Yields the objects under a prefix in the order of their keys, page by page.

        Args:
            bucket: The bucket.
            prefix: Beginning of the keys, taken literally.
            start_after: Only keys behind this one.

        Raises:
            FerryError: As in :meth:`check`.
        """
        self.check(bucket)
        with self._translated(f"bucket {bucket}"):
            where = {"bucket_name": bucket, "prefix": prefix, "start_after": start_after or None}
            for item in self._client.list_objects(recursive=True, **where):
                yield _info(item)

    def get(self, bucket: str, item: ObjectInfo | str) -> bytes:
        """Returns the content of an object; length and, where it is known, MD5 are checked.

        Args:
            bucket: The bucket.
            item: Key, or an entry of :meth:`list`, whose ETag the object must still have.

        Raises:
            RetryableError: The transfer failed several times, or the object was replaced meanwhile.
            UserError: There is no such object, or a key is wrong.
        """
        return self._repeated(bucket, item, lambda chunks: b"".join(chunks))

    def save(self, bucket: str, item: ObjectInfo | str, path: Path) -> None:
        """Downloads an object into a file that appears only when it is whole; checked like :meth:`get`."""

        def write(chunks: Iterator[bytes]) -> None:
            with atomic_file(path) as file:
                for chunk in chunks:
                    file.write(chunk)

        self._repeated(bucket, item, write)

    def upload(self, path: Path | str, bucket: str, key: str) -> ObjectInfo:
        """Uploads a file, in parts where it is large.

        Returns:
            The object as the store has it now.

        Raises:
            RetryableError: The store cannot be reached.
            UserError: The file is missing, or a key is wrong.
        """
        if not Path(path).is_file():
            raise expected("path", "an existing file", str(path), "Check the path.")
        self.check(bucket)
        kind = mimetypes.guess_type(str(path))[0] or "application/octet-stream"
        with self._translated(f"object {bucket}/{key}"):
            self._client.fput_object(bucket_name=bucket, object_name=key, file_path=str(path), content_type=kind)
            there = self._client.stat_object(bucket_name=bucket, object_name=key)
        return _info(there)

    def _connect(self, connect: float, read: float, retries: int) -> Minio:
        config = self.config
        pool = urllib3.PoolManager(
            timeout=urllib3.Timeout(connect=connect, read=read),
            retries=urllib3.Retry(total=retries, backoff_factor=0.3, status_forcelist=(500, 502, 503, 504)),
            maxsize=_CONNECTIONS,
            cert_reqs="CERT_REQUIRED",
            ca_certs=config.ca or os.environ.get("SSL_CERT_FILE") or certifi.where(),
        )
        names = ("access_key", "secret_key", "session_token", "region")
        given = {name: getattr(config, name) or None for name in names}
        try:
            return Minio(endpoint=config.endpoint, secure=bool(config.secure), http_client=pool, **given)
        except ValueError as error:
            name = config.variable("endpoint")
            raise expected(name, "host:port without a path", config.endpoint, f"Correct it: {error}.") from error

    def _repeated(self, bucket: str, item: ObjectInfo | str, use: Callable[[Iterator[bytes]], T]) -> T:
        """Hands the object's chunks to `use`, anew after a transfer that broke off or came damaged."""
        self.check(bucket)
        wanted = ObjectInfo(item, -1, "") if isinstance(item, str) else item
        attempt = 1
        while True:
            try:
                with self._translated(f"object {bucket}/{wanted.key}"):
                    return use(self._chunks(bucket, wanted))
            except _BrokenTransfer:
                if attempt == _ATTEMPTS:
                    raise
                time.sleep(0.2 * attempt)
                attempt += 1

    def _chunks(self, bucket: str, wanted: ObjectInfo) -> Iterator[bytes]:
        headers = {"If-Match": f'"{wanted.etag}"'} if wanted.etag else None
        response = self._client.get_object(bucket_name=bucket, object_name=wanted.key, request_headers=headers)
        md5, length = hashlib.md5(usedforsecurity=False), 0
        try:
            for chunk in response.stream(_CHUNK):
                md5.update(chunk)
                length += len(chunk)
                yield chunk
        finally:
            response.close()
            response.release_conn()
        promised = wanted.size if wanted.size >= 0 else int(response.headers.get("Content-Length", length))
        etag = response.headers.get("ETag", "").strip('"')
        encrypted = any(name.lower().startswith("x-amz-server-side-encryption") for name in response.headers)
        damaged = bool(_MD5.fullmatch(etag)) and not encrypted and md5.hexdigest() != etag
        if length != promised or damaged:
            got = f"{length} bytes with MD5 {md5.hexdigest()}"
            rule = f"{promised} bytes" + (f" with MD5 {etag}" if damaged else "")
            raise _BrokenTransfer(
                f"Expected `object {bucket}/{wanted.key}` to have {rule}, but got {got}. Run it again."
            )

    @contextmanager
    def _translated(self, what: str) -> Iterator[None]:
        try:
            yield
        except S3Error as error:
            raise self._of_code(error, what) from error
        except (InvalidResponseError, ServerError, ParseError) as error:
            raise self._no_store(error) from error
        except (ProtocolError, ReadTimeoutError) as error:
            raise _BrokenTransfer(f"Expected `{what}` to arrive whole, but got {error}. Run it again.") from error
        except HTTPError as error:
            raise self._of_network(error) from error
        except UserError:
            raise
        except ValueError as error:  # how the client refuses names, and answers that lack what S3 promises
            wrong_name = expected(what, "a valid name", str(error), "Correct the bucket or the key.")
            raise self._no_store(error) if "XML" in str(error) else wrong_name from error

    def _of_code(self, error: S3Error, what: str) -> Exception:
        code = error.code or ""
        if code in _RETRY_CODES or error.response.status >= 500:
            return RetryableError(f"Expected `{what}` to be available, but got {code}. Run the same command again.")
        if code == "PreconditionFailed":
            return RetryableError(f"Expected `{what}` to stay as it was listed, but it was replaced. Run it again.")
        if code in ("NoSuchBucket", "InvalidBucketName"):
            return expected(what, "an existing bucket", code, f"Check the URI and {self.config.variable('endpoint')}.")
        if code == "NoSuchKey":
            return expected(what, "an existing object", code, "Check the key; it may have been deleted.")
        if code == "RequestTimeTooSkewed":
            return expected("clock", "right", code, "Set this machine's clock.")
        setting, rule = _ADVICE.get(code, ("endpoint", f"a store that accepts requests for {what}"))
        advice = f"The store at {self.config.endpoint} answered so for {what}. Correct the variable."
        advice += "" if self.config.access_key else " S3_ACCESS_KEY and S3_SECRET_KEY are not set."
        kind = _NoRight if code == "AccessDenied" else UserError
        return kind(str(expected(self.config.variable(setting), rule, code, advice)))

    def _no_store(self, error: Exception) -> Exception:
        name, status = self.config.variable("endpoint"), getattr(error, "status_code", 0) or getattr(error, "_code", 0)
        if status >= 500:
            got = f"HTTP status {status}. Run the same command again."
            return RetryableError(f"Expected `{name}` ({self.config.endpoint}) to work, but got {got}")
        fix = f"Check the host, the port and {self.config.variable('secure')}."
        return expected(name, "the address of an S3 store", f"{self.config.endpoint} (no S3 answer: {error})", fix)

    def _of_network(self, error: HTTPError) -> Exception:
        name, reason = self.config.variable("endpoint"), getattr(error, "reason", None) or error
        if isinstance(reason, SSLError):
            fix = (
                f"Check {self.config.variable('ca')} (certificates) and {self.config.variable('secure')} (TLS or not)."
            )
            return expected(name, "a store with a valid certificate", f"{self.config.endpoint}: {reason}", fix)
        got = str(reason) if isinstance(reason, ResponseError) else type(reason).__name__
        return RetryableError(
            f"Expected `{name}` to be reachable, but got {got} for {self.config.endpoint}. "
            "Check the address and the network, then run the same command again."
        )


class _BrokenTransfer(RetryableError):
    """A transfer that is worth repeating at once."""


class _NoRight(UserError):
    """The keys are known and lack a right."""


def _info(item: Any) -> ObjectInfo:
    return ObjectInfo(item.object_name, int(item.size or 0), (item.etag or "").strip('"'))
