"""Checks for *Ship a model inside the application*."""

from __future__ import annotations

import contextlib
import itertools
import json
import pickletools
import re
import signal
import subprocess
import sys
import types
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from deploylab.exercises import sandbox
from deploylab.exercises.engine import Found, Right, Trial, Wrong, exercise, show
from deploylab.exercises.kinds import Option, choice

#: Seconds for the student's function, and for what a fresh process does with its
#: files. Only these are short: how long that process takes to start and to import its
#: libraries is the machine's affair, and the limit of the whole check leaves room.
ANSWER_LIMIT_S = 4.0
CHECK_LIMIT_S = 60.0

#: What the server runs: for each file, one line of JSON about loading and scoring.
LOADS_FILES = """
import json, sys, warnings

warnings.simplefilter("ignore")
import joblib
import numpy as np
import sklearn.linear_model, sklearn.pipeline, sklearn.preprocessing

print("ready", flush=True)
files, rows = json.load(sys.stdin)
for file in files:
    said, doing = {}, "load"
    try:
        model = joblib.load(file)
        doing, said["kind"] = "score", type(model).__name__
        said["steps"] = len(getattr(model, "steps", [model]))
        said["scores"] = np.asarray(model.predict_proba(rows), float)[:, 1].tolist()
    except BaseException as error:
        said["failed"], said["error"] = doing, type(error).__name__
        said["text"] = str(error)
    print("\\nsaid", json.dumps(said), flush=True)
"""

#: Loads pickles by the rule "anything from numpy"; for each, one line of JSON.
ANYTHING_FROM_NUMPY = """
import json, pickle, sys


class Refused(Exception):
    pass


class AnyNumpy(pickle.Unpickler):
    def find_class(self, module, name):
        if module.split(".")[0] != "numpy":
            raise Refused(f"{module}.{name}")
        return super().find_class(module, name)


import numpy.testing

print("ready", flush=True)
for file in json.load(sys.stdin)[0]:
    said = {"loaded": True}
    try:
        with open(file, "rb") as payload:
            AnyNumpy(payload).load()
    except BaseException as error:
        said = {"error": type(error).__name__, "text": str(error)}
    print("\\nsaid", json.dumps(said), flush=True)
"""


@contextlib.contextmanager
def fresh_process(program: str) -> Iterator[subprocess.Popen]:
    """A Python process that starts now and is asked, once, by ``asked``."""
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        errors="replace",
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def asked(process: subprocess.Popen, files: list[str], rows: list) -> list[dict]:
    """What the process says about each file; {} from where it stopped answering."""
    if process.stdout.readline() != "ready\n":
        raise RuntimeError("a fresh Python process could not import its libraries")
    try:
        said, _ = process.communicate(json.dumps([files, rows]), ANSWER_LIMIT_S)
    except subprocess.TimeoutExpired as late:
        said = (late.stdout or b"").decode(errors="replace")
    answers = [
        json.loads(line.removeprefix("said "))
        for line in said.splitlines()
        if line.startswith("said {")
    ]
    return answers + [{}] * (len(files) - len(answers))


def in_time(t: Trial, *args: Any, **kwargs: Any) -> Any:
    """``t.call``, for a function that has to answer long before the check ends."""
    if not sandbox.CAN_FORK:  # the alarm is in use
        return t.call(*args, **kwargs)

    def ring(*_: object) -> None:
        raise sandbox.TimeUp

    signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, ANSWER_LIMIT_S)
    try:
        return t.call(*args, **kwargs)
    except sandbox.TimeUp:
        t.stop(
            "too-slow",
            f"Your function was still running after {ANSWER_LIMIT_S:g} seconds.",
            "A request that waits for ever holds a thread for ever.",
            "Look for a loop that does not end, or for a wait without a limit.",
        )
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


@contextlib.contextmanager
def try_instead(call: str) -> Iterator[None]:
    """If the call in this block raises, propose one that can be typed."""
    try:
        yield
    except Found as found:
        if found.finding.id != "crash":
            raise
        do = f"Run `{call}` in a cell of its own, and read the traceback from below."
        raise Found(found.status, replace(found.finding, do=do)) from found


@contextlib.contextmanager
def as_notebook(function: Any) -> Iterator[None]:
    """Make the function's own names ``__main__``, as they are in a notebook."""
    before = sys.modules["__main__"]
    names = getattr(function, "__globals__", {})
    if names.get("__name__") == "__main__" and names is not vars(before):
        sys.modules["__main__"] = types.ModuleType("__main__")
        vars(sys.modules["__main__"]).update(names)
    try:
        yield
    finally:
        sys.modules["__main__"] = before


