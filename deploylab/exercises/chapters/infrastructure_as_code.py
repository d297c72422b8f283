"""Checks for *Declare the machine, and run it twice*."""

from __future__ import annotations

import copy
import hashlib
import re
import sys
import textwrap
from importlib import import_module
from pathlib import Path

from deploylab import playbooks
from deploylab.exercises.engine import Right, Trial, Wrong, exercise
from deploylab.exercises.kinds import Before, Guess, order, prediction

# --- repair_playbook ---

LIMIT = "RATE_LIMIT=50 per minute"
OLD = "RATE_LIMIT=7 per minute"  # what an earlier release has left
OLD_RELEASE = "v1\n"  # likewise


def _file(*tasks: str) -> str:
    """The source of a cell that writes a playbook of these tasks."""
    head = """
    - name: The folder of a service
      hosts: localhost
      connection: local
      gather_facts: false
      tasks:
    """
    body = [textwrap.indent(textwrap.dedent(one).strip("\n"), "    ") for one in tasks]
    text = textwrap.dedent(head).strip() + "\n" + "\n".join(body) + "\n"
    return "%%writefile {work}/setup.yml\n" + text


FOLDER = """
- name: A folder for models
  ansible.builtin.file: {path: "{{ home }}/models", state: directory, mode: "0755"}
"""
ENV = """
- name: The rate limit
  ansible.builtin.lineinfile:
    path: "{{ home }}/service.env"
    regexp: "^RATE_LIMIT="
    line: "RATE_LIMIT={{ rate_limit }}"
    create: true
    mode: "0644"
"""
RELEASE = """
- name: What was released
  ansible.builtin.copy: {content: "v2\\n", dest: "{{ home }}/RELEASE", mode: "0644"}
"""


