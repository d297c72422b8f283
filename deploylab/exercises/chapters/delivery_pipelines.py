"""Checks for *Let a change reach users only through gates*."""

from __future__ import annotations

import functools
import itertools
import json
import textwrap
from collections.abc import Callable
from importlib import import_module
from importlib.resources import files
from pathlib import Path
from typing import Any

from deploylab.exercises.engine import Right, Trial, Wrong, exercise, show
from deploylab.exercises.kinds import Before, Option, choice, order

# --- first_hour ---

first_hour = order(
    "first_hour",
    {
        "A": "Say in the channel that there is an incident, and that you lead it.",
        "B": "Stop further releases.",
        "C": "Compare the minute in which it began with the log of the desired state "
        "and the trail of the registry.",
        "D": "Revert the commit of 10:04, and push.",
        "E": "See from users' answers that the version before serves, and that the "
        "share is as it was.",
        "F": "Put aside the log of the answers and the digest of the bad version; both "
        "are kept for a week.",
        "G": "Tell those who use the answers which ones were bad, from when to when.",
        "H": "Write down what happened when, and plant this fault for a new gate.",
    },
    [
        Before(
            "A",
            "C",
            "nobody-leads",
            "Three people look at three screens, and the second one to find something "
            "undoes what the first one did.",
            "Ask who decides in the next ten minutes, and who knows that.",
        ),
        Before(
            "C",
            "D",
            "reverted-blind",
            "If it began before 10:04, the revert changes nothing, and you have spent "
            "the trust that the next attempt needs. The comparison takes a minute.",
            "Ask how you know that it was this commit.",
        ),
        Before(
            "B",
            "D",
            "on-top",
            "A release that comes in between lies on top of the commit that you "
            "revert, and nobody can tell what ended it.",
            "Ask what else may change while you act.",
        ),
        Before(
            "D",
            "F",
            "users-wait",
            "Log and digest are kept for a week. Until the revert each minute has "
            "further bad answers.",
            "Ask which of the two can wait.",
        ),
        Before(
            "D",
            "E",
            "seen-too-soon",
            "There is nothing to see yet: the version before does not serve.",
            "Ask what you would look at, at this moment.",
        ),
        Before(
            "E",
            "G",
            "told-too-soon",
            "You cannot say until when, and those who are told have to be told again.",
            "Ask which of the two times you know by then.",
        ),
        Before(
            "F",
            "H",
            "from-memory",
            "What is written from memory has the order in which people noticed things, "
            "not the order in which they happened.",
            "Ask what the report is written from.",
        ),
        Before(
            "E",
            "H",
            "report-first",
            "Nobody has seen yet that it is over.",
            "Ask what has to be true before an incident can be written up.",
        ),
    ],
    distractors={
        "I": "The cause can be found tomorrow. Users are hurt now, and the way back is "
        "known without it.",
        "J": "The agent does not follow a rewritten history, so nothing happens; and "
        "what was done at 10:04 could not be read any more.",
        "K": "The agent takes it back at its next look, because the repository still "
        "says the other thing.",
        "L": "That takes hours, and makes one more version that has to pass all gates.",
    },
    example="ABCDFEGH",
    others=["BACDEFGH", "ACBDEFGH", "ABCDEGFH"],
    hints={
        "*": [
            "Who is hurt at this moment, and which of the steps ends that?",
            "One person who decides; then no further change; then the likely cause, as "
            "far as a minute shows it; then the way back. What comes after?",
            "1 say so, 2 hold, 3 compare, 4 take back, 5 see that it helped, 6 all "
            "that can wait.",
        ],
    },
    not_checked="Whether an hour suffices, whom the incident has to be reported to by "
    "law, and whether you would have known at 10:16 what you know here.",
    notice="The way back does not need the cause. That is why the version before is "
    "kept, and why a revert is practised on a quiet day.",
    noun="step",
)

# --- slices_refused ---

Counts = dict[str, tuple[int, int]]


def _right(counts: Counts, confidence: float = 0.95) -> list[str]:
    from scipy import stats

    found = []
    for name, (worse, better) in counts.items():
        if worse + better:
            level = 1 - (1 - confidence) / len(counts)
            test = stats.binomtest(worse, worse + better)
            if test.proportion_ci(level).low > 0.5:
                found.append(name)
    return found


