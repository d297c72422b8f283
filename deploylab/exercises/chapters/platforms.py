"""Checks for *Rent a platform or run the tools, and keep the way out*."""

from __future__ import annotations

import builtins
import contextlib
import copy
from typing import Any

from deploylab.exercises.engine import (
    Right,
    Trial,
    Wrong,
    exercise,
    show,
    show_error,
)
from deploylab.exercises.kinds import Before, Option, choice, order

platform_tools = choice(
    "platform_tools",
    {
        "a": Option(True, "it runs tasks in order, tries again, knows what is done"),
        "b": Option(
            False,
            "MLflow remembers runs and models. It runs no step, and tries none again.",
            "Ask what would start the second step when the first one is done.",
        ),
        "c": Option(
            False,
            "KServe answers requests with a model that is there already.",
            "Ask what has to happen before there is anything to serve.",
        ),
        "d": Option(True, "it runs the steps of a flow, and keeps what each computed"),
        "e": Option(
            False,
            "Argo CD makes a cluster what a repository says. The workflow engine of "
            "the same project is Argo Workflows.",
            "Ask whether a training is a state that a cluster should have, or "
            "something that happens once a night.",
        ),
        "f": Option(True, "it runs tasks in the order that their outputs ask for"),
        "g": Option(
            False,
            "Seldon Core serves models. This team has a server, and likes it.",
            "Look for what comes before the serving.",
        ),
    },
    hints={
        "*": [
            "Three things are asked for: order, another try, and nothing done twice.",
            "Sort the seven first: who runs steps, who remembers, who answers "
            "requests, who deploys?",
            "Three of them are workflow engines.",
        ],
    },
    not_checked="What each would cost this team: a scheduler and a database, or a "
    "library and a line in cron.",
    notice="Four jobs, four kinds of tools: run the steps, remember, answer, deploy.",
    left_out="One left out is one that the team will not look at.",
)  # fmt: skip


class _Store:
    """What survives a crash: `read(name)` and `write(name, record)`."""

    def __init__(self, cut_at: int = 0) -> None:
        self.kept: dict[str, Any] = {}
        self.writes, self.cut_at = 0, cut_at

    def __repr__(self) -> str:
        return "store"

    def __deepcopy__(self, memo: dict) -> _Store:
        return self  # one store, from call to call

    def read(self, name: str) -> Any:
        return self.kept.get(name)

    def write(self, name: str, record: Any) -> None:
        self.writes += 1
        if self.writes == self.cut_at:
            raise _PowerCut
        self.kept[name] = record


class _Work:
    """A step: counts how often it ran, and for what; may break, once."""

    def __init__(self, name: str, gives: Any = "model") -> None:
        self.name, self.gives = name, gives
        self.runs: list[dict] = []
        self.breaks: BaseException | None = None

    def __repr__(self) -> str:
        return self.name

    def __deepcopy__(self, memo: dict) -> _Work:
        return self

    def __call__(self, inputs: dict) -> Any:
        self.runs.append(dict(inputs))
        broken, self.breaks = self.breaks, None
        if broken:
            raise broken
        if self.gives is None:
            return None
        return f"{self.gives} of {inputs.get('rows')} rows"


class _PowerCut(BaseException):
    """Not to be caught by an answer that catches every Exception."""


def _broken(t: Trial, reason: BaseException, work: _Work, *args: Any) -> None:
    """Call the answer with a step that breaks off once; whether that reached us."""
    said = "gave an answer all the same"
    work.breaks = reason
    try:
        t.thing(*args)
    except (_PowerCut, Exception) as error:
        if error is reason:
            return
        said = f"raised `{show_error(error)}` in its place"
    known = f" `{show_error(reason)}`" if isinstance(reason, Exception) else ""
    t.stop(
        "swallowed",
        f"`work` raised{known}, and {_call(args)} {said}.",
        "The steps after it would go on, and nobody would learn what happened.",
        "Let the exception pass; there is nothing to be done about it here.",
    )


def _call(args: tuple) -> str:
    return f"`resumable_step({', '.join(map(show, args))})`"