@exercise(
    kind="configuration",
    starting="835334f0b44a9619",
    live=True,
    memory_bytes=None,
    limit_s=120,  # two runs of Ansible; the check itself only waits for them
    prepare=lambda: import_module("yaml"),
    hints={
        "*": [
            "For each task: what does it find on the second run, and what does it do "
            "about it?",
            "A module that is given a state looks first. `command` and `shell` are "
            "given an action, and act.",
            "1 the folder has a module of its own; 2 a line that is to be there once, "
            "or a whole file; 3 a text that is the same tomorrow.",
        ],
        "says-unchanged": [
            "`changed_when` changes what is told. What changes what is done?",
        ],
        "frozen": [
            "`creates` and `force: false` ask whether the file is there. Do they ask "
            "what is in it?",
        ],
    },
    not_checked="Whether a third and a fourth run change nothing either, whether the "
    "first one says `changed` of all that it makes, and whether what you declare is "
    "what the service needs.",
    notice="The recap is what a playbook says of itself. The comparison of the folder "
    "before and after is what it did.",
    wrong=[
        Wrong("no playbook", "not-a-playbook", source=_file().replace("tasks:", "x")),
        Wrong(
            "a misspelt module",
            "not-a-playbook",
            source=_file(FOLDER.replace("builtin.file", "builtin.fold"), ENV, RELEASE),
        ),
        Wrong(
            "ignores the failure",
            "failure-ignored",
            source=_file(
                """
                - name: A folder for models
                  ansible.builtin.command: mkdir {{ home }}/models
                  ignore_errors: true
                """,
                ENV,
                RELEASE,
            ),
        ),
        Wrong(
            "quotation marks",
            "another-limit",
            source=_file(
                FOLDER,
                ENV.replace("={{ rate_limit }}", "='{{ rate_limit }}'"),
                RELEASE,
            ),
        ),
        Wrong(
            "a limit of its own",
            "another-limit",
            source=_file(
                FOLDER, ENV.replace("{{ rate_limit }}", "100 per minute"), RELEASE
            ),
        ),
        Wrong(
            "mkdir as it was",
            "second-run-fails",
            source=_file(
                """
                - name: A folder for models
                  ansible.builtin.command: mkdir {{ home }}/models
                """,
                ENV,
                RELEASE,
            ),
        ),
        Wrong(
            "a module that there is not",
            "first-run-fails",
            source=_file(
                """
                - name: A folder for models
                  ansible.builtin.file: {path: "{{ house }}/models", state: directory}
                """,
                ENV,
                RELEASE,
            ),
        ),
        Wrong("no limit", "not-set-up", source=_file(FOLDER, RELEASE)),
        Wrong(
            "appends",
            "two-limits",
            source=_file(
                FOLDER,
                """
                - name: The rate limit
                  ansible.builtin.shell: >-
                    echo "RATE_LIMIT={{ rate_limit }}" >> {{ home }}/service.env
                """,
                RELEASE,
            ),
        ),
        Wrong(
            "only if there is none",
            "frozen",
            source=_file(
                FOLDER,
                """
                - name: The rate limit
                  ansible.builtin.shell: >-
                    echo "RATE_LIMIT={{ rate_limit }}" > {{ home }}/service.env
                  args: {creates: "{{ home }}/service.env"}
                """,
                RELEASE,
            ),
        ),
        Wrong(
            "only if nothing was released",
            "frozen",
            source=_file(
                FOLDER,
                ENV,
                """
                - name: What was released, and when
                  ansible.builtin.copy:
                    content: "v2 at {{ now() }}"
                    dest: "{{ home }}/RELEASE"
                    mode: "0644"
                    force: false
                """,
            ),
        ),
        Wrong("nothing released", "not-set-up", source=_file(FOLDER, ENV)),
        Wrong(
            "the time is in it",
            "still-changes",
            source=_file(
                FOLDER,
                ENV,
                """
                - name: What was released
                  ansible.builtin.copy:
                    content: "v2 at {{ now() }}"
                    dest: "{{ home }}/RELEASE"
                    mode: "0644"
                """,
            ),
        ),
        Wrong(
            "mkdir -p",
            "only-says-changed",
            source=_file(
                """
                - name: A folder for models
                  ansible.builtin.command: mkdir -p {{ home }}/models
                """,
                ENV,
                RELEASE,
            ),
        ),
        Wrong(
            "says that nothing changed",
            "says-unchanged",
            source=_file(
                FOLDER,
                ENV,
                """
                - name: What was released
                  ansible.builtin.shell: echo v2 >> {{ home }}/RELEASE
                  changed_when: false
                """,
            ),
        ),
    ],
    also_right=[
        Right("lines", source=_file(FOLDER, ENV, RELEASE)),
        Right(
            "a command that says what it does",
            source=_file(
                """
                - name: A folder for models
                  ansible.builtin.command: mkdir {{ home }}/models
                  args: {creates: "{{ home }}/models"}
                """,
                ENV,
                RELEASE,
            ),
        ),
    ],
)
def repair_playbook(t: Trial) -> None:
    """A playbook for a folder, run twice."""
    home = Path("home").resolve()
    home.mkdir()
    (home / "service.env").write_text(f"{OLD}\n")
    (home / "RELEASE").write_text(OLD_RELEASE)
    first = _run(t, home)
    t.need(
        first.recap and first.tasks,
        "not-a-playbook",
        f"`ansible-playbook` ended with {first.exit_code} before the first task"
        f"{_line(first)}: {_reason(first)}.",
        "What cannot be read sets nothing up.",
        "Mend what Ansible names; the head of the playbook stays as it was given.",
    )
    t.need(
        not first.failed,
        "first-run-fails",
        f"On the first run the task `{_one(first.failed)}` failed: {_reason(first)}.",
        "A machine on which the play stops halfway is in a state that nobody has "
        "declared.",
        "Read the module's arguments once more; the variables are `home` and "
        "`rate_limit`.",
    )
    _content(t, home)
    t.good("the first run sets everything up")
    before = _digests(home)
    second = _run(t, home)
    t.need(
        not second.failed or second.exit_code,
        "failure-ignored",
        f"On the second run the task `{_one(second.failed)}` failed: "
        f"{_reason(second)}, and `ignore_errors` went on.",
        "It asks for an action that has been done already; to ignore its failure "
        "hides the next one too.",
        "Use a module that is given a state, and looks first.",
    )
    t.need(
        not second.failed,
        "second-run-fails",
        f"On the second run the task `{_one(second.failed)}` failed: "
        f"{_reason(second)}.",
        "It asks for an action that has been done already, and the tasks behind it "
        "are never reached.",
        "Use a module that is given a state, and looks first.",
    )
    moved = sorted(name for name, now in _digests(home).items() if now != before[name])
    t.need(
        not moved or second.changed,
        "says-unchanged",
        f"The recap says `changed=0`, and `{_one(moved)}` is not as it was.",
        "No handler runs, and nobody looks: a change that is not told is worse than "
        "one too many.",
        "Take away what silences the task, and find out what it does.",
    )
    t.need(
        not moved,
        "still-changes",
        f"The second run changed `{_one(moved)}`, with the same variables.",
        "A handler behind it would restart the service at every run.",
        "Ask what in the content is different the second time.",
    )
    t.need(
        not second.changed,
        "only-says-changed",
        f"All files are as they were, and `{_one(second.changed)}` says `changed`.",
        "Whoever looks for drift learns to overlook this task, and then the next one.",
        "Use a module that knows the state, or say when the command has changed "
        "something.",
    )
    t.good("the second run changes nothing, and says so")


