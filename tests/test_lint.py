"""`deploylab lint`: traps and their lines, bad input, exit statuses, imports."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from deploylab import ROOT, cli
from deploylab.lint import (
    RULES,
    SEVERITIES,
    Finding,
    World,
    as_json,
    as_text,
    lint,
)
from deploylab.lint.fields import FIELDS
from deploylab.lint.read import MAX_BYTES, MAX_DEPTH

CONFIGS = Path(__file__).resolve().parent / "lint_configs"
BAD = sorted(CONFIGS.glob("*.yaml"))
GOOD = sorted((CONFIGS / "good").glob("*.yaml"))
STRATEGIES = ROOT / "book" / "strategies"
PAGE = (STRATEGIES / "lint-your-gates.md").read_text("utf-8")


def marks(path: Path) -> set[tuple[int, str]]:
    """What a file says that should be found: (line, rule) of each `# <- DL101 ...`."""
    return {
        (number, rule)
        for number, line in enumerate(path.read_text("utf-8").splitlines(), 1)
        for found in re.findall(r"# <- ([DL0-9 ]+)$", line)
        for rule in found.split()
    }


def said(text: str, **world: float) -> list[str]:
    """The rules that a text breaks; it must be readable."""
    report = lint(["-"], World(**world), text.encode())
    assert not report.unreadable, as_text(report)
    return [finding.rule for finding in report.findings]


def refused(text: str | bytes) -> tuple[int, str]:
    """Line and reason of a text that cannot be read."""
    report = lint(["-"], stdin=text.encode() if isinstance(text, str) else text)
    assert report.status() == 2
    (fault,) = report.unreadable
    assert fault.do
    assert f"-:{fault.line}: cannot be read" in as_text(report)
    return fault.line, fault.why


# Traps


@pytest.mark.parametrize("path", BAD, ids=lambda path: path.stem)
def test_a_trap_is_found_on_its_line_and_nothing_else(path):
    report = lint([str(path)])
    assert not report.unreadable
    assert {(f.line, f.rule) for f in report.findings} == marks(path)
    assert marks(path), "a file that shows nothing"


@pytest.mark.parametrize("path", GOOD, ids=lambda path: path.stem)
def test_silent_on_a_good_one(path):
    report = lint([str(path)])
    assert report.findings == []
    assert report.status("info") == 0
    (gate,) = report.gates
    assert gate.healthy is not None
    assert gate.healthy.aborted < 0.01
    assert gate.bad is not None
    assert gate.bad.promoted < 0.01


def test_there_are_enough_of_both():
    assert len(BAD) >= 12
    assert len(GOOD) >= 3


def test_every_rule_that_a_file_can_show_is_shown_by_one():
    shown = {rule for path in BAD for _, rule in marks(path)}
    elsewhere = {"DL002", "DL004", "DL005", "DL112", "DL114", "DL115", "DL209"}
    assert shown | elsewhere == set(RULES)
    assert not shown & elsewhere


@pytest.mark.parametrize("name", RULES)
def test_a_rule_has_sentences_and_a_section_that_is_there(name):
    rule = RULES[name]
    assert rule.severity in SEVERITIES
    assert rule.what.endswith(".")
    assert rule.do.endswith(".")
    finding = Finding(name, "a.yaml", 1, "w", "y", "d", rule.severity)
    page, anchor = finding.page.split("#")
    text = (STRATEGIES / f"{page}.md").read_text("utf-8")
    if rule.section:
        assert f"\n({anchor})=\n#" in text
    else:
        assert (page, anchor) == ("lint-your-gates", name.lower())


def test_the_catalogue_is_made_of_the_rules_with_an_anchor_for_each():
    cell = PAGE[PAGE.index("## The catalogue") :]
    cell = cell[cell.index("parts = []") : cell.index("```\n", cell.index("parts"))]
    made = {"RULES": RULES, "HTML": str}
    exec(cell, made)  # the page's own lines
    for name in RULES:
        assert "".join(made["parts"]).count(f'<tr id="{name.lower()}">') == 1


def test_a_rule_that_was_taken_back_is_not_given_again():
    assert "DL113" not in RULES
    assert "`DL113` is missing" in PAGE


def flagger(metric: str, analysis: str = "") -> str:
    return f"""
