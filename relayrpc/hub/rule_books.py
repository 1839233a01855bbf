"""
The rules of contracts, ready to check requests by. Pure.

A contract may be large: what takes time is done in steps, when a call first asks for it.
Owns: what is kept ready. Does not own: checking (contract/validation.py), which calls are checked
(checks.py), which descriptors there are (contracts.py).
Source: docs/adr/0024-validation-at-the-hub.md.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from google.protobuf.message import DecodeError
from google.protobuf.message_factory import GetMessageClass

from relayrpc.contract.rules import Refusal, has_rules
from relayrpc.contract.standard import standard_pool
from relayrpc.errors import ContractError
from relayrpc.link.call import STATUS_INTERNAL, STATUS_INVALID_ARGUMENT


if TYPE_CHECKING:
    from google.protobuf.descriptor import Descriptor
    from google.protobuf.descriptor_pool import DescriptorPool

    from relayrpc.contract.descriptors import DescriptorSet
    from relayrpc.contract.validation import Validator


__all__ = ["MethodRules", "RuleBooks"]


class MethodRules:
    """The rules for the requests of one method. `prepare()` until `is_ready`."""

    __slots__ = ("_book", "_fault", "_name", "_type", "is_ready")

    def __init__(self, book: _Book, name: str) -> None:
        """
        Args:
            book: Of its contract.
            name: Its full name, with a dot before the method's.
        """
        self._book = book
        self._name = name
        self.is_ready = False
        # None: the requests have no rules.
        self._type: Any = None
        # Why the rules cannot be used.
        self._fault: Refusal | None = None

    @property
    def has_none(self) -> bool:
        """Say whether it is known that any request will do."""
        return self.is_ready and self._type is None and self._fault is None

    def prepare(self) -> None:
        """Take one step."""
        if self._book.load_some():
            return
        self.is_ready = True
        descriptor = self._book.request_of(self._name)
        if descriptor is None:
            return
        # Not before it is known that there is such a method: callers may make up any number.
        self._book.methods[self._name] = self
        if has_rules(descriptor):
            request_type = GetMessageClass(descriptor)
            try:
                self._book.validator.prepare(request_type)
                self._type = request_type
            except ContractError as error:
                self._fault = Refusal(STATUS_INTERNAL, str(error))

    def check(self, data: bytes) -> Refusal | None:
        """Check a request; None: it keeps to the rules. Only when `is_ready`."""
        if self._type is None:
            return self._fault
        try:
            message = self._type.FromString(data)
        except DecodeError:
            name = self._type.DESCRIPTOR.full_name
            return Refusal(STATUS_INVALID_ARGUMENT, f"the request is no {name}")
        return self._book.validator.check(message, len(data))


class _Book:
    """The rules of one contract."""

    def __init__(self, descriptors: DescriptorSet, validator: Validator) -> None:
        self.validator = validator
        self.size_bytes = len(descriptors.data)
        self._pool: DescriptorPool = standard_pool()
        # None: all of them are loaded.
        self._files: Iterator[bytes] | None = descriptors.files()
        # By full name, those that are ready.
        self.methods: dict[str, MethodRules] = {}

    def of(self, method: str) -> MethodRules:
        """Return the rules of "pkg.Service/Method"."""
        name = method.replace("/", ".")
        found = self.methods.get(name)
        if found is None:
            found = MethodRules(self, name)
            found.is_ready = self._files is None and self.request_of(name) is None
        return found

    def load_some(self) -> bool:
        """Load one file; False: all of them are."""
        if self._files is None:
            return False
        data = next(self._files, None)
        if data is None:
            self._files = None
            return False
        self._pool.AddSerializedFile(data)
        return True

    def request_of(self, name: str) -> Descriptor | None:
        """Return the type that a method takes; None: there is no such method."""
        try:
            return self._pool.FindMethodByName(name).input_type
        except KeyError:
            return None


class RuleBooks:
    """The rules of all contracts that are used, those used last."""

    def __init__(
        self,
        *,
        descriptors: Callable[[bytes], DescriptorSet | None],
        validator: Validator,
        bytes_max: int,
    ) -> None:
        """
        Args:
            descriptors: Returns those of a fingerprint that are in memory.
            validator: Checks messages.
            bytes_max: Descriptors of so many bytes are kept ready, at least one contract's.
        """
        self._descriptors = descriptors
        self._validator = validator
        self._bytes_max = bytes_max
        self._kept_bytes = 0
        # By fingerprint, the one used last at the end.
        self._books: OrderedDict[bytes, _Book] = OrderedDict()

    def find(self, fingerprint: bytes, method: str) -> MethodRules | None:
        """Return the rules of "pkg.Service/Method"; None: its contract is not known here."""
        book = self._books.get(fingerprint)
        if book is None:
            descriptors = self._descriptors(fingerprint)
            if descriptors is None:
                return None
            book = self._books[fingerprint] = _Book(descriptors, self._validator)
            self._kept_bytes += book.size_bytes
            while self._kept_bytes > self._bytes_max and len(self._books) > 1:
                _, gone = self._books.popitem(last=False)
                self._kept_bytes -= gone.size_bytes
        self._books.move_to_end(fingerprint)
        return book.of(method)
