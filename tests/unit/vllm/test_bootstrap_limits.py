# SPDX-License-Identifier: Apache-2.0
"""Answers of bootstrap servers that are longer than any honest one, and otherwise right."""

from __future__ import annotations

from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread

import pytest

from mooncake_connector.bootstrap import MAX_BODY_BYTES, fetch
from mooncake_connector.errors import ProtocolError


@pytest.fixture
def padded() -> Iterator[int]:
    """The port of a server whose answer to GET /N is an empty object and N bytes of white space."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"{}" + b" " * int(self.path[1:]))

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever)
    thread.start()
    yield server.server_address[1]
    server.shutdown()
    server.server_close()
    thread.join()


def test_no_more_than_the_limit_is_read(padded: int) -> None:
    within = fetch("GET", "127.0.0.1", padded, f"/{MAX_BODY_BYTES - 2}", timeout=30)
    assert len(within) == MAX_BODY_BYTES
    with pytest.raises(ProtocolError, match=f"more than {MAX_BODY_BYTES} bytes"):
        fetch("GET", "127.0.0.1", padded, f"/{MAX_BODY_BYTES}", timeout=30)