apiVersion: flagger.app/v1beta1
kind: Canary
metadata: {{name: a}}
spec:
  targetRef: {{kind: Deployment, name: a}}
  analysis:
    interval: 10m
    threshold: 2
    stepWeight: 25
{analysis}
    metrics:
{metric}
"""


BUILT_IN = (
    "    - {name: request-success-rate, interval: 10m, thresholdRange: {min: 99}}"
)


def argo(metric: str, template: str = "", rollout: str = "", run: str = "") -> str:
    return f"""
apiVersion: argoproj.io/v1alpha1
kind: Rollout
metadata: {{name: a}}
spec:
  strategy:
    canary:
      canaryService: a-canary
      stableService: a-stable
      trafficRouting: {{istio: {{}}}}
      steps:
      - setWeight: 20
      - analysis:
          templates: [{{templateName: t}}]
{run}
{rollout}
---
apiVersion: argoproj.io/v1alpha1
kind: AnalysisTemplate
metadata: {{name: t}}
spec:
{template}
  metrics:
{metric}
"""


QUERY = (
    'sum(rate(requests_total{service="a-canary",code=~"5.."}[10m])) / '
    'sum(rate(requests_total{service="a-canary"}[10m]))'
)


def metric(extra: str = "", query: str = QUERY, name: str = "m") -> str:
    return f"""
  - name: {name}
    initialDelay: 10m
    interval: 10m
    count: 3
    successCondition: result[0] <= 0.01
    provider: {{prometheus: {{query: '{query}'}}}}
{extra}
"""


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        (flagger(BUILT_IN, "    interval: 10m"), "DL002"),
        (flagger("    - {name: own, templateRef: {name: x}}"), "DL004"),
        (argo(metric(), "  args: [{name: needed}]"), "DL005"),
        (argo(metric(), "  dryRun: [{metricName: m}]"), "DL111"),
        (argo(metric("    failureCondition: result[0] > 0.05")), "DL112"),
        (
            argo(metric() + metric(name="n").replace("Delay: 10m", "Delay: 20m")),
            "DL114",
        ),
        (flagger(BUILT_IN + ("\n" + BUILT_IN) * 12), "DL115"),
    ],
)
def test_more_traps(text, rule):
    assert rule in said(text)
    assert rule not in said(argo(metric()))
    assert rule not in said(flagger(BUILT_IN))


def test_a_window_longer_than_the_rollout():
    background = """
apiVersion: argoproj.io/v1alpha1
kind: Rollout
metadata: {name: a}
spec:
  strategy:
    canary:
      canaryService: a-canary
      stableService: a-stable
      trafficRouting: {istio: {}}
      analysis: {templates: [{templateName: t}]}
      steps: [{setWeight: 20}, {pause: {duration: 30m}}]
---
apiVersion: argoproj.io/v1alpha1
kind: AnalysisTemplate
metadata: {name: t}
spec:
  metrics:
"""
    short = metric().replace("    count: 3\n", "")
    assert "DL209" not in said(background + short)
    assert "DL209" in said(background + short.replace("[10m]", "[1h]"))


@pytest.mark.parametrize(
    ("before", "after", "what"),
    [
        ("setWeight: 20", "setWeight: 120", "setWeight is 120"),
        ("setWeight: 20", "setWeight: true", "setWeight is True, not a whole number"),
        ("setWeight: 20", "setWeight: 20\n        pause: {}", "a step with 2 actions"),
        ("interval: 10m", "interval: ten minutes", "which is no duration"),
        ("    interval: 10m\n", "", "a count and no interval"),
        ("canaryService: a-canary", "canaryService: a-stable", "are the same"),
        ("name: a}", "namespace: a}", "metadata.name is missing"),
        ("      canaryService: a-canary\n", "", "trafficRouting needs canaryService"),
        ("templates: [{templateName: t}]", "args: []", "an analysis without templates"),
        ("provider: {prometheus", "provider: {web: {}, prometheus", "has 2 provider"),
    ],
)
def test_what_the_engine_refuses(before, after, what):
    good = argo(metric())
    assert before in good
    report = lint(["-"], stdin=good.replace(before, after, 1).encode())
    refusals = [f.what for f in report.findings if f.rule == "DL003"]
    assert any(what in refusal for refusal in refusals), refusals
    assert "DL003" not in said(good)


def test_an_unknown_field_is_named_with_what_was_meant():
    report = lint(["-"], stdin=argo(metric("    failurelimit: 1")).encode())
    (finding,) = [f for f in report.findings if f.rule == "DL001"]
    assert "failurelimit is no field" in finding.what
    assert finding.do == "Did you mean failureLimit?"
    assert (
        "failurelimit: 1"
        in argo(metric("    failurelimit: 1")).splitlines()[finding.line - 1]
    )


# References between documents and files


def test_templates_of_other_files_are_found(tmp_path):
    rollout, template = argo(metric()).split("---")
    (tmp_path / "rollout.yaml").write_text(rollout, "utf-8")
    alone = lint([str(tmp_path)])
    assert [f.rule for f in alone.findings] == ["DL004"]
    assert alone.gates[0].healthy is None
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "template.yml").write_text(template, "utf-8")
    both = lint([str(tmp_path)])
    assert (
        both.gates[0].healthy
        == lint(["-"], stdin=argo(metric()).encode()).gates[0].healthy
    )


def test_templates_alone_are_not_judged_and_it_is_said():
    rollout, template = argo(metric()).split("---")
    for text, judged in ((template, False), (rollout, True)):
        notes = lint(["-"], stdin=text.encode()).notes
        assert any("nothing was judged" in note for note in notes) != judged


def test_a_cluster_template_is_found_by_its_scope_alone():
    text = argo(metric()).replace("kind: AnalysisT", "kind: ClusterAnalysisT")
    assert "DL004" in said(text)
    assert "DL004" not in said(
        text.replace("{templateName: t}", "{templateName: t, clusterScope: true}")
    )


def test_an_argument_reaches_the_query():
    query = QUERY.replace("a-canary", "{{args.service}}")
    run = "          args: [{name: service, value: a-canary}]"
    text = argo(metric(query=query), "  args: [{name: service}]", run=run)
    with_argument = lint(["-"], stdin=text.encode()).gates[0]
    without = lint(["-"], stdin=argo(metric()).encode()).gates[0]
    assert with_argument.healthy == without.healthy
    assert "DL005" in said(text.replace(run, ""))


ZERO = QUERY.replace("sum", "(sum", 1).replace(" / ", " or vector(0)) / ")
LEAST = "    successCondition: result[0] <= 0.01"


@pytest.mark.parametrize(
    ("query", "before", "found"),
    [
        (QUERY, "", True),
        (ZERO, "", False),
        (QUERY, "len(result) == 0 || ", False),
        (QUERY, "len(result) > 0 && ", True),  # then it fails at once
        (QUERY.replace("a-canary", "a"), "", False),  # the old version has had errors
    ],
)
def test_a_version_without_errors_needs_a_zero(query, before, found):
    one = metric(query=query).replace(
        LEAST, LEAST.replace("result[", before + "result[")
    )
    assert ("DL210" in said(argo(one))) == found


@pytest.mark.parametrize(("query", "found"), [(QUERY, True), (ZERO, False)])
def test_flagger_takes_no_value_for_a_failed_check(query, found):
    canary = flagger("    - {name: own, query: x, thresholdRange: {max: 0.01}}")
    text = canary.replace("query: x", f"query: '{query}'")
    assert ("DL210" in said(text)) == found


@pytest.mark.parametrize(
    ("condition", "advice"),
    [
        ("<= 0.01", "from 100 requests on, and as windows vary, plan for 120"),
        ("< 0.01", "from 101 requests on, and as windows vary, plan for 122"),
    ],
)
def test_the_advice_keeps_clear_of_the_edge(condition, advice):
    text = argo(metric().replace("<= 0.01", condition)).replace("10m", "15s")
    report = lint(["-"], stdin=text.encode())
    (found,) = [f for f in report.findings if f.rule == "DL204"]
    assert advice in found.do


# What is not computed


@pytest.mark.parametrize(
    ("query", "why"),
    [
        ("up", "not one of the documented patterns"),
        ("histogram_quantile(0.99, sum(rate(x_bucket[5m])) by (le))", "latency"),
        (QUERY.replace('service="a-canary"', 'path="/a"'), "a part of the requests"),
        (QUERY.replace('service="a-canary",', "").replace(
            'service="a-canary"', ""), "chooses no service"),
        (QUERY.replace("[10m])) /", "[5m])) /"), "two different times"),
        (QUERY + " * 60", "scaled by something else"),
    ],
)  # fmt: skip
def test_what_is_not_recognised_has_a_reason_and_no_number(query, why):
    report = lint(["-"], stdin=argo(metric(query=query)).encode())
    (gate,) = report.gates
    assert gate.healthy is None
    assert gate.bad is None
    assert any(why in reason for reason in gate.not_computed), gate.not_computed
    assert "not computed: m: " in as_text(report)


@pytest.mark.parametrize(
    "step", ["experiment: {duration: 1h}", "plugin: {name: x}"], ids=["exp", "plugin"]
)
def test_a_step_that_is_not_modelled_leaves_no_number(step):
    text = argo(metric()).replace("- setWeight: 20", f"- setWeight: 20\n      - {step}")
    (gate,) = lint(["-"], stdin=text.encode()).gates
    assert gate.healthy is None
    assert any("not modelled" in reason for reason in gate.not_computed)


def test_latency_beside_a_rate_is_left_out_and_said():
    text = flagger(
        BUILT_IN + "\n    - {name: request-duration, thresholdRange: {max: 9}}"
    )
    (gate,) = lint(["-"], stdin=text.encode()).gates
    assert gate.healthy is not None
    assert gate.not_computed == [
        "request-duration: it measures latency, which is not modelled"
    ]


# Bad input


def test_not_yaml():
    line, why = refused("apiVersion: a\nkind: Rollout\n  spec: [\n")
    assert line == 3
    assert why.startswith("not YAML: ")


@pytest.mark.parametrize("placeholder", ["{{ .Values.n }}", "{{- if .x }}", "{{ n }}"])
def test_a_template_is_refused_with_its_line(placeholder):
    text = argo(metric()).replace("setWeight: 20", f"setWeight: {placeholder}")
    line, why = refused(text)
    assert text.splitlines()[line - 1].strip() == f"- setWeight: {placeholder}"
    assert "a template, not a manifest" in why


def test_a_template_that_is_valid_yaml_is_refused_too():
    text = argo(metric()).replace("name: a}", 'name: "{{ .Release.Name }}"}', 1)
    line, why = refused(text)
    assert (line, "Release" in why) == (4, True)


def test_placeholders_of_the_engines_are_not_templates():
    query = QUERY.replace("a-canary", "{{ args.service }}")
    said(argo(metric(query=query)))
    annotated = argo(metric(), rollout='  template: {metadata: {a: "{{ with x }}"}}')
    said(annotated)


def test_an_alias_bomb_costs_nothing_and_is_refused():
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    for n in range(1, 30):
        lines.append(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]")
    line, why = refused("\n".join(lines))
    assert line < 8
    assert "aliases counted with what they stand for" in why


def test_a_merge_bomb_is_refused():
    lines = ["m0: &m0 {" + ", ".join(f"k{n}: 1" for n in range(3000)) + "}"]
    lines += [f"m{n}: &m{n} {{<<: *m0, x: 1}}" for n in range(1, 3000)]
    _, why = refused("\n".join(lines))
    assert "aliases counted" in why


def test_a_cycle_by_an_anchor():
    assert refused("apiVersion: a\nkind: List\nspec: &s\n  x: [*s]\n") == (
        4,
        "a cycle: *s stands inside &s",
    )


def test_a_cycle_of_templates():
    text = argo(metric(), "  templates: [{templateName: t}]")
    line, why = refused(text)
    assert "templates: [{templateName: t}]" in text.splitlines()[line - 1]
    assert why == "a cycle: the templates lead from t back to t"


def test_a_file_of_ten_megabytes(tmp_path):
    path = tmp_path / "large.yaml"
    path.write_bytes(b"a: " + b"x" * 10_000_000)
    report = lint([str(path)])
    assert "more than 1,000,000 bytes" in report.unreadable[0].why
    assert MAX_BYTES == 1_000_000


def test_too_deep():
    _, why = refused("a: " + "[" * (MAX_DEPTH + 10))
    assert why == f"nested more than {MAX_DEPTH} deep"


@pytest.mark.parametrize(
    ("raw", "why"),
    [
        (b"kind: \xff", "not UTF-8 text"),
        (b"kind: Rollout\x00", "not YAML"),
        (b"? [a, b]\n: c", "a key that is not text"),
        (b"a: *b", "has no anchor before it"),
    ],
)
def test_other_input_that_cannot_be_read(raw, why):
    assert why in refused(raw)[1]


def test_another_kind_is_passed_over_with_a_note_and_alone_is_no_success():
    other = "apiVersion: v1\nkind: Service\nmetadata: {name: a}\n"
    alone = lint(["-"], stdin=other.encode())
    assert alone.status() == 2
    assert "nothing to lint" in as_text(alone)
    beside = lint(
        ["-"], stdin=(other + "---" + argo(metric("    failureLimit: 0"))).encode()
    )
    assert beside.status() == 0
    assert beside.notes == ["-:1: passed over, Service of v1"]


def test_a_canary_of_somebody_else_is_another_kind():
    text = "apiVersion: example.com/v1\nkind: Canary\nspec: {x: 1}\n"
    assert lint(["-"], stdin=text.encode()).status() == 2


def test_a_list_is_taken_apart():
    documents = list(yaml.safe_load_all(argo(metric("    failureLimit: 0"))))
    text = yaml.safe_dump({"apiVersion": "v1", "kind": "List", "items": documents})
    assert lint(["-"], stdin=text.encode()).gates[0].healthy is not None


def test_what_a_file_could_write_on_a_terminal_is_taken_out():
    text = argo(metric()).replace("name: a}", 'name: "a\\e[2J\\nb"}', 1)
    shown = as_text(lint(["-"], stdin=text.encode()))
    assert "Rollout a?[2J?b (Argo Rollouts)" in shown


BIG = {
    "lines": "\n" * 900_000,
    "spaces": " " * 900_000 + "a: 1",
    "braces": "a: '" + "{" * 900_000 + "'",
    "references": "---".join(
        argo(
            "  []", f"  templates: [{', '.join([f'{{templateName: t{n + 1}}}'] * 9)}]"
        ).replace("name: t}", f"name: t{n}}}")
        for n in range(15)
    ),
    "fields": argo(metric()) + "".join(f"  unknown{n}: 1\n" for n in range(20_000)),
    "exponent": argo(metric()).replace("<= 0.01", "<= 1e-999999999"),
    "query": argo(metric(query="{{" * 400_000)),
    "pattern": argo(metric(name="a" * 5000), "  dryRun: [{metricName: '.*.*.*.*.*x'}]"),
    "name": argo(metric(name="a" * 120), "  dryRun: [{metricName: '.*.*.*.*x'}]"),
    "looks": argo(metric()).replace("10m", "1s").replace("count: 3", "count: 1000000"),
    "empty looks": argo(metric("    consecutiveErrorLimit: 900000")).replace(
        "setWeight: 20", "setWeight: 0"
    ),
    "limits": argo(metric("    failureLimit: 4000\n    inconclusiveLimit: 4000"))
    .replace("10m", "1s")
    .replace("count: 3", "count: 4000"),
    "steps": argo(metric()).replace(
        "      - setWeight: 20", "      - setWeight: 20\n" * 5000
    ),
    "window": flagger(BUILT_IN.replace("10m", "8000h")),
    "threshold": flagger(BUILT_IN).replace("threshold: 2", "threshold: 1000000"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", BIG)
def test_what_is_large_in_one_way_comes_to_an_end(name):
    """No clock: one that does not end runs into the tests' own limit."""
    as_text(lint(["-"], stdin=BIG[name].encode()))


