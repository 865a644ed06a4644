"""Services that hold buckets, as real as they start in seconds, and one that is all faults.

SeaweedFS and moto speak S3, Azurite is Microsoft's own emulator of Azure. No emulator of Google's service that can be
installed has all of the API that obstore uses (the XML one: ``fake-gcs-server`` neither takes nor copies an object by
it, ``gcp-storage-emulator`` has no listing). That API is S3's but for the names of headers, so a relay that renames
them has moto answer for Google.

Each is a context manager that yields the URL of a bucket, and the options to open it with.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
import http.client
import json
import re
import shutil
import socketserver
import subprocess
import sys
import threading
import time
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler
from importlib import util
from pathlib import Path
from typing import Callable, ContextManager, Dict, Iterable, Iterator, List, NamedTuple, Optional, Tuple, Type
from urllib.parse import quote, unquote

from . import UNIT, until
from .ports import free_port, free_ports, listens

__all__ = ["Bucket", "FaultyService", "azurite", "error_body", "google", "installed", "moto", "seaweedfs"]

ACCESS, SECRET = "test-access", "test-secret"

# Those of every emulator of Azure; its documentation has them.
ACCOUNT = "devstoreaccount1"
ACCOUNT_KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="


class Bucket(NamedTuple):
    """Where a bucket is."""

    url: str
    options: Dict[str, str]


WEED = Path(sys.executable).parent / "weed"

# Where the session ``tiers`` installs it.
AZURITE = Path(sys.prefix, "azurite", "node_modules", ".bin", "azurite-blob")


def installed() -> List[Callable[[Path], ContextManager[Bucket]]]:
    """Return the services that are installed here, which also takes obstore."""
    if util.find_spec("obstore") is None:
        return []
    return [
        *[seaweedfs] * WEED.exists(),
        *[moto, google] * (util.find_spec("moto") is not None),
        *[azurite] * (AZURITE.exists() and shutil.which("node") is not None),
    ]


def _options(port: int) -> Dict[str, str]:
    return {
        "endpoint": f"http://127.0.0.1:{port}",
        "region": "us-east-1",
        "access_key_id": ACCESS,
        "secret_access_key": SECRET,
        "virtual_hosted_style_request": "false",
    }


@contextlib.contextmanager
def _running(command: List[str], port: int, log: Path) -> Iterator[None]:
    with log.open("wb") as out, subprocess.Popen(command, stdout=out, stderr=out, cwd=log.parent) as process:
        try:

            def ready() -> bool:
                assert process.poll() is None, f"{command[0]} ended: {log.read_text()[-2000:]}"
                return listens(port)

            until(ready, f"{command[0]} listens at {port}", 6 * UNIT)
            yield
        finally:
            process.terminate()
            try:
                process.wait(1)
            except subprocess.TimeoutExpired:
                process.kill()


@contextlib.contextmanager
def seaweedfs(folder: Path) -> Iterator[Bucket]:
    """A SeaweedFS with an S3 gateway; its buckets make themselves."""
    master, volume, filer, s3 = free_ports(4, above=10_000)
    config = folder / "s3.json"
    identity = {"name": "t", "credentials": [{"accessKey": ACCESS, "secretKey": SECRET}], "actions": ["Admin"]}
    reader = {"name": "r", "credentials": [{"accessKey": "reader", "secretKey": SECRET}], "actions": ["Read", "List"]}
    config.write_text(json.dumps({"identities": [identity, reader]}))
    (folder / "data").mkdir()
    command = [str(WEED), "server", f"-dir={folder / 'data'}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-s3"]
    command += [f"-master.port={master}", f"-volume.port={volume}", f"-filer.port={filer}", f"-s3.port={s3}"]
    command += [f"-s3.config={config}", "-master.volumeSizeLimitMB=256", "-volume.max=0", "-s3.iam=false"]
    with _running(command, s3, folder / "weed.log"):
        bucket = Bucket("s3://test-bucket/some/prefix", _options(s3))
        until(lambda: _works(bucket), "SeaweedFS takes an object", 6 * UNIT)
        yield bucket


@contextlib.contextmanager
def moto(folder: Path) -> Iterator[Bucket]:
    """A moto server with one bucket."""
    port = free_port()
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with _running(command, port, folder / "moto.log"):
        _request(port, "PUT", "/test-bucket")
        yield Bucket("s3://test-bucket/some/prefix", _options(port))


@contextlib.contextmanager
def google(folder: Path) -> Iterator[Bucket]:
    """A moto with one bucket behind a relay that speaks Google's dialect; nobody asks who comes."""
    with moto(folder) as bucket, _served(_relay(int(bucket.options["endpoint"].rpartition(":")[2]))) as port:
        account = {"gcs_base_url": f"http://127.0.0.1:{port}", "disable_oauth": True}
        account.update(dict.fromkeys(("client_email", "private_key", "private_key_id"), ""))
        yield Bucket("gs://test-bucket/some/prefix", {"service_account_key": json.dumps(account)})