@exercise(
    hints={
        "*": [
            "What has to be in a record so that you can tell, tomorrow, whether it is "
            "of this step with these inputs?",
            "First read; then decide; then work, and write what you worked with next "
            "to what came out.",
            "1 read the record, 2 if there is none or its inputs differ, work and "
            "write, 3 return the result of the record.",
        ],
        "runs-again": ["What does `store.read` give, and do you compare it?"],
        "stale": ["A record of yesterday's inputs: how does your code notice?"],
        "none-again": ["Which value of yours says *there is no record*?"],
        "done-too-soon": ["Which line comes first, the work or the writing?"],
        "not-kept": ["Which of your values are still there in a new process?"],
        "half-written": ["What can be read between your first `write` and the second?"],
        "salted": ["Does every process compute what you compare in the same way?"],
    },
    not_checked="Inputs that cannot be compared by `==`, and a store that loses what "
    "was written. A step that ended, and whose record was "
    "not written yet when the power went, runs again.",
    notice="*Done* means done for these inputs, and is written after the work.",
    wrong=[
        Wrong(
            "always works",
            "runs-again",
            source="""
            def resumable_step(name, inputs, work, store):
                return work(inputs)
            """,
        ),
        Wrong(
            "does not look at the inputs",
            "stale",
            patch=((' or record["inputs"] != inputs', ""),),
        ),
        Wrong(
            "writes before it works",
            "done-too-soon",
            source="""
            def resumable_step(name, inputs, work, store):
                record = store.read(name)
                if record is None or record["inputs"] != inputs:
                    record = {"inputs": dict(inputs), "result": None}
                    store.write(name, record)
                    record["result"] = work(inputs)
                return record["result"]
            """,
        ),
        Wrong(
            "takes None for not done",
            "none-again",
            source="""
            def resumable_step(name, inputs, work, store):
                record = store.read(name)
                if record and record["inputs"] == inputs:
                    if record["result"] is not None:
                        return record["result"]
                record = {"inputs": dict(inputs), "result": work(inputs)}
                store.write(name, record)
                return record["result"]
            """,
        ),
        Wrong(
            "compares texts",
            "order-of-keys",
            source="""
            def resumable_step(name, inputs, work, store):
                record = store.read(name)
                if record is None or record["inputs"] != str(inputs):
                    record = {"inputs": str(inputs), "result": work(inputs)}
                    store.write(name, record)
                return record["result"]
            """,
        ),
        Wrong(
            "one record for all steps",
            "shared",
            patch=(
                ("store.read(name)", 'store.read("done")'),
                ("store.write(name, record)", 'store.write("done", record)'),
            ),
        ),
        Wrong(
            "catches what work raises",
            "swallowed",
            source="""
            def resumable_step(name, inputs, work, store):
                record = store.read(name)
                if record is None or record["inputs"] != inputs:
                    try:
                        record = {"inputs": dict(inputs), "result": work(inputs)}
                    except BaseException:
                        return None
                    store.write(name, record)
                return record["result"]
            """,
        ),
        Wrong(
            "stumbles over what work raises",
            "swallowed",
            source="""
            def resumable_step(name, inputs, work, store):
                record = store.read(name)
                if record is None or record["inputs"] != inputs:
                    try:
                        made = {"inputs": dict(inputs), "result": work(inputs)}
                    except BaseException:
                        print("it broke")
                    store.write(name, made)
                    record = made
                return record["result"]
            """,
        ),
        Wrong(
            "records a failed step as done",
            "swallowed",
            source="""
            def resumable_step(name, inputs, work, store):
                record = store.read(name)
                if record is None or record["inputs"] != inputs:
                    try:
                        result = work(inputs)
                    except Exception:
                        result = None
                    record = {"inputs": dict(inputs), "result": result}
                    store.write(name, record)
                return record["result"]
            """,
        ),
        Wrong(
            "gives None for a step that failed",
            "swallowed",
            source="""
            def resumable_step(name, inputs, work, store):
                record = store.read(name)
                if record is None or record["inputs"] != inputs:
                    try:
                        record = {"inputs": dict(inputs), "result": work(inputs)}
                    except Exception:
                        return None
                    store.write(name, record)
                return record["result"]
            """,
        ),
        Wrong(
            "tries again, and says nothing",
            "swallowed",
            source="""
            def resumable_step(name, inputs, work, store):
                record = store.read(name)
                if record is None or record["inputs"] != inputs:
                    try:
                        result = work(inputs)
                    except Exception:
                        result = work(inputs)
                    record = {"inputs": dict(inputs), "result": result}
                    store.write(name, record)
                return record["result"]
            """,
        ),
        *(
            Wrong(
                name,
                finding,
                source=f"""
            def resumable_step(name, inputs, work, store):
                key = {key}
                record = store.read(name)
                if record is None or record["key"] != key:
                    record = {{"key": key, "result": work(inputs)}}
                    store.write(name, record)
                return record["result"]
            """,
            )
            for name, finding, key in (
                ("looks at one of the inputs", "stale", 'inputs["rows"]'),
                ("forgets the names", "stale", "sorted(map(str, inputs.values()))"),
                (
                    "takes a text for a number",
                    "stale",
                    'sorted(f"{k}={v}" for k, v in inputs.items())',
                ),
                (
                    "a hash of the pairs",
                    "salted",
                    "hash(frozenset(inputs.items()))",
                ),
                (
                    "a hash of a text",
                    "salted",
                    "hash(repr(sorted(inputs.items())))",
                ),
            )
        ),
        Wrong(
            "does not see a setting that was added",
            "stale",
            patch=(
                (
                    'record["inputs"] != inputs',
                    'not record["inputs"].items() <= inputs.items()',
                ),
            ),
        ),
        Wrong(
            "does not see a setting that was taken away",
            "stale",
            patch=(
                (
                    'record["inputs"] != inputs',
                    'not record["inputs"].items() >= inputs.items()',
                ),
            ),
        ),
        Wrong(
            "two writes, the result last",
            "half-written",
            source="""
            def resumable_step(name, inputs, work, store):
                record = store.read(name)
                if record is None or record["inputs"] != inputs:
                    result = work(inputs)
                    store.write(name, {"inputs": dict(inputs)})
                    store.write(name + ".result", {"result": result})
                return (store.read(name + ".result") or {}).get("result")
            """,
        ),
        Wrong(
            "keeps it in a variable",
            "not-kept",
            source="""
            known = {}

            def resumable_step(name, inputs, work, store):
                key = name, tuple(sorted(inputs.items()))
                if key not in known:
                    known[key] = work(inputs)
                return known[key]
            """,
        ),
        Wrong(
            "returns the record",
            "not-the-result",
            patch=(('    return record["result"]', "    return record"),),
        ),
        Wrong(
            "works without the inputs",
            "not-the-result",
            patch=(("work(inputs)", "work({})"),),
        ),
    ],
    also_right=[
        Right(
            "a digest of the sorted inputs",
            source="""
            def resumable_step(name, inputs, work, store):
                import json
                goes_in = json.dumps(inputs, sort_keys=True)
                record = store.read(name)
                if not record or record["goes_in"] != goes_in:
                    result = work(inputs)
                    store.write(name, {"goes_in": goes_in, "result": result})
                    return result
                return record["result"]
            """,
        ),
        Right(
            "a record for each of the inputs",
            source="""
            def resumable_step(name, inputs, work, store):
                key = f"{name} {sorted(inputs.items())}"
                record = store.read(key)
                if record is None:
                    record = {"result": work(inputs)}
                    store.write(key, record)
                return record["result"]
            """,
        ),
        Right(
            "two writes, the inputs last",
            source="""
            def resumable_step(name, inputs, work, store):
                record = store.read(name)
                if record is None or record["inputs"] != inputs:
                    store.write(name, {"inputs": None})
                    store.write(name + ".result", {"result": work(inputs)})
                    store.write(name, {"inputs": dict(inputs)})
                return store.read(name + ".result")["result"]
            """,
        ),
        Right(
            "the set of the pairs",
            source="""
            def resumable_step(name, inputs, work, store):
                goes_in = frozenset(inputs.items())
                record = store.read(name)
                if record is None or record["goes_in"] != goes_in:
                    record = {"goes_in": goes_in, "result": work(inputs)}
                    store.write(name, record)
                return record["result"]
            """,
        ),
        Right(
            "tells somebody, and lets the exception pass",
            source="""
            def resumable_step(name, inputs, work, store):
                record = store.read(name)
                if record is None or record["inputs"] != inputs:
                    try:
                        result = work(inputs)
                    except Exception as error:
                        print(name, "failed:", error)
                        raise
                    record = {"inputs": dict(inputs), "result": result}
                    store.write(name, record)
                return record["result"]
            """,
        ),
    ],
)
def resumable_step(t: Trial) -> None:
    """Runs once for equal inputs, again for others, and after every break."""
    store, train = _Store(), _Work("train")
    inputs, turned = {"rows": 900, "seed": 7}, {"seed": 7, "rows": 900}
    first = t.call("train", inputs, train, store)
    t.need(
        first == "model of 900 rows" and train.runs == [inputs],
        "not-the-result",
        f"{t.said}; `work({show(inputs)})` gives `model of 900 rows`.",
        "The next step works with what you return.",
        "Return what `work(inputs)` gave.",
    )
    t.good("a step that was never done is done")
    again = t.call("train", dict(inputs), train, store)
    t.need(
        len(train.runs) == 1,
        "runs-again",
        f"With the same inputs, a second call ran `train` again: "
        f"{len(train.runs)} runs.",
        "A night's training is done twice.",
        "Ask the store before you work.",
    )
    t.need(
        store.writes > 0,
        "not-kept",
        "Two calls ended, and nothing was written to `store`.",
        "What a variable keeps is gone with the process.",
        "Keep the record with `store.write`.",
    )
    t.need(
        again == first,
        "not-the-result",
        f"{t.said}; the first call gave `{show(first)}`.",
        "Whoever resumes has to get what the first run got.",
        "Keep the result in the record, and return it from there.",
    )
    t.call("train", turned, train, store)
    t.need(
        len(train.runs) == 1,
        "order-of-keys",
        f"`train` ran again for `{show(turned)}`, after `{show(inputs)}`.",
        "They are the same settings, read from another file.",
        "Compare the dictionaries, or sort the keys before you make a text.",
    )
    t.good("equal inputs, one run")
    other = t.call("train", {"rows": 1000, "seed": 7}, train, store)
    t.need(
        other == "model of 1000 rows" and len(train.runs) == 2,
        "stale",
        f"{t.said}, with 1,000 rows where 900 had been.",
        "A hundred rows were added, and yesterday's model is released as new.",
        "Keep the inputs in the record, and compare.",
    )
    _others(t, inputs)
    t.good("other inputs, another run")
    _new_process(t)
    _neighbour(t, inputs)
    _interrupted(t, inputs, ValueError("no rows"))
    _interrupted(t, inputs, _PowerCut())
    t.good("what broke off is done again")
    _half_written(t, inputs)


