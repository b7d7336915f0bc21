"""A page on this machine that shows a calibration while it runs.

Four kinds of address are answered, /, /status.json, /frame/N.png and /spectrum/N.png, to GET and
HEAD alone, and only over the loopback interface: nothing can be changed from the page, and nothing
leaves the machine. A request that names another host is refused, so that no page from elsewhere
can read this one by giving its own name the address 127.0.0.1.
"""

import errno
import json
import os
import re
import socketserver
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from jaxcal import watch_page
from jaxcal.watched import Folder

LOOPBACK = "127.0.0.1"
PORT = 8642
PATIENCE_S = 20.0
"""A connection that is silent for so long is closed."""

_PICTURE = re.compile(r"/(frame|spectrum)/([0-9]{1,6})\.png", re.ASCII)


class Watch(ThreadingHTTPServer):
    """The server; `serve_forever` and `shutdown` are those of the standard library.

    Args:
        folder: of the run; it need not be there yet.
        port: 0 to 65535; with 0 a free one is taken.

    Raises:
        ValueError: the port cannot be had.

    Example:
        >>> with Watch("run", port=0) as server:
        ...     server.url == f"http://127.0.0.1:{server.server_address[1]}/"
        True
    """

    daemon_threads = True
    # On Linux this spares the wait after a restart; two servers on one port it allows nowhere but
    # on Windows, where it must stay off.
    allow_reuse_address = os.name == "posix"

    def __init__(self, folder, port=PORT):
        self.folder = Folder(folder)
        try:
            super().__init__((LOOPBACK, port), _Handler)
        except OverflowError:
            raise ValueError(f"--port should be 0 to 65535, got {port}") from None
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                what = "is in use, perhaps by another jaxcal watch"
            else:
                what = f"cannot be opened ({error.strerror})"
            raise ValueError(f"port {port} {what}; choose another one with --port") from None

    @property
    def url(self):
        """Where the page is."""
        return f"http://{LOOPBACK}:{self.server_port}/"

    def server_bind(self):
        """Bind without asking a name server what this machine is called."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = self.server_address[:2]

    def handle_error(self, request, client_address):
        """A browser that went away in the middle of an answer is no fault."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "jaxcal", ""
    timeout = PATIENCE_S

    def do_GET(self):
        """Answer one of the addresses; HEAD gets the same without the content."""
        if not self._host_is_this_machine():
            return self.send_error(403, "this page answers to 127.0.0.1 and localhost alone")
        path = self.path.partition("?")[0]
        view = self.server.folder.look()
        if path == "/":
            page = watch_page.render(view, time.time())
            return self._send(page.encode("utf-8", "replace"), "text/html; charset=utf-8")
        if path == "/status.json":
            status = json.dumps(watch_page.status(view, time.time()))
            return self._send(status.encode(), "application/json; charset=utf-8")
        wanted = _PICTURE.fullmatch(path)
        frame = view.frame(int(wanted[2])) if wanted else None
        if frame is None:
            return self.send_error(404, "there is nothing here; the page is at /")
        picture = frame.picture if wanted[1] == "frame" else frame.spectrum
        # The address on the page holds the frame's digest: such a picture never changes.
        lasting = self.path.endswith(f"?{frame.digest}")
        return self._send(picture, "image/png", "private, max-age=3600" if lasting else "no-store")

    do_HEAD = do_GET

    def send_error(self, code, message=None, explain=None):
        """One line of plain text, under the same headers as everything else."""
        if code == 501:  # what the standard library answers to any method without a do_...
            code, message = 405, "this page can only be looked at: GET and HEAD"
        self.close_connection = True  # a request's content, if there is any, was not read
        text = message or self.responses.get(code, ("error",))[0]
        self._send(f"{text}\n".encode("utf-8", "replace"), "text/plain; charset=utf-8", code=code)

    def log_message(self, *_):
        """Nothing is written of who looked."""

    def _host_is_this_machine(self):
        hosts = self.headers.get_all("Host") or []
        port = self.server.server_port
        known = {f"{name}:{port}" for name in (LOOPBACK, "localhost")}
        known |= {LOOPBACK, "localhost"} if port == 80 else set()
        return len(hosts) == 1 and hosts[0].strip().lower() in known

    def _send(self, content, kind, cache="no-store", code=200):
        self.send_response(code)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Cache-Control", cache)
        self.send_header("Content-Security-Policy", watch_page.policy())
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Cross-Origin-Resource-Policy", "same-origin")
        self.send_header("Referrer-Policy", "no-referrer")
        if code == 405:
            self.send_header("Allow", "GET, HEAD")
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)
