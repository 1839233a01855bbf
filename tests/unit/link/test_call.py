"""
The state of a call. Goal: exactly what link.proto calls legal is legal. Method: the table against
the rules said once more in other words, for every state and input, and along random walks.
"""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relayrpc.link.call import (
    NEXT_STATE,
    NO_STATE,
    RETRY_PUSHBACK_KEY,
    STATUS_UNAVAILABLE,
    STATUS_UNKNOWN,
    TRANSITIONS,
    CallInput,
    CallOutcome,
    CallState,
    make_end,
)
from relayrpc.v1 import link_pb2 as pb


class Rules:
    """One end of a call, by the sentences of link.proto."""

    def __init__(self, *, is_opener: bool) -> None:
        self.is_opener = is_opener
        self.has_half_close = False
        """The opener has said that it sends no more."""
        self.has_begun = False
        """Initial metadata or response data has passed."""
        self.is_over = False

    def take(self, act: CallInput) -> bool:
        """Let something happen; False when it must not."""
        sent, _, what = act.name.partition("_")
        is_of_opener = (sent == "SEND") == self.is_opener
        if self.is_over:
            return False
        if what == "GRANT":
            # "Goes either way for as long as the call lives."
            return True
        if what == "DATA":
            if is_of_opener:
                return not self.has_half_close
            self.has_begun = True
            return True
        if what == "HALF_CLOSE":
            if not is_of_opener or self.has_half_close:
                return False
            self.has_half_close = True
            return True
        if what == "BEGIN":
            if is_of_opener or self.has_begun:
                return False
            self.has_begun = True
            return True
        # END is the responder's, CANCEL the opener's.
        if is_of_opener != (what == "CANCEL"):
            return False
        self.is_over = True
        return True

    @property
    def state(self) -> CallState:
        if self.is_over:
            return CallState.ENDED
        first = (
            (CallState.AWAITING if self.has_half_close else CallState.CALLING)
            if self.is_opener
            else (CallState.ANSWERING if self.has_half_close else CallState.SERVING)
        )
        return CallState(first + self.has_begun)


def all_rules() -> list[Rules]:
    made = []
    for is_opener, half_close, begun, over in itertools.product((True, False), repeat=4):
        rules = Rules(is_opener=is_opener)
        rules.has_half_close, rules.has_begun, rules.is_over = half_close, begun, over
        made.append(rules)
    return made


@pytest.mark.parametrize("act", CallInput, ids=lambda act: act.name)
def test_input_is_legal_in_exactly_the_states_of_the_rules(act: CallInput) -> None:
    seen = set()
    for rules in all_rules():
        before = rules.state
        seen.add(before)
        expected = rules.state if rules.take(act) else None
        assert TRANSITIONS.get((before, act)) == (None if expected is None else rules.state)
    assert seen == set(CallState)


@given(st.booleans(), st.lists(st.sampled_from(CallInput), max_size=12))
def test_call_follows_the_rules_whatever_happens(is_opener: bool, acts: list[CallInput]) -> None:
    rules = Rules(is_opener=is_opener)
    state = int(rules.state)
    for act in acts:
        after = NEXT_STATE[state][act]
        assert (after != NO_STATE) == rules.take(act)
        state = state if after == NO_STATE else after
        assert state == rules.state


def test_end_with_numbers_of_the_future_is_read_as_unknown_and_the_host_s() -> None:
    end = pb.End(status=99, details="d", origin=7)  # type: ignore[arg-type]
    outcome = CallOutcome.from_end(end)
    assert (outcome.status, outcome.origin, outcome.may_have_executed) == (
        STATUS_UNKNOWN,
        "host",
        True,
    )


def test_end_made_here_is_read_back() -> None:
    frame = make_end(
        STATUS_UNAVAILABLE, "gone", origin=pb.End.ORIGIN_HUB, not_executed=True
    )
    assert CallOutcome.from_end(frame.end) == CallOutcome(
        STATUS_UNAVAILABLE, "gone", (), "hub", may_have_executed=False
    )


def test_end_of_a_call_that_met_a_bound_says_when_to_call_again() -> None:
    frame = make_end(
        STATUS_UNAVAILABLE, "full", origin=pb.End.ORIGIN_HUB, retry_after_s=0.25
    )
    outcome = CallOutcome.from_end(frame.end)
    assert outcome.trailing_metadata == ((RETRY_PUSHBACK_KEY, b"250"),)