def _others(t: Trial, inputs: dict) -> None:
    """Inputs that differ in one value, a name, a type, or a setting more or less."""
    more = {**inputs, "bar": 0.9}
    for one, other in (
        (inputs, {"rows": 900, "seed": 8}),
        (inputs, {"rows": 7, "seed": 900}),
        (inputs, {"rows": 900, "seed": "7"}),
        (inputs, more),
        (more, inputs),
    ):
        store, train = _Store(), _Work("train")
        t.call("train", one, train, store)
        t.call("train", other, train, store)
        t.need(
            train.runs == [one, other],
            "stale",
            f"`train` was done for `{show(one)}`, and did not run for `{show(other)}`.",
            "The settings have changed, and yesterday's model is released as new.",
            "Compare all of the inputs: each name, with its value.",
        )


def _new_process(t: Trial) -> None:
    """The second call is made where `hash` gives other numbers, as after a crash."""
    store, train = _Store(), _Work("train")
    inputs = {"rows": 900, "data": "urls of May"}
    t.call("train", inputs, train, store)
    store.kept = copy.deepcopy(store.kept)
    real = builtins.hash
    builtins.hash = lambda thing: real(thing) + 1
    try:
        t.call("train", inputs, train, store)
    finally:
        builtins.hash = real
    t.need(
        len(train.runs) == 1,
        "salted",
        f"`train` was done for `{show(inputs)}`, and ran again in a new process.",
        "Python's `hash` of a text is another number in each process, so after a "
        "crash no record is found.",
        "Keep the inputs themselves, or a digest from `hashlib`.",
    )
    t.good("found again in another process")


