"""
Requests that a hub checks by the rules in their contract before a host has them. Pure.

What one link brings is checked in its order, one link after the other, a bounded part in each turn;
until then it waits here. Owns: which calls are checked, and in what order. Does not own: what
becomes of a call (placing.py, forward.py), rules (rule_books.py).
Source: docs/adr/0024-validation-at-the-hub.md; docs/reference/validation.md "At the hub".
"""

from __future__ import annotations

from collections import Counter, OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto
from typing import TYPE_CHECKING, Any, Final

from relayrpc.contract.address import services_of
from relayrpc.contract.rules import Refusal
from relayrpc.errors import FrameTooLargeError
from relayrpc.link.call import (
    STATUS_FAILED_PRECONDITION,
    STATUS_RESOURCE_EXHAUSTED,
    STATUS_UNAVAILABLE,
)
from relayrpc.link.messages import MessageReader


if TYPE_CHECKING:
    from relayrpc.hub.routing import Registration
    from relayrpc.hub.rule_books import MethodRules, RuleBooks
    from relayrpc.limits import Limits
    from relayrpc.link.call import Call


__all__ = ["Outcome", "Part", "RequestChecks"]

# What one turn has time for, about a millisecond of ordinary rules; at least one message.
_TURN_MESSAGES: Final = 32
_TURN_BYTES: Final = 16 * 1024
# What making rules ready counts as, each step.
_STEP_MESSAGES: Final = 16
# Counted for each part that waits, beside its bytes.
_PART_BYTES: Final = 256

_HOST_WENT: Final = "its host went, and the hub checks the requests of the next one"


class Part(Enum):
    """What of a call waits."""

    OPEN = auto()
    """The whole of it: no host has it yet."""
    DATA = auto()
    END = auto()
    """That no more requests come."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What becomes of a part that waited."""

    call: Call
    """The leg that it came on."""
    part: Part
    data: bytes
    refusal: Refusal | None
    """Why the call is to be ended; None: the part may go on."""


class _Checked:
    """A call whose requests are checked, or have been."""

    __slots__ = (
        "call",
        "held_bytes",
        "is_over",
        "reader",
        "rules",
        "waiting_bytes",
        "waiting_count",
    )

    def __init__(self, call: Call, rules: MethodRules | None, bytes_max: int) -> None:
        self.call = call
        # None: it only waits for those before it.
        self.rules = rules
        self.reader = MessageReader(bytes_max)
        self.waiting_count = 0
        self.waiting_bytes = 0
        # What counts for it in the bound of all.
        self.held_bytes = 0
        self.is_over = False


@dataclass(eq=False, slots=True)
class _Waiting:
    """A part of a call."""

    checked: _Checked
    part: Part
    data: bytes
    messages: deque[bytes]
    """Those that are whole with it, and not checked yet."""
    anchor: Call | None = None
    """What its call belongs to."""


