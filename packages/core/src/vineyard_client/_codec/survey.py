"""Look through a whole value for what is refused, not only for the first: for errors, and for ``explain``.

Strategy: the value is written once more, to nowhere, by a writer that takes note of what is refused and goes on: what
lacks permission is treated as if it had it, so that what is behind it shows as well, above all a wall, where permission
leads nowhere; what can never be stored is left out. Bounded in what it finds and in how far it walks.
"""

from __future__ import annotations

import itertools
import pickle
from typing import Any, Dict, List, NamedTuple, Sequence, Set, Tuple

from vineyard_client.exceptions import UnsafeType, VineyardError

from . import locate
from .ops import MAKE, Op
from .outside import from_outside
from .policy import Policy, is_standard, qualified
from .remedies import advice
from .writer import Writer

__all__ = ["Finding", "Survey", "explained", "hint_for", "patterns_for", "place_of", "survey"]

_MOST_FOUND = 100
_MOST_SHOWN = 20
_MOST_WALKED = 200_000
_SEEN = MAKE, ("seen",)


class Finding(NamedTuple):
    """A class or function that was refused.

    Args:
        name: its full name.
        why: the reason, as a sentence without its end.
        hint: what to do.
        pattern: what would allow it; empty if nothing does, or if that is not the remedy.
        exact: whether only its exact name does.
        value: what it was met on.
    """

    name: str
    why: str
    hint: str
    pattern: str
    exact: bool
    value: Any


class Survey(NamedTuple):
    """What a walk through a value found.

    Args:
        findings: what was refused, in the order in which it was met.
        types: full names of the types that arrive as they are, as far as they were met, and how often.
        complete: whether the walk came to an end.
    """

    findings: List[Finding]
    types: Dict[str, int]
    complete: bool


class _Enough(Exception):
    """The walk was long enough."""


class _Surveyor(Writer):
    def __init__(self, policy: Policy) -> None:
        super().__init__(policy)
        self.findings: Dict[str, Finding] = {}
        self.types: Dict[str, int] = {}
        self.walked = 0
        self._current: List[Any] = []

    def name_of(self, thing: Any) -> Tuple[str, str]:
        """Take note of what is refused, and go on as if it were not, where permission would help."""
        try:
            return super().name_of(thing)
        except UnsafeType as exc:
            if not self.note(exc, self._met_on(thing), exact=not isinstance(thing, type) or is_standard(exc.name)):
                raise
            self._names[thing] = "", ""
            return "", ""

    def passive_name_of(self, cls: type) -> Tuple[str, str]:
        """Take note of a class that readers would not find."""
        try:
            return super().passive_name_of(cls)
        except UnsafeType as exc:
            self.note(exc, self._met_on(cls))
            raise

    def _met_on(self, thing: Any) -> Any:
        return self._current[-1] if self._current else thing

    def reduce(self, value: Any) -> Any:
        """Write on, whatever is refused."""
        self.walked += 1
        if self.walked > _MOST_WALKED:
            raise _Enough
        name = qualified(type(value))
        before = len(self.findings)
        self._current.append(value)
        try:
            reduced = super().reduce(value)
        except UnsafeType as exc:
            self.note(exc, value)
            return _SEEN
        finally:
            self._current.pop()
        if before == len(self.findings) and name not in self.findings and type(value) is not Op:
            self.types[name] = self.types.get(name, 0) + 1
        return reduced

    def note(self, exc: UnsafeType, value: Any, *, exact: bool = False) -> bool:
        """Keep what was refused, once for each name; tell whether permission would help."""
        name = exc.name or qualified(type(value))
        known = self.findings.get(name)
        if known is None or (known.pattern and not exc.patterns):  # permission was given, and there was a wall behind
            better = advice(value)
            pattern = exc.patterns[0] if exc.patterns and better is None else ""
            known = self.findings[name] = Finding(
                name, self._why(exc, value), better or exc.hint, pattern, exact, value
            )
            if len(self.findings) >= _MOST_FOUND:
                raise _Enough
        return bool(known.pattern)

    def _why(self, exc: UnsafeType, value: Any) -> str:
        why = _reason(exc)
        if exc.patterns and qualified(type(value)) == exc.name:
            passive = self.policy.why_not_passive(type(value))
            return f"{why}, and {passive}" if passive else why
        return why


