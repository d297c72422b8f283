"""PFA, written by hand: score.py WORK. titus2 runs it once two names are put back.

The scaler is folded into the coefficients by run.py, since PFA's regression has none.
"""

import importlib.metadata
import inspect
import json
import sys
from pathlib import Path

import numpy as np
from measure import measure, tell

work = Path(sys.argv[1])
np.float_ = np.float64  # gone since numpy 2
inspect.getargspec = inspect.getfullargspec  # gone since Python 3.11
from titus.genpy import PFAEngine  # noqa: E402 (not without the two)

model = json.loads((work / "v1.json").read_text())
fields = [
    {"name": "coeff", "type": {"type": "array", "items": "double"}},
    {"name": "const", "type": "double"},
]
document = {
    "input": {"type": "array", "items": "double"},
    "output": "double",
    "cells": {
        "model": {
            "type": {"type": "record", "name": "Model", "fields": fields},
            "init": {"coeff": model["coefficients"], "const": model["intercept"]},
        }
    },
    "action": [{"m.link.logit": [{"model.reg.linear": ["input", {"cell": "model"}]}]}],
}
file = work / "v1.pfa"
file.write_text(json.dumps(document, indent=1))


def load():
    (engine,) = PFAEngine.fromJson(file.read_text())
    return engine


tell(
    tool="titus2",
    version=importlib.metadata.version("titus2"),
    model="v1",
    ran="yes",
    note="written by hand; titus2 needed np.float_ and inspect.getargspec put back",
    **measure(
        [file],
        np.load(work / "rows.npy"),
        np.load(work / "v1.npy"),
        load,
        lambda engine, rows: [engine.action(row.tolist()) for row in rows],
    ),
)