def _neighbour(t: Trial, inputs: dict) -> None:
    """Two steps with equal inputs, one of which gives None."""
    store, train, tidy = _Store(), _Work("train"), _Work("tidy", gives=None)
    t.call("train", inputs, train, store)
    t.call("tidy", inputs, tidy, store)
    t.need(
        len(tidy.runs) == 1,
        "shared",
        f"`tidy` did not run: {t.said}, after `train` with the same inputs.",
        "A step is taken for done because another one was.",
        "Use the name that you are given as the name of the record.",
    )
    t.call("train", inputs, train, store)
    t.need(
        len(train.runs) == 1,
        "shared",
        "`train`, `tidy` and `train` again, all with the same inputs: `train` ran "
        "twice.",
        "The record of one step has overwritten that of the other.",
        "Use the name that you are given as the name of the record.",
    )
    t.call("tidy", inputs, tidy, store)
    t.need(
        len(tidy.runs) == 1,
        "none-again",
        "`tidy` gives `None`, and ran again in the second call.",
        "Steps that only tidy up have no result, and would run each time.",
        "Ask whether there is a record, not whether there is a result.",
    )
    t.good("each step has its own record, also without a result")


def _interrupted(t: Trial, inputs: dict, reason: BaseException) -> None:
    store, train = _Store(), _Work("train")
    _broken(t, reason, train, "train", inputs, train, store)
    t.call("train", inputs, train, store)
    cut = isinstance(reason, _PowerCut)
    broken = "The power went while `train` was at work." if cut else "`train` failed."
    t.need(
        len(train.runs) == 2,
        "done-too-soon",
        f"{broken} The next call took it for done: {t.said}.",
        "The release goes on without a model.",
        "Write the record after the work, and not before.",
    )