@given(st.binary(max_size=400))
@settings(max_examples=300, deadline=None)
def test_random_bytes_never_raise(raw):
    as_text(lint(["-"], stdin=raw))


scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**30), 10**30),
    st.floats(),
    st.text(max_size=12),
    st.sampled_from(["5m", "10%", "{{args.x}}", "result[0] > 1", QUERY, "1e9s", "-1"]),
)


def shaped(fields: object) -> st.SearchStrategy:
    """Values in the shape of a kind's fields, with something else now and then."""
    if not isinstance(fields, dict):
        return scalars
    some = st.fixed_dictionaries(
        {}, optional={key: shaped(below) for key, below in fields.items()}
    )
    return st.one_of(some, st.lists(some, max_size=3), scalars)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["Rollout", "AnalysisTemplate", "Canary", "Strategy"])
def test_random_manifests_never_raise(kind):
    groups = {"Canary": "flagger.app/v1beta1", "Strategy": "deploylab/v1"}
    api = groups.get(kind, "argoproj.io/v1alpha1")

    @given(shaped(FIELDS[kind]), st.sampled_from(["t", "", None]))
    @settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
    def run(spec, name):
        document = {"apiVersion": api, "kind": kind, "metadata": {"name": name}}
        text = yaml.safe_dump(document | {"spec": spec}, allow_unicode=True)
        report = lint(["-"], stdin=(text + "\n---" + argo(metric())).encode())
        as_text(report)
        json.loads(as_json(report))

    run()