def _run(t: Trial, home: Path) -> playbooks.Run:
    t.say("`ansible-playbook setup.yml`")
    python = {"ansible_python_interpreter": sys.executable}
    given = {"home": str(home), "rate_limit": "50 per minute"}
    return playbooks.run(t.thing, given | python)


def _content(t: Trial, home: Path) -> None:
    """What must be there after the first run."""
    env, release = home / "service.env", home / "RELEASE"
    lines = env.read_text().splitlines() if env.is_file() else []
    limits = [line for line in lines if line.startswith("RATE_LIMIT=")]
    old = limits == [OLD]
    released = release.read_text() if release.is_file() else ""
    same = released == OLD_RELEASE
    missing = {
        "models": not (home / "models").is_dir(),
        "service.env": not limits or (old and env.name not in t.thing.read_text()),
        "RELEASE": "v2" not in released
        and not (same and release.name in t.thing.read_text()),
    }
    for name in (name for name, absent in missing.items() if absent):
        t.stop(
            "not-set-up",
            f"After the first run `home/{name}` is not there, or not as it has to be.",
            "A playbook that changes nothing because it does nothing is no repair.",
            "Keep a task for each of the three things that the playbook sets up.",
        )
    t.need(
        not old,
        "frozen",
        f"`home/service.env` still says `{OLD}`, from an earlier release.",
        "A task that acts only where nothing is changes nothing where something else "
        "is.",
        "Let the task look at what is in the file, not only for the file.",
    )
    t.need(
        not same,
        "frozen",
        f"`home/RELEASE` still says `{OLD_RELEASE.strip()}`, from an earlier release.",
        "A task that acts only where nothing is changes nothing where something else "
        "is.",
        "Let the task look at what is in the file, not only for the file.",
    )
    t.need(
        len(limits) > 1 or limits == [LIMIT],
        "another-limit",
        f"`home/service.env` says `{limits[0][:60]}`, and `{LIMIT}` is asked for.",
        "The service counts by what is written there, letter by letter.",
        "Take the limit from the variable `rate_limit`, without quotation marks.",
    )
    t.need(
        len(limits) == 1,
        "two-limits",
        f"`home/service.env` has {len(limits)} lines with a limit: "
        f"`{', '.join(limits)[:90]}`.",
        "Which one counts is decided by whoever reads the file, and tools differ.",
        "Declare the line, or the whole file, instead of adding to it.",
    )


def _one(names: list[str]) -> str:
    return names[0].replace("`", "'")[:60] if names else "-"


def _line(run: playbooks.Run) -> str:
    """Where Ansible met what it could not read."""
    met = re.search(r"^Origin: .*:(\d+):\d+$", run.text, re.MULTILINE)
    return f", at line {met[1]}" if met else ""


def _reason(run: playbooks.Run) -> str:
    """Ansible's own words about the first failure, on one line."""
    said = re.search(r"^\[ERROR\]: (.*)$", run.text, re.MULTILINE)
    text = said[1] if said else "see its output"
    return "`" + text.replace("`", "'")[:110].strip(" .") + "`"


def _digests(home: Path) -> dict[str, str]:
    """What is below the folder: "" for a folder, a digest for a file."""
    names = {path.relative_to(home).as_posix(): path for path in home.rglob("*")}
    known = {"models": "", "service.env": "", "RELEASE": ""}
    return known | {
        name: hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "-"
        for name, path in names.items()
    }


