"""A page on this machine that follows the checkpoints of a run while it trains."""

from __future__ import annotations

import http.server
import json
import threading
import time
import urllib.parse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from roml_jax.errors import ConfigError
from roml_jax.run import checkpoint
from roml_jax.run import folder as run_folder

HOST = "127.0.0.1"  # the page is for this machine only; use an SSH tunnel from another one
_SECONDS = 1.0  # between two looks at the folder


class Live:
    """What the page shows; its methods may be called from several threads.

    Args:
        html: the page.
    """

    def __init__(self, html: str) -> None:
        self._html, self._lock = html.encode(), threading.Lock()
        self._version, self._content = 0, json.dumps({"version": 0, "note": "", "data": None})
        self._data: dict[str, Any] | None = None

    @property
    def html(self) -> bytes:
        """The page, UTF-8."""
        return self._html

    def publish(self, note: str, data: dict[str, Any] | None = None) -> None:
        """Shows a new state.

        Args:
            note: one line on the run.
            data: the viewer's new data; None to keep the current one.
        """
        with self._lock:
            self._data = self._data if data is None else data
            self._version += 1
            self._content = json.dumps({"version": self._version, "note": note, "data": self._data})

    def after(self, version: int) -> bytes | None:
        """The current state as JSON, or None if the page has this version already."""
        with self._lock:
            return self._content.encode() if self._version != version else None


def _handler(live: Live) -> type[http.server.BaseHTTPRequestHandler]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            url = urllib.parse.urlsplit(self.path)
            if url.path == "/":
                self._answer(200, "text/html; charset=utf-8", live.html)
            elif url.path == "/data":
                have = urllib.parse.parse_qs(url.query).get("after", ["0"])[0]
                content = live.after(int(have) if have.isdecimal() else 0)
                self._answer(204 if content is None else 200, "application/json", content or b"")
            else:
                self._answer(404, "text/plain", b"not found")

        def _answer(self, code: int, kind: str, content: bytes) -> None:
            self.send_response(code)
            self.send_header("Content-Type", kind)
            self.send_header("Cache-Control", "no-store")
            if code != 204:
                self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    return Handler


def serve(live: Live, port: int) -> http.server.ThreadingHTTPServer:
    """Starts to serve the page in a thread of its own; call ``shutdown`` and ``server_close`` to end it.

    Args:
        live: what the page shows.
        port: of this machine; 0 for any free one (``server.server_port``).

    Raises:
        ConfigError: if the port cannot be used; one line.
    """
    try:
        server = http.server.ThreadingHTTPServer((HOST, port), _handler(live))
    except OSError as error:
        raise ConfigError(f"--port {port} cannot be used: {error.strerror or error}") from None
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


def follow(
    folder: Path, live: Live, data_of: Callable[[], tuple[str, dict[str, Any]]], say: Callable[[str], None],
    num_seeds: int, wait: Callable[[float], bool] = lambda seconds: bool(time.sleep(seconds)),
) -> None:  # fmt: skip
    """Publishes the run's newest checkpoint whenever there is a new one, until ``wait`` returns True.

    A checkpoint that cannot be read, such as one that the run has just replaced, is reported on the page; the
    last good one stays.

    Args:
        folder: the run's folder.
        live: where to publish.
        data_of: () -> (one line on the newest checkpoint, the viewer's data for it).
        say: called with a line for each checkpoint.
        num_seeds: number of the run's seeds.
        wait: (seconds) -> whether to stop.
    """
    shown, done = None, False
    while not wait(0.0 if shown is None else _SECONDS):
        try:
            path = checkpoint.latest(folder / run_folder.CHECKPOINT)
        except (OSError, ValueError):  # the run deletes the previous checkpoint at this moment
            continue
        if path is not None and path.name != shown:
            try:
                line, data = data_of()
            except ConfigError as error:
                live.publish(str(error))
                say(str(error))
                data = None
            shown = path.name
            if data is not None:
                live.publish(line, data)
                say(line)
        elif path is None and shown is None:
            live.publish("waiting for the first checkpoint")
            shown = ""
        if path is not None and not done and run_folder.is_complete(folder, num_seeds, int(path.name)):
            done = True
            say("the training is complete; Ctrl-C ends the page")