@exercise(
    prepare=lambda: import_module("scipy.stats"),
    hints={
        "*": [
            "What does an interval for the share `worse / (worse + better)` say, and "
            "when does all of it lie above one half?",
            "`stats.binomtest(worse, n).proportion_ci(level)` has `low` and `high`. "
            "Which level, if the chance of a false alarm is to be shared?",
            "1 go through the slices, 2 leave out those with no rows, 3 the level for "
            "this many slices, 4 the lower end, 5 compare with one half.",
        ],
        "several-looks": [
            "Each slice is a look at chance. With 20 slices at 95 %, how many false "
            "alarms has a harmless version on average?",
        ],
    },
    not_checked="Whether the slices were chosen before the numbers were seen, and "
    "whether anybody looks at those that are too small to tell.",
    notice="A slice that is not refused is not shown to be good. The smaller it is, "
    "the less it can show, and small slices are often the ones that matter.",
    equivalent={
        "if not worse - better:": "as many worse as better: never refused",
        "if test.proportion_ci(level).low >= 0.5:": "no pair of counts has an end at "
        "one half exactly",
    },
    wrong=[
        Wrong(
            "compares the numbers",
            "a-point",
            source="""
            def slices_refused(counts, confidence=0.95):
                return [n for n, (worse, better) in counts.items() if worse > better]
            """,
        ),
        Wrong(
            "one level for all",
            "several-looks",
            patch=(("1 - (1 - confidence) / len(counts)", "confidence"),),
        ),
        Wrong(
            "one side only",
            "not-exact",
            patch=(
                (
                    "stats.binomtest(worse, worse + better)",
                    'stats.binomtest(worse, worse + better, alternative="greater")',
                ),
            ),
        ),
        Wrong(
            "an approximate interval",
            "not-exact",
            patch=(("proportion_ci(level)", 'proportion_ci(level, "wilson")'),),
        ),
        Wrong(
            "twice the chance",
            "not-exact",
            patch=(("(1 - confidence)", "2 * (1 - confidence)"),),
        ),
        Wrong(
            "divides the level",
            "level-divided",
            patch=(("1 - (1 - confidence) / len(counts)", "confidence / len(counts)"),),
        ),
        Wrong(
            "three of three",
            "a-point",
            patch=((".low > 0.5", ".low > 0.5 or (worse > 2 and not better)"),),
        ),
        Wrong(
            "any difference",
            "better-refused",
            patch=(
                (".low > 0.5", ".low > 0.5 or test.proportion_ci(level).high < 0.5"),
            ),
        ),
        Wrong(
            "only the middle",
            "a-point",
            patch=(("test.proportion_ci(level).low > 0.5", "test.statistic > 0.5"),),
        ),
        Wrong(
            "the upper end",
            "a-point",
            patch=((".low > 0.5", ".high > 0.5"),),
        ),
        Wrong(
            "all together",
            "on-average",
            source="""
            def slices_refused(counts, confidence=0.95):
                worse = sum(w for w, _ in counts.values())
                better = sum(b for _, b in counts.values())
                low = stats.binomtest(worse, worse + better).proportion_ci(0.95).low
                return list(counts) if low > 0.5 else []
            """,
        ),
        Wrong(
            "does not know empty slices",
            "empty-slice",
            patch=(("        if not worse + better:\n            continue\n", ""),),
        ),
        Wrong(
            "stops at an empty slice",
            "off",
            patch=(("continue", "break"),),
        ),
        Wrong(
            "counts only slices that have rows",
            "shared-among-some",
            patch=(
                (
                    "len(counts)",
                    "len([1 for both in counts.values() if sum(both)])",
                ),
            ),
        ),
        Wrong(
            "ignores the level that was asked for",
            "level-ignored",
            patch=(("(1 - confidence)", "0.05"),),
        ),
        Wrong(
            "only the first",
            "off",
            patch=(("    return refused", "    return refused[:1]"),),
        ),
    ],
    also_right=[
        Right(
            "in one line",
            source="""
            def slices_refused(counts, confidence=0.95):
                alpha = (1 - confidence) / max(1, len(counts))
                return [
                    name
                    for name, (w, b) in counts.items()
                    if w + b and stats.binomtest(w, w + b).proportion_ci(1 - alpha)[0]
                    > 0.5
                ]
            """,
        ),
        Right(
            "by the tail of the distribution",
            source="""
            def slices_refused(counts, confidence=0.95):
                if not counts:
                    return []
                tail = (1 - confidence) / len(counts) / 2
                return [
                    name
                    for name, (worse, better) in counts.items()
                    if stats.binom.sf(worse - 1, worse + better, 0.5) < tail
                ]
            """,
        ),
    ],
)
def slices_refused(t: Trial) -> None:
    """Slices in which a version is worse, by an interval and not by a point."""
    value = t.call({"all": (26, 10)}, gives="list")
    _names(t, value, {"all": (26, 10)}, "The whole interval lies above one half.")
    t.good("one slice that is worse")
    counts = {"a": (30, 5), "b": (28, 4)}
    _names(t, t.call(counts, gives="list"), counts, "Both slices are worse.")
    for few in ((9, 7), (3, 0)):
        value = t.call({"a": few}, gives="list")
        t.need(
            not value,
            "a-point",
            f"{t.said}. {few[0]} of {sum(few)} happens by luck.",
            "A gate that refuses by a point estimate stops every second harmless "
            "release.",
            "Ask for the lower end of the interval, not for its middle.",
        )
    value = t.call({"a": (5, 0)}, gives="list")
    t.need(
        not value,
        "not-exact",
        f"{t.said}. The exact interval for 5 of 5, open to both sides, begins at 0.478 "
        "at 95 %.",
        "An interval that is one-sided, approximate, or of a lower level refuses more "
        "often by luck than was promised.",
        "Take `proportion_ci(level)` of `binomtest` as it is, and print `low` for "
        "this call.",
    )
    value = t.call({"a": (3, 0), "b": (9, 7)}, gives="list")
    t.need(
        not value,
        "level-divided",
        f"{t.said}. By itself neither of the two was refused.",
        "With every further slice the evidence that is asked for has become less, not "
        "more.",
        "Divide what is left to chance, `1 - confidence`, and not the level.",
    )
    t.good("too few rows to tell")
    value = t.call({"a": (10, 30), "b": (30, 30)}, gives="list")
    t.need(
        not value,
        "better-refused",
        f"{t.said}. Of the 40 rows of `a` the old version has erred in 30.",
        "A gate that stops improvements is switched off by those who make them.",
        "Look at one end of the interval.",
    )
    t.good("a slice that is better")
    counts = {"a": (20, 4), "b": (4, 40)}
    value = t.call(counts, gives="list")
    t.need(
        value != list(counts) and value != [],
        "on-average",
        f"{t.said}. In `a` the new version has erred in 20 of 24 rows, in `b` in 4 "
        "of 44.",
        "An average hides the slice that the gate is there for.",
        "Judge each slice by itself.",
    )
    _names(t, value, counts, "Only `a` is worse.")
    counts = {"a": (8, 1), "b": (5, 5), "c": (2, 3), "d": (4, 4)}
    value = t.call(counts, gives="list")
    t.need(
        not value,
        "several-looks",
        f"{t.said}. By itself `a` would be refused at 95 %, but it is one of four.",
        "With many slices, some look bad by luck alone, in every release.",
        "Divide the chance of a false alarm among the slices.",
    )
    t.good("four looks share one chance of a false alarm")
    try:
        value = t.call({"a": (0, 0), "b": (26, 8)}, gives="list")
    except BaseException as error:
        finding = getattr(error, "finding", None)
        if finding is None or finding.id != "crash":
            raise
        t.stop(
            "empty-slice",
            finding.what,
            "A slice in which the two never differ is the best news there is, and it "
            "ends the gate.",
            "Leave out a slice without such rows.",
        )
    _names(t, value, {"a": (0, 0), "b": (26, 8)}, "`a` has no row that says anything.")
    counts = {"a": (0, 0), "b": (0, 0), "c": (9, 1), "d": (0, 0)}
    value = t.call(counts, gives="list")
    t.need(
        not value,
        "shared-among-some",
        f"{t.said}. Four slices were named before anybody saw a number.",
        "If the number of looks depends on what was seen, the chance of a false alarm "
        "is not the one that was promised.",
        "Divide by the number of all slices that were named.",
    )
    t.good("slices without rows")
    counts = {"a": (8, 1)}
    t.need(
        t.call(counts, confidence=0.99, gives="list") == [],
        "level-ignored",
        f"{t.said}. At 95 % it would be refused, at 99 % it is not.",
        "Who sets the level expects it to matter.",
        "Use the argument in the place of a number of your own.",
    )
    t.need(t.call({}, gives="list") == [], "off", t.said, "", "No slice, no name.")
    for _ in range(8):
        pairs = t.rng.integers(0, 25, size=(int(t.rng.integers(1, 6)), 2))
        counts = {f"s{i}": (int(w), int(b)) for i, (w, b) in enumerate(pairs)}
        _names(
            t, t.call(counts, gives="list"), counts, "See the rule in the statement."
        )
    t.good("random counts")


