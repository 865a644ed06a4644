"""What would happen to a value, said beforehand and without a server: what arrives, and what to do about the rest.

``explain`` walks through the value as ``put`` would, and asks the same rules. It stores nothing and copies no large
buffer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Mapping, Sequence, Tuple

from . import _codec

__all__ = ["Explanation", "Refusal", "explain"]


@dataclass(frozen=True)
class Refusal:
    """A class or function that a value holds, and that would be refused.

    Args:
        name: its full name, ``module.qualname``.
        reason: why.
        where: where in the value it was met first, such as ``value['model'][3]``; empty if it is the value itself, or
            if that could not be found out.
        pattern: what in ``allowed_classes`` would let it through; empty if nothing would.
        remedy: what to do: the permission to give, or what to return instead.
    """

    name: str
    reason: str
    where: str
    pattern: str
    remedy: str


@dataclass(frozen=True)
class Explanation:
    """What would happen to a value; its text is for people.

    Args:
        type: the value's type.
        arrives: whether it arrives as it is, with the classes that were given as allowed.
        types: the types in it that arrive as they are, and how often each was met; Python's plain data is not counted.
        refusals: what would be refused.
        patterns: the fewest patterns that allow what can be allowed; if no refusal is left without one, the value
            arrives with them.
        complete: whether the whole value was looked at; there are limits.
    """

    type: str
    arrives: bool
    types: Mapping[str, int]
    refusals: Tuple[Refusal, ...]
    patterns: Tuple[str, ...]
    complete: bool

    def __str__(self) -> str:
        """Return one paragraph, and a line for each refusal."""
        if self.arrives:
            return f"A {self.type} arrives as it is."
        lines = [f"A {self.type} is refused."]
        if self.types:
            lines.append(f"As they are arrive: {', '.join(sorted(self.types))}.")
        if self.patterns:
            lines.append(f"These patterns in allowed_classes, where it is written and read: {' '.join(self.patterns)}")
        for refusal in self.refusals:
            place = f" (at {refusal.where})" if refusal.where else ""
            verdict = "needs permission" if refusal.pattern else "never"
            lines.append(f"{verdict}: {refusal.name}{place}: {refusal.reason}. {refusal.remedy}")
        if not self.complete:
            lines.append("Not all of it was looked at: there may be more.")
        return "\n".join(lines)


def explain(value: object, *, allowed_classes: Sequence[str] = (), passive_classes: bool = True) -> Explanation:
    """Say what would happen to a value, without a server: what arrives, what needs permission, and what never does.

    Args:
        value: anything; it is taken apart as ``put`` takes it apart, and not changed.
        allowed_classes: patterns of classes that the value may hold, as for ``connect``.
        passive_classes: whether dataclasses, named tuples and their like need no permission; see ``connect``.

    Returns:
        The answer; print it, or look at its attributes.

    Raises:
        UnsafeType: a pattern that would allow too much.
    """
    found = _codec.examine(value, allowed_classes=allowed_classes, passive_classes=passive_classes)
    refusals = tuple(Refusal(*refusal) for refusal in found.refusals)
    return Explanation(found.type_name, found.arrives, found.types, refusals, found.patterns, found.complete)