class RequestChecks:
    """
    All calls of one hub that are checked.

    Attributes:
        woken: Called when something waits after nothing did: `check_some()` is to be called soon.
    """

    def __init__(
        self, *, is_checked: Callable[[str], bool], books: RuleBooks, limits: Limits
    ) -> None:
        """
        Args:
            is_checked: Says whether calls to an address are.
            books: Of the contracts.
            limits: `checked_*` count here.
        """
        self.woken: Callable[[], None] = lambda: None
        self._is_checked = is_checked
        self._books = books
        self._limits = limits
        # By the leg that they came on, until they are over.
        self._calls: dict[Call, _Checked] = {}
        # What waits, by the id of the link that brought it, the one whose turn it is first.
        self._waiting: OrderedDict[bytes, deque[_Waiting]] = OrderedDict()
        # Calls that others belong to of which something waits, with how many parts.
        self._anchors: Counter[Call] = Counter()
        self._held_bytes = 0

    # --- what comes ---

    def opened(
        self, call: Call, host: Registration, data: bytes, *, has_order: bool
    ) -> Refusal | bool:
        """
        Take a call that is about to be handed to a host, unless it was checked for another one.

        Args:
            call: The leg that it came on.
            host: Who is about to get it.
            data: What its OPEN holds.
            has_order: It is not to pass those that came before it on its link.

        Returns:
            Whether it waits, and an outcome will tell; or why it cannot.
        """
        known = self._calls.get(call)
        if known is not None and known.rules is not None:
            return False
        found = self._rules(call, host)
        if isinstance(found, Refusal):
            return found
        rules = None if found is None or found.has_none else found
        if known is not None:
            # It only waited for those before it, and nothing of it was looked at.
            return False if rules is None else Refusal(STATUS_UNAVAILABLE, _HOST_WENT)
        is_behind = has_order and _link_id(call) in self._waiting
        if rules is None and not is_behind:
            return False
        checked = _Checked(call, rules, self._limits.checked_message_bytes_max)
        self._calls[call] = checked
        return self._take(checked, Part.OPEN, data, is_behind=is_behind)

    def _rules(self, call: Call, host: Registration) -> MethodRules | Refusal | None:
        """Find the rules for a call; None: it is not to be checked."""
        if host.link.is_local or call.address.startswith("$"):
            return None
        name = call.method.partition("/")[0]
        address = next(address for address, service in host.places if service == name)
        if not (self._is_checked(call.address) or self._is_checked(address)):
            return None
        service = next(each for each in services_of(host.announce) if each.name == name)
        what = f"requests at {address!r} are checked here, and the contract of {name!r}"
        if not service.fingerprint:
            return Refusal(STATUS_FAILED_PRECONDITION, f"{what} is not known: its host has none")
        found = self._books.find(service.fingerprint, call.method)
        return found or Refusal(STATUS_UNAVAILABLE, f"{what} is not here yet")

    def data_received(self, call: Call, data: bytes) -> Refusal | bool:
        """
        Take bytes of a call that was let in.

        Returns:
            As `opened()`.
        """
        checked = self._calls.get(call)
        if checked is None:
            return False
        return self._take(checked, Part.DATA, data, is_behind=bool(checked.waiting_count))

    def half_closed(self, call: Call) -> bool:
        """
        Take note that no more requests come, or calls that belong to it; False: nothing waits
        before that.
        """
        checked = self._calls.get(call)
        if checked is None or not checked.waiting_count:
            if call not in self._anchors:
                return False
            checked = self._calls.setdefault(call, _Checked(call, None, 0))
        self._wait(_Waiting(checked, Part.END, b"", deque()))
        return True

    def forget(self, call: Call) -> None:
        """Take note that a call is over."""
        checked = self._calls.pop(call, None)
        if checked is not None:
            # What waits of it counts until its turn comes.
            checked.is_over = True
            self._count(checked)

    def _take(
        self, checked: _Checked, part: Part, data: bytes, *, is_behind: bool
    ) -> Refusal | bool:
        messages: deque[bytes] = deque()
        if checked.rules is not None:
            try:
                messages.extend(checked.reader.receive_data(data))
            except FrameTooLargeError as error:
                return Refusal(
                    STATUS_RESOURCE_EXHAUSTED,
                    f"a request of {error.detail['size_bytes']} bytes is over "
                    f"{error.detail['limit_bytes']}, up to which they are checked here",
                    is_passing=False,
                )
        is_waiting = is_behind or bool(messages)
        if is_waiting:
            self._wait(_Waiting(checked, part, data, messages))
        self._count(checked)
        bytes_max = self._limits.checked_bytes_max
        if self._held_bytes > bytes_max:
            return Refusal(
                STATUS_RESOURCE_EXHAUSTED,
                f"requests that are to be checked hold {bytes_max} bytes already",
            )
        return is_waiting

    def _wait(self, waiting: _Waiting) -> None:
        checked = waiting.checked
        link_id = _link_id(checked.call)
        checked.waiting_count += 1
        checked.waiting_bytes += len(waiting.data) + _PART_BYTES
        if not self._waiting:
            self.woken()
        if link_id not in self._waiting:
            self._waiting[link_id] = deque()
        self._waiting[link_id].append(waiting)
        waiting.anchor = checked.call.anchor
        if waiting.anchor is not None:
            self._anchors[waiting.anchor] += 1

    def _leave(self, waiting: _Waiting) -> None:
        checked = waiting.checked
        if waiting.anchor is not None:
            self._anchors[waiting.anchor] -= 1
            if not self._anchors[waiting.anchor]:
                del self._anchors[waiting.anchor]
        checked.waiting_count -= 1
        checked.waiting_bytes -= len(waiting.data) + _PART_BYTES
        self._count(checked)

    def _count(self, checked: _Checked) -> None:
        held_bytes = checked.waiting_bytes
        if not checked.is_over:
            held_bytes += checked.reader.declared_bytes
        self._held_bytes += held_bytes - checked.held_bytes
        checked.held_bytes = held_bytes

    # --- checking ---

    @property
    def has_waiting(self) -> bool:
        """True while something waits for `check_some()`."""
        return bool(self._waiting)

    def check_some(self) -> list[Outcome]:
        """
        Check as much as one turn has time for.

        Returns:
            What is to be done now, in this order. An outcome with a refusal is the last of its
            call: end it.
        """
        outcomes: list[Outcome] = []
        messages_left, bytes_left = _TURN_MESSAGES, _TURN_BYTES
        while self._waiting and messages_left > 0 and bytes_left > 0:
            link_id, parts = next(iter(self._waiting.items()))
            part = parts[0]
            count, size = self._step(part, outcomes)
            messages_left -= count
            bytes_left -= size
            if part.messages:
                # Others have their turn first.
                self._waiting.move_to_end(link_id)
                continue
            parts.popleft()
            if not parts:
                del self._waiting[link_id]
            elif count:
                # What is over takes no turn.
                self._waiting.move_to_end(link_id)
        return outcomes

    def _step(self, part: _Waiting, outcomes: list[Outcome]) -> tuple[int, int]:
        """
        Do some of what a part waits for.

        Returns:
            What that counts as: messages, and their bytes. Without messages left, the part is done.
        """
        checked = part.checked
        call = checked.call
        if checked.is_over:
            part.messages.clear()
            self._leave(part)
            return 0, 0
        rules = checked.rules
        refusal: Refusal | None = None
        size = 0
        if part.messages:
            assert rules is not None
            if not rules.is_ready:
                rules.prepare()
                return _STEP_MESSAGES, 0
            message = part.messages.popleft()
            size = len(message)
            refusal = rules.check(message)
        if refusal is not None:
            part.messages.clear()
        if not part.messages:
            self._leave(part)
            outcomes.append(Outcome(call, part.part, part.data, refusal))
            if refusal is not None:
                self.forget(call)
        return 1, size


def _link_id(call: Call) -> bytes:
    link: Any = call.link
    link_id: bytes = link.link_id
    return link_id