@exercise(
    live=True,
    limit_s=CHECK_LIMIT_S,
    memory_bytes=None,
    hints={
        "*": [
            "What does the server have in hand when a request arrives, and what does "
            "the last step expect?",
            "The file has to hold everything between a raw row and a score, and the "
            "code for it has to come from an installed package.",
            "1 turn the whole pipeline into bytes, 2 write all of them to `path`, "
            "3 close the file before you return.",
        ],
        "needs-notebook": [
            "Where does Python look for the code of an object that it unpickles?",
            "A pickle holds the name of a class, not its code. Which classes are "
            "installed on the server? Save an object of one of those.",
        ],
        "half-written": [
            "When do bytes that you wrote reach the disk?",
            "A file collects what is written until it is closed; `with open(...)` "
            "closes it, and so does `path.write_bytes`.",
        ],
        "not-a-model": [
            "The server calls `predict_proba` on what it loads. On what does your "
            "file let it call that?",
        ],
        "crash": [
            "`pickle.dumps` gives bytes; `pickle.dump` takes an open file. Which of "
            "the two did you call, and with what?",
            "A path is not an open file, and a file opened with `'w'` takes text. "
            "Bytes need `open(path, 'wb')`, or `path.write_bytes`.",
        ],
        "folder": [
            "`path` names one file. Which function on the page writes bytes to a file, "
            "without anything beside it?",
        ],
        "preprocessing-lost": [
            "What does the server have in hand when a request arrives, and what does "
            "the last step expect?",
            "A pipeline is an object like any other: it can be pickled whole.",
        ],
        "old-model-stays": [
            "Save twice to one path, and look at the size of the file in between.",
        ],
    },
    not_checked="Another version of scikit-learn on the server, a disk that fills up "
    "half-way, and whether anybody else can replace the file.",
    notice="The file was loaded where your notebook is not. That is the test that the "
    "notebook itself can never fail.",
    wrong=[
        Wrong(
            "saves the last step",
            "preprocessing-lost",
            patch=(("pickle.dumps(pipeline)", "pickle.dumps(pipeline[-1])"),),
        ),
        Wrong(
            "saves the first step and the last",
            "preprocessing-lost",
            source="""
            def save(pipeline, path):
                from sklearn.pipeline import make_pipeline

                ends = make_pipeline(pipeline[0], pipeline[-1])
                path.write_bytes(pickle.dumps(ends))
            """,
        ),
        Wrong(
            "wraps it in a class of the notebook",
            "needs-notebook",
            source="""
            class Model:
                def __init__(self, pipeline):
                    self.pipeline = pipeline

                def predict_proba(self, rows):
                    return self.pipeline.predict_proba(rows)

            def save(pipeline, path):
                path.write_bytes(pickle.dumps(Model(pipeline)))
            """,
        ),
        Wrong(
            "adds a function of the notebook as a step",
            "needs-notebook",
            source="""
            def as_numbers(rows):
                return np.asarray(rows, dtype=float)

            def save(pipeline, path):
                from sklearn.preprocessing import FunctionTransformer

                first = ("numbers", FunctionTransformer(as_numbers))
                pipeline.steps.insert(0, first)
                path.write_bytes(pickle.dumps(pipeline))
            """,
        ),
        Wrong(
            "takes a class from a module that only the notebook has",
            "needs-notebook",
            source="""
            import types

            steps = types.ModuleType("my_steps")
            sys.modules["my_steps"] = steps

            class Model:
                pass

            Model.__module__ = "my_steps"
            steps.Model = Model

            def save(pipeline, path):
                model = Model()
                model.predict_proba = pipeline.predict_proba
                path.write_bytes(pickle.dumps(model))
            """,
        ),
        Wrong(
            "returns the bytes",
            "file-missing",
            patch=(
                (
                    "path.write_bytes(pickle.dumps(pipeline))",
                    "return pickle.dumps(pipeline)",
                ),
            ),
        ),
        Wrong(
            "chooses another ending",
            "file-missing",
            patch=(("path.write_bytes", "path.with_suffix('.bin').write_bytes"),),
        ),
        Wrong(
            "saves a version of this book's, which is a folder",
            "folder",
            source="""
            def save(pipeline, path):
                v1 = phishing.version("v1")
                artifacts.save(v1, path, "pickle", model=pipeline)
            """,
        ),
        Wrong(
            "hands the path to pickle.dump",
            "crash",
            patch=(
                (
                    "path.write_bytes(pickle.dumps(pipeline))",
                    "pickle.dump(pipeline, path)",
                ),
            ),
        ),
        Wrong(
            "opens the file for text",
            "crash",
            source="""
            def save(pipeline, path):
                with open(path, "w") as file:
                    pickle.dump(pipeline, file)
            """,
        ),
        Wrong(
            "never closes the file",
            "half-written",
            source="""
            opened = []

            def save(pipeline, path):
                opened.append(open(path, "wb"))
                pickle.dump(pipeline, opened[-1])
            """,
        ),
        Wrong(
            "writes the first half",
            "half-written",
            patch=(("pickle.dumps(pipeline)", "pickle.dumps(pipeline)[:500]"),),
        ),
        Wrong(
            "writes the text that is printed",
            "not-loadable",
            patch=(("pickle.dumps(pipeline)", "repr(pipeline).encode()"),),
        ),
        Wrong(
            "writes something that ends the process",
            "not-loadable",
            source="""
            class Ends:
                def __reduce__(self):
                    import os

                    return os._exit, (3,)

            def save(pipeline, path):
                path.write_bytes(pickle.dumps(Ends()))
            """,
        ),
        Wrong(
            "never returns",
            "too-slow",
            patch=(("path.write_bytes", "while True: path.write_bytes"),),
        ),
        Wrong(
            "saves a dict with the model in it",
            "not-a-model",
            patch=(("dumps(pipeline)", "dumps({'model': pipeline})"),),
        ),
        Wrong(
            "saves an unfitted copy",
            "not-fitted",
            source="""
            def save(pipeline, path):
                from sklearn.base import clone

                path.write_bytes(pickle.dumps(clone(pipeline)))
            """,
        ),
        Wrong(
            "trains one of its own",
            "other-model",
            patch=(("dumps(pipeline)", "dumps(phishing.train('v1'))"),),
        ),
        Wrong(
            "appends to the file",
            "old-model-stays",
            source="""
            def save(pipeline, path):
                with open(path, "ab") as file:
                    pickle.dump(pipeline, file)
            """,
        ),
    ],
    also_right=[
        Right(
            "joblib, compressed",
            source="""
            def save(pipeline, path):
                import joblib

                joblib.dump(pipeline, path, compress=3)
            """,
        ),
        Right(
            "beside it first, then renamed",
            source="""
            def save(pipeline, path):
                beside = Path(f"{path}.part")
                with open(beside, "wb") as file:
                    pickle.dump(pipeline, file, protocol=5)
                beside.replace(path)
            """,
        ),
    ],
)
def save_pipeline(t: Trial) -> None:
    """A saved pipeline scores raw rows in a process that has no notebook."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import PolynomialFeatures, StandardScaler

    from deploylab import phishing

    rows = all_codes(t, 200)
    files = ["v1.pkl", "products.pkl", "twice.pkl"]
    with fresh_process(LOADS_FILES) as process:
        train = phishing.split().train
        v1, data = phishing.version("v1").fit(train), train.iloc[::2]
        products = make_pipeline(
            PolynomialFeatures(2, include_bias=False),
            StandardScaler(),
            LogisticRegression(),
        )
        products.fit(data[phishing.CONTRACT.names].to_numpy(), data[phishing.LABEL])
        saved(t, v1, "v1.pkl")
        saved(t, products, "products.pkl")
        saved(t, v1, "twice.pkl")
        saved(t, products, "twice.pkl")
        t.good("`save` leaves a file at `path`")
        said = asked(process, files, rows.tolist())
    answers_as(t, said[0], v1, rows, "v1.pkl")
    t.good("a fresh process loads v1 and gives its answers on 200 raw rows")
    answers_as(t, said[1], products, rows, "products.pkl", other=v1)
    t.good("the same for a pipeline of three steps")
    t.need(
        not close(said[2], v1.predict_proba(rows)[:, 1]),
        "old-model-stays",
        "Two models were saved to `twice.pkl`, one after the other; the file still "
        "gives the answers of the first.",
        "The release says that the new version is live, and the old one answers.",
        "Look at how you open the file: does it begin anew, or go on at the end?",
    )
    answers_as(t, said[2], products, rows, "twice.pkl")
    t.good("a second save to the same path replaces the first")


def saved(t: Trial, pipeline: Any, file: str) -> None:
    """Save with the student's function; there must be a file afterwards."""
    call = 'save(phishing.train("v1"), Path("try.pkl"))'
    with as_notebook(t.thing), try_instead(call):
        in_time(t, pipeline, Path(file))
    t.need(
        not Path(file).is_dir(),
        "folder",
        f"After `save(pipeline, path)` there is a folder at `path`, `{file}`, and not "
        "a file.",
        "The release copies one file to the server, and gives that to `joblib.load`.",
        "Write one file, at exactly the path that you are given.",
    )
    others = sorted(p.name for p in Path().iterdir())
    instead = f" There is `{show(others[0])}` instead." if others else ""
    t.need(
        Path(file).is_file(),
        "file-missing",
        f"After `save(pipeline, path)` there is no file at `path`, `{file}`.{instead}",
        "The release copies this one file to the server.",
        "Write the bytes to exactly the path that you are given.",
    )


def answers_as(
    t: Trial, said: dict, pipeline: Any, rows: np.ndarray, file: str, other: Any = None
) -> None:
    """The file, loaded elsewhere, must give the pipeline's scores, not the other's."""
    if said.get("failed", "load") == "load" and "scores" not in said:
        cannot_load(t, said, file)
    expected = pipeline.predict_proba(rows)
    if close(said, expected[:, 1]):
        return
    kind, steps = said["kind"], said.get("steps", 0)
    error = f"`{said.get('error')}: {said.get('text', '')[:90]}`"
    t.need(
        not (said.get("error") == "AttributeError" and "predict" in said["text"]),
        "not-a-model",
        f"The server loaded `{file}`, got an object of type `{kind}`, and could not "
        "call `predict_proba` on it.",
        "Whoever loads the file would have to know what you packed, and how.",
        "Save the object that answers, and nothing around it.",
    )
    t.need(
        said.get("error") != "NotFittedError",
        "not-fitted",
        f"The server loaded `{file}` and asked it for scores: {error}.",
        "The steps are there, and nothing that they learned.",
        "Save the fitted pipeline that you are given, not a fresh copy.",
    )
    as_other = other is not None and close(said, other.predict_proba(rows)[:, 1])
    if as_other:
        what = "gave the answers of the model that was saved before it"
    elif "scores" in said:
        scores, changed = np.array(said["scores"]), len(rows)
        if scores.shape == (len(rows),):
            changed = int(((scores > 0.5) != (expected[:, 1] > 0.5)).sum())
        what = f"gave another answer on {changed} of {len(rows)} raw rows"
    else:
        what = f"stopped at a raw row with {error}"
    t.need(
        steps >= len(pipeline.steps) or as_other,
        "preprocessing-lost",
        f"Loaded in a fresh process, `{file}` {what}. It holds {steps} of the "
        f"pipeline's {len(pipeline.steps)} steps.",
        "A request brings raw values, and numbers of the right shape do not fail.",
        "Save what takes the raw row.",
    )
    t.stop(
        "other-model",
        f"Loaded in a fresh process, `{file}` {what}.",
        "The file is released as the model that was tested, and is another one.",
        "Save the pipeline that `save` is given, as it is.",
    )


def cannot_load(t: Trial, said: dict, file: str) -> None:
    """Say why a file could not be loaded."""
    error, text = said.get("error", ""), said.get("text", "")
    name = re.search(r"attribute '(\w+)'.*__main__", text)
    if name or error == "ModuleNotFoundError":
        missing = f"`{name[1]}` of the notebook" if name else f"`{text[:80]}`"
        t.stop(
            "needs-notebook",
            f"A fresh process could not load `{file}`: {missing} is not there."
            if name
            else f"A fresh process could not load `{file}`: {missing}.",
            "A pickle holds the names of its code. On the server nobody ran your "
            "notebook.",
            "Save objects whose code is in an installed package.",
        )
    size = Path(file).stat().st_size
    cut = error == "EOFError" or re.search(
        r"truncated|exhausted|end of f|Ran out", text
    )
    t.need(
        size and not cut,
        "half-written",
        f"`{file}` has {size:,} bytes after `save` returned, and the pickle goes on.",
        "A release that copies it now ships a model that nobody can load.",
        "Make sure that all bytes are in the file before `save` returns.",
    )
    ended = f"`{error}: {text[:90]}`" if error else "its process ended or hung"
    t.stop(
        "not-loadable",
        f"`joblib.load` could not read `{file}`: {ended}.",
        "The server stops at its first line.",
        "Write the pipeline with `pickle` or `joblib`.",
    )


