"""
Whether a caller's version of a contract fits what hosts serve.

Owns: comparing it, at most so many at a time, and remembering what came of it. Does not own: which
versions there are (contracts.py, registry.py), how the caller is told (contract_queries.py).
Source: docs/adr/0021-contract-registry.md; hub.proto, CheckContract.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from relayrpc.contract.compatibility import Comparison, Level
from relayrpc.contract.descriptors import DescriptorSet
from relayrpc.errors import ContractError
from relayrpc.hub.addresses import Compatibility
from relayrpc.hub.steps import in_steps
from relayrpc.v1 import hub_pb2 as pb


if TYPE_CHECKING:
    from relayrpc.hub.contracts import HubContracts
    from relayrpc.hub.routing import Place
    from relayrpc.limits import Limits


__all__ = ["DIFFERENCES_MAX", "CallerChecks", "TooManyChecksError"]

DIFFERENCES_MAX: Final = 8
"""Differences that a caller is told; more of them say nothing new."""

_Answer = pb.CheckContractResponse


@dataclass(frozen=True, slots=True)
class _Question:
    """What is compared."""

    fingerprint: bytes
    """The caller's."""
    served: bytes
    """The hosts'."""
    service: str
    level: Level


class TooManyChecksError(Exception):
    """As many are waiting as may."""


class CallerChecks:
    """The checks of one hub."""

    def __init__(self, contracts: HubContracts, limits: Limits) -> None:
        """
        Args:
            contracts: Of the hub.
            limits: `contract_checks_max` and `contract_verdicts_max` count here.
        """
        self._contracts = contracts
        self._registry = contracts.registry
        self._limits = replace(limits, contract_differences_max=DIFFERENCES_MAX)
        # What came of it, the oldest first.
        self._known: dict[_Question, _Answer] = {}
        self._waiting_count = 0

    async def check(self, place: Place, request: pb.CheckContractRequest) -> _Answer:
        """
        Compare a caller's version with what is served at a place.

        Raises:
            ContractError: Nothing is known of what is served.
            ValueError: The caller's descriptors cannot be used; the text says why.
            TooManyChecksError: There are too many already.
        """
        fingerprint = request.fingerprint
        if self._registry.is_served(place, fingerprint):
            return _Answer(answer=_Answer.ANSWER_SAME, fingerprint=fingerprint)
        compatibility = self._registry.rules(place[0]).compatibility
        if compatibility is Compatibility.NONE:
            return _Answer(answer=_Answer.ANSWER_COMPATIBLE)
        level = Level(compatibility)
        if any(fingerprint == held for held, _ in self._registry.history.held(place, level)):
            # Whatever is served there was compared with it, or it with that.
            return _Answer(answer=_Answer.ANSWER_COMPATIBLE)
        served = await self._contracts.find(place[0], place[1])
        question = _Question(fingerprint, served.fingerprint, place[1], level)
        answer = self._known.get(question)
        if answer is None:
            answer = await self._ask(question, request.descriptor_set, served)
        return answer

    async def _ask(self, question: _Question, sent: bytes, served: DescriptorSet) -> _Answer:
        """Find the caller's descriptors, and compare them when it is their turn."""
        if self._waiting_count >= self._limits.contract_checks_max:
            raise TooManyChecksError(f"{self._waiting_count} contracts are being compared")
        self._waiting_count += 1
        try:
            held = await self._registry.find(question.fingerprint)
            if held is None:
                if not sent:
                    return _Answer(answer=_Answer.ANSWER_SEND_DESCRIPTORS)
                held = DescriptorSet(sent)
                if held.fingerprint != question.fingerprint:
                    other = held.fingerprint.hex()
                    raise ValueError(f"the descriptors have the fingerprint {other}")
            async with self._contracts.checking:
                # Callers of a fleet ask at once, and those before may have been answered by now.
                answer = self._known.get(question)
                if answer is None:
                    answer = await self._compare(held, served, question)
                    self._remember(question, answer)
                return answer
        except ContractError as error:
            raise ValueError(str(error)) from error
        finally:
            self._waiting_count -= 1

    async def _compare(
        self, held: DescriptorSet, served: DescriptorSet, question: _Question
    ) -> _Answer:
        service = question.service
        if not held.services:
            await in_steps(held.check(self._limits))
        if service not in held.services:
            raise ValueError(f"the descriptors do not define {service!r}")
        comparison = Comparison(held, served, service, level=question.level)
        await in_steps(comparison.check(self._limits))
        return _Answer(
            answer=(
                _Answer.ANSWER_INCOMPATIBLE
                if comparison.differences
                else _Answer.ANSWER_COMPATIBLE
            ),
            fingerprint=served.fingerprint,
            differences=[
                pb.ContractDifference(
                    rule=each.rule, element=each.what, file=each.file, text=each.text
                )
                for each in comparison.differences
            ],
        )

    def _remember(self, question: _Question, answer: _Answer) -> None:
        self._known[question] = answer
        if len(self._known) > self._limits.contract_verdicts_max:
            del self._known[next(iter(self._known))]
