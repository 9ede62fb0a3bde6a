"""S3-compatible stores through the MinIO client: bounded waits, checked bytes, and errors that name the variable."""

from __future__ import annotations

import hashlib
import mimetypes
import os
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from datetime import timedelta
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar
from xml.etree.ElementTree import ParseError

import certifi
from minio import Minio
from minio.deleteobjects import DeleteObject
from minio.error import InvalidResponseError, S3Error, ServerError
from urllib3.exceptions import HTTPError, ProtocolError, ReadTimeoutError, ResponseError, SSLError

from ..common.errors import RetryableError, UserError, expected
from ..common.files import atomic_file
from .addresses import ObjectInfo, ObjectStoreConfig, Refused
from .connections import connections
from .downloads import Downloads, Stalled, Unusual
from .parallel import begin

T = TypeVar("T")

_SHA256 = "sha256"
_CHUNK = 1 << 20
_ATTEMPTS = 3
_STALLS = 2
_CONNECTIONS = 32
_PAGE = 1000

# Seconds. Whatever a store does, people read what is wrong within half a minute.
_PATIENCE = 27.0  # for the first answer of all, and for a page of a listing
_CONNECT = 4.0
_FIRST_READ = 12.0
_READ = 20.0  # a store may think about what it was sent; this one is not repeated
_STALL = 8.0  # a download without progress, which is begun anew once
_PAUSE = 0.2
_URL_LIFE = timedelta(minutes=15)

_MOST_UNUSUAL = 3
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


