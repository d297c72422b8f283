"""Take the picture of a built page that the README shows.

    python tools/screenshot.py

Reads ``_build/html``, writes ``images/page.png``. Run it when the look has changed.
"""

from __future__ import annotations

import sys
from pathlib import Path

from chromium import find_chromium
from playwright.sync_api import sync_playwright

ROOT = Path(__file__).resolve().parent.parent
PAGE = "book/serving/model-as-service.html"
MIDDLE = "fig-microseconds"  # id of what stands in the middle of the picture
SIZE = {"width": 1280, "height": 800}


def take(page_file: Path, target: Path) -> None:
    """Show ``page_file`` around the element ``MIDDLE``, and write the PNG ``target``.

    Raises FileNotFoundError if the page is not built or no browser is installed.
    """
    if not page_file.exists():
        raise FileNotFoundError(f"{page_file} is not built: run `make book` first")
    browser_path = find_chromium()
    if browser_path is None:
        raise FileNotFoundError("no Chromium or Chrome: install one (tests/apt.txt)")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=browser_path,
            args=["--no-sandbox"],  # root in a container has no sandbox
        )
        page = browser.new_page(viewport=SIZE, color_scheme="light")
        page.goto(page_file.as_uri())
        page.evaluate(
            """id => {
                const options = {behavior: "instant", block: "center"};
                document.getElementById(id).scrollIntoView(options);
                document.querySelector(".bd-sidebar-primary").scrollTop = 0;
            }""",
            MIDDLE,
        )
        page.screenshot(path=target)
        browser.close()


if __name__ == "__main__":
    target = ROOT / "images" / "page.png"
    try:
        take(ROOT / "_build" / "html" / PAGE, target)
    except FileNotFoundError as error:
        sys.exit(str(error))
    print(f"The picture is {target}")