def _names(t: Trial, value: list, counts: Counts, why: str) -> None:
    """The list has to be the reference's, in order."""
    wanted = _right(counts)
    t.need(
        value == wanted,
        "off",
        f"{t.said}; asked for is `{show(wanted)}`.",
        why,
        "Work this call out by hand, with the interval of each slice.",
    )


# --- after_revert ---

after_revert = choice(
    "after_revert",
    {
        "a": Option(
            False,
            "None of the bad version was ever ready, so the instances of `v1` have "
            "never been replaced.",
            "Ask which instances have had the traffic all the time.",
        ),
        "b": Option(
            True,
            "the controller had kept two of `v1`; only what was starting, or "
            "waiting to be started again, is given up.",
            "",
        ),
        "c": Option(
            False,
            "A revert is a new commit on top: it contains everything that was "
            "followed.",
            "Ask what `git log` shows afterwards, and whether the history has "
            "become shorter.",
        ),
        "d": Option(
            False,
            "The pause holds for starts of the bad version, and nobody wants one any "
            "more.",
            "Ask for which version the pause is.",
        ),
        "e": Option(
            False,
            "The file's contents are those of before, and the commit is a new one; the "
            "agent follows commits.",
            "Ask what `agent.followed` is after each of the three commits.",
        ),
    },
    hints={
        "*": [
            "Three things can change: what is desired, which commit is followed, and "
            "which instances run. Go through them one by one.",
            "What ran before the revert? Read again what the controller does with a "
            "version that never becomes ready.",
        ]
    },
    not_checked="Whether the revert would have been as quiet an hour later: a version "
    "that becomes ready and is bad does replace the one before.",
    notice="A revert of something that never served costs nothing. One of something "
    "that did is a roll like any other, with its starts and its waiting.",
)