def _half_written(t: Trial, inputs: dict) -> None:
    """The power goes in each of the writes; the next call must have the result."""
    for cut_at in (1, 2, 3):
        store, train = _Store(cut_at), _Work("train")
        with contextlib.suppress(_PowerCut, Exception):
            t.thing("train", inputs, train, store)
        result = t.call("train", inputs, train, store)
        t.need(
            result == "model of 900 rows",
            "half-written",
            f"The power went in `store.write` number {cut_at}. The next call took "
            f"the step for done: {t.said}.",
            "The record is there, and what it vouches for is not.",
            "Write the result and the inputs in one record.",
        )
    t.good("a power cut between two writes does no harm")


def _score(rows: Any) -> list[float]:
    return [round(0.1 * row[0] + 0.01 * row[-1], 6) for row in rows]


class _Scorer:
    def __init__(self) -> None:
        self.asked: list[Any] = []

    def __repr__(self) -> str:
        return "score"

    def __deepcopy__(self, memo: dict) -> _Scorer:
        return self

    def __call__(self, rows: Any) -> list[float]:
        self.asked.append(rows)
        try:
            return _score(rows)
        except (TypeError, IndexError):  # no rows of numbers: said by the check
            return [0.0] * len(rows)


def _body(rows: list[list[float]], nested: bool, **more: Any) -> dict[str, Any]:
    data = rows if nested else [value for row in rows for value in row]
    shape = [len(rows), len(rows[0])]
    tensor = {"name": "rows", "shape": shape, "datatype": "FP64", "data": data}
    return {**more, "inputs": [tensor]}


def _same(asked: Any, rows: list[list[float]]) -> bool:
    try:
        return [[float(value) for value in row] for row in asked] == rows
    except TypeError:
        return False


