# SPDX-License-Identifier: Apache-2.0
"""A server for stub_demo.py: answers as it is told to, and starts a process that ignores SIGTERM.

    python stub_server.py PORT BEHAVIOUR

BEHAVIOUR is `dies`, `silent` (never ready), `hangs` (never completes), or the text that it answers.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

PORT, BEHAVIOUR = int(sys.argv[1]), sys.argv[2]


class Handler(BaseHTTPRequestHandler):
    """Answers /health and /v1/completions."""

    def do_GET(self) -> None:
        self._reply({})

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        print("asked", flush=True)
        if BEHAVIOUR == "hangs":
            threading.Event().wait()
        # What a connector logs about its transfer.
        print("r: fetched 5 tokens, 4096 bytes in 1 spans over shm, 0.5 ms", flush=True)
        self._reply({"usage": {"prompt_tokens": 5}, "choices": [{"text": BEHAVIOUR}]})

    def _reply(self, body: dict) -> None:
        content = json.dumps(body).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


def main() -> None:
    if BEHAVIOUR == "dies":
        sys.exit("the stub has no pages")
    subprocess.Popen(["sh", "-c", "trap '' TERM; exec sleep 600"])
    print("started", flush=True)
    if BEHAVIOUR == "silent":
        threading.Event().wait()
    ThreadingHTTPServer(("127.0.0.1", PORT), Handler).serve_forever()


if __name__ == "__main__":
    main()