def _reason(exc: UnsafeType) -> str:
    for sentence in (" may not be stored or read: ", " cannot be stored: ", " may not be stored: "):
        if sentence in exc.what:
            return exc.what.split(sentence, 1)[1].rstrip(".")
    return exc.what.rstrip(".")


class _Nowhere:
    def write(self, data: Any) -> int:
        return len(data)


class _Pickler(pickle.Pickler):
    def __init__(self, surveyor: _Surveyor) -> None:
        super().__init__(_Nowhere(), protocol=5, buffer_callback=lambda buffer: False)
        self.reducer_override = surveyor.reduce  # type: ignore[method-assign]


def survey(value: Any, policy: Policy) -> Survey:
    """Walk through a value and return what is refused in it."""
    surveyor = _Surveyor(policy)
    pickler = _Pickler(surveyor)
    complete = False
    try:
        pickler.dump(value)
        complete = True
    except _Enough:
        pass
    except (VineyardError, RecursionError, pickle.PicklingError, ValueError, TypeError) as exc:
        if from_outside(exc):
            raise
        # What it was has been noted, or is what the writer itself says.
    finally:
        pickler.clear_memo()
        surveyor.finish.clear()
    return Survey(list(surveyor.findings.values()), surveyor.types, complete)


def place_of(root: Any, finding: Finding) -> str:
    """Return where a finding sits in a value, an empty text if that is not known."""
    try:
        where = locate.path(root, finding.value)
    except Exception as exc:
        if from_outside(exc):
            raise
        return ""  # a container of the caller's own that cannot be walked; what was refused is known all the same
    return "" if finding.value is root else where


def patterns_for(findings: Sequence[Finding]) -> Tuple[str, ...]:
    """Return the fewest patterns that allow what was found: one for each package, exact names where they have to be."""
    patterns: Set[str] = set()
    by_package: Dict[str, List[Finding]] = {}
    for finding in findings:
        if finding.pattern and finding.exact:
            patterns.add(finding.pattern)
        elif finding.pattern:
            by_package.setdefault(finding.name.partition(".")[0], []).append(finding)
    for together in by_package.values():
        if len(together) == 1:
            patterns.add(together[0].pattern)
        else:
            paths = [finding.name.partition("[")[0].split(".")[:-1] for finding in together]
            common = [parts[0] for parts in itertools.takewhile(lambda parts: len(set(parts)) == 1, zip(*paths))]
            patterns.add(".".join([*common, "*"]))
    return tuple(sorted(patterns))


def explained(error: UnsafeType, value: Any, policy: Policy) -> UnsafeType:
    """Return the error for a value that was refused, with everything in it that is, and what to do about all of it.

    Args:
        error: what was raised when the first thing was refused.
        value: the whole value.
        policy: what it was judged by.
    """
    findings = survey(value, policy).findings
    findings.sort(key=lambda finding: finding.name != error.name)
    if not findings:
        return error
    first = findings[0]
    what = error.what
    if first.pattern:
        what = f"{first.name} may not be stored or read: {first.why}."
    elif first.why not in what:
        what = f"A {first.name} cannot be stored: {first.why}."
    where = place_of(value, first)
    what += f" It sits at {where}." if where else ""
    if findings[1:]:
        shown = [_shortly(value, finding) for finding in findings[1 : _MOST_SHOWN + 1]]
        more = len(findings) - 1 - len(shown)
        what += f" Refused as well: {', '.join(shown)}{f' and {more} more' if more else ''}."
    patterns = patterns_for(findings)
    return UnsafeType(what, hint_for(findings, patterns), first.name, patterns, [finding.name for finding in findings])


def hint_for(findings: Sequence[Finding], patterns: Sequence[str]) -> str:
    """Say what to do about everything that was found."""
    hints = [
        finding.hint if len(findings) == 1 else f"{finding.name}: {finding.hint}"
        for finding in findings
        if not finding.pattern
    ]
    del hints[_MOST_SHOWN:]
    if patterns:
        quoted = ", ".join(f'"{pattern}"' for pattern in patterns)
        allow = f"Allow {'it' if len(findings) == 1 else 'them'} where it is written and where it is read: "
        functions = [finding.name for finding in findings if finding.pattern and "function" in finding.why]
        harm = f" {', '.join(functions)} may then be called with any arguments." if functions else ""
        hints.insert(0, f"{allow}allowed_classes=[{quoted}].{harm}")
    return " ".join(hints)


def _shortly(value: Any, finding: Finding) -> str:
    where = place_of(value, finding)
    return f"{finding.name} (at {where})" if where else finding.name
