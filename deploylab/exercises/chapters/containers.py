"""Checks for *Fence a service in, and see what the fence does not hold*."""

from __future__ import annotations

from deploylab.exercises.engine import Right, Trial, Wrong, exercise
from deploylab.exercises.kinds import (
    Before,
    Guess,
    Option,
    choice,
    order,
    prediction,
)
from deploylab.exercises.result import show

dockerfile_order = order(
    "dockerfile_order",
    {
        "A": "COPY model /app/model",
        "B": "WORKDIR /app",
        "C": "RUN pip install --no-cache-dir --require-hashes -r requirements.txt",
        "D": 'CMD ["gunicorn", "--bind=0.0.0.0:8080", "service:app"]',
        "E": "FROM python:3.11.13-slim-bookworm@sha256:86ad...",
        "F": "COPY service.py .",
        "H": "COPY requirements.txt .",
        "I": "USER 10001:10001",
    },
    [
        Before(
            "E",
            "B",
            "nothing-below",
            "Every instruction stands on an image, and there is none yet.",
            "Ask which line starts a stage.",
        ),
        Before(
            "B",
            "H",
            "lands-elsewhere",
            "The dot is the working folder, and at that moment it is still `/`.",
            "Say where `.` is before you copy to it.",
        ),
        Before(
            "H",
            "C",
            "no-list-yet",
            "pip reads a file that no layer holds yet, and the build fails.",
            "Ask what the installation reads.",
        ),
        Before(
            "C",
            "A",
            "installs-for-a-model",
            "Each new model invalidates the layer below the packages, and all of them "
            "are installed again.",
            "Which changes more often, the packages or the model?",
        ),
        Before(
            "A",
            "F",
            "model-again",
            "The code changes daily. Whatever comes after it is copied, stored and "
            "sent again every day, here the largest file.",
            "Put what changes most often last.",
        ),
        Before(
            "C",
            "I",
            "installs-without-right",
            "Who is not root may not write where packages are installed.",
            "Give the rights away when nothing needs them any more.",
        ),
        Before(
            "F",
            "D",
            "not-the-last-word",
            "The line would work, for it only writes down what is to be run. But "
            "whoever reads the file looks for the command at its end.",
            "Write last what happens last.",
        ),
        Before(
            "I",
            "D",
            "command-before-user",
            "It would work too, and a reader takes the command for one of root's.",
            "Say who runs it before you say what is run.",
        ),
    ],
    distractors={
        "G": "It copies all that the folder holds, credentials and notebooks too. And "
        "any change to any of it invalidates what comes after.",
        "J": "The file goes from what a container sees, and stays in the layer that "
        "copied it. Whoever has the image has the file.",
    },
    example="EBHCAFID",
    others=["EBHCAIFD", "EBHCIAFD"],
    left_out=(
        "Without it the image does not build, does not start, or runs as root.",
        "Say of each line what would be missing in the container.",
    ),
    hints={
        "*": [
            "Which line needs another one to have been there?",
            "Among those that are free, ask how often each one's inputs change: seldom "
            "first, often last.",
            "1 what it stands on; 2 where; 3 the list of packages; 4 the packages; "
            "then what changes monthly, and what changes daily.",
        ],
    },
    not_checked="Whether it builds. `USER` and `CMD` write into the configuration "
    "and not into a layer, so other places for them give the same files.",
    notice="A day's work changes one line of code. In your order it costs one small "
    "layer; with the code first it costs an installation.",
)


# -- which instructions run again ----------------------------------------------------

EXAMPLE = [
    ("FROM base", []),
    ("COPY requirements.txt .", ["requirements.txt"]),
    ("RUN pip install -r requirements.txt", []),
    ("COPY model model", ["model"]),
    ("COPY service.py .", ["service.py"]),
    ("CMD gunicorn", []),
]


def _covers(source: str, path: str) -> bool:
    return source in (".", path) or path.startswith(source + "/")


def _again(steps: list, changed: set) -> list[str]:
    hit = [any(_covers(s, p) for s in sources for p in changed) for _, sources in steps]
    first = hit.index(True) if True in hit else len(steps)
    return [instruction for instruction, _ in steps[first:]]


def _compared(t: Trial, steps: list, changed: set) -> tuple[bool, str]:
    """Whether the student's function is right about this file, and what to say."""
    given = t.call(steps, changed, gives="list")
    right = _again(steps, changed)
    # In full: the line that matters must not be the one that is cut.
    call = f"again({show(steps, 600)}, {show(changed, 600)})"
    gave = show(given, 300)
    return given == right, f"`{call}` gave `{gave}`; a builder does {right}."