def close(said: dict, expected: np.ndarray) -> bool:
    """Whether the scores that the process said are these, but for rounding."""
    scores = np.array(said.get("scores", []))
    return scores.shape == expected.shape and np.abs(scores - expected).max() < 1e-9


def all_codes(t: Trial, n: int) -> np.ndarray:
    """Random rows that keep the contract, shape (n, 8); every value occurs."""
    from deploylab import phishing

    columns = [
        t.rng.permutation(np.resize(feature.values, n))
        for feature in phishing.CONTRACT.features
    ]
    return np.column_stack(columns)


@exercise(
    hints={
        "*": [
            "Which two arrays of scores are near each other everywhere, and still "
            "answer differently?",
            "There are two questions for each row: is the score near, and is the "
            "answer the same? All rows must say yes twice.",
            "1 refuse other lengths, 2 distance of each pair, 3 compare with the "
            "tolerance, 4 answers of both at 0.5, 5 all of it for all rows.",
        ],
        "relative-tolerance": [
            "`np.allclose` and `np.isclose` have two tolerances. Which did you set, "
            "and what is the other?",
        ],
        "nan-accepted": [
            "What is `float('nan') > 0.1`, and what is `float('nan') <= 0.1`?",
            "Every comparison with NaN is false. So ask for what must hold, not for "
            "what must not.",
        ],
        "length-ignored": [
            "What does NumPy do with `np.array([0.9]) - np.array([0.9, 0.2])`?",
        ],
        "flip-missed": [
            "Which two arrays of scores are near each other everywhere, and still "
            "answer differently?",
        ],
        "flips-cancel": [
            "Two rows change places. Which of your numbers notices?",
            "A count of phishing says how many, not which. Compare the answers of the "
            "first row, then of the second.",
        ],
        "flip-hidden": [
            "Your rule lets a few rows pass, or a small share. How many does the "
            "statement allow?"
        ],
        "one-row-hidden": ["What does a mean do to one large number among small ones?"],
        "sign-kept": ["What is `0.7 - 0.9 <= 0.01`?"],
        "edge-refused": ["`<` or `<=`: which of them is *at most*?"],
        "half-differs": ["`>` or `>=`: which of them is *above*?"],
    },
    not_checked="Whether the arrays hold any row at all (nothing asks what you say to "
    "two empty ones), and whether the rows are those that matter.",
    notice="The tolerance was set before anybody looked. A tolerance that is set "
    "afterwards is a description.",
    wrong=[
        Wrong(
            "compares scores alone",
            "flip-missed",
            patch=(("near.all() and not flips.any()", "near.all()"),),
        ),
        Wrong(
            "compares answers alone",
            "drift-missed",
            patch=(("near.all() and not flips.any()", "not flips.any()"),),
        ),
        Wrong(
            "counts phishing on both sides",
            "flips-cancel",
            patch=(
                (
                    "not flips.any()",
                    "(original > 0.5).sum() == (exported > 0.5).sum()",
                ),
            ),
        ),
        Wrong(
            "compares the shares called phishing",
            "flips-cancel",
            patch=(
                (
                    "not flips.any()",
                    "abs((original > 0.5).mean() - (exported > 0.5).mean()) < 1e-3",
                ),
            ),
        ),
        Wrong(
            "asks for 99 % of the same answers",
            "flip-hidden",
            patch=(("not flips.any()", "flips.mean() < 0.01"),),
        ),
        Wrong(
            "allows one other answer in a thousand rows",
            "flip-hidden",
            patch=(("not flips.any()", "flips.sum() <= len(flips) // 1000"),),
        ),
        Wrong(
            "takes the mean",
            "one-row-hidden",
            patch=(
                ("np.abs(original - exported)", "np.abs(original - exported).mean()"),
            ),
        ),
        Wrong(
            "keeps the sign",
            "sign-kept",
            patch=(("np.abs(original - exported)", "(original - exported)"),),
        ),
        Wrong(
            "np.allclose",
            "relative-tolerance",
            patch=(
                (
                    "near = np.abs(original - exported) <= tolerance",
                    "near = np.isclose(original, exported, atol=tolerance)",
                ),
            ),
        ),
        Wrong(
            "a tolerance of its own",
            "tolerance-ignored",
            patch=(("<= tolerance", "<= 1e-6"),),
        ),
        Wrong(
            "looks for what is too far",
            "nan-accepted",
            patch=(
                (
                    "near = np.abs(original - exported) <= tolerance",
                    "near = np.abs(original - exported) > tolerance",
                ),
                ("near.all()", "not near.any()"),
            ),
        ),
        Wrong(
            "takes two NaN for equal",
            "nan-accepted",
            patch=(
                (
                    "near = np.abs(original - exported) <= tolerance",
                    "near = (np.abs(original - exported) <= tolerance)"
                    " | (np.isnan(original) & np.isnan(exported))",
                ),
            ),
        ),
        Wrong(
            "lets NumPy broadcast",
            "length-ignored",
            patch=(("original.shape != exported.shape", "False"),),
        ),
        Wrong(
            "zip stops at the shorter one",
            "length-ignored",
            source="""
            def same_answers(original, exported, tolerance=1e-6):
                return all(
                    abs(a - b) <= tolerance and (a > 0.5) == (b > 0.5)
                    for a, b in zip(original, exported)
                )
            """,
        ),
        Wrong(
            "wants less than the tolerance",
            "edge-refused",
            patch=(("<= tolerance", "< tolerance"),),
        ),
        Wrong(
            "calls 0.5 phishing",
            "half-differs",
            patch=(("> 0.5", ">= 0.5"),),
        ),
        Wrong(
            "sorts before it compares",
            "rows-mixed",
            patch=(
                ("(original), np", "(sorted(original)), np"),
                ("(exported)\n", "(sorted(exported))\n"),
            ),
        ),
        Wrong(
            "compares the first rows",
            "off",
            source="""
            def same_answers(original, exported, tolerance=1e-6):
                if len(original) != len(exported):
                    return False
                return all(
                    abs(a - b) <= tolerance and (a > 0.5) == (b > 0.5)
                    for a, b in list(zip(original, exported))[:5]
                )
            """,
        ),
    ],
    also_right=[
        Right(
            "row by row",
            source="""
            def same_answers(original, exported, tolerance=1e-6):
                return len(original) == len(exported) and all(
                    abs(a - b) <= tolerance and (a > 0.5) == (b > 0.5)
                    for a, b in zip(original, exported)
                )
            """,
        ),
        Right(
            "np.allclose without its relative part",
            source="""
            def same_answers(original, exported, tolerance=1e-6):
                if np.shape(original) != np.shape(exported):
                    return False
                near = np.allclose(original, exported, rtol=0, atol=tolerance)
                return near and np.array_equal(
                    np.greater(original, 0.5), np.greater(exported, 0.5)
                )
            """,
        ),
    ],
)
def same_answers(t: Trial) -> None:
    """Parity of two arrays of scores: near everywhere, and no other answer."""

    def answer(original: list, exported: list, **more: float) -> bool:
        return t.call(np.array(original), np.array(exported), **more, gives="truth")

    t.need(
        not answer([0.2, 0.9], [0.2, 0.6], tolerance=0.01),
        "drift-missed",
        f"{t.said}, and the second scores are 0.3 apart.",
        "Where somebody sorts by score, or another threshold is set, these are two "
        "models.",
        "Compare the scores as well as the answers.",
    )
    t.need(
        answer([0.2, 0.9], [0.201, 0.899], tolerance=0.01),
        "tolerance-ignored",
        f"{t.said}, and all scores are 0.001 apart.",
        "A half-precision export is allowed more than a double-precision one.",
        "Use the argument `tolerance`.",
    )
    t.good("scores that are far apart, and scores that are near")
    t.need(
        not answer([0.2, 0.4996], [0.2, 0.5004], tolerance=0.01),
        "flip-missed",
        f"{t.said}. The scores are near, and the second address is phishing for one "
        "model alone.",
        "Nobody sees the score; users see the answer.",
        "Compare the answers as well as the scores.",
    )
    t.need(
        not answer([0.9, 0.2], [0.2, 0.9]),
        "rows-mixed",
        f"{t.said}; these are the same scores, on other rows.",
        "Each score belongs to one request.",
        "Compare row by row.",
    )
    t.need(
        not answer([0.4996, 0.5004], [0.5004, 0.4996], tolerance=0.01),
        "flips-cancel",
        f"{t.said}. Both answers are other ones; only their number is the same.",
        "One user is warned of an honest page, and another walks into an attack.",
        "Compare the answers row by row, not how many there are.",
    )
    many = [0.2] * 1000
    t.need(
        not answer([0.4996, *many], [0.5004, *many], tolerance=0.01),
        "flip-hidden",
        f"{t.said}. One answer of 1,001 is another one.",
        "A parity test is there for the rare row: the usual ones come out right.",
        "Every single answer has to be the same.",
    )
    t.good("an answer that flips within the tolerance, among few rows and many")
    many = [0.9] * 99
    t.need(
        not answer([0.9, *many], [0.8, *many], tolerance=0.01),
        "one-row-hidden",
        f"{t.said}; 99 scores agree, and one is 0.1 apart.",
        "A row that an export gets badly disappears among those that it gets right.",
        "Every single row has to be within the tolerance.",
    )
    for original, exported in (([0.7], [0.9]), ([0.9], [0.7])):
        t.need(
            not answer(original, exported, tolerance=0.01),
            "sign-kept",
            f"{t.said}, and the scores are 0.2 apart.",
            "An export may err in either direction.",
            "Compare the distance, whichever score is higher.",
        )
    t.need(
        not answer([0.9], [0.900005]),
        "relative-tolerance",
        f"{t.said}: the scores are 0.000005 apart, and 0.000001 is allowed.",
        "The tolerance that was agreed is not the one that is applied.",
        "Find out what else is added to `tolerance`, and set it to 0.",
    )
    t.good("every row counts, in either direction")
    missing = float("nan")
    for original, exported in (([0.2, 0.9], [0.2, missing]), ([missing], [missing])):
        t.need(
            not answer(original, exported),
            "nan-accepted",
            f"{t.said}, and NaN is no score.",
            "An export that fails on some rows says NaN there, and the release passes.",
            "Ask what a comparison with NaN gives.",
        )
    for original, exported in (([0.9], [0.9] * 3), ([0.9, 0.2], [0.9])):
        t.need(
            not answer(original, exported),
            "length-ignored",
            f"{t.said}, and the lengths are {len(original)} and {len(exported)}.",
            "An export that drops rows would pass on those that are left.",
            "Compare the lengths before you compare scores.",
        )
    t.good("NaN and other lengths are refused")
    t.need(
        answer([0.625], [0.75], tolerance=0.125),
        "edge-refused",
        f"{t.said}, and the scores are exactly 0.125 apart.",
        "The statement allows *at most* the tolerance.",
        "Look at which comparison is used.",
    )
    for original, exported, same in (
        ([0.5], [0.5000001], False),
        ([0.5000001], [0.5], False),
        ([0.5], [0.4999999], True),
        ([0.4999999], [0.5], True),
    ):
        t.need(
            answer(original, exported) == same,
            "half-differs",
            f"{t.said}. Phishing is a score *above* 0.5.",
            "A vote that ends even is a score of exactly 0.5.",
            "Look at which comparison is used.",
        )
    t.good("the edges: exactly the tolerance, and exactly 0.5")
    for draw in range(10):
        original = t.rng.uniform(size=int(t.rng.integers(6, 12))).round(3)
        exported = original + t.rng.uniform(-9e-4, 9e-4, size=len(original))
        if draw % 2:
            exported[int(t.rng.integers(5, len(original)))] += 0.01
        pairs = list(zip(original.tolist(), exported.tolist(), strict=True))
        apart = [abs(a - b) > 1e-3 or (a > 0.5) != (b > 0.5) for a, b in pairs]
        value = t.call(original, exported, tolerance=1e-3, gives="truth")
        t.need(
            value == (not any(apart)),
            "off",
            f"{t.said}; {sum(apart)} of {len(pairs)} rows break the rule.",
            "",
            "Go through these rows one by one.",
        )
    t.good("random scores")


