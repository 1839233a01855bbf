"""
Credit that a hub passes on under the budgets of its links: which legs wait for some, and when they
get it. Pure.

A leg whose peer granted more than the budget of its link allowed to pass on is *starved*. It waits
without cost until its sender has used half of what it got; then it is *hungry*, and is served as
soon as its budget has something.
Owns: that. Does not own: budgets (link/flow.py), the legs (placing.py).
Source: LINK.md "Credit, budget, fairness"; docs/adr/0003-credit.md.
"""

from __future__ import annotations

from typing import TYPE_CHECKING


if TYPE_CHECKING:
    from relayrpc.link.call import Call
    from relayrpc.link.flow import Budget


__all__ = ["CreditDesk"]


class _Hungry:
    """Legs of one budget whose senders wait for credit, longest first."""

    __slots__ = ("legs", "releases_count")

    def __init__(self) -> None:
        self.legs: dict[Call, None] = {}
        # The budget's, when they got what there was; -1: that is to be seen.
        self.releases_count = -1


class CreditDesk:
    """All legs of one hub that were granted more than could be passed on."""

    def __init__(self) -> None:
        self.starved: dict[Call, None] = {}
        """Those that some credit is withheld for."""
        self._hungry: dict[Budget, _Hungry] = {}
        self.stalls_count = 0
        """How often credit had to wait for room in a budget."""

    def granted(self, leg: Call, credit_bytes: int) -> None:
        """The peer of a leg takes more: let the other end send it, as far as budget goes."""
        leg.withheld_bytes += credit_bytes
        if leg in self.starved:
            self.look(leg)
        elif not self._pass_withheld(leg):
            self.starve(leg)

    def starve(self, leg: Call) -> None:
        """Keep what could not be passed on, `leg.withheld_bytes`."""
        self.starved[leg] = None
        self.stalls_count += 1
        leg.fed_bytes = leg.app.receive_credit_bytes
        self.look(leg)

    def look(self, leg: Call) -> None:
        """See whether the sender towards a starved leg has used half of what it was given."""
        if leg.app.receive_credit_bytes * 2 > leg.fed_bytes:
            return
        budget = leg.link.budget
        assert budget is not None
        hungry = self._hungry.get(budget)
        if hungry is None:
            hungry = self._hungry[budget] = _Hungry()
        hungry.legs[leg] = None
        hungry.releases_count = -1

    def forget(self, leg: Call) -> None:
        """Take a leg out of those that wait."""
        self.starved.pop(leg, None)
        budget = leg.link.budget
        assert budget is not None
        hungry = self._hungry.get(budget)
        if hungry is not None:
            hungry.legs.pop(leg, None)
            if not hungry.legs:
                del self._hungry[budget]

    def take_back(self, leg: Call, other: Call) -> None:
        """Nothing more comes from the other end for this leg: its unused credit is free again."""
        budget = leg.link.budget
        assert budget is not None
        budget.release(leg, other.receive_credit_bytes)
        other.receive_credit_bytes = 0
        leg.withheld_bytes = 0
        if self.starved:
            self.forget(leg)

    def serve(self) -> None:
        """Pass on withheld credit where budgets have room again."""
        for budget, hungry in list(self._hungry.items()):
            if hungry.releases_count == budget.releases_count:
                # Nothing was given back since they got nothing.
                continue
            hungry.releases_count = budget.releases_count
            for leg in list(hungry.legs):
                before_bytes = leg.withheld_bytes
                if self._pass_withheld(leg):
                    self.forget(leg)
                elif leg.withheld_bytes < before_bytes:
                    leg.fed_bytes = leg.app.receive_credit_bytes
                    hungry.legs.pop(leg, None)
            if not hungry.legs:
                self._hungry.pop(budget, None)

    def _pass_withheld(self, leg: Call) -> bool:
        """Pass on what the budget allows; True when nothing is left to pass."""
        other: Call | None = leg.app
        if other is None or leg.is_ended or other.is_ended:
            # Over, if only in this batch: nothing is to be charged to it any more, and what is
            # granted to an ended leg would not come back.
            leg.withheld_bytes = 0
            return True
        budget = leg.link.budget
        assert budget is not None
        credit = budget.charge_credit(leg, leg.withheld_bytes)
        if credit:
            leg.withheld_bytes -= credit
            other.link.grant(other, credit)
            other.link.flush_soon()
        return not leg.withheld_bytes