# --- second_recap ---

second_recap = prediction(
    "second_recap",
    truth=lambda: 3,  # tests/test_infrastructure.py runs the playbook
    tolerance=(1, 1),
    guesses=[
        Guess(
            float("-inf"), -0.5, "fewer-than-none",
            "A recap counts tasks, and there are none below none.",
            "Go through the five tasks, one by one.",
            plausible=False,
        ),
        Guess(
            -0.4, 0.5, "all-idempotent",
            "Four of the tasks are idempotent by themselves, and one only reads. But "
            "two of them want different things of one line.",
            "For the next playbook: look for two tasks that name the same file.",
        ),
        Guess(
            0.6, 1.5, "only-the-command",
            "`command` says `changed` although it only reads, that is one. `Limit` and "
            "`Defaults` undo each other's work at every run.",
            "For the next playbook: look for two tasks that name the same file.",
        ),
        Guess(
            1.6, 2.9, "one-of-them",
            "Two tasks fight over one line, and each of the two changes it; and a "
            "command that only reads says `changed` as well.",
            "For the next playbook: ask of each task what it finds, not what it wants.",
        ),
        Guess(
            3.1, 4.5, "marker-too",
            "`Marker` has `creates`: its file is there the second time, and the "
            "command does not run.",
            "For the next playbook: ask of each task what it finds.",
        ),
        Guess(
            4.6, 5.5, "every-task",
            "That is what the first run says. `Marker` and `Folder` find what they "
            "want the second time.",
            "For the next playbook: ask of each task what it finds.",
        ),
        Guess(
            5.6, float("inf"), "more-than-five",
            "There are five tasks and no handler.",
            "Give a number of tasks.",
            plausible=False,
        ),
    ],
    what="The number behind `changed=` in the second recap",
    unit="tasks",
    hints={
        "*": [
            "What does each task find on the second run?",
            "Write down the content of `env` after each task, for both runs.",
        ],
    },
    not_checked="Whether you guessed before you ran it.",
    notice="Each of the two is idempotent, and the pair is not: it ends in the same "
    "state, by way of two changes, at every run.",
)  # fmt: skip

# --- who_changed ---

WORDS = {
    (2, 2, 2): "in sync",
    (3, 2, 2): "declared",
    (2, 2, 9): "drift",
    (3, 2, 9): "conflict",
    (9, 2, 9): "adopted",
}


def _said(declared: object, applied: object, real: object) -> str:
    """The right word, by which of the three agree."""
    edited, drifted = declared != applied, real != applied
    if edited and drifted:
        return "adopted" if declared == real else "conflict"
    return "declared" if edited else "drift" if drifted else "in sync"