class ObjectStore:
    """An S3-compatible store.

    A store that cannot be reached or stops answering is reported within half a minute. Transfers that broke off or came
    damaged are repeated. Safe to use from several threads.

    Args:
        config: Where the store is; from the environment by default.
    """

    def __init__(self, config: ObjectStoreConfig | None = None) -> None:
        self.config = config or ObjectStoreConfig.from_environment()
        self._client = self._connect(_READ, repeats=2)
        self._downloads = Downloads(self._authorities(), _CONNECT, _STALL)
        self._unusual = 0
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
            client = self._connect(_FIRST_READ, repeats=1)
            try:
                with self._translated(f"bucket {bucket}"):
                    self._awaited(begin(lambda: next(iter(client.list_objects(bucket_name=bucket)), None)))
            except _NoRight:
                pass  # keys may be good for single objects and not for listings: the next request will tell
            self._reached.add(bucket)

    def list(self, bucket: str, prefix: str = "", start_after: str = "") -> Iterator[ObjectInfo]:
        """Yields the objects under a prefix in the order of their keys; the next page is fetched meanwhile.

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
            found = map(_info, self._client.list_objects(recursive=True, **where))
            page = self._awaited(begin(lambda: [*islice(found, _PAGE)]))
            while page:
                yield page[0]  # whoever wants only this one must not pay for another page
                following = begin(lambda: [*islice(found, _PAGE)]) if len(page) == _PAGE else None
                yield from page[1:]
                page = self._awaited(following) if following else []

    def find(self, bucket: str, key: str) -> ObjectInfo | None:
        """Returns the object of a key as a listing knows it, or None where there is none.

        Args:
            bucket: The bucket.
            key: The whole key; empty is no key.

        Raises:
            FerryError: As in :meth:`check`.
        """
        first = next(self.list(bucket, key), None) if key else None
        return first if first is not None and first.key == key else None

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

    def upload(self, path: Path | str, bucket: str, key: str, sha256: str = "") -> ObjectInfo:
        """Uploads a file, in parts where it is large; anew after a transfer that broke off.

        Args:
            path: The file.
            bucket: The bucket.
            key: The object's key.
            sha256: The file's SHA-256 (hex), kept with the object for :meth:`sha256_of`; the ETag of an object that
                came in parts says nothing about its content.

        Returns:
            The object as the store has it now.

        Raises:
            RetryableError: The store cannot be reached, or the transfer failed several times.
            UserError: The file is missing, or a key is wrong.
        """
        if not Path(path).is_file():
            raise expected("path", "an existing file", str(path), "Check the path.")
        self.check(bucket)
        kind = mimetypes.guess_type(str(path))[0] or "application/octet-stream"
        named: dict[str, Any] = {"bucket_name": bucket, "object_name": key}
        about: dict[str, Any] = {"content_type": kind, "metadata": {_SHA256: sha256} if sha256 else None}

        def send() -> ObjectInfo:
            self._client.fput_object(**named, file_path=str(path), **about)
            return _info(self._client.stat_object(**named))

        return self._attempted(f"object {bucket}/{key}", send)

    def sha256_of(self, bucket: str, key: str) -> str:
        """Returns the SHA-256 (hex) that was given when an object was uploaded, empty where none was.

        Raises:
            FerryError: As in :meth:`get`.
        """
        self.check(bucket)
        with self._translated(f"object {bucket}/{key}"):
            found = self._client.stat_object(bucket_name=bucket, object_name=key).metadata or {}
        return next((value for name, value in found.items() if name.lower() == f"x-amz-meta-{_SHA256}"), "")

    def remove(self, bucket: str, keys: Iterable[str]) -> None:
        """Removes objects; one that is not there is no error.

        Args:
            bucket: The bucket.
            keys: Their keys.

        Raises:
            FerryError: As in :meth:`check`; the others are removed.
        """
        self.check(bucket)
        with self._translated(f"bucket {bucket}"):
            wanted = (DeleteObject(key) for key in keys)
            left = list(self._client.remove_objects(bucket_name=bucket, delete_object_list=wanted))
        if left:
            rule, fix = "a key with the right to remove objects", "Ask for that right, or remove them by a rule."
            got = f"{left[0].code} for {left[0].name}"
            raise expected(self.config.variable("access_key"), rule, got, fix)

    def _authorities(self) -> str:
        return self.config.ca or os.environ.get("SSL_CERT_FILE") or certifi.where()

    def _connect(self, read: float, repeats: int) -> Minio:
        config, pool = self.config, connections(self._authorities(), _CONNECT, read, repeats, _CONNECTIONS)
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
        return self._attempted(f"object {bucket}/{wanted.key}", lambda: use(self._chunks(bucket, wanted)))

    def _attempted(self, what: str, transfer: Callable[[], T]) -> T:
        attempt, stalls = 1, 0
        while True:
            try:
                with self._translated(what):
                    return transfer()
            except _BrokenTransfer as error:
                stalls += isinstance(error, _StalledTransfer)
                if attempt == _ATTEMPTS or stalls == _STALLS:
                    raise
                time.sleep(_PAUSE * attempt)
                attempt += 1

    def _awaited(self, answer: Future[T]) -> T:
        """Returns a result that other threads wait for: name servers and drops of an answer know no time limit."""
        try:
            return answer.result(_PATIENCE)
        except TimeoutError as error:
            name = self.config.variable("endpoint")
            raise RetryableError(
                f"Expected `{name}` to answer within {_PATIENCE:g} s, but got no whole answer from "
                f"{self.config.endpoint}. Check the address and the network, then run the same command again."
            ) from error

    @contextmanager
    def _opened(self, bucket: str, wanted: ObjectInfo) -> Iterator[tuple[Mapping[str, str], Iterable[bytes]]]:
        """Asks for an object; gives the headers, names in lower case, and the content piece by piece."""
        headers = {"If-Match": f'"{wanted.etag}"'} if wanted.etag else {}
        named: dict[str, Any] = {"bucket_name": bucket, "object_name": wanted.key}
        if self._unusual < _MOST_UNUSUAL:
            try:
                answer = self._downloads.get(self._client.presigned_get_object(**named, expires=_URL_LIFE), headers)
            except OSError:
                unusual = 0  # the general client tries again, or knows what to say
            except Unusual:
                unusual = 1
            else:
                self._unusual = 0
                yield answer.headers, answer
                return
        else:
            unusual = 0
        response = self._awaited(begin(lambda: self._client.get_object(**named, request_headers=dict(headers))))
        self._unusual += unusual  # this way works and the other does not: some stores refuse signed addresses
        try:
            yield {name.lower(): value for name, value in response.headers.items()}, response.stream(_CHUNK)
        finally:
            response.close()
            response.release_conn()

    def _chunks(self, bucket: str, wanted: ObjectInfo) -> Iterator[bytes]:
        md5, length = hashlib.md5(usedforsecurity=False), 0
        with self._opened(bucket, wanted) as (headers, content):
            try:
                for chunk in content:
                    md5.update(chunk)
                    length += len(chunk)
                    yield chunk
            except OSError as error:
                got = f"{length} bytes and then '{error}'"
                raise _BrokenTransfer(
                    f"Expected `object {bucket}/{wanted.key}` to arrive whole, but got {got}. Run it again."
                ) from error
        promised = wanted.size if wanted.size >= 0 else int(headers.get("content-length", length))
        etag = headers.get("etag", "").strip('"')
        encrypted = any(name.startswith("x-amz-server-side-encryption") for name in headers)
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
        except Stalled as error:
            raise _StalledTransfer(self._silent(what)) from error
        except ReadTimeoutError as error:
            raise RetryableError(self._silent(what)) from error
        except ProtocolError as error:
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
            fix = f"Check the URI and {self.config.variable('endpoint')}."
            return Refused(str(expected(what, "an existing bucket", code, fix)))
        if code == "NoSuchKey":
            return expected(what, "an existing object", code, "Check the key; it may have been deleted.")
        if code == "RequestTimeTooSkewed":
            return Refused(str(expected("clock", "right", code, "Set this machine's clock.")))
        setting, rule = _ADVICE.get(code, ("endpoint", f"a store that accepts requests for {what}"))
        advice = f"The store at {self.config.endpoint} answered so for {what}. Correct the variable."
        advice += "" if self.config.access_key else " S3_ACCESS_KEY and S3_SECRET_KEY are not set."
        kind = _NoRight if code == "AccessDenied" else Refused if code in _ADVICE else UserError
        return kind(str(expected(self.config.variable(setting), rule, code, advice)))

    def _silent(self, what: str) -> str:
        return (
            f"Expected `{self.config.variable('endpoint')}` to go on answering, but got nothing for too long from "
            f"{self.config.endpoint} for {what}. Run the same command again."
        )

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


class _StalledTransfer(_BrokenTransfer):
    """A transfer that stood still: repeated once, because people wait."""


class _NoRight(UserError):
    """The keys are known and lack a right."""


def _info(item: Any) -> ObjectInfo:
    return ObjectInfo(item.object_name, int(item.size or 0), (item.etag or "").strip('"'))