@exercise(
    hints={
        "*": [
            "Find the first instruction whose sources have changed. What about those "
            "after it?",
            "A source covers a path if it is `.`, or the path itself, or a folder that "
            "the path is in.",
            "1 a truth value, False at first; 2 for each instruction: does one of its "
            "sources cover a changed path? then True; 3 while True, collect.",
        ],
        "folder-not-seen": ["The path `model/v2.onnx` is in the folder `model`."],
        "prefix-taken": ["What has to stand after `model` in a path that is in it?"],
    },
    not_checked="Instructions whose text has changed, stages, and what an instruction "
    "fetches from elsewhere: no builder sees that.",
    notice="It does not look at what an instruction does, only at its text and its "
    "files: `RUN apt-get update` stays as old as its layer.",
    wrong=[
        Wrong(
            "only the layers whose own files changed",
            "chain-forgotten",
            source="""
            def again(steps, changed):
                found = []
                for instruction, sources in steps:
                    for source in sources:
                        inside = [p for p in changed if p.startswith(source + "/")]
                        if source == "." or source in changed or inside:
                            found.append(instruction)
                            break
                return found
            """,
        ),
        Wrong(
            "everything if anything changed",
            "all-of-it",
            source="""
            def again(steps, changed):
                return [instruction for instruction, sources in steps]
            """,
        ),
        Wrong(
            "begins after the instruction",
            "one-too-late",
            source="""
            def again(steps, changed):
                found, stale = [], False
                for instruction, sources in steps:
                    if stale:
                        found.append(instruction)
                    for source in sources:
                        inside = [p for p in changed if p.startswith(source + "/")]
                        stale |= source == "." or source in changed or bool(inside)
                return found
            """,
        ),
        Wrong(
            "files by their names alone",
            "folder-not-seen",
            patch=(('path.startswith(source + "/")', "False"),),
        ),
        Wrong(
            "any path that begins so",
            "prefix-taken",
            patch=(('source + "/"', "source"),),
        ),
        Wrong(
            "forgets the dot",
            "dot-forgotten",
            patch=(('in (".", path)', "== path"),),
        ),
        Wrong(
            "a dot that always changes",
            "nothing-changed",
            source="""
            def again(steps, changed):
                def covers(source, path):
                    return source in (".", path) or path.startswith(source + "/")
                found, stale = [], False
                for instruction, sources in steps:
                    stale = stale or "." in sources
                    stale |= any(covers(s, p) for s in sources for p in changed)
                    if stale:
                        found.append(instruction)
                return found
            """,
        ),
        Wrong(
            "gives the pairs",
            "pairs",
            patch=(("found.append(instruction)", "found.append((instruction, 0))"),),
        ),
        Wrong(
            "forgets after the next copy",
            "differs",
            source="""
            def again(steps, changed):
                def covers(source, path):
                    return source in (".", path) or path.startswith(source + "/")
                found, stale = [], False
                for instruction, sources in steps:
                    hit = any(covers(s, p) for s in sources for p in changed)
                    if sources and len(found) > 4:
                        stale = False
                    stale = stale or hit
                    if stale:
                        found.append(instruction)
                return found
            """,
        ),
    ],
    also_right=[
        Right(
            "by the place of the first",
            source="""
            def again(steps, changed):
                for place, (_, sources) in enumerate(steps):
                    for s in sources:
                        if any(s == "." or (p + "/").startswith(s + "/")
                               for p in changed):
                            return [one for one, _ in steps[place:]]
                return []
            """,
        ),
    ],
)
def again(t: Trial) -> None:
    """The instructions that a builder does again."""
    given = t.call(EXAMPLE, {"service.py"}, gives="list")
    t.need(
        all(isinstance(one, str) for one in given),
        "pairs",
        f"{t.said}.",
        "The caller prints the instructions.",
        "Put the text of each instruction into the list, and nothing else.",
    )
    t.need(
        len(given) != len(EXAMPLE),
        "all-of-it",
        f"{t.said}, and one file has changed.",
        "So a changed line of code installs every package again.",
        "What comes before the first changed instruction is taken from the cache.",
    )
    t.need(
        given != ["CMD gunicorn"],
        "one-too-late",
        f"{t.said}. The file that has changed is copied by the one before.",
        "The image would hold yesterday's code.",
        "Ask about an instruction's sources before you decide about it.",
    )
    t.need(
        given != ["COPY service.py ."],
        "chain-forgotten",
        f"{t.said}. `CMD gunicorn` stands on that layer.",
        "A layer holds only what it adds to those below; below it something is new.",
        "Remember that one has changed, for all that follow.",
    )
    same, said = _compared(t, EXAMPLE, {"service.py"})
    t.need(same, "differs", said, "", "Go through the six instructions by hand.")
    t.good("a changed file: its copy, and what follows")
    same, said = _compared(t, EXAMPLE, {"model/v2.onnx"})
    t.need(
        same,
        "folder-not-seen",
        said,
        "`COPY model` takes all that is in the folder.",
        "Compare the beginning of the path with the source, too.",
    )
    t.good("a file in a folder")
    same, said = _compared(t, EXAMPLE, {"models/v2.onnx"})
    t.need(
        same,
        "prefix-taken",
        said,
        "It is not in the folder `model`: its name only begins so.",
        "Look at what follows the folder's name.",
    )
    t.good("a name that only begins like a folder")
    broad = [("FROM base", []), ("COPY . .", ["."]), ("RUN pip install", [])]
    same, said = _compared(t, broad, {"notes/today.md"})
    t.need(
        same,
        "dot-forgotten",
        said,
        "The dot is the whole folder that the builder sees.",
        "Let the source `.` cover every path.",
    )
    t.good("a copy of everything")
    same, said = _compared(t, broad, set())
    t.need(
        same,
        "nothing-changed",
        said,
        "With the same text and the same files there is nothing to do.",
        "Ask for a path that has changed, for the dot as well.",
    )
    paths = ["a", "b", "lib/x", "lib/y/z", "library", "model/m", "c/d/e"]
    sources = ["a", "b", "lib", "lib/y", "library", "model", "c", "c/d", "."]
    for trial in range(80):  # the short files first
        steps = [("FROM base", [])]
        for number in range(1 + trial // 10):
            some = list(t.rng.choice(sources[:-1], int(t.rng.integers(0, 3))))
            some += ["."] if t.rng.random() < 0.05 else []
            word = "COPY" if some else "RUN"
            steps.append((f"{word} {number}", [str(one) for one in some]))
        some = t.rng.choice(paths, int(t.rng.integers(0, 3)), replace=False)
        same, said = _compared(t, steps, {str(one) for one in some})
        t.need(same, "differs", said, "", "Go through this file by hand, line by line.")
    t.good("any file, any change")


# -- how much is pulled ----------------------------------------------------------------

LAYERS_MB = {"base": 120, "packages": 180, "model": 400, "chown": 400, "rm": 0}

pulled_mb = prediction(
    "pulled_mb",
    truth=lambda: sum(LAYERS_MB.values()),
    tolerance=(0.97, 1.03),
    guesses=[
        Guess(
            float("-inf"), 119, "less-than-base",
            "The base alone has 120 MB, and the new machine has none of it.",
            "Add up what each instruction adds.",
            plausible=False,
        ),
        Guess(
            119, 450, "less-than-seen",
            "That is less than a container sees in the end, and no layer can make one "
            "below it smaller.",
            "For the next prediction: write down one number for each layer.",
        ),
        Guess(
            450, 610, "what-is-seen",
            "That resembles what a container sees in the end. Layers are pulled, "
            "and no layer can make one below it smaller.",
            "For the next prediction: what does `rm` add to the image?",
        ),
        Guess(
            610, 760, "chown-is-free",
            "That resembles base, packages and model. A layer that changes an owner "
            "holds the whole file once more.",
            "For the next prediction: in which layer is the file with its new owner?",
        ),
        Guess(
            760, 1067, "part-of-it",
            "That is less than the five layers together: the copy by `chown` is a "
            "whole one, and the deletion takes nothing away.",
            "For the next prediction: write down one number for each layer.",
        ),
        Guess(
            1133, 1300, "rm-adds",
            "A deletion is an empty file with a mark in its name, so it adds nothing.",
            "For the next prediction: write down one number for each layer.",
        ),
        Guess(
            1300, float("inf"), "more-than-all",
            "That is more than every file counted twice.",
            "Give megabytes; add up what each instruction adds.",
            plausible=False,
        ),
    ],
    what="What the new machine pulls, before compression,",
    unit="MB",
    hints={
        "*": [
            "Which of the five layers does a deletion change?",
            "A layer holds whole files: what does it hold of a file whose owner has "
            "changed?",
            "1 the base; 2 the packages; 3 the model; 4 the same model with another "
            "owner; 5 the mark of a deletion.",
        ],
    },
    not_checked="Compression, which most registries use.",
    notice="`COPY --chown=10001:10001` sets the owner while it copies, so the fourth "
    "layer never comes to be.",
)  # fmt: skip


keeps_secret = choice(
    "keeps_secret",
    {
        "a": Option(
            False,
            "The value stands in the image's history, as an argument of the "
            "instruction that used it.",
            "Ask what a reader of the image's configuration sees.",
        ),
        "b": Option(
            False,
            "Two instructions are two layers: the first holds the file, and the second "
            "only its mark.",
            "Take the layers apart, as the page did.",
        ),
        "c": Option(
            True, "the file is there while the instruction runs, and in no layer"
        ),
        "d": Option(
            True,
            "only the packages are copied out of the first stage, and only the last "
            "stage is pushed",
        ),
        "e": Option(
            False,
            "The second line changes what a process sees. The first one stays in the "
            "history, with its value.",
            "Ask what the configuration keeps of earlier instructions.",
        ),
        "f": Option(True, "the builder never sees the file, whatever is copied"),
    },
    hints={
        "*": [
            "An image is its layers and its configuration, with the history. Look for "
            "the value in each.",
            "A secret is safe if no pushed layer ever held it and no instruction "
            "names it.",
        ],
        "missed-c": ["What does a mount leave in the layer when it is taken away?"],
        "missed-d": ["Which stages does a registry get?"],
        "missed-f": ["Which files can `COPY . .` copy?"],
    },
    not_checked="Where else the secret is: the builder's cache keeps the first stage, "
    "and logs keep what is printed.",
    notice="hadolint says something about `a`, by the name of the argument. It is "
    "silent about `b` and about any secret whose name does not sound like one.",
    left_out="A safe way left out is one that your colleagues will not find either.",
)