def mutated(text: str) -> st.SearchStrategy[str]:
    """A manifest with one line of it replaced, repeated or left out."""
    lines = text.splitlines()
    junk = st.sampled_from(
        ["", "  x: [", "- a", "  interval: -5m", "  count: 99999999999", "  - {}",
         "  pause: {duration: 1e9}", "  setWeight: 1e400", "  replicas: 0", "kind: 1",
         "  provider: 3", "  metrics: {}", "  stepWeights: [x]",
         "  successCondition: 1",
         "  interval: 1ms", "  count: 4999"]
    )  # fmt: skip
    place = st.integers(0, len(lines) - 1)
    return st.tuples(place, place, junk).map(
        lambda t: "\n".join([*lines[: t[0]], t[2], *lines[min(t[1], t[0] + 2) :]])
    )


@pytest.mark.slow
@given(st.sampled_from([*BAD, *GOOD]).flatmap(lambda p: mutated(p.read_text("utf-8"))))
@settings(max_examples=150, deadline=None)
def test_mutated_configurations_never_raise(text):
    as_text(lint(["-"], stdin=text.encode()))


# The command


def run(*arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "deploylab.cli", "lint", *arguments],
        input=stdin,
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        ([str(GOOD[0])], 0),
        ([str(CONFIGS / "overlapping_windows.yaml")], 0),
        ([str(CONFIGS / "overlapping_windows.yaml"), "--fail-on", "warning"], 1),
        ([str(CONFIGS / "docs_background.yaml"), "--fail-on", "info"], 1),
        ([str(CONFIGS / "no_condition.yaml")], 1),
        (["nowhere.yaml"], 2),
        ([str(ROOT / "_config.yml")], 2),
        ([str(ROOT / "_config.yml"), "--skip-others"], 0),
        ([str(GOOD[0]), "--bad", "0.001"], 2),
    ],
)
def test_exit_statuses(arguments, status, capsys):
    assert cli.main(["lint", *arguments]) == status
    capsys.readouterr()


