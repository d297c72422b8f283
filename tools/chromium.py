"""The browser that looks at the built pages: any installed Chromium or Chrome."""

from __future__ import annotations

import os
import shutil

# tools/environment.sh looks for the same ones before it installs one.
NAMES = (
    "chromium",
    "chromium-browser",
    "google-chrome",
    "google-chrome-stable",
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
    "/Applications/Chromium.app/Contents/MacOS/Chromium",
)


def find_chromium() -> str | None:
    """Path of an installed Chromium or Chrome, or None.

    The environment variable ``LAB_CHROMIUM`` goes first.
    """
    for name in (os.environ.get("LAB_CHROMIUM", ""), *NAMES):
        if name and (path := shutil.which(name)):
            return path
    return None