@exercise(
    live=True,
    limit_s=CHECK_LIMIT_S,
    memory_bytes=None,
    hints={
        "*": [
            "What may an object name in `__reduce__`, and who calls it?",
            "You need one function whose module begins with `numpy` and that writes a "
            "file, or runs a text as a program. `numpy.savetxt` writes; `runstring` in "
            "`numpy.testing._private.utils` runs.",
            "1 a class with `__reduce__`, 2 that gives back the function and a tuple "
            "of its arguments, 3 one of which is, or contains, `path`, 4 an object of "
            "it, through `pickle.dumps`.",
        ],
        "not-numpy": [
            "Which names does your payload import? `pickletools.dis` shows them.",
            "The rule sees the module of every name. Find a function inside numpy that "
            "does the errand for you.",
        ],
        "nothing-happened": [
            "When is `__reduce__` called, and when is what it gives back called?",
        ],
        "call-failed": [
            "Which exception is it, and does it come from your call or from pickle?",
            "Call the function yourself, with the very tuple that `__reduce__` gives. "
            "`numpy.savetxt` takes numbers unless its `fmt` says otherwise.",
        ],
        "path-ignored": [
            "Compare both names: which function adds an ending of its own?"
        ],
        "not-a-pickle": ["What does `pickle.dumps` give, and do you return that?"],
        "written-too-early": [
            "`__reduce__` runs while you pickle. What runs while others load?",
        ],
    },
    not_checked="What your function or its payload did outside the folder of the "
    "check. The payload ran with all the rights that you have, as any pickle does.",
    notice="The rule was kept to the letter. One useful function in a large library is "
    "enough.",
    wrong=[
        Wrong(
            "uses eval",
            "not-numpy",
            source="""
            class Errand:
                def __init__(self, path):
                    self.path = path

                def __reduce__(self):
                    return eval, (f"open({self.path!r}, 'w').write('loaded')",)

            def only_numpy(path):
                return pickle.dumps(Errand(path))
            """,
        ),
        Wrong(
            "an object of the notebook",
            "not-numpy",
            patch=(("def __reduce__", "def reduce"),),
        ),
        Wrong(
            "a harmless array",
            "nothing-happened",
            patch=(("pickle.dumps(Errand(path))", "pickle.dumps(np.ones(3))"),),
        ),
        Wrong(
            "the function, and nobody calls it",
            "nothing-happened",
            patch=(("dumps(Errand(path))", "dumps(runstring)"),),
        ),
        Wrong(
            "runs the errand itself",
            "written-too-early",
            source="""
            def only_numpy(path):
                np.savetxt(path, ["loaded"], fmt="%s")
                return pickle.dumps(np.ones(3))
            """,
        ),
        Wrong(
            "saves the file itself, with an ending of numpy's",
            "written-too-early",
            source="""
            def only_numpy(path):
                np.save(path, ["loaded"])
                return pickle.dumps(np.ones(3))
            """,
        ),
        Wrong(
            "tries it out beside the path",
            "written-too-early",
            patch=(
                (
                    "    return pickle.dumps(Errand(path))",
                    "    np.savetxt(path + '.bak', ['loaded'], fmt='%s')\n"
                    "    return pickle.dumps(Errand(path))",
                ),
            ),
        ),
        Wrong(
            "never returns",
            "too-slow",
            patch=(("return pickle.dumps", "while True: pickle.dumps"),),
        ),
        Wrong(
            "a program text",
            "not-a-pickle",
            patch=(
                ("pickle.dumps(Errand(path))", "b'import numpy; numpy.savetxt(path)'"),
            ),
        ),
        Wrong(
            "an empty payload",
            "not-a-pickle",
            patch=(("pickle.dumps(Errand(path))", "b''"),),
        ),
        Wrong(
            "forgets an argument",
            "call-failed",
            patch=(("(program, {})", "(program,)"),),
        ),
        Wrong(
            "saves a text as a number",
            "call-failed",
            source="""
            class Errand:
                def __init__(self, path):
                    self.path = path

                def __reduce__(self):
                    return np.savetxt, (self.path, ["loaded"])

            def only_numpy(path):
                return pickle.dumps(Errand(path))
            """,
        ),
        Wrong(
            "ends the process that loads it",
            "call-failed",
            patch=(
                (
                    "open({self.path!r}, 'w').write('loaded')",
                    "import os; os._exit(0)",
                ),
            ),
        ),
        Wrong(
            "a path of its own",
            "path-ignored",
            patch=(("{self.path!r}", "'mark.txt'"),),
        ),
        Wrong(
            "an ending of numpy's",
            "path-ignored",
            source="""
            class Errand:
                def __init__(self, path):
                    self.path = path

                def __reduce__(self):
                    return np.save, (self.path, ["loaded"])

            def only_numpy(path):
                return pickle.dumps(Errand(path))
            """,
        ),
        Wrong(
            "another word",
            "other-content",
            patch=(("'loaded'", "'hello'"),),
        ),
    ],
    also_right=[
        Right(
            "a public function",
            source="""
            class Errand:
                def __init__(self, path):
                    self.path = path

                def __reduce__(self):
                    return np.savetxt, (self.path, ["loaded"], "%s")

            def only_numpy(path):
                return pickle.dumps(Errand(path))
            """,
        ),
        Right(
            "by hand: a name with a dot in it, below a module of numpy",
            source="""
            def only_numpy(path):
                def text(value):
                    return b"\\x8c" + bytes([len(value)]) + value.encode()

                module, name = "numpy.testing._private.utils", "os.system"
                call = text(module) + text(name) + b"\\x93"
                return b"\\x80\\x04" + call + text(f"echo loaded > {path}") + b"\\x85R."
            """,
        ),
    ],
)
def only_numpy(t: Trial) -> None:
    """A pickle that imports from numpy alone, and writes a file when it is loaded."""
    marks = [f"mark-{number}.txt" for number in t.rng.integers(100, 999, size=2)]
    for file, mark in zip(("one.pkl", "other.pkl"), marks, strict=True):
        before = set(Path().rglob("*"))
        with as_notebook(t.thing):
            payload = in_time(t, mark, gives="bytes")
        written = sorted(path.name for path in set(Path().rglob("*")) - before)
        t.need(
            not written,
            "written-too-early",
            f"`only_numpy('{mark}')` wrote `{show((written or [''])[0])[1:-1]}` "
            "itself, before anybody loaded the payload.",
            "An attacker's errand runs on the machine that loads, not on theirs.",
            "Let the payload hold the call, and do not make it yourself.",
        )
        is_pickle(t, payload)
        Path(file).write_bytes(payload)
    t.good("a pickle, and no file is there before it is loaded")
    with fresh_process(ANYTHING_FROM_NUMPY) as process:
        said = asked(process, ["one.pkl", "other.pkl"], [])
    for one, mark in zip(said, marks, strict=True):
        wrote(t, one, mark, marks)
    t.good("loading it by the rule writes the file")


