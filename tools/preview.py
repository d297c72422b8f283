"""Serve the book while it is written: save a file, and the browser shows the change.

    python tools/preview.py

The pages come from ``tools/build.py``, as in ``make book``, so what is seen here is
what will be published. A failed build is shown in the terminal, and the last good
one stays in the browser.
"""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SOURCES = (
    "_config.yml",
    "_toc.yml",
    "references.bib",
    "book",
    "deploylab",
    "images",
    "tools",
)
LOOK_EVERY_S = 0.5

RELOADER = b"""<script>
let first = null;
setInterval(async () => {
  const builds = await fetch("/-/builds").then(r => r.text()).catch(() => first);
  if (first === null) first = builds;
  if (builds !== first) location.reload();
}, 1000);
</script>
"""


class Preview(ThreadingHTTPServer):
    """The built book on a free port of this machine alone."""

    daemon_threads = True

    def __init__(self, html: Path):
        self.html = html
        self.builds = 0  # the browser reloads when this has changed
        super().__init__(("127.0.0.1", 0), PreviewHandler)

    @property
    def address(self) -> str:
        """Where to point a browser."""
        return f"http://127.0.0.1:{self.server_port}/"


class PreviewHandler(SimpleHTTPRequestHandler):
    """Files as they are, and pages with the script that reloads them."""

    server: Preview

    def __init__(self, request, client_address, server: Preview):
        super().__init__(request, client_address, server, directory=str(server.html))

    def do_GET(self) -> None:
        path = Path(self.translate_path(self.path))
        if path.is_dir() and self.path.partition("?")[0].endswith("/"):
            path = path / "index.html"
        if self.path == "/-/builds":
            self.answer(str(self.server.builds).encode(), "text/plain")
        elif path.suffix == ".html" and path.is_file():
            self.answer(path.read_bytes() + RELOADER, "text/html; charset=utf-8")
        else:
            super().do_GET()

    def answer(self, body: bytes, kind: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args) -> None:
        """Say nothing: the terminal is for the builds."""


def fingerprint(root: Path) -> dict[Path, int]:
    """When each source was last written, in nanoseconds; polling works everywhere."""
    files = {}
    for name in SOURCES:
        path = root / name
        for file in [path, *path.rglob("*")] if path.is_dir() else [path]:
            try:
                if file.is_file() and "__pycache__" not in file.parts:
                    files[file] = file.stat().st_mtime_ns
            except FileNotFoundError:  # an editor's temporary file, gone again
                continue
    return files


def build(root: Path) -> bool:
    """Build the book; whether that went well."""
    done = subprocess.run([sys.executable, "tools/build.py"], cwd=root)
    print("[preview] built" if done.returncode == 0 else "[preview] not built: mend it")
    return done.returncode == 0


def main() -> None:
    """Build, serve and watch until Ctrl+C."""
    before = fingerprint(ROOT)
    build(ROOT)
    with Preview(ROOT / "_build" / "html") as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        print(f"[preview] open {server.address} and write; Ctrl+C ends", flush=True)
        while True:
            time.sleep(LOOK_EVERY_S)
            after = fingerprint(ROOT)
            changed = {file for file, _ in before.items() ^ after.items()}
            before = after
            if changed:
                names = sorted(str(file.relative_to(ROOT)) for file in changed)
                print(f"[preview] changed: {', '.join(names)}", flush=True)
                server.builds += build(ROOT)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        print()
