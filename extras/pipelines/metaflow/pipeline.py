"""The pipeline in Metaflow: a flow is a class, and each step a process of its own.

python pipeline.py run --version v2 --folder F --registry R
python pipeline.py resume
"""

import steps
from metaflow import FlowSpec, Parameter, retry, step


class ReleaseFlow(FlowSpec):
    version = Parameter("version", required=True)
    folder = Parameter("folder", required=True)
    registry = Parameter("registry", required=True)

    @step
    def start(self):
        steps.train(self.version, self.folder)
        self.next(self.gate)

    @step
    def gate(self):
        self.found = steps.gate(self.folder, self.registry)
        self.next(self.release)

    @retry(times=1, minutes_between_retries=0)
    @step
    def release(self):
        self.number = steps.release(self.folder, self.registry)
        self.next(self.end)

    @step
    def end(self):
        print(f"version {self.number} is released, with {self.found['quality']}")


if __name__ == "__main__":
    ReleaseFlow()
