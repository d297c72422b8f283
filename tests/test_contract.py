"""The feature contract: what it lets in, what it refuses, and how it says so."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploylab.contract import Contract, ContractError, Feature
from deploylab.phishing import CONTRACT, CONTRACT_V3

GOOD = dict.fromkeys(CONTRACT.names, 0.0)


def refused(body: bytes | str) -> ContractError:
    with pytest.raises(ContractError) as caught:
        CONTRACT.parse(body)
    return caught.value


def test_a_good_row_comes_back_in_the_contracts_order():
    values = [0.0, 0.5, 1.0, 0.5, 0.0, 1.0, 0.5, 1.0]
    row = dict(zip(CONTRACT.names, values, strict=True))
    backwards = dict(reversed(row.items()))
    assert CONTRACT.parse(json.dumps(backwards)) == values
    assert CONTRACT.row(backwards) == values


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (None, "must be a number"),
        ("0.5", "must be a number"),
        (True, "must be a number"),
        ([0.5], "must be a number"),
        ({}, "must be a number"),
        (math.nan, "finite"),
        (math.inf, "finite"),
        (-math.inf, "finite"),
        (0.3, "not one of 0, 0.5, 1"),
        (-1, "not one of 0, 0.5, 1"),
        (10**30, "not one of 0, 0.5, 1"),
    ],
)
def test_a_bad_value_is_refused_by_name(value, says):
    error = refused(json.dumps({**GOOD, "https": value}))
    assert error.status == 422
    assert [p.field for p in error.problems] == ["https"]
    assert says in error.problems[0].problem


@pytest.mark.parametrize("name", CONTRACT.names)
def test_each_feature_is_required(name):
    error = refused(json.dumps({k: v for k, v in GOOD.items() if k != name}))
    assert [(p.field, p.problem) for p in error.problems] == [
        (name, "this feature is missing")
    ]


def test_an_unknown_feature_is_refused_and_named():
    error = refused(json.dumps({**GOOD, "age_of_domain": 1}))
    assert [p.field for p in error.problems] == ["age_of_domain"]


@pytest.mark.parametrize(
    "body",
    [b"", b"https=1", b"{", b"\xff\xfe", b"[" * 100_000, b'{"a":' * 100_000],
    ids=["empty", "form", "cut", "not UTF-8", "deep list", "deep object"],
)
def test_what_is_not_json_is_400(body):
    error = refused(body)
    assert error.status == 400
    assert error.problems[0].field == "body"


@pytest.mark.parametrize("body", [b"null", b"[]", b"3", b'"row"'])
def test_json_that_is_not_a_row_is_422(body):
    error = refused(body)
    assert error.status == 422
    assert "JSON object" in error.problems[0].problem


def test_an_answer_stays_short_however_long_the_request():
    many = {f"x{i}" + "y" * 500: 1 for i in range(5000)}
    error = refused(json.dumps(many))
    assert len(json.dumps(error.as_json())) < 5000


@given(st.binary(max_size=400))
def test_any_bytes_are_a_row_or_a_contract_error(body):
    refusal = None
    try:
        row = CONTRACT.parse(body)
    except ContractError as error:
        refusal = error
    if refusal is None:
        assert len(row) == 8
    else:
        assert refusal.status in (400, 422)
        assert refusal.problems


@given(st.lists(st.sampled_from([0.0, 0.5, 1.0]), min_size=7, max_size=7))
def test_every_row_of_codes_is_let_in(values):
    row = dict(zip(CONTRACT.names, [*values, 1.0], strict=True))
    assert CONTRACT.parse(json.dumps(row)) == [*values, 1.0]


def test_description_table_and_check_come_from_one_list():
    schema = CONTRACT.openapi("v1")["components"]["schemas"]["Row"]
    assert list(schema["properties"]) == CONTRACT.names == schema["required"]
    assert schema["additionalProperties"] is False
    table = {line["feature"]: line["allowed values"] for line in CONTRACT.table()}
    for feature in CONTRACT.features:
        described = schema["properties"][feature.name]["enum"]
        assert tuple(described) == feature.values
        assert table[feature.name] == ", ".join(f"{v:g}" for v in feature.values)
        for value in described:
            CONTRACT.parse(json.dumps({**GOOD, feature.name: value}))


def test_the_description_answers_for_every_status_of_the_service():
    answers = CONTRACT.openapi("v1")["paths"]["/predict"]["post"]["responses"]
    assert set(answers) == {"200", "400", "411", "413", "415", "422", "503"}


def test_a_contract_survives_the_way_through_json():
    text = json.dumps(CONTRACT_V3.as_json())
    again = Contract.from_json(json.loads(text))
    assert again == CONTRACT_V3
    assert again.digest == CONTRACT_V3.digest != CONTRACT.digest


def test_whole_numbers_and_floats_make_one_contract():
    one = Contract("c", (Feature("a", (0, 1), "x"),))
    other = Contract("c", (Feature("a", (0.0, 1.0), "x"),))
    assert one.digest == other.digest