def _relay(port: int) -> Type[BaseHTTPRequestHandler]:
    """Return a handler that has a service which speaks S3 answer what is asked in the words of Google's XML API."""
    dropped = ("host", "authorization", "connection", "content-length", "transfer-encoding", "date", "server")

    class Relay(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _pass_on(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            headers = self._renamed("goog", "amz", self.headers.items())
            headers["Authorization"] = f"AWS4-HMAC-SHA256 Credential={ACCESS}/20261125/us-east-1/s3/aws4_request"
            headers["Content-Length"] = str(len(body))
            if "x-amz-copy-source" in headers:
                headers["x-amz-copy-source"] = self._quoted(headers["x-amz-copy-source"])
            path, mark, query = self.path.partition("?")
            with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port)) as service:
                service.request(self.command, self._quoted(path) + mark + query, body, headers)
                answer = service.getresponse()
                data = answer.read()
            self.send_response(answer.status)
            for name, value in self._renamed("amz", "goog", answer.getheaders()).items():
                self.send_header(name, value)
            length = answer.getheader("Content-Length") if self.command == "HEAD" else None
            self.send_header("Content-Length", length or str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        @staticmethod
        def _renamed(old: str, new: str, headers: Iterable[Tuple[str, str]]) -> Dict[str, str]:
            return {re.sub(f"^x-{old}-", f"x-{new}-", k.lower()): v for k, v in headers if k.lower() not in dropped}

        @staticmethod
        def _quoted(path: str) -> str:
            return quote(unquote(path))  # Google's clients quote slashes and hyphens as well

        do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _pass_on

        def log_message(self, *args: object) -> None:
            pass

    return Relay


@contextlib.contextmanager
def _served(handler: Type[BaseHTTPRequestHandler]) -> Iterator[int]:
    """Run an HTTP server of this process, and yield its port."""

    class Server(socketserver.ThreadingMixIn, socketserver.TCPServer):
        daemon_threads = True
        allow_reuse_address = True

        def handle_error(self, *args: object) -> None:
            """Say nothing of clients that hang up."""

    server = Server(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield int(server.server_address[1])
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextlib.contextmanager
def azurite(folder: Path) -> Iterator[Bucket]:
    """An Azurite with one container."""
    port = free_port()
    command = ["node", str(AZURITE), "--blobHost", "127.0.0.1", "--blobPort", str(port), "--location", str(folder)]
    with _running([*command, "--silent", "--skipApiVersionCheck", "--disableTelemetry"], port, folder / "azurite.log"):
        date, version = formatdate(usegmt=True), "2021-08-06"
        # https://learn.microsoft.com/rest/api/storageservices/authorize-with-shared-key
        text = "PUT" + "\n" * 12 + f"x-ms-date:{date}\nx-ms-version:{version}\n"
        text += f"/{ACCOUNT}/{ACCOUNT}/test-container\nrestype:container"
        signature = hmac.new(base64.b64decode(ACCOUNT_KEY), text.encode(), hashlib.sha256).digest()
        headers = {"x-ms-date": date, "x-ms-version": version}
        headers["Authorization"] = f"SharedKey {ACCOUNT}:{base64.b64encode(signature).decode()}"
        _request(port, "PUT", f"/{ACCOUNT}/test-container?restype=container", headers)
        endpoint = f"http://127.0.0.1:{port}/{ACCOUNT}"
        options = {"account_name": ACCOUNT, "account_key": ACCOUNT_KEY, "endpoint": endpoint}
        yield Bucket("az://test-container/some/prefix", options)


def _request(port: int, method: str, path: str, headers: Optional[Dict[str, str]] = None, body: bytes = b"") -> None:
    """Have a service do something that obstore cannot, such as making a bucket."""
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port)) as connection:
        connection.request(method, path, body, {"Content-Length": str(len(body)), **(headers or {})})
        answer = connection.getresponse()
        assert answer.status in (200, 201), answer.read()