# --- workflow_faults ---


@functools.cache
def _schema() -> dict[str, Any]:
    """The published schema of workflows, as check-jsonschema carries it."""
    folder = files("check_jsonschema").joinpath("builtin_schemas", "vendor")
    return json.loads(folder.joinpath("github-workflows.json").read_text())


def _prepare() -> None:
    import_module("yaml")
    import_module("jsonschema")
    _schema()


def _flow(t: Trial) -> dict[str, Any]:
    """The workflow in the file, as the schema allows it."""
    import jsonschema
    import yaml

    text = Path(t.thing).read_text("utf-8", errors="replace")
    try:
        flow = yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError) as error:
        line = getattr(getattr(error, "problem_mark", None), "line", 0) + 1
        t.stop(
            "not-yaml",
            f"Line {line} of the file is not YAML.",
            "GitHub would run nothing at all, and say so where nobody looks.",
            "Look at the indentation and the brackets around that line.",
        )
    t.need(
        isinstance(flow, dict),
        "not-yaml",
        f"The file is `{show(flow, 40)}`, and no mapping.",
        "GitHub would run nothing at all, and say so where nobody looks.",
        "Begin with the keys of the file that was given.",
    )
    # YAML 1.1 takes the key `on` for a truth value; the schema calls it by its name.
    flow = {"on" if key is True else key: value for key, value in flow.items()}
    plain = json.loads(json.dumps(flow, default=str))
    validator = jsonschema.validators.validator_for(_schema())(_schema())
    errors = sorted(validator.iter_errors(plain), key=lambda e: list(map(str, e.path)))
    if errors:
        error, place = errors[0], ".".join(map(str, errors[0].absolute_path))
        while error.context:  # of several forms, the first is the common one
            error = min(
                error.context,
                key=lambda e: (e.schema_path[0], e.validator != "additionalProperties"),
            )
        t.stop(
            "schema",
            f"The schema refuses `{place or 'the file'}`: {error.message[:110]}.",
            "GitHub refuses the file, so nothing is tested and nothing is red.",
            "Compare the words in that place with the ones in this book's workflow.",
        )
    t.good("the published schema takes it")
    return flow