@exercise(
    hints={
        "*": [
            "How many rows and columns are there, and where does the request say so?",
            "`np.reshape(data, shape)` reads a flat list row after row, and leaves a "
            "nested one as it is.",
            "1 the tensor, 2 its rows, 3 the scores, 4 the output with its shape, "
            "5 the answer, 6 the id if there is one.",
        ],
        "columns-first": ["Write down what the first four numbers of `data` are."],
        "id": ["What is in the answer when the request has no `id`?"],
    },
    not_checked="Requests that are not of the protocol: no tensor, two of them, a "
    "shape that does not fit the data, a row that breaks the contract.",
    notice="The translation is small because there is nothing in it but spelling; the "
    "model, and the contract, stay where they are.",
    wrong=[
        Wrong(
            "column after column",
            "columns-first",
            patch=(
                (
                    'np.reshape(tensor["data"], tensor["shape"])',
                    'np.reshape(tensor["data"], tensor["shape"], order="F")',
                ),
            ),
        ),
        Wrong(
            "takes the data as they come",
            "not-rows",
            patch=(
                (
                    'np.reshape(tensor["data"], tensor["shape"]).tolist()',
                    'tensor["data"]',
                ),
            ),
        ),
        Wrong(
            "knows flat data alone",
            "nested",
            source="""
            def tensor_adapter(body, score):
                tensor = body["inputs"][0]
                n, k = tensor["shape"]
                data = tensor["data"]
                rows = [data[i * k:(i + 1) * k] for i in range(n)]
                scores = score(rows)
                output = {"name": "probability", "datatype": "FP64"}
                output |= {"shape": [n], "data": scores}
                answer = {"model_name": "phishing", "outputs": [output]}
                if "id" in body:
                    answer["id"] = body["id"]
                return answer
            """,
        ),
        Wrong(
            "one call for each row",
            "many-calls",
            patch=(
                (
                    "scores = score(rows)",
                    "scores = [score([row])[0] for row in rows]",
                ),
            ),
        ),
        Wrong(
            "the shape of the request",
            "shape",
            patch=(('"shape": [len(scores)]', '"shape": tensor["shape"]'),),
        ),
        Wrong("another type", "spelling", patch=(('"FP64"', '"float64"'),)),
        Wrong("another name", "spelling", patch=(('"probability"', '"score"'),)),
        Wrong("another model", "spelling", patch=(('"phishing"', '"model"'),)),
        Wrong(
            "outputs without a list",
            "spelling",
            patch=(('"outputs": [output]', '"outputs": output'),),
        ),
        Wrong(
            "forgets the id",
            "id",
            patch=(('    if "id" in body:\n        answer["id"] = body["id"]\n', ""),),
        ),
        Wrong(
            "always has an id",
            "id",
            patch=(
                (
                    '    if "id" in body:\n        answer["id"] = body["id"]\n',
                    '    answer["id"] = body.get("id")\n',
                ),
            ),
        ),
        Wrong(
            "gives an array",
            "scores",
            patch=(('"data": scores', '"data": np.array(scores)'),),
        ),
        Wrong(
            "a shape that is a number",
            "shape",
            patch=(("[len(scores)]", "len(scores)"),),
        ),
        Wrong(
            "rounds",
            "scores",
            patch=(
                ('"data": scores}', '"data": [round(one) for one in scores]}'),
            ),
        ),
    ],
    also_right=[
        Right(
            "without numpy",
            source="""
            def tensor_adapter(body, score):
                tensor = body["inputs"][0]
                n, k = tensor["shape"]
                flat = []
                for one in tensor["data"]:
                    flat.extend(one if isinstance(one, list) else [one])
                scores = score([flat[i * k:i * k + k] for i in range(n)])
                output = {"name": "probability", "shape": [n]}
                output.update(datatype="FP64", data=list(scores))
                known = {"id": body["id"]} if "id" in body else {}
                return {"model_name": "phishing", "outputs": [output], **known}
            """,
        ),
        Right("asks with an array", patch=((".tolist()", ""),)),
    ],
)  # fmt: skip
def tensor_adapter(t: Trial) -> None:
    """Flat and nested tensors, one row and several, with and without an id."""
    rows = [[0.0, 1.0, 0.5], [1.0, 0.5, 0.0]]
    _answer(t, rows, nested=False)
    t.good("a flat tensor, read row after row")
    _answer(t, rows, nested=True)
    t.good("one list for each row")
    _answer(t, [[0.5, 0.0, 1.0, 1.0]], nested=False, id="7f3a")
    t.good("one row, and the caller's id")
    more = [[float(v) for v in t.rng.choice([0, 0.5, 1], 4)] for _ in range(5)]
    _answer(t, more, nested=False, id="")
    t.good("five rows of four columns")


def _answer(t: Trial, rows: list[list[float]], nested: bool, **more: Any) -> None:
    score = _Scorer()
    body = _body(rows, nested, **more)
    shape = body["inputs"][0]["shape"]
    answer = t.call(body, score, gives="dict")
    t.need(
        len(score.asked) == 1,
        "many-calls",
        f"For {len(rows)} rows `score` was called {len(score.asked)} times.",
        "Each call has its own cost, and a model scores many rows at once.",
        "Give all rows to one call.",
    )
    asked = [list(row) if hasattr(row, "__iter__") else row for row in score.asked[0]]
    if not _same(asked, rows):
        turned = [list(line) for line in zip(*rows, strict=True)]
        flat = [value for row in rows for value in row]
        said = f"The rows are `{show(rows)}`, and `score` got `{show(asked)}`."
        by_column = [flat[i :: len(rows)] for i in range(len(rows))]
        t.need(
            not any(_same(asked, one) for one in (turned, by_column)),
            "columns-first",
            said,
            "Every number is somebody else's feature, and no error is raised.",
            f"`data` has the numbers row after row; the shape is `{shape}`.",
        )
        why = "A model can only score rows of its features."
        do = f"Make {shape[0]} rows of {shape[1]} numbers of `data`, flat or nested."
        t.need(not nested, "nested", said, why, do)
        t.stop("not-rows", said, why, do)
    _spelled(t, answer, rows, more)


