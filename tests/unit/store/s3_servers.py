"""An S3 server double, and a real HTTP proxy to stand before one and fail in the ways that real ones do."""

from __future__ import annotations

import http.client
import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

Answer = tuple[int, bytes]

CONFLICT = (
    409,
    b'<?xml version="1.0" encoding="UTF-8"?><Error><Code>ConditionalRequestConflict</Code>'
    b"<Message>A conflicting operation occurred</Message></Error>",
)


class FaultProxy:
    """Forwards every request but for what its three hooks do; `seen` lists (method, path) of all requests."""

    def __init__(self, upstream: str) -> None:
        self.upstream = urlsplit(upstream)
        self.strip: set[str] = set()
        """Names, lower case, of request headers that are not forwarded..."""
        self.strip_for = ""
        """...where the path ends in this."""
        self.instead: Callable[[str, str], Answer | None] = lambda method, path: None
        """Answers without forwarding, where it returns something."""
        self.after: Callable[[str, str], Answer | None] = lambda method, path: None
        """Forwards, then answers this instead of what the server said, where it returns something."""
        self.seen: list[tuple[str, str]] = []
        self.refused_keys: set[str] = set()
        """Access keys that are answered 403."""
        self.url = ""

    def handle(self, handler: BaseHTTPRequestHandler) -> None:
        method, path = handler.command, handler.path
        body = handler.rfile.read(int(handler.headers.get("Content-Length") or 0))
        self.seen.append((method, path))
        answer = self.instead(method, path)
        key = handler.headers.get("Authorization", "").partition("Credential=")[2].partition("/")[0]
        if key in self.refused_keys:
            answer = 403, b"<Error><Code>InvalidAccessKeyId</Code><Message>no such key</Message></Error>"
        if answer is not None:
            self._reply(handler, answer[0], {}, answer[1])
            return
        connection = http.client.HTTPConnection(self.upstream.hostname or "", self.upstream.port or 80)
        headers = {
            k: v
            for k, v in handler.headers.items()
            if k.lower() not in self.strip or not path.endswith(self.strip_for)
        }
        connection.request(method, path, body, headers)
        response = connection.getresponse()
        content = response.read()
        answer = self.after(method, path)
        if answer is not None:
            self._reply(handler, answer[0], {}, answer[1])
        else:
            self._reply(handler, response.status, dict(response.getheaders()), content)
        connection.close()

    @staticmethod
    def _reply(handler: BaseHTTPRequestHandler, status: int, headers: dict[str, str], body: bytes) -> None:
        handler.send_response(status)
        for name, value in headers.items():
            if name.lower() not in {"content-length", "connection", "transfer-encoding", "server", "date"}:
                handler.send_header(name, value)
        length = headers.get("Content-Length", "0") if handler.command == "HEAD" else str(len(body))
        handler.send_header("Content-Length", length)
        handler.end_headers()
        if handler.command != "HEAD":
            handler.wfile.write(body)


@contextmanager
def moto_server(bucket: str) -> Iterator[str]:
    """The endpoint of an S3 server double on loopback, with one bucket, which takes any keys."""
    import boto3  # type: ignore[import-untyped]
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    endpoint = "http://{}:{}".format(*server.get_host_and_port())
    keys = {"aws_access_key_id": "test", "aws_secret_access_key": "test"}
    client = boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1", **keys)
    client.create_bucket(Bucket=bucket)
    yield endpoint
    server.stop()


@contextmanager
def fault_proxy(upstream: str) -> Iterator[FaultProxy]:
    proxy = FaultProxy(upstream)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: object) -> None:
            pass

        def serve(self) -> None:
            proxy.handle(self)

        do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = serve  # noqa: N815

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    proxy.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield proxy
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
