"""The pipeline in Luigi: a task is done when its output is there.

luigi --module pipeline Release --version v2 --folder F --registry R --local-scheduler
"""

from pathlib import Path

import luigi
import luigi.util
import steps


class Candidate(luigi.Task):
    version = luigi.Parameter()
    folder = luigi.Parameter()
    registry = luigi.Parameter()

    def at(self, name: str) -> luigi.LocalTarget:
        return luigi.LocalTarget(Path(self.folder, name))


class Train(Candidate):
    def output(self):
        return self.at("manifest.json")

    def run(self):
        steps.train(self.version, self.folder)


@luigi.util.requires(Train)
class Gate(Candidate):
    retry_count = 1  # what is refused stays refused

    def output(self):
        return self.at("passed.json")

    def run(self):
        steps.gate(self.folder, self.registry)


@luigi.util.requires(Gate)
class Release(Candidate):
    retry_count = 2

    def output(self):
        return self.at("released.json")

    def run(self):
        steps.release(self.folder, self.registry)