def is_pickle(t: Trial, payload: bytes) -> None:
    """The payload must be a list of pickle instructions."""
    try:
        list(pickletools.genops(payload))
    except Exception as error:
        t.stop(
            "not-a-pickle",
            f"{t.said}, which pickle cannot read: `{str(error)[:80]}`.",
            "",
            "Return what `pickle.dumps` gives for an object of yours.",
        )


def wrote(t: Trial, said: dict, mark: str, marks: list[str]) -> None:
    """Loading must have written the file, whatever became of the load."""
    error, text = said.get("error", ""), said.get("text", "")
    if not Path(mark).is_file():
        t.need(
            error != "Refused",
            "not-numpy",
            f"The rule refused the payload, because it imports `{show(text)[1:-1]}`.",
            "Here the rule worked: the errand did not run.",
            "Import from modules of numpy alone.",
        )
        names = {p.name for p in Path().iterdir()}
        others = sorted(
            names - {"one.pkl", "other.pkl", *marks},
            key=lambda name: (not name.startswith(mark), name),
        )
        t.need(
            not others,
            "path-ignored",
            f"There is no `{mark}` after the load, but `{show((others or [''])[0])}`.",
            "",
            "Write to exactly the path that you are given.",
        )
        t.need(
            said and not error,
            "call-failed",
            f"Nothing was refused, there is no `{mark}`, and the load "
            + (f"failed: `{error}: {text[:100]}`." if error else "gave no answer."),
            "",
            "Make the call of your payload in a cell, with the same arguments.",
        )
        t.stop(
            "nothing-happened",
            f"The payload was loaded, and there is no file `{mark}`.",
            "",
            "Let the payload name a function, and arguments to call it with.",
        )
    content = Path(mark).read_text("utf-8", errors="replace").strip()
    t.need(
        content == "loaded" or not error,
        "call-failed",
        f"`{mark}` was opened and says `{show(content)}`; then the load failed: "
        f"`{error}: {text[:100]}`.",
        "",
        "Make the call of your payload in a cell, with the same arguments.",
    )
    t.need(
        content == "loaded",
        "other-content",
        f"`{mark}` is there, and says `{show(content)}`, not `loaded`.",
        "",
        "Write the word that the exercise asks for.",
    )


#: Features in the contract's order, the code that training fills in for a missing
#: one (the most frequent in training, as the page computes it), and the codes.
USUAL = {
    "empty_server_form_handler": 1,
    "popup_window": 0,
    "https": 1,
    "request_from_other_domain": -1,
    "anchor_from_other_domain": -1,
    "is_popular": 0,
    "long_url": 0,
    "ip_in_url": -1,
}
PLAIN = dict(zip(USUAL, (1, 0, -1, 1, -1, 0, 1, 1), strict=True))
ONE_MORE = {"age_of_domain": 1, **PLAIN}
ABSENT = object()


