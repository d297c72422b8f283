"""The model as source code, and as a shared library: score.py WORK. Needs gcc and node.

It also asks sklearn2pmml for the book's scikit-learn, to see what it says.
"""

import contextlib
import ctypes
import importlib.metadata
import importlib.util
import io
import json
import re
import subprocess
import sys
from pathlib import Path

import m2cgen
import numpy as np
import tl2cgen
import treelite
from measure import agreement, measure, tell
from sklearn2pmml import make_pmml_pipeline, sklearn2pmml

from deploylab import phishing

DOUBLES = ctypes.POINTER(ctypes.c_double)
work, here = Path(sys.argv[1]), Path(__file__).parent
rows = np.load(work / "rows.npy")
version = importlib.metadata.version
model = phishing.train("v2")
expected = model.predict_proba(rows)[:, 1]
say = {"model": "v2", "ran": "yes", "tool": "m2cgen", "version": version("m2cgen")}


def library(file):
    """A C function double* -> double[2], called through ctypes."""
    score = ctypes.CDLL(str(file)).score
    score.argtypes, score.restype = [DOUBLES, DOUBLES], None
    return score


def call(score, rows):
    answers = np.empty((len(rows), 2))
    for row, answer in zip(np.ascontiguousarray(rows), answers, strict=True):
        score(*(array.ctypes.data_as(DOUBLES) for array in (row, answer)))
    return answers[:, 1]


def module(file):
    spec = importlib.util.spec_from_file_location("model", file)
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


file = work / "model.py"
file.write_text(m2cgen.export_to_python(model))
answers = measure(
    [file],
    rows,
    expected,
    lambda: module(file),
    lambda made, rows: [made.score(row.tolist())[1] for row in rows],
)
tell(format="Python code", **say, **answers)

source, file = work / "model.c", work / "model.so"
source.write_text(m2cgen.export_to_c(model))
subprocess.run(["gcc", "-O1", "-shared", "-fPIC", source, "-o", file], check=True)
answers = measure([file], rows, expected, lambda: library(file), call, loads=1)
tell(format="C code", note="gcc -O1, called through ctypes", **say, **answers)

file = work / "model.cjs"
file.write_text(m2cgen.export_to_javascript(model) + "\nmodule.exports = score;\n")
command = ["node", here / "score.cjs", file, work / "rows.json"]
said = json.loads(subprocess.check_output(command))
answers = agreement(said.pop("scores"), expected) | said
answers["size KiB"] = round(file.stat().st_size / 1024, 1)
tell(format="JavaScript code", **say, **answers)

file = work / "treelite.so"
trees = treelite.sklearn.import_model(model)
params = {"parallel_comp": 4}
tl2cgen.export_lib(trees, toolchain="gcc", libpath=str(file), params=params)
answers = measure(
    [file],
    rows,
    expected,
    lambda: tl2cgen.Predictor(str(file), nthread=1),
    lambda made, rows: made.predict(tl2cgen.DMatrix(rows)).reshape(-1, 2)[:, 1],
    loads=1,
)
tell(
    format="C code",
    tool="treelite + tl2cgen",
    version=f"{version('treelite')} + {version('tl2cgen')}",
    model="v2",
    ran="yes",
    note="the pair warns that treelite's file is newer than tl2cgen's reader",
    **answers,
)

names = phishing.CONTRACT.names
pipeline = make_pmml_pipeline(model, active_fields=names, target_fields=["is_phishing"])
said = io.StringIO()
try:
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        sklearn2pmml(pipeline, str(work / "refused.pmml"))
    answer = {"ran": "partly", "note": "written, not scored"}
except RuntimeError:
    why = re.search("SkLearnException: (.*)", said.getvalue())
    answer = {"ran": "no", "note": why[1] if why else said.getvalue()[-200:]}
tell(
    format="PMML",
    tool="sklearn2pmml",
    version=version("sklearn2pmml"),
    model="v2",
    **answer,
)