@exercise(
    hints={
        "*": [
            "Three values can agree in five ways. Which pair do you compare first?",
            "Compare the declared and the real value each with what was applied last: "
            "that gives four cases, and one of them has two halves.",
            "1 has the declaration changed since? 2 has the real thing? 3 if both: to "
            "the same?",
        ],
        "drift-unseen": ["What is compared with the real value, and by whom?"],
    },
    not_checked="Values within values: a plan compares each attribute by itself.",
    notice="It is the three-way comparison that merges two branches in Git, with the "
    "real thing as one of the branches.",
    wrong=[
        Wrong(
            "looks at two of three",
            "two-parties",
            source="""
            def who_changed(declared, applied, real):
                return "in sync" if declared == real else "declared"
            """,
        ),
        Wrong(
            "believes the state",
            "drift-unseen",
            source="""
            def who_changed(declared, applied, real):
                return "in sync" if declared == applied else "declared"
            """,
        ),
        Wrong(
            "the other way round",
            "turned-round",
            patch=(('return "declared"', 'return "x"'), ('"drift"', '"declared"'),
                   ('"x"', '"drift"')),
        ),
        Wrong(
            "overwrites what was done by hand",
            "conflict-unseen",
            patch=(('return "conflict"', 'return "declared"'),),
        ),
        Wrong(
            "forgets what was written down",
            "adopted-unseen",
            patch=(('"in sync" if real == applied else "adopted"', '"in sync"'),),
        ),
        Wrong("another word", "no-such-word", patch=(('"drift"', '"drifted"'),)),
        Wrong(
            "takes nothing for equal",
            "missing",
            source="""
            def who_changed(declared, applied, real):
                if real is None:
                    return "in sync"
                if declared == real:
                    return "in sync" if real == applied else "adopted"
                if real == applied:
                    return "declared"
                return "drift" if declared == applied else "conflict"
            """,
        ),
        Wrong(
            "compares objects",
            "differs",
            source="""
            def who_changed(declared, applied, real):
                if declared is real:
                    return "in sync" if real is applied else "adopted"
                if real is applied:
                    return "declared"
                return "drift" if declared is applied else "conflict"
            """,
        ),
        Wrong(
            "compares texts",
            "differs",
            source="""
            def who_changed(declared, applied, real):
                declared, applied, real = str(declared), str(applied), str(real)
                if declared == real:
                    return "in sync" if real == applied else "adopted"
                if real == applied:
                    return "declared"
                return "drift" if declared == applied else "conflict"
            """,
        ),
        Wrong(
            "sorts lists",
            "differs",
            source="""
            def who_changed(*three):
                declared, applied, real = (
                    sorted(one, key=str) if isinstance(one, list) else one
                    for one in three
                )
                if declared == real:
                    return "in sync" if real == applied else "adopted"
                if real == applied:
                    return "declared"
                return "drift" if declared == applied else "conflict"
            """,
        ),
        Wrong(
            "compares sizes",
            "differs",
            source="""
            def who_changed(declared, applied, real):
                if None in (declared, applied, real) or declared >= applied:
                    if declared == real:
                        return "in sync" if real == applied else "adopted"
                    if real == applied:
                        return "declared"
                    return "drift" if declared == applied else "conflict"
                return "declared"
            """,
        ),
    ],
    also_right=[
        Right(
            "two questions",
            source="""
            def who_changed(declared, applied, real):
                edited, drifted = declared != applied, real != applied
                if edited and drifted:
                    return "adopted" if declared == real else "conflict"
                return "declared" if edited else "drift" if drifted else "in sync"
            """,
        ),
        Right(
            "a table",
            source="""
            def who_changed(declared, applied, real):
                case = declared == applied, real == applied, declared == real
                table = {
                    (True, True, True): "in sync", (False, True, False): "declared",
                    (True, False, False): "drift", (False, False, True): "adopted",
                }
                return table.get(case, "conflict")
            """,
        ),
    ],
)  # fmt: skip
def who_changed(t: Trial) -> None:
    """Which of declaration and reality has moved since the last apply."""
    asked = {case: t.call(*case, gives="text") for case in WORDS}
    said = {case: f"`who_changed{case}` gave `{asked[case][:40]}`" for case in WORDS}
    strange = [case for case in WORDS if asked[case] not in WORDS.values()]
    for case in strange:
        t.stop(
            "no-such-word",
            f"{said[case]}.",
            "Whoever reads it compares it with the words of the list.",
            "Return one of the five words, letter by letter.",
        )
    case = (2, 2, 9)
    t.need(
        asked[case] != "in sync",
        "drift-unseen",
        f"{said[case]}. The real value is 9, and 2 is declared.",
        "The state says what was applied, not what is there; somebody has changed it "
        "since.",
        "Let the real value take part in the comparison.",
    )
    t.need(
        asked[case] != "declared" or asked[3, 2, 2] != "drift",
        "turned-round",
        f"{said[case]}, and {said[3, 2, 2]}.",
        "The one is undone by the next run, the other is what the next run is for.",
        "Which of the two is still what was applied last?",
    )
    t.need(
        asked[case] != "declared",
        "two-parties",
        f"{said[case]}. What is declared is what was applied last.",
        "The plan would overwrite somebody's change, and call it a release.",
        "Ask of each of the two whether it is still what was applied last.",
    )
    _need(t, asked[case], said[case], case)
    t.good("a change by hand")
    _need(t, asked[3, 2, 2], said[3, 2, 2], (3, 2, 2))
    _need(t, asked[2, 2, 2], said[2, 2, 2], (2, 2, 2))
    t.good("a change of the declaration, and none at all")
    t.need(
        asked[3, 2, 9] not in ("declared", "drift"),
        "conflict-unseen",
        f"{said[3, 2, 9]}. 2 was applied last, and both others differ from it.",
        "Whichever side is taken, the work of the other is lost, and nobody is told.",
        "Ask both questions before you answer.",
    )
    _need(t, asked[3, 2, 9], said[3, 2, 9], (3, 2, 9))
    t.need(
        asked[9, 2, 9] != "in sync",
        "adopted-unseen",
        f"{said[9, 2, 9]}. The state still says 2.",
        "As long as the state says 2, the next change by hand is compared with a value "
        "that is long gone.",
        "When the two agree, ask whether the state knows it.",
    )
    _need(t, asked[9, 2, 9], said[9, 2, 9], (9, 2, 9))
    t.good("both, to different values and to the same")
    case = ("on", "on", None)
    gone = t.call(*case, gives="text")
    t.need(
        gone == "drift",
        "missing",
        f"{t.said}. The real thing is not there any more.",
        "What was deleted by hand is drift too, and the plan has to make it again.",
        "Let `None` be a value like any other.",
    )
    kinds = [[1, 2, 3, 4], ["a", "b", "c", None], [[1], [2], [1, 2]]]
    for _ in range(60):
        values = kinds[int(t.rng.integers(len(kinds)))]
        drawn = t.rng.integers(0, len(values), 3)
        case = tuple(copy.deepcopy(values[int(i)]) for i in drawn)
        word = t.call(*case, gives="text")
        _need(t, word, t.said, case)
    alike = [
        ([1], [1], [1]),
        ("2", 2, 2),
        ("None", "None", None),
        ([1, 2], [2, 1], [2, 1]),
    ]
    for case in alike:
        _need(t, t.call(*case, gives="text"), t.said, case)
    t.good("numbers, texts and lists")