@exercise(
    "fix",
    starting="1d86cb3c7a7d182f",
    hints={
        "*": [
            "`differing(serving_row)` says in how many of the records each feature "
            "differs. Which differ always, and which now and then?",
            "Take one raw record, print both rows side by side, and go from feature to "
            "feature. One difference at a time.",
            "1 the order of the columns, 2 what becomes of each code, 3 codes that "
            "come as text, 4 what stands for a missing value.",
        ],
        "order-differs": [
            "The model takes numbers without names. Who says which comes first?"
        ],
        "fill-differs": [
            "What does training put in the place of a missing value, and where does it "
            "know that from?",
            "`fillna` works on the codes, before they become features. `USUAL` holds "
            "codes too.",
            "Three things stand for a missing value: nothing at all, `None`, and the "
            "empty text.",
        ],
        "text-ignored": ["What is `'-1' == -1` in Python?"],
        "codes-differ": ["What does training make of -1, and the service?"],
        "zero-lost": [
            "In Python, what is `0 or 1`?",
            "`0 or x` is `x`, because 0 counts as false. A code of 0 is there, and not "
            "missing: ask for what stands for a missing value, by name.",
        ],
        "crash": [
            "What does `int` make of the text '1', and of the text '1.0'?",
            "A text may be empty, and a code may have a decimal point. Which function "
            "reads '1' and '1.0' alike, and what must it not be given?",
        ],
        "broke-what-worked": [
            "Who decides on the order of the row: the record, or the contract?"
        ],
    },
    not_checked="Whether your function calls `training_row`, which would pass here and "
    "fail on a machine without pandas; and what the service does with what no "
    "collector sends, such as NaN or a code of 2.",
    notice="Nothing raised, neither before nor after. What found it was to run both "
    "sides on the same raw records.",
    wrong=[
        Wrong(
            "keeps the alphabetical order",
            "order-differs",
            patch=(
                ("in phishing.CONTRACT.names", "in sorted(phishing.CONTRACT.names)"),
            ),
        ),
        Wrong(
            "keeps the pop-up windows turned",
            "codes-differ",
            patch=(
                (
                    "(float(code) + 1) / 2",
                    "(1 - float(code) * (1 if name == 'popup_window' else -1)) / 2",
                ),
            ),
        ),
        Wrong(
            "turns every feature",
            "codes-differ",
            patch=(("float(code) + 1", "1 - float(code)"),),
        ),
        Wrong(
            "sends the codes",
            "codes-differ",
            patch=(("(float(code) + 1) / 2", "code"),),
        ),
        Wrong(
            "compares text with numbers",
            "text-ignored",
            patch=(
                (
                    "(float(code) + 1) / 2",
                    "0.0 if code == -1 else 0.5 if code == 0 else 1.0",
                ),
            ),
        ),
        Wrong(
            "a table of whole codes",
            "text-ignored",
            patch=(
                (
                    "(float(code) + 1) / 2",
                    "{'-1': 0.0, '0': 0.5}.get(str(code), 1.0)",
                ),
            ),
        ),
        Wrong(
            "takes every text for a whole number",
            "crash",
            patch=(("float(code)", "int(code)"),),
        ),
        Wrong(
            "takes the empty text for a number",
            "crash",
            patch=(('code in (None, "")', "code is None"),),
        ),
        Wrong(
            "fills in where `or` finds nothing",
            "zero-lost",
            source="""
            def serving_row(record):
                names = phishing.CONTRACT.names
                codes = [record.get(name) or USUAL[name] for name in names]
                return [(float(code) + 1) / 2 for code in codes]
            """,
        ),
        Wrong(
            "takes the empty text for the lowest code",
            "fill-differs",
            source="""
            def serving_row(record):
                row = []
                for name in phishing.CONTRACT.names:
                    code = record.get(name)
                    code = USUAL[name] if code is None else code
                    row.append((float(-1 if code == "" else code) + 1) / 2)
                return row
            """,
        ),
        Wrong(
            "fills missing with 0",
            "fill-differs",
            patch=(("code = USUAL[name]", "code = -1"),),
        ),
        Wrong(
            "takes the code 0 for missing",
            "fill-differs",
            patch=(("code = USUAL[name]", "code = 0"),),
        ),
        Wrong(
            "fills in features in the place of codes",
            "fill-differs",
            source="""
            def serving_row(record):
                row = []
                for name in phishing.CONTRACT.names:
                    code = record.get(name)
                    missing = code in (None, "")
                    done = USUAL[name] if missing else (float(code) + 1) / 2
                    row.append(done)
                return row
            """,
        ),
        Wrong(
            "fills with the value of the record before",
            "fill-differs",
            source="""
            last = dict(USUAL)

            def serving_row(record):
                for name in phishing.CONTRACT.names:
                    if record.get(name) not in (None, ""):
                        last[name] = float(record[name])
                return [(last[name] + 1) / 2 for name in phishing.CONTRACT.names]
            """,
        ),
        Wrong(
            "fills absent fields, and lets None become 0",
            "fill-differs",
            source="""
            def serving_row(record):
                codes = [record.get(n, USUAL[n]) for n in phishing.CONTRACT.names]
                return [(float(code or 0) + 1) / 2 for code in codes]
            """,
        ),
        Wrong(
            "leaves missing features out",
            "not-eight",
            source="""
            def serving_row(record):
                codes = [record.get(name) for name in phishing.CONTRACT.names]
                codes = [code for code in codes if code not in (None, "")]
                return [(float(code) + 1) / 2 for code in codes]
            """,
        ),
        Wrong(
            "takes the order of the record",
            "broke-what-worked",
            source="""
            def serving_row(record):
                codes = {n: code for n, code in record.items() if n in USUAL}
                for name in USUAL:
                    if codes.get(name) in (None, ""):
                        codes[name] = USUAL[name]
                return [(float(code) + 1) / 2 for code in codes.values()]
            """,
        ),
        Wrong(
            "takes fields that are no features",
            "broke-what-worked",
            source="""
            def serving_row(record):
                full = dict(USUAL)
                for name, code in record.items():
                    missing = code in (None, "")
                    full[name] = USUAL[name] if missing else code
                return [(float(code) + 1) / 2 for code in full.values()]
            """,
        ),
        Wrong(
            "gives up when most is missing",
            "off",
            source="""
            def serving_row(record):
                seen = [name for name in USUAL if record.get(name) not in (None, "")]
                if len(seen) < 7:
                    return [0.5] * 8
                row = []
                for name in phishing.CONTRACT.names:
                    code = record.get(name)
                    code = USUAL[name] if code in (None, "") else code
                    row.append((float(code) + 1) / 2)
                return row
            """,
        ),
    ],
    also_right=[
        Right(
            "a table of codes, and an array",
            source="""
            def serving_row(record):
                known = {"-1": 0.0, "0": 0.5, "1": 1.0}
                row = []
                for name in phishing.CONTRACT.names:
                    text = str(record.get(name, "")).removesuffix(".0")
                    code = str(USUAL[name]) if text in ("", "None") else text
                    row.append(known[code])
                return np.array(row)
            """,
        ),
        Right(
            "training's own function",
            source="""
            def serving_row(record):
                return training_row(record)
            """,
        ),
    ],
)
def serving_row(t: Trial) -> None:
    """The service's row of a raw record is the row that training made of it."""
    row, expected = as_row(t, PLAIN), trained_on(PLAIN)
    t.need(
        row == expected or sorted(row) != sorted(expected),
        "order-differs",
        f"{t.said}; training made `{show(expected)}`. The same numbers, in another "
        "order.",
        "The model takes eight numbers, whichever they are.",
        "Compare the order of the columns with the contract's.",
    )
    same_codes(t, PLAIN, row)
    for code in (-1, 0, 1):
        record = dict.fromkeys(USUAL, code)
        record["ip_in_url"] = code or -1
        same_codes(t, record, as_row(t, record))
    t.good("the order of the columns, and every code")

    turned = dict(reversed(PLAIN.items()))
    for record, said in ((turned, "turned round"), (ONE_MORE, "and one more")):
        row, expected = t.call(record, gives="list"), trained_on(record)
        if row != expected:
            t.stop(
                "broke-what-worked",
                f"With the fields {said}, `{next(iter(record))}` first, the row is "
                f"`{show(row)}`, not `{show(expected)}`.",
                "The service as you got it took fields in any order, and ignored "
                "others.",
                "Look each feature up by its name.",
            )
    t.good("fields in any order, and others beside them, as before")

    for code, point in itertools.product((-1, 0, 1), ("", ".0")):
        record = dict.fromkeys(USUAL, f"{code}{point}")
        record["ip_in_url"] = f"{code or -1}{point}"
        with try_instead(f"serving_row(dict.fromkeys(names, '{code}{point}'))"):
            row = as_row(t, record)
        expected = trained_on(record)
        name = differing(row, expected)
        if row != expected:
            t.stop(
                "text-ignored",
                f"`{name}` came as the text `'{record[name]}'` and became "
                f"{row[place(name)]}; training makes {expected[place(name)]} of it.",
                "A collector that writes CSV sends every code as text.",
                "Turn what arrives into a number before you compare it.",
            )
    t.good("codes that come as text, with a decimal point and without")

    for name in USUAL:
        absent = {other: code for other, code in PLAIN.items() if other != name}
        for record, how, alone in (
            (absent, "is missing", {}),
            (PLAIN | {name: None}, "is `None`", {name: None}),
            (PLAIN | {name: ""}, "is the empty text", {name: ""}),
        ):
            with try_instead(f"serving_row({alone})"):
                row = as_row(t, record)
            expected = trained_on(record)
            if row != expected:
                served, trained = row[place(name)], expected[place(name)]
                t.stop(
                    "fill-differs",
                    f"When `{name}` {how}, the service puts {served} in its place; "
                    f"training puts {trained}.",
                    "The model learned from rows in which training filled the gaps.",
                    "Use what training wrote down for missing values.",
                )
    t.good("missing values: absent, `None`, and the empty text")

    for _ in range(12):
        record = raw_record(t)
        row, expected = as_row(t, record), trained_on(record)
        name = differing(row, expected)
        if row != expected:
            t.stop(
                "off",
                f"{t.said}; training made `{show(expected)}`, another `{name}`.",
                "",
                "Run both functions on this record, and compare feature by feature.",
            )
    t.good("random raw records")


def trained_on(record: dict[str, Any]) -> list[float]:
    """What training makes of a raw record, without pandas."""
    codes = [
        usual if record.get(name) in (None, "") else record[name]
        for name, usual in USUAL.items()
    ]
    return [(float(code) + 1) / 2 for code in codes]


def as_row(t: Trial, record: dict[str, Any]) -> list[float]:
    """The student's row for a record: eight numbers."""
    row = t.call(record, gives="list")
    with contextlib.suppress(TypeError, ValueError):
        row = [float(value) for value in row]
    t.need(
        len(row) == len(USUAL) and all(isinstance(value, float) for value in row),
        "not-eight",
        f"{t.said}, which is not eight numbers.",
        "The model takes eight numbers, and the contract says which.",
        "Give one number for each feature of the contract.",
    )
    return row


def same_codes(t: Trial, record: dict[str, Any], row: list[float]) -> None:
    """Each code must become the feature that training makes of it."""
    expected = trained_on(record)
    name = differing(row, expected)
    without_zero = {other: code for other, code in record.items() if code != 0}
    t.need(
        row == expected or row != trained_on(without_zero),
        "zero-lost",
        f"The code 0 of `{name}` became {show(row[place(name)])}, as if it was "
        f"missing; training makes {show(expected[place(name)])} of it.",
        "*Suspicious* is something that was seen, and *missing* is not.",
        "Look at how your function finds out that a code is missing.",
    )
    if row != expected:
        t.stop(
            "codes-differ",
            f"The code {record.get(name)} of `{name}` became {show(row[place(name)])}; "
            f"training makes {show(expected[place(name)])} of it.",
            "Both are values that the contract allows, so nothing is refused.",
            "Follow this one code through your function.",
        )


def place(name: str) -> int:
    """The place of a feature in the row."""
    return list(USUAL).index(name)


def differing(row: list[float], expected: list[float]) -> str:
    """The first feature that differs; the first of all if none does."""
    pairs = zip(USUAL, row, expected, strict=True)
    return next((name for name, one, other in pairs if one != other), "https")


