"""The official test suite through the grammars that are really compiled (over single bytes)."""

from __future__ import annotations

from collections import Counter

from suite import Outcome, outcomes
from test_schema_suite import DIFFERENT

# Valid instances that the grammar does not write so. A model is never kept from saying what they
# say: keys come in the order declared, whole numbers without a point; what a schema does not
# declare is left out unless it says that more is allowed.
SPELLINGS = {"key order": 7, "1.0 for an integer": 8, "undeclared keys": 10}


def name(outcome: Outcome) -> str:
    return f"{outcome.group.keyword}: {outcome.group.description}: {outcome.case.description}"


def test_the_suite_through_grammar_and_validation() -> None:
    found = list(outcomes())
    # No invalid instance comes through, and what the grammar cannot say is reported.
    assert [name(o) for o in found if o.verdict == "leak"] == []
    assert [name(o) for o in found if not o.reported] == []
    # No valid one is lost but by its spelling, and where validation itself differs.
    assert {name(o) for o in found if o.verdict == "lost"} == set(DIFFERENT)
    assert Counter(o.spelling for o in found if o.verdict == "spelling") == SPELLINGS
    assert Counter(o.verdict for o in found) == {
        "accepted": 801,
        "grammar": 505,
        "validation": 106,
        "spelling": sum(SPELLINGS.values()),
        "refused": 48,
        "lost": len(DIFFERENT),
    }
