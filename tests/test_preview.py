"""The preview: pages that reload themselves, and what counts as a change."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import preview
import pytest
import requests


@pytest.fixture
def server(tmp_path: Path) -> Iterator[preview.Preview]:
    """A running preview of a book with two pages and a style sheet."""
    (tmp_path / "part").mkdir()
    for name in ("index.html", "part/page.html"):
        (tmp_path / name).write_text("<h1>A page</h1>")
    (tmp_path / "style.css").write_text("h1 {}")
    with preview.Preview(tmp_path) as server:
        serve = threading.Thread(target=server.serve_forever, args=(0.01,))
        serve.start()
        yield server
        server.shutdown()
        serve.join()


@pytest.mark.parametrize("path", ["", "index.html", "part/page.html", "?q=a"])
def test_a_page_carries_the_reloader(server, path):
    answer = requests.get(server.address + path, timeout=10)
    assert answer.status_code == 200
    assert answer.text.startswith("<h1>A page</h1>")
    assert "location.reload()" in answer.text
    assert answer.headers["Cache-Control"] == "no-store"


def test_other_files_are_served_as_they_are(server):
    assert requests.get(server.address + "style.css", timeout=10).text == "h1 {}"
    assert requests.get(server.address + "missing.html", timeout=10).status_code == 404


def test_a_folder_redirects_so_that_its_links_work(server):
    (server.html / "part/index.html").write_text("<h1>A part</h1>")
    answer = requests.get(server.address + "part", timeout=10)
    assert answer.url == server.address + "part/"
    assert "location.reload()" in answer.text


def test_the_reloader_learns_of_a_build(server):
    def builds() -> str:
        return requests.get(server.address + "-/builds", timeout=10).text

    assert builds() == "0"
    server.builds += True
    assert builds() == "1"


def test_listens_on_this_machine_alone(server):
    assert server.server_address[0] == "127.0.0.1"


def test_a_changed_source_is_noticed_and_a_built_file_is_not(tmp_path):
    page = tmp_path / "book/part/page.md"
    page.parent.mkdir(parents=True)
    page.write_text("one")
    before = preview.fingerprint(tmp_path)
    for name in ("_build/html/index.html", "book/__pycache__/x.pyc", "README.md"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("built")
    assert preview.fingerprint(tmp_path) == before
    os.utime(page, ns=(0, 0))
    (tmp_path / "book/new.md").write_text("new")
    changed = {
        file for file, _ in before.items() ^ preview.fingerprint(tmp_path).items()
    }
    assert changed == {page, tmp_path / "book/new.md"}