def raw_record(t: Trial) -> dict[str, Any]:
    """A random record of the collector: text, None, absent fields, any order."""
    record: dict[str, Any] = {}
    for name in t.rng.permutation(list(USUAL)).tolist():
        code = int(t.rng.choice([-1, 1] if name == "ip_in_url" else [-1, 0, 1]))
        forms = [code, str(code), f"{code}.0", None, "", ABSENT]
        if (form := forms[t.rng.integers(len(forms))]) is not ABSENT:
            record[name] = form
    return record


which_format = choice(
    "which_format",
    {
        "a": Option(
            True,
            "what can read the file decides, and parity is proved where it is read",
        ),
        "b": Option(
            False,
            "A pickle holds names, and in five years the code behind them is another, "
            "or gone. A safe place keeps the bytes, not the libraries.",
            "For each case, ask what has to be there when the file is read.",
        ),
        "c": Option(
            True,
            "the same locked libraries on both sides, and a digest from elsewhere: "
            "what a pickle needs, it has",
        ),
        "d": Option(
            False,
            "Loading runs the stranger's code on your laptop, with your rights and "
            "your credentials. Whether a server scores later does not matter.",
            "For each case, ask who made the file, and what loading does.",
        ),
        "e": Option(
            True, "source code needs a compiler and nothing else, and can be read"
        ),
        "f": Option(
            False,
            "A conversion that says nothing may have cut the numbers. Near 1.7 billion "
            "32 bits tell apart what is 128 seconds apart.",
            "For each case, ask what has been proved about the exported file.",
        ),
    },
    hints={
        "*": [
            "Three questions for each case: who reads the file, what must be installed "
            "there, and who made it?",
            "A format is not good or bad by itself: pickle is fine in one of these "
            "cases. What makes that case different from the other two with a pickle?",
        ]
    },
    not_checked="Whether your own case is one of these. Ask it the three questions.",
    notice="The reader decides first, then who made the file, then what it costs.",
    left_out="A case that nobody defends is solved by habit, and the habit is pickle.",
)

#: What `cause` may answer.
CAUSES = ("none", "other class", "margin", "order", "another model")
#: Why a mutant with < in the place of <= is as good.
EXACTLY = "no score is exactly 1e-5 away"
#: Why it matters to name a mistake that is not the model's.
BLAMED = "The model is right, and whoever trains it anew will find nothing."


def margin(scores: np.ndarray) -> np.ndarray:
    """The numbers whose sigmoid these scores are."""
    return np.log(scores / (1 - scores))