@pytest.mark.parametrize("option", ["--rps=0", "--rps=nan", "--bad=2", "--healthy=x"])
def test_an_option_out_of_bounds_is_refused(option, capsys):
    with pytest.raises(SystemExit) as exit_:
        cli.main(["lint", str(GOOD[0]), option])
    assert exit_.value.code == 2
    assert "is no number" in capsys.readouterr().err


def test_the_command_reads_stdin_and_prints_what_it_assumes():
    done = run("-", "--rps", "7", stdin=GOOD[0].read_text("utf-8"))
    assert done.returncode == 0
    assert "assumed: 7 requests/s at a steady rate (--rps)" in done.stdout
    assert done.stderr == ""


def test_requests_at_random_are_said_where_they_matter():
    """At 34 requests a second a limit of 1 % lies at an edge; at 20 it does not."""
    path = str(CONFIGS / "single_error_at_low_traffic.yaml")
    done = run(path, "--rps", "34")
    assert re.search(r"aborted +0\.1665 \(0\.5703 if requests come at", done.stdout)
    says = "0.57 if requests come at random (0.167 at a steady rate)"
    assert f"a healthy release is stopped with a chance of {says}" in done.stdout
    assert "random" not in run(path, "--rps", "20").stdout


def test_a_reader_that_has_seen_enough_is_no_failure():
    with subprocess.Popen(
        [sys.executable, "-m", "deploylab.cli", "lint", str(CONFIGS)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=ROOT,
    ) as process:
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait() == 1


def test_json_has_the_documented_fields():
    done = run("--format", "json", str(CONFIGS / "docs_background.yaml"))
    report = json.loads(done.stdout)
    assert set(report) == {
        "format", "assumed", "gates", "findings", "unreadable", "notes",
    }  # fmt: skip
    (gate,) = report["gates"]
    assert set(gate["bad"]) == {
        "aborted", "waits", "promoted", "exposed", "seconds", "samples",
        "standard_errors",
    }  # fmt: skip
    assert set(gate["bad_at_random"]) == set(gate["bad"])
    assert {
        "rule",
        "name",
        "severity",
        "path",
        "line",
        "what",
        "why",
        "do",
        "page",
    } == set(report["findings"][0])


def test_linting_imports_nothing_of_the_serving_stack(tmp_path):
    """A file of 200 lines; what is slow to import stays out."""
    text = GOOD[0].read_text("utf-8")
    path = tmp_path / "long.yaml"
    path.write_text(text + "# filler\n" * (200 - text.count("\n")), "utf-8")
    program = (
        "import sys; from deploylab import cli; "
        f"status = cli.main(['lint', {str(path)!r}]); "
        "print(sorted({name.split('.')[0] for name in sys.modules})); sys.exit(status)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=True,
    )
    imported = set(re.findall(r"'(\w+)'", done.stdout.splitlines()[-1]))
    heavy = {
        "flask", "sklearn", "pandas", "onnxruntime", "matplotlib", "scipy", "skops",
        "pydantic", "aiohttp", "nbformat", "nbclient", "mlflow", "gunicorn", "requests",
    }  # fmt: skip
    assert {"yaml", "numpy"} <= imported
    assert not imported & heavy


def test_the_page_has_every_option_and_every_field():
    for option in ("--rps", "--healthy", "--bad", "--scrape", "--person", "--fail-on",
                   "--format json", "--skip-others"):  # fmt: skip
        assert f"`{option}" in PAGE
    report = json.loads(as_json(lint([str(CONFIGS / "overlapping_windows.yaml")])))
    gate, finding = report["gates"][0], report["findings"][0]
    for field in (*report, *gate, *gate["bad"], *finding):
        assert f"`{field}`" in PAGE, field
    readme = (ROOT / "README.md").read_text("utf-8")
    assert "book/strategies/lint-your-gates.md" in readme


def test_the_pre_commit_hook_names_the_command():
    (hook,) = yaml.safe_load((ROOT / ".pre-commit-hooks.yaml").read_text("utf-8"))
    assert hook["entry"].split() == ["deploylab", "lint", "--skip-others"]
    assert hook["pass_filenames"] is False
    assert cli.main(["lint", "--skip-others", str(ROOT / "tests" / "golden")]) == 0