def _text(text: str) -> str:
    return f"%%writefile {{work}}/release.yml\n{textwrap.dedent(text).strip()}\n"


@exercise(
    kind="configuration",
    starting="a2a46aa48cdccce0",
    prepare=_prepare,
    hints={
        "*": [
            "Run the page's `judge` on the file. What does it find, and which of the "
            "promises can it not know?",
            "Go through the promises one by one: which line of the file keeps each?",
            "One typo, one name of a job, one number that is a text, one shell line "
            "that always succeeds, and two things that are not there.",
        ],
        "python-number": ["What is 3.10 in YAML, and what is it in quotation marks?"],
    },
    not_checked="Whether `make test` and `make publish` do what their names say, what "
    "other steps leave behind for the one that tests, and whether the actions at these "
    "versions are what they were yesterday.",
    notice="The schema found one of six faults. The others are rules that only your "
    "repository knows, so they are tests of yours.",
    wrong=[
        Wrong("no YAML", "not-yaml", source=_text("on: [push")),
        Wrong("a text", "not-yaml", source=_text("run the tests")),
        Wrong("the typo stays", "schema", patch=(("runs-on", "run-on"),)),
        Wrong(
            "another typo",
            "schema",
            patch=(("timeout-minutes: 30", "timeout-minute: 30"),),
        ),
        Wrong("no such job", "needs-nobody", patch=(("needs: test", "needs: tests"),)),
        Wrong("waits for nobody", "needs-nobody", patch=(("    needs: test\n", ""),)),
        Wrong("another job", "other-jobs", patch=(("  publish:", "  release:"),)),
        Wrong("Python 3.1", "python-number", patch=(('"3.10"', "3.10"),)),
        Wrong("another Python", "python-number", patch=(('"3.10"', '"3.12"'),)),
        Wrong(
            "always green",
            "always-green",
            patch=(("run: make test", "run: make test || true"),),
        ),
        Wrong(
            "goes on after an error",
            "always-green",
            patch=(
                ("run: make test", "run: make test\n        continue-on-error: true"),
            ),
        ),
        Wrong(
            "no tests at all",
            "always-green",
            patch=(("run: make test", "run: make check"),),
        ),
        Wrong(
            "publishes whatever happened",
            "publishes-anyway",
            patch=(("    needs: test\n", "    needs: test\n    if: always()\n"),),
        ),
        Wrong(
            "publishes on main, tested or not",
            "publishes-anyway",
            patch=(
                (
                    "    needs: test\n",
                    "    needs: test\n"
                    "    if: ${{ !cancelled() && github.ref == 'refs/heads/main' }}\n",
                ),
            ),
        ),
        Wrong(
            "the step that tests never runs",
            "never-tests",
            patch=(("- run: make test", "- if: false\n        run: make test"),),
        ),
        Wrong(
            "the job that tests never runs",
            "never-tests",
            patch=(("  test:\n", "  test:\n    if: false\n"),),
        ),
        Wrong(
            "a shell that always succeeds",
            "always-green",
            patch=(
                (
                    "run: make test",
                    'run: make test\n        shell: bash -c "true {0}"',
                ),
            ),
        ),
        Wrong(
            "such a shell for the file",
            "always-green",
            patch=(
                (
                    "permissions:\n",
                    'defaults: {run: {shell: "bash {0} || true"}}\npermissions:\n',
                ),
            ),
        ),
        Wrong(
            "make is told to ignore errors",
            "always-green",
            patch=(
                ("run: make test", 'run: make test\n        env: {MAKEFLAGS: "-i"}'),
            ),
        ),
        Wrong(
            "the job's make is",
            "always-green",
            patch=(("  test:\n", '  test:\n    env: {MAKEFLAGS: "-i"}\n'),),
        ),
        Wrong(
            "publishes before the tests",
            "always-green",
            patch=(
                ("- run: make test", "- run: make publish\n      - run: make test"),
            ),
        ),
        Wrong(
            "Python after the tests",
            "python-late",
            patch=(
                (
                    "- uses: actions/setup-python@v7",
                    "- run: make test\n      - uses: actions/setup-python@v7",
                ),
                ('"3.10"\n      - run: make test\n', '"3.10"\n'),
            ),
        ),
        Wrong(
            "some pushes only",
            "other-trigger",
            patch=(("branches: [main]", "branches: [main]\n    paths: [README.md]"),),
        ),
        Wrong(
            "reads everything",
            "too-many-rights",
            patch=(("permissions:\n  contents: read\n", "permissions: read-all\n"),),
        ),
        Wrong(
            "rights for one job only",
            "too-many-rights",
            patch=(
                ("permissions:\n  contents: read\n", ""),
                ("  publish:\n", "  publish:\n    permissions: {}\n"),
            ),
        ),
        Wrong(
            "one group for all pushes",
            "shared-group",
            patch=(
                (
                    "jobs:\n",
                    "concurrency: {group: one, cancel-in-progress: true}\njobs:\n",
                ),
            ),
        ),
        Wrong(
            "one group for all tests",
            "shared-group",
            patch=(("  test:\n", "  test:\n    concurrency: tests\n"),),
        ),
        Wrong(
            "publishes nothing",
            "publishes-nothing",
            patch=(("\n      - run: make publish", ""),),
        ),
        Wrong(
            "publishes only in name",
            "publishes-nothing",
            patch=(("- run: make publish", "- if: false\n        run: make publish"),),
        ),
        Wrong(
            "tests nothing that was pushed",
            "no-code",
            patch=(
                (
                    "      - uses: actions/checkout@v7\n      - uses: actions/setup",
                    "      - uses: actions/setup",
                ),
            ),
        ),
        Wrong(
            "fetches after the tests",
            "no-code",
            patch=(
                (
                    "      - uses: actions/checkout@v7\n      - uses: actions/setup",
                    "      - uses: actions/setup",
                ),
                (
                    "- run: make test",
                    "- run: make test\n      - uses: actions/checkout@v7",
                ),
            ),
        ),
        Wrong(
            "no limit",
            "no-limit",
            patch=(("    timeout-minutes: 10\n", ""),),
        ),
        Wrong(
            "a limit of a day",
            "no-limit",
            patch=(("timeout-minutes: 10", "timeout-minutes: 1440"),),
        ),
        Wrong(
            "all rights",
            "too-many-rights",
            patch=(("permissions:\n  contents: read\n", ""),),
        ),
        Wrong(
            "may write",
            "too-many-rights",
            patch=(("contents: read", "contents: write"),),
        ),
        Wrong(
            "not on main",
            "other-trigger",
            patch=(("branches: [main]", "branches: [master]"),),
        ),
    ],
    also_right=[
        Right(
            "a list of needs, and no rights at all",
            patch=(
                ("needs: test", "needs: [test]"),
                ("permissions:\n  contents: read\n", "permissions: {}\n"),
            ),
        ),
        Right(
            "rights for each job",
            patch=(
                ("permissions:\n  contents: read\n", ""),
                (
                    "  test:\n",
                    "  test:\n    permissions: {contents: read}\n",
                ),
                (
                    "  publish:\n",
                    "  publish:\n    permissions: {contents: none}\n",
                ),
            ),
        ),
        Right(
            "installs first, and says what holds without saying",
            patch=(
                (
                    "- run: make test",
                    "- run: pip install -r requirements.txt\n"
                    "      - run: |\n"
                    "          pip install pytest\n"
                    "          make test\n"
                    "        shell: bash\n"
                    "        env: {PYTHON: python}",
                ),
                ("    needs: test\n", "    needs: test\n    if: ${{ success() }}\n"),
            ),
        ),
        Right(
            "a group for each commit, and none that waits in vain",
            patch=(
                (
                    "jobs:\n",
                    "concurrency:\n"
                    "  group: release-${{ github.sha }}\n"
                    "  cancel-in-progress: true\n"
                    "jobs:\n",
                ),
                ("  publish:\n", "  publish:\n    concurrency: pages\n"),
            ),
        ),
        Right(
            "publishes in more than one line",
            patch=(
                (
                    "- run: make publish",
                    "- run: |\n          make book\n          make publish V=2",
                ),
            ),
        ),
        Right(
            "only on main, which it is",
            patch=(
                (
                    "    needs: test\n",
                    "    needs: test\n    if: github.ref == 'refs/heads/main'\n",
                ),
            ),
        ),
    ],
)
def workflow_faults(t: Trial) -> None:
    """A workflow that tests, and publishes only what has passed."""
    flow = _flow(t)
    pushed = flow["on"].get("push") if isinstance(flow["on"], dict) else None
    branches = pushed.get("branches") if isinstance(pushed, dict) else None
    t.need(
        branches == ["main"] and set(pushed) == {"branches"},
        "other-trigger",
        f"`on` is `{show(flow['on'], 60)}`.",
        "A push that starts no run is never red.",
        "Keep the trigger of the file that was given.",
    )
    jobs = flow["jobs"]
    t.need(
        set(jobs) == {"test", "publish"},
        "other-jobs",
        f"The jobs are {', '.join(f'`{job}`' for job in jobs)}.",
        "Whoever reads the list of runs looks for the two that were promised.",
        "Keep both jobs, and their names.",
    )
    wants = jobs["publish"].get("needs", [])
    wants = [wants] if isinstance(wants, str) else wants
    t.need(
        wants == ["test"],
        "needs-nobody",
        f"`publish` waits for {' and '.join(map(str, wants)) or 'nobody'}.",
        "It has to wait for the job that tests; the schema knows no names of jobs.",
        "Look at what the other job is called.",
    )
    t.need(
        _holds(jobs["publish"]),
        "publishes-anyway",
        f"`publish` runs if `{show(jobs['publish'].get('if'), 60)}`.",
        "`always()`, `failure()` and `!cancelled()` take the place of waiting for "
        "success, and any other condition may leave the job out.",
        "Leave the condition out: without one, what is needed has to succeed.",
    )
    t.need(
        _after_checkout(jobs["publish"], _publishes),
        "publishes-nothing",
        "`publish` does not run `make publish` after `actions/checkout`.",
        "A job that is green and has done nothing is believed.",
        "Keep both steps of the file that was given.",
    )
    t.good("it publishes after the tests, and only then")
    for place in (flow, jobs["test"]):
        group = place.get("concurrency")
        t.need(
            group is None or any(one in str(group) for one in _OF_ITS_OWN),
            "shared-group",
            f"`concurrency` is `{show(group, 60)}`.",
            "Of several pushes in one group GitHub cancels some, and those are never "
            "tested.",
            "Leave it out, or give each commit a group of its own.",
        )
    _check_tests(t, flow, jobs["test"])
    for name, job in jobs.items():
        limit = job.get("timeout-minutes")
        t.need(
            type(limit) is int and 0 < limit <= 60,
            "no-limit",
            f"`timeout-minutes` of `{name}` is `{show(limit)}`.",
            "A job that hangs holds a machine for six hours, and nobody is told.",
            "Give each job a limit of an hour at most.",
        )
        rights = job.get("permissions", flow.get("permissions"))
        t.need(
            isinstance(rights, dict)
            and {k for k, v in rights.items() if v != "none"} <= {"contents"}
            and rights.get("contents") != "write",
            "too-many-rights",
            f"`{name}` says nothing of its rights, and gets what the repository's "
            "settings give, in the worst case all."
            if rights is None
            else f"`{name}` runs with the rights `{show(rights, 40)}`.",
            "Every action and every dependency of the job has them too.",
            "Let the token read the contents, and nothing more.",
        )
    t.good("each job ends by itself, and may only read")