def _need(t: Trial, word: str, said: str, case: tuple) -> None:
    right = _said(*case)
    t.need(
        word == right,
        "differs",
        f"{said}; by the list it is `{right}`.",
        "",
        "Write down which of the three values are equal, and look for that line in "
        "the list.",
    )


# --- night_by_hand ---

night_by_hand = order(
    "night_by_hand",
    {
        "A": "Run the playbook with --check --diff on all four servers.",
        "B": "Stop the run at noon until this is settled.",
        "C": "Run the playbook on one server, look at it, then on the others.",
        "D": "Write the new limit into the declaration.",
        "E": "Have somebody else review the change.",
        "F": "Run the playbook once more: changed=0.",
    },
    [
        Before(
            "B",
            "D",
            "noon-comes",
            "The run at noon does not wait: it puts the old limit back on the server "
            "that helped, or takes to all four a change that nobody has reviewed.",
            "Ask what happens by itself, and when.",
        ),
        Before(
            "A",
            "D",
            "written-from-memory",
            "What is written down is what somebody remembers of three in the morning. "
            "The difference between declaration and machine knows all of it.",
            "Ask who knows best what was changed.",
        ),
        Before(
            "D",
            "E",
            "nothing-to-review",
            "There is no change yet that anybody could read.",
            "Ask what the second person looks at.",
        ),
        Before(
            "E",
            "C",
            "reviewed-too-late",
            "The review comes after the servers have it; then it is a report.",
            "Ask what a finding of the review could still prevent.",
        ),
        Before(
            "C",
            "F",
            "proved-too-soon",
            "Before the limit is on all four servers, the run has something to change.",
            "Ask what the last run is to show.",
        ),
    ],
    distractors={
        "G": "Four servers that agree with each other and not with the declaration are "
        "all set back by the next run. And by hand, three more can go amiss.",
    },
    example="BADECF",
    others=["ABDECF"],
    hints={
        "*": [
            "What happens at noon if you do nothing?",
            "Who knows everything that was changed that night?",
            "1 keep the machines from being overwritten, 2 see what differs, 3 declare "
            "it, 4 read it, 5 apply it, 6 prove it.",
        ],
    },
    not_checked="Whether the higher limit is a good idea in daylight.",
    notice="A change by hand is no crime; one that is not written down is undone by "
    "the tool, at the next run, without a word.",
)