@exercise(
    hints={
        "*": [
            "If your guess at the cause is right, how do you get the original's scores "
            "back from the export's?",
            "Undo one mistake at a time, and compare with the original: the largest "
            "difference over all rows says whether that was it.",
            "1 as it is, 2 one minus it, 3 the sigmoid of it, 4 both sorted, 5 none.",
        ],
        "noise-counts": [
            "How large is the difference between a number and its 32-bit neighbour?"
        ],
        "by-range": [
            "Can a margin lie between 0 and 1? Can another model score outside?",
            "The range is a hint. What proves that a number is a margin?",
        ],
        "by-average": [
            "What does the mean of the differences say about the worst row?",
        ],
        "order-missed": [
            "Which property of an array stays the same when its rows change places?"
        ],
    },
    not_checked="Exports with two mistakes at once. Undo them in pairs, if none alone "
    "explains the difference.",
    notice="A cause is proved when undoing it turns parity green.",
    equivalent={
        "if np.abs(np.sort(exported) - np.sort(original)).max() < 1e-05:": EXACTLY,
        "if np.abs(scores - original).max() < 1e-05:": EXACTLY,
    },
    wrong=[
        Wrong(
            "asks for equality",
            "noise-counts",
            patch=(("original).max() <= 1e-5", "original).max() == 0"),),
        ),
        Wrong(
            "takes the mean difference",
            "by-average",
            patch=(
                ("np.abs(scores - original).max()", "np.abs(scores - original).mean()"),
                (
                    "<= 1e-5:\n            return name",
                    "<= 1e-2:\n            return name",
                ),
            ),
        ),
        Wrong(
            "takes the mean, with the tolerance of the statement",
            "by-average",
            patch=(
                ("np.abs(scores - original).max()", "np.abs(scores - original).mean()"),
            ),
        ),
        Wrong(
            "knows margins by their range",
            "by-range",
            source="""
            def cause(original, exported):
                if np.abs(exported - original).max() <= 1e-5:
                    return "none"
                if np.abs(1 - exported - original).max() <= 1e-5:
                    return "other class"
                if exported.min() < 0 or exported.max() > 1:
                    return "margin"
                if np.abs(np.sort(exported) - np.sort(original)).max() <= 1e-5:
                    return "order"
                return "another model"
            """,
        ),
        Wrong(
            "forgets the other class",
            "other-class-missed",
            patch=(('"other class": 1 - exported,', ""),),
        ),
        Wrong(
            "forgets the margin",
            "margin-missed",
            patch=(('"margin": 1 / (1 + np.exp(-exported)),', ""),),
        ),
        Wrong(
            "never looks at the order",
            "order-missed",
            patch=(('return "order"', 'return "another model"'),),
        ),
        Wrong(
            "looks at sorted scores first",
            "noise-counts",
            source="""
            def cause(original, exported):
                if np.abs(np.sort(exported) - np.sort(original)).max() <= 1e-5:
                    return "order"
                if np.abs(1 - exported - original).max() <= 1e-5:
                    return "other class"
                if np.abs(1 / (1 + np.exp(-exported)) - original).max() <= 1e-5:
                    return "margin"
                return "another model"
            """,
        ),
        Wrong(
            "compares sums in the place of sorted scores",
            "another-missed",
            patch=(
                (
                    "np.abs(np.sort(exported) - np.sort(original)).max() <= 1e-5",
                    "abs(exported.sum() - original.sum()) <= 1e-5",
                ),
            ),
        ),
        Wrong(
            "keeps the sign of a difference",
            "lower-missed",
            patch=(("np.abs(scores - original).max()", "(scores - original).max()"),),
        ),
        Wrong(
            "answers in other words",
            "unknown-word",
            patch=(('return "another model"', 'return "unknown"'),),
        ),
    ],
    also_right=[
        Right(
            "makes each mistake with the original",
            source="""
            def cause(original, exported):
                def near(other):
                    return np.allclose(exported, other, rtol=0, atol=1e-4)

                if np.allclose(exported, original, rtol=0, atol=1e-5):
                    return "none"
                if near(1 - original):
                    return "other class"
                if near(np.log(original / (1 - original))):
                    return "margin"
                if near(np.sort(original)[np.argsort(np.argsort(exported))]):
                    return "order"
                return "another model"
            """,
        ),
    ],
)
def cause(t: Trial) -> None:
    """Why parity fails, found by undoing one mistake after the other."""
    scores = t.rng.uniform(0.02, 0.98, 8).round(3)
    scores[:2] = 0.11, 0.93

    def said(original: np.ndarray, exported: np.ndarray) -> str:
        word = t.call(original, exported, gives="text")
        t.need(
            word in CAUSES,
            "unknown-word",
            f"{t.said}, which is none of the five words.",
            "Whoever reads the word has to know what it means.",
            f"Return one of {', '.join(map(repr, CAUSES))}.",
        )
        return word

    rounded = scores.astype(np.float32).astype(float)
    t.need(
        said(scores, rounded) == "none",
        "noise-counts",
        f"{t.said}; the export computed in 32 bits: no score is further away than "
        "1e-7, and no row has moved.",
        "A parity check that is red for rounding is soon ignored.",
        "Ask first, row by row, whether each score is within 1e-5 of the original's.",
    )
    t.good("an export that differs by rounding alone")
    t.need(
        said(scores, 1 - scores) == "other class",
        "other-class-missed",
        f"{t.said}; 1 minus each gives the original's, so the answer is 'other class'.",
        BLAMED,
        "Undo this mistake, and compare with the original.",
    )
    t.need(
        said(scores, margin(scores)) == "margin",
        "margin-missed",
        f"{t.said}; the sigmoid of each gives the original's, so the answer is "
        "'margin'.",
        BLAMED,
        "Undo this mistake, and compare with the original.",
    )
    t.need(
        said(scores, np.roll(scores, 3)) == "order",
        "order-missed",
        f"{t.said}; every score of the original is there, in another row, so the "
        "answer is 'order'.",
        BLAMED,
        "Bring both arrays into one order, and compare.",
    )
    t.good("`'other class'`, `'margin'` and `'order'`")
    inside = np.linspace(0.52, 0.72, 6).round(3)
    for original, exported, word, why in (
        (inside, margin(inside), "margin", "the sigmoid of each gives the original"),
        (scores, 2 * scores - 0.3, "another model", "no sigmoid gives the original"),
    ):
        t.need(
            said(original, exported) == word,
            "by-range",
            f"{t.said}; {why}, so the answer is {word!r}.",
            "Margins may lie between 0 and 1, and other numbers outside.",
            "Undo the mistake, and compare row by row.",
        )
    t.good("margins by what they are, not by their range")
    many = t.rng.uniform(0.02, 0.98, 400).round(3)
    many[7] = 0.2
    spoilt = many.copy()
    spoilt[7] = 0.202  # the mean is 5e-6, less than the tolerance
    t.need(
        said(many, spoilt) == "another model",
        "by-average",
        f"For 400 scores that agree but for one, 0.202 in the place of 0.2, `cause` "
        f"gave `{show(said(many, spoilt))}`.",
        "An average hides one address among 400, and no rounding moved it so far.",
        "Ask for the largest difference.",
    )
    moved = scores + np.tile([0.004, -0.004], len(scores) // 2)
    t.need(
        said(scores, moved) == "another model",
        "another-missed",
        f"{t.said}; every score moved by 0.004, up and down in turn, so that their sum "
        "is the same. None of the mistakes explains that.",
        "This is the one case in which the file must not be used.",
        "Call it one of the mistakes only where undoing it gives every score back.",
    )
    lower = scores * 0.9
    t.need(
        said(scores, lower) == "another model",
        "lower-missed",
        f"{t.said}; every score is a tenth lower.",
        "A difference below zero is a difference.",
        "Take the size of each difference, without its sign.",
    )
    t.good("another model, however near")


def trained(n_features: int, seed: int) -> Any:
    """A small pipeline like v1, fitted to random rows."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    rng = np.random.default_rng(seed)
    rows = rng.choice([0.0, 0.5, 1.0], (60, n_features))
    answers = rows.sum(axis=1) + rng.normal(size=60) > n_features / 2
    return make_pipeline(StandardScaler(), LogisticRegression()).fit(rows, answers)


def forest(n_features: int, seed: int) -> Any:
    """A small forest like v2, fitted to random rows, and no pipeline."""
    from sklearn.ensemble import ExtraTreesClassifier

    rng = np.random.default_rng(seed)
    rows = rng.choice([0.0, 0.5, 1.0], (60, n_features))
    answers = rows.sum(axis=1) + rng.normal(size=60) > n_features / 2
    trees = ExtraTreesClassifier(10, max_depth=5, random_state=seed)
    return trees.fit(rows, answers)


def ready_to_export() -> None:
    """Imports what the check needs, before its time begins."""
    import onnxruntime  # noqa: F401
    import skl2onnx  # noqa: F401

    trained(2, 0)
    forest(2, 0)


@exercise(
    prepare=ready_to_export,
    limit_s=10.0,
    memory_bytes=None,
    starting="34bebe3f1678323d",
    hints={
        "*": [
            "Which of the five does the finding name: the bytes, the name, the rows, "
            "the columns, or the output?",
            "Compare the call with `to_onnx_bytes` on this page, word by word.",
        ],
        "not-bytes": ["What has `to_onnx` given, and what goes into a file?"],
        "batch-fixed": ["What stands for *any number* in a shape?"],
        "columns-fixed": ["Which attribute says how many columns a model takes?"],
        "no-array": ["What is `zipmap`, and how does this page turn it off?"],
        "needs-pipeline": [
            "`v1` is a pipeline with steps, and `v2` is a forest alone. Which of your "
            "lines works for one of them only?",
        ],
    },
    not_checked="Whether the operator sets are fixed, so that a build can be repeated; "
    "and models whose export needs a converter of their own.",
    notice="Test an export through the call that the service makes.",
    wrong=[
        Wrong(
            "gives back the graph",
            "not-bytes",
            patch=(("exported.SerializeToString()", "exported"),),
        ),
        Wrong("keeps the name", "input-name", patch=(('"features"', '"input"'),)),
        Wrong("keeps one row", "batch-fixed", patch=(("[None,", "[1,"),)),
        Wrong(
            "keeps eight columns",
            "columns-fixed",
            patch=(("model.n_features_in_", "8"),),
        ),
        Wrong(
            "asks the first step",
            "needs-pipeline",
            patch=(("model.n_features_in_", "model.steps[0][1].n_features_in_"),),
        ),
        Wrong(
            "sets an option of linear models",
            "needs-pipeline",
            patch=(('{"zipmap": False}', '{"zipmap": False, "raw_scores": True}'),),
        ),
        Wrong(
            "keeps zipmap",
            "no-array",
            patch=(('options={"zipmap": False},', ""),),
        ),
        Wrong(
            "gives margins",
            "no-parity",
            patch=(
                (
                    '{"zipmap": False}',
                    '{id(model[-1]): {"zipmap": False, "raw_scores": True}}',
                ),
            ),
        ),
        Wrong(
            "takes 64-bit rows",
            "double-input",
            patch=(
                ("import FloatTensorType", "import DoubleTensorType"),
                ("FloatTensorType([", "DoubleTensorType(["),
            ),
        ),
        Wrong(
            "exports the last step",
            "no-parity",
            patch=(("        model,\n", "        model[-1],\n"),),
        ),
        Wrong(
            "gives bytes of something else",
            "does-not-load",
            source="""
            def export(model):
                return pickle.dumps(model)
            """,
        ),
    ],
    also_right=[
        Right(
            "the function of the page",
            source="""
            def export(model):
                return artifacts.to_onnx_bytes(model, model.n_features_in_)
            """,
        ),
    ],
)
def export_call(t: Trial) -> None:
    """An export that the service's own call can use: name, rows, columns, output."""
    from deploylab import artifacts

    for n_features, what in (
        (8, "a pipeline with 8 features"),
        (9, "a pipeline with 9 features"),
        (8, "a forest that is no pipeline"),
    ):
        pipeline = "forest" not in what
        model = (trained if pipeline else forest)(n_features, seed=n_features)
        rows = t.rng.choice([0.0, 0.5, 1.0], (5, n_features))
        of = f"Of {what}, the export"
        try:
            payload = t.call(model)
        except Found as found:
            crash = found.finding.id == "crash"
            t.need(
                not crash or n_features == 8,
                "columns-fixed",
                f"{of} fails; with 8 features it went well.",
                "v3-contract has nine features, and gets no export.",
                "Ask the model how many features it was fitted to.",
            )
            t.need(
                not crash or pipeline,
                "needs-pipeline",
                f"Of pipelines it went well; then {found.finding.what}",
                "`v2` is a forest and no pipeline, and gets no export.",
                "Use what every fitted classifier has, and no option of one kind.",
            )
            raise
        t.need(
            isinstance(payload, bytes),
            "not-bytes",
            f"{of} is of the type `{type(payload).__name__}`.",
            "A file holds bytes, and nothing else reaches the service.",
            "Turn the model into bytes, and return them.",
        )
        try:
            session = artifacts.onnx_session(payload)
        except Exception as error:
            t.stop(
                "does-not-load",
                f"{of} does not load: `{type(error).__name__}`.",
                "The service does not start.",
                "Return the bytes of the ONNX model, as they go into a file.",
            )
        fed = session.get_inputs()[0]
        t.need(
            fed.name == "features" and len(session.get_inputs()) == 1,
            "input-name",
            f"{of} has the input `{fed.name}`; the service sends `features`.",
            "Names are the contract between the file and its caller.",
            "Name the input as the service does.",
        )
        t.need(
            fed.type == "tensor(float)",
            "double-input",
            f"{of} wants `{fed.type}`; the service sends 32-bit numbers.",
            "ONNX Runtime converts nothing by itself: the call fails.",
            "Choose the type of the input that the service sends.",
        )
        t.need(
            not isinstance(fed.shape[0], int),
            "batch-fixed",
            f"{of} takes {fed.shape[0]} row at a time; five arrived together.",
            "The service would fail on the first batch.",
            "Leave the number of rows open.",
        )
        outputs = {one.name: one.type for one in session.get_outputs()}
        t.need(
            outputs.get("probabilities", "").startswith("tensor"),
            "no-array",
            f"{of} has the outputs `{show(outputs)}`; the service wants one array, "
            "`probabilities`.",
            "A list of dictionaries is made for each call, and taken apart again.",
            "Turn off what makes dictionaries of the scores.",
        )
        feed = {"features": rows.astype(np.float32)}
        scores = session.run(["probabilities"], feed)[0]
        expected = model.predict_proba(rows)
        t.need(
            scores.shape == expected.shape and np.abs(scores - expected).max() < 1e-5,
            "no-parity",
            f"{of} scores five rows, and gives `{show(scores[0].tolist())}` for the "
            f"first; the model gives `{show(expected[0].round(4).tolist())}`.",
            "The call works, and the answers are others.",
            "Export the whole pipeline, with probabilities as they are.",
        )
        t.good(f"{what}, five rows at once, and the same scores")