#: Conditions that hold whenever this workflow's tests have passed on `main`.
_TRUE = (
    "true",
    "success()",
    "github.ref == 'refs/heads/main'",
    "github.event_name == 'push'",
    "needs.test.result == 'success'",
)


#: What no two pushes have in common.
_OF_ITS_OWN = ("github.sha", "github.run_id", "github.run_number")


def _holds(what: dict[str, Any]) -> bool:
    """Whether a job or a step has no condition, or one that changes nothing."""
    said = str(what.get("if", "true")).strip()
    if said.startswith("${{") and said.endswith("}}"):
        said = said[3:-2]
    return all(part.strip() in _TRUE for part in str(said).lower().split("&&"))


def _publishes(step: dict[str, Any]) -> bool:
    """Whether a line of a step is `make publish`, with or without more behind it."""
    lines = str(step.get("run", "")).splitlines()
    return any(line.split()[:2] == ["make", "publish"] for line in lines)


def _after_checkout(job: dict[str, Any], wanted: Callable[[dict], bool]) -> bool:
    """Whether a job fetches the commit, and a step behind that is the wanted one."""
    steps = [step for step in job.get("steps", []) if _holds(step)]
    fetched = itertools.dropwhile(
        lambda step: "actions/checkout" not in step.get("uses", ""), steps
    )
    return any(map(wanted, fetched))