def _works(bucket: Bucket) -> bool:
    import vineyard_client as vc
    from vineyard_client._tiers.urls import open_tier

    try:
        open_tier(bucket.url, timeout=3, options=bucket.options).check()
    except vc.TierFailed:
        time.sleep(0.2)
        return False
    return True


Fault = Tuple[int, bytes]


class FaultyService:
    """An S3 for small objects that fails as a test says.

    Attributes:
        objects: bytes and checksum of what is stored, by path.
        fault: called with method and path before each request; returns a status and a body to answer with instead, or
            None.
        requests: what was asked, in order.
        cut: bytes of a body after which the connection breaks.
        pause: seconds before each answer.
    """

    def __init__(self) -> None:
        self.objects: Dict[str, Tuple[bytes, str]] = {}
        self.fault: Callable[[str, str], Optional[Fault]] = lambda method, path: None
        self.requests: List[str] = []
        self.cut: Optional[int] = None
        self.pause = 0.0

    def __enter__(self) -> FaultyService:
        """Start it."""
        service = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _serve(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                service.requests.append(f"{self.command} {self.path}")
                time.sleep(service.pause)
                crc = self.headers.get("x-amz-meta-vycrc32", "")
                found = service.fault(self.command, self.path)
                status, answer, crc = (*found, "") if found else service._do(self.command, self.path, body, crc)
                self.send_response(status)
                self.send_header("Content-Length", str(len(answer)))
                self.send_header("ETag", '"x"')
                self.send_header("Last-Modified", "Wed, 25 Nov 2026 00:00:00 GMT")
                if crc:
                    self.send_header("x-amz-meta-vycrc32", crc)
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(answer[: service.cut])
                if service.cut is not None:
                    self.close_connection = True

            do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _serve

            def log_message(self, *args: object) -> None:
                pass

        self._serving = _served(Handler)
        port = self._serving.__enter__()
        self.bucket = Bucket("s3://test-bucket/p", _options(port))
        return self

    def _do(self, method: str, path: str, body: bytes, crc: str) -> Tuple[int, bytes, str]:
        if method == "POST" and path.endswith("?delete"):
            keys = re.findall(rb"<Key>([^<]*)</Key>", body)
            for key in keys:
                self.objects.pop(f"/test-bucket/{key.decode()}", None)
            deleted = b"".join(b"<Deleted><Key>%s</Key></Deleted>" % key for key in keys)
            return 200, b"<DeleteResult>%s</DeleteResult>" % deleted, ""
        if method == "PUT":
            self.objects[path] = (body, crc)
            return 200, b"", ""
        if method == "DELETE":
            self.objects.pop(path, None)
            return 204, b"", ""
        if path not in self.objects:
            return 404, b"<Error><Code>NoSuchKey</Code></Error>", ""
        return (200, *self.objects[path])

    def __exit__(self, *error: object) -> None:
        """Stop it."""
        self._serving.__exit__(None, None, None)


def error_body(code: str, message: str) -> bytes:
    """Return what S3 says when it refuses."""
    return f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{message}</Message></Error>".encode()