def _spelled(t: Trial, answer: dict, rows: list[list[float]], more: dict) -> None:
    """The answer has the protocol's names, its shape, the scores, and the id."""
    outputs = answer.get("outputs")
    known = isinstance(outputs, list) and len(outputs) == 1
    output = outputs[0] if known and isinstance(outputs[0], dict) else {}
    wanted = {"name": "probability", "datatype": "FP64"}
    t.need(
        answer.get("model_name") == "phishing"
        and {name: output.get(name) for name in wanted} == wanted,
        "spelling",
        f"The answer is `{show(answer)}`.",
        "A client of the protocol reads names, and finds none that it knows.",
        "`model_name`, and `outputs` with one tensor: `name`, `datatype`, `shape`, "
        "`data`, as the exercise gives them.",
    )
    shape, data = output.get("shape"), output.get("data")
    t.need(
        isinstance(shape, list) and shape == [len(rows)],
        "shape",
        f"The output has the shape `{show(shape)}`, and {len(rows)} numbers.",
        "Clients make their arrays from the shape.",
        f"For {len(rows)} rows it is `[{len(rows)}]`.",
    )
    t.need(
        isinstance(data, list),
        "scores",
        f"`data` is `{show(data)}`, and no list.",
        "An array cannot be written as JSON.",
        "Hand on the list that `score` gave.",
    )
    t.need(
        data == _score(rows),
        "scores",
        f"`data` is `{show(data)}`, and the scores are the list "
        f"`{show(_score(rows))}`.",
        "An adapter that computes is a second model.",
        "Hand on what `score` gave.",
    )
    t.need(
        {"id": answer["id"]} == more if "id" in answer else not more,
        "id",
        f"The request has {'the id `' + show(more['id']) + '`' if more else 'no id'}, "
        f"and the answer {'`' + show(answer['id']) + '`' if 'id' in answer else 'none'}"
        ".",
        "Callers find the answer that belongs to a request by it.",
        "Copy it where there is one, and only there; an empty text is an id too.",
    )


move_out = order(
    "move_out",
    {
        "A": "Move the traffic in steps, with a gate.",
        "B": "Make a list of what is there.",
        "D": "Send a copy of live requests to the new place, and compare.",
        "E": "Delete everything at the old place, and take its keys away.",
        "F": "Export models, aliases and the trail.",
        "G": "Publish the artifact at the new place, and score its examples.",
        "I": "Leave the old place ready for a while.",
    },
    [
        Before(
            "B", "F", "exported-blind",
            "What is on nobody's list is not exported, and missed when it is gone.",
            "Ask how you know that the export has everything.",
        ),
        Before(
            "F", "G", "nothing-to-publish",
            "Only what has been taken out of the old place can be put into the new.",
            "Ask where the artifact for the new place comes from.",
        ),
        Before(
            "G", "D", "nobody-answers",
            "Before the model is there, and computes what it should, there is nobody "
            "who could answer a copy.",
            "Ask what has to be true before the first request is sent.",
        ),
        Before(
            "D", "A", "compared-on-users",
            "Examples are a few rows. What real requests do is seen with users' "
            "answers, if nobody has looked at copies first.",
            "Ask when a difference still costs no user anything.",
        ),
        Before(
            "A", "I", "idle-too-soon",
            "While it has traffic it cannot be left without.",
            "Ask what has to happen before the old place is only a way back.",
        ),
        Before(
            "I", "E", "no-way-back",
            "Once it is deleted there is no way back, and the first bad night comes "
            "after the move.",
            "Ask how long somebody may still want to go back.",
        ),
    ],
    distractors={
        "C": "A model that is trained again is another model. If answers differ, is it "
        "the place or the model?",
        "H": "Callers were not to notice. A new contract is a change of its own, with "
        "an order of its own.",
    },
    example="BFGDAIE",
    others=["b f g d a i e"],
    hints={
        "*": [
            "It is a release in which the place changes, and nothing else.",
            "Know, take along, make ready, compare, move, wait, clear up.",
            "First the list, last the deletion. Between them, the artifact is there "
            "before a copied request, and a copied one before a real one.",
        ],
    },
    not_checked="How long the old place stays: that depends on when you would notice.",
    notice="The same order as in a blue/green release, with two places as the two "
    "sides.",
    noun="step",
)  # fmt: skip