def _tests(step: dict[str, Any]) -> bool:
    """Whether a step runs the tests, after installing what they need or not."""
    *before, last = str(step.get("run", "")).strip().splitlines() or [""]
    install = ("pip install ", "python -m pip install ")
    return last.strip() == "make test" and all(
        line.strip().startswith(install) and "|" not in line for line in before
    )


def _lax(place: dict[str, Any]) -> str:
    """What in a file, a job or a step lets a command fail unseen; or nothing."""
    defaults = place.get("defaults", {}).get("run", {})
    shell = place.get("shell", defaults.get("shell", "bash"))
    if place.get("continue-on-error") not in (None, False):
        return "and it goes on after an error"
    if shell not in ("bash", "sh"):
        return f"in the shell `{show(shell, 40)}`"
    told = place.get("env", {})
    names = {"BASH_ENV", "GNUMAKEFLAGS", "MAKEFILES", "MAKEFLAGS", "PATH"}
    if set(told) & names if isinstance(told, dict) else told:
        return f"with `{show(told, 40)}`"
    return ""


def _check_tests(t: Trial, flow: dict[str, Any], job: dict[str, Any]) -> None:
    """The job that tests runs the tests, on the right Python, and may fail."""
    steps = job["steps"]
    setups = [
        (place, step["with"].get("python-version"))
        for place, step in enumerate(steps)
        if isinstance(step.get("with"), dict) and "setup-python" in step.get("uses", "")
    ]
    given = [version for _, version in setups]
    t.need(
        given == ["3.10"],
        "python-number",
        f"The Python that is asked for is `{show(given[0] if given else None)}`.",
        "Promised is the one that production has.",
        "Ask for the text 3.10, which YAML otherwise takes for a number.",
    )
    for what in (job, *steps):
        t.need(
            _holds(what),
            "never-tests",
            f"In `test`, something runs if `{show(what.get('if'), 60)}`.",
            "What is skipped is no failure: the run is green, and nothing was tested.",
            "Leave the condition out.",
        )
    tests = [place for place, step in enumerate(steps) if _tests(step)]
    run = [str(step["run"]).strip() for step in steps if "run" in step]
    lax = next(filter(None, map(_lax, [flow, job, *steps])), "")
    t.need(
        len(tests) == 1 and not lax and "make publish" not in " ".join(run),
        "always-green",
        f"What `test` runs is `{show(run, 60)}`" + (f", {lax}." if lax else "."),
        "The run has to be red when `make test` fails, and only then.",
        "Run the one command, and let its exit code decide.",
    )
    t.need(
        setups[0][0] < tests[0],
        "python-late",
        "`make test` runs before `setup-python`.",
        "It then runs on whatever Python the machine has.",
        "Let the steps change places.",
    )
    t.need(
        _after_checkout(job, _tests),
        "no-code",
        "`make test` runs without `actions/checkout`, or before it.",
        "On a new machine there is no Makefile, so the run is red whatever was pushed.",
        "Keep the step that fetches the commit, in front.",
    )
    t.good("the tests run on the Python of production, and can fail")
