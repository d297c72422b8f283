"""The swapping service with a planted fault: what is live is swapped in two steps."""

import os
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "book" / "listings"))

from swapping_service import Follower, Live, make_app, polling

from deploylab import phishing, registry


class Torn(Follower):
    """First the sequence, a while later the model."""

    parts: tuple = ()

    @property
    def live(self):
        return Live(*self.parts) if self.parts else None

    @live.setter
    def live(self, new):
        if new is not None and self.parts:
            self.parts = (new.sequence, self.parts[1])
            time.sleep(0.5)
        self.parts = (new.sequence, new.champion) if new else ()


class Backwards(Follower):
    """Goes to whatever it is told, also to an older move."""

    def look(self):
        meant = self.reader.pointers()
        if self.live is None or meant.sequence > self.live.sequence:
            older = self.live
            self.live = self.prepare(meant)
            if older is not None:
                self.report()
                time.sleep(0.5)
                self.live = older


def create(kind):
    reader = registry.Reader(os.environ["MODEL_REGISTRY"])
    home = Path(os.environ["MODEL_HOME"])
    follower = kind(reader, home, polling(0.05), phishing.CONTRACT)
    follower.start()
    return make_app(follower)


def torn():
    return create(Torn)


def backwards():
    return create(Backwards)
