"""The checker on the page about contracts, against every request there is."""

import itertools
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pages import Page

from deploylab.contract import Contract, ContractError, Feature

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def page() -> dict:
    """What the page's cells define that hold the checker."""
    names: dict = {}
    for cell in Page(ROOT, "book/serving/contracts").cells:
        if "def beyond(" in cell.source or "def breaks(" in cell.source:
            exec(cell.source, names)
    return names


VALUES = st.lists(st.sampled_from([0, 0.5, 1]), min_size=1, unique=True)
CONTRACTS = st.dictionaries(st.sampled_from("abc"), VALUES, min_size=1).map(
    lambda lists: Contract(
        "any", tuple(Feature(name, tuple(v), name) for name, v in lists.items())
    )
)


def refuses(reader: Contract, writer: Contract) -> bool:
    for row in itertools.product(*(f.values for f in writer.features)):
        try:
            reader.row(dict(zip(writer.names, row, strict=True)))
        except ContractError:
            return True
    return False


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(writer=CONTRACTS, reader=CONTRACTS)
def test_it_says_breaks_exactly_when_a_request_is_refused(page, writer, reader):
    found = page["breaks"](page["requests_of"](writer), page["requests_of"](reader))
    assert bool(found) == refuses(reader, writer)


@pytest.mark.parametrize(
    ("wrote", "reads", "breaks"),
    [
        ({"minimum": 0, "maximum": 1}, {"minimum": 0, "maximum": 1}, False),
        ({"minimum": 0, "maximum": 1}, {"minimum": 0}, False),
        ({"minimum": 0}, {"minimum": 0, "maximum": 1}, True),
        ({"minimum": -1}, {"minimum": 0}, True),
        ({}, {"enum": [0, 1]}, True),
        ({"enum": [0]}, {"enum": [0, 1]}, False),
        ({"enum": [0, 2]}, {"enum": [0, 1]}, True),
    ],
)
def test_a_field_breaks_if_it_may_hold_more_than_is_read(page, wrote, reads, breaks):
    number = {"type": "number"}
    assert bool(page["beyond"](number | wrote, number | reads)) == breaks


def test_a_rule_that_it_cannot_read_is_an_error_and_not_a_pass(page):
    with pytest.raises(ValueError, match="cannot read"):
        page["beyond"]({"type": "string"}, {"type": "string", "pattern": "a+"})
