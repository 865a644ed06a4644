"""Which classes of the caller's own may be stored and read back, and which never.

Types of Python and of the supported libraries need no permission: adapters rebuild them from validated parts. Every
other class must be allowed by a pattern, ``fnmatch`` style, on ``module.qualname``. The order of the rules:

1. Never, whatever the patterns say: classes of modules whose purpose is to run, open, load or import things
   (``NEVER``), classes derived from those that run or load, metaclasses, modules called ``__main__`` inside a package.
2. A pattern begins with the full name of a top-level package, spelt out: ``"*"`` and ``"my*.models"`` are refused when
   they are given, not quietly ignored. So a pattern cannot reach further than the packages that somebody wrote down.
3. A class of Python's standard library is allowed only by its exact name, without a wildcard.
4. A function (a pickling helper that ``__reduce__`` of an allowed class names) is allowed only by its exact name. It
may    then be called with any arguments by whoever can write to the store.
   The same holds for importing: a wildcard over a package lets whoever can write to the store have any module of it
   imported.
5. The object found must *be* what the name says: ``mypkg.models.Popen``, imported there from ``subprocess``, is
   ``subprocess.Popen`` and judged as such. Between module and class only classes are walked through.

The same object answers while writing and while reading, so what ``put`` accepts ``get`` accepts with the same patterns.
"""

from __future__ import annotations

import functools
import importlib
import os
import re
import sys
import types
from fnmatch import translate
from typing import Any, Iterable, List, Tuple

from vineyard_client.exceptions import UnsafeType

from .outside import from_outside

__all__ = ["Policy", "is_function", "is_standard", "lookup", "names_of", "pattern_of", "policy_for", "qualified"]

# Top-level modules whose classes and functions run, open, load or reach for things.
NEVER = frozenset(
    [
        "_ast",
        "_asyncio",
        "_ctypes",
        "_frozen_importlib",
        "_frozen_importlib_external",
        "_imp",
        "_io",
        "_multiprocessing",
        "_operator",
        "_pickle",
        "_posixsubprocess",
        "_socket",
        "_ssl",
        "_thread",
        "_weakref",
        "_winapi",
        "asyncio",
        "bdb",
        "builtins",
        "cProfile",
        "cmd",
        "code",
        "codecs",
        "_codecs",
        "codeop",
        "concurrent",
        "copyreg",
        "ctypes",
        "dbm",
        "distutils",
        "doctest",
        "ensurepip",
        "fileinput",
        "ftplib",
        "functools",
        "_functools",
        "gc",
        "glob",
        "http",
        "imaplib",
        "imp",
        "importlib",
        "inspect",
        "io",
        "lib2to3",
        "linecache",
        "logging",
        "mailbox",
        "marshal",
        "mmap",
        "multiprocessing",
        "nntplib",
        "nt",
        "ntpath",
        "operator",
        "os",
        "pdb",
        "pickle",
        "pickletools",
        "pip",
        "pipes",
        "pkgutil",
        "poplib",
        "posix",
        "posixpath",
        "profile",
        "pty",
        "pydoc",
        "runpy",
        "sched",
        "select",
        "selectors",
        "setuptools",
        "shelve",
        "shutil",
        "signal",
        "site",
        "smtplib",
        "socket",
        "socketserver",
        "sqlite3",
        "_sqlite3",
        "ssl",
        "subprocess",
        "sys",
        "tarfile",
        "telnetlib",
        "tempfile",
        "threading",
        "timeit",
        "trace",
        "traceback",
        "types",
        "unittest",
        "urllib",
        "venv",
        "weakref",
        "webbrowser",
        "xmlrpc",
        "zipapp",
        "zipfile",
        "zipimport",
        "vineyard_client",
        "cloudpickle",
        "dill",
        "joblib",
        "jsonpickle",
    ]
)
# Exact names in those modules that are plain data all the same; they still need to be allowed.
_HARMLESS = frozenset(["http.cookies.Morsel", "http.cookies.SimpleCookie", "sqlite3.Row"])
# A class derived from one of these does its work in the constructor, so a wildcard over its package must not reach it.
_NEVER_BASES = frozenset(
    [
        "_ctypes",
        "_pickle",
        "_posixsubprocess",
        "_socket",
        "bdb",
        "code",
        "codeop",
        "ctypes",
        "multiprocessing",
        "pdb",
        "pickle",
        "pty",
        "runpy",
        "shelve",
        "socket",
        "subprocess",
        "tempfile",
        "timeit",
        "trace",
    ]
)
_WILDCARD = re.compile(r"[*?\[\]]")
# The file of a DAG is a module of its own, whose name has a hash of its path in it.
_PACKAGE = re.compile(r"[^\W\d]\w*\.|unusual_prefix_[\w*?]")
_LISTABLE = re.compile(r"[\w.\[\]]+\Z")


def qualified(thing: Any) -> str:
    """Return ``module.qualname`` of a class or function."""
    return f"{getattr(thing, '__module__', None)}.{getattr(thing, '__qualname__', type(thing).__qualname__)}"


def names_of(thing: Any) -> Tuple[Any, Any]:
    """Return module and qualified name of a class or function; a class method has those of its class."""
    owner = getattr(thing, "__self__", None)
    if isinstance(thing, types.MethodType) and isinstance(owner, type):
        return owner.__module__, f"{owner.__qualname__}.{thing.__name__}"
    return getattr(thing, "__module__", None), getattr(thing, "__qualname__", None)


def is_function(thing: Any) -> bool:
    """Tell whether something is a function: of Python, C or Cython, also one that remembers its results."""
    kinds = types.FunctionType, types.MethodType, types.BuiltinFunctionType, functools._lru_cache_wrapper
    return isinstance(thing, kinds) or type(thing).__name__ in _CYTHON


_CYTHON = frozenset(["cython_function_or_method", "fused_cython_function"])


@functools.lru_cache(maxsize=64)
def policy_for(patterns: Tuple[str, ...], passive: bool = True) -> Policy:
    """Return the policy of these patterns; equal ones share it.

    Raises:
        UnsafeType: a pattern that would allow too much.
    """
    return Policy(patterns, passive)


@functools.lru_cache(maxsize=1)
def _standard_library() -> frozenset[str]:
    names: Iterable[str] | None = getattr(sys, "stdlib_module_names", None)
    if names is None:  # Python before 3.10
        folder = os.path.dirname(os.__file__)
        listed: List[str] = list(sys.builtin_module_names)
        for path in (folder, os.path.join(folder, "lib-dynload")):
            if os.path.isdir(path):
                listed += [entry.split(".")[0] for entry in os.listdir(path)]
        names = set(listed) - {"site-packages", "dist-packages"}
    return frozenset(names) - {"__main__"}


def is_standard(name: str) -> bool:
    """Tell whether a full name is one of Python's standard library."""
    return name.partition(".")[0] in _standard_library()


class Policy:
    """The caller's patterns, checked once, and what they say of a name.

    Args:
        patterns: what the caller allows.
        passive: whether passive classes (see ``passive``) need no permission.

    Raises:
        UnsafeType: a pattern that would allow too much.
    """

    def __init__(self, patterns: Tuple[str, ...], passive: bool = True) -> None:
        self.patterns = patterns
        self.passive = passive
        wild: List[str] = []
        for pattern in patterns:
            if not isinstance(pattern, str) or not _PACKAGE.match(pattern):
                raise UnsafeType(
                    f"The pattern {pattern!r} in allowed_classes allows too much: it does not begin with the name of a "
                    "package.",
                    'Name the package in full and put wildcards behind it only, as in "mypkg.models.*".',
                    str(pattern),
                )
            if _WILDCARD.search(pattern):
                wild.append(pattern)
        # What looks like a wildcard may be a name as well: pydantic calls a class ``Page[int]``.
        self._exact = frozenset(patterns)
        self._wild = re.compile("|".join(map(translate, wild))) if wild else None

    def name_of(self, thing: Any) -> Tuple[str, str]:
        """Return the names under which a class or function may be stored.

        Raises:
            UnsafeType: it may not be, or could not be found again under its name.
        """
        module, qualname = names_of(thing)
        if not isinstance(module, str) or not isinstance(qualname, str):
            raise _refused(repr(type(thing)), "it has no name to be found under")
        name = f"{module}.{qualname}"
        if "<" in qualname:
            raise _refused(
                name,
                "it is a lambda or defined in a function, where no other process can find it",
                "Define it in a module.",
            )
        self._check_name(module, name)
        found = lookup(module, qualname)
        # A bound classmethod is a new object at every look.
        if found is not thing and not (isinstance(thing, types.MethodType) and found == thing):
            raise _refused(name, f"what stands under that name is another object ({type(found).__name__})")
        self._check_object(thing, name)
        return module, qualname

    def find(self, module: Any, qualname: Any) -> Any:
        """Return the class or function of that name, importing its module if the patterns allow it.

        Raises:
            UnsafeType: nobody allowed it.
        """
        if not isinstance(module, str) or not isinstance(qualname, str):
            raise _refused(repr((module, qualname)), "this is not a name")
        name = f"{module}.{qualname}"
        self._check_name(module, name)
        found = lookup(module, qualname)
        self._check_object(found, name)
        found_in, found_as = names_of(found)
        if found_as != qualname or (found_in != module and not module.startswith("unusual_prefix_")):
            raise _refused(name, f"what stands under that name is {qualified(found)}")
        return found

    def allows(self, cls: type) -> bool:
        """Tell whether instances of a class may be handled, for classes met on an object rather than by name."""
        try:
            self._check_name(cls.__module__, qualified(cls))
            self._check_object(cls, qualified(cls))
        except UnsafeType:
            return False
        return True

    def why_not_passive(self, cls: type) -> str | None:
        """Say why an object of a class may not be rebuilt without permission, None if it may."""
        if not self.passive:
            return "passive classes are turned off here"
        from . import passive  # here and below: only when such a class shows up

        return passive.why_not(cls)

    def passive_name_of(self, cls: Any) -> Tuple[str, str]:
        """Return the name under which a passive class will be found by whoever reads.

        Raises:
            UnsafeType: it is not found under its name here.
        """
        from . import modules

        module, qualname = cls.__module__, cls.__qualname__
        found = modules.place_of(cls)
        if found is not None:
            return module, found
        name = f"{module}.{qualname}"
        if "<locals>" in qualname:
            raise _refused(
                name,
                "it is defined in a function, where no other process can find it",
                "Define it at the top of its module, or of the file of the DAG.",
            )
        raise _refused(
            name,
            f"the module {module} has no class of that name that is this one",
            "Bind it in its module to the name that it has.",
        )

    def find_passive(self, module: Any, qualname: Any) -> Any:
        """Return a passive class by its name, or one that the patterns allow.

        Raises:
            UnsafeType: there is none, or it is not passive and nobody allowed it.
        """
        if not isinstance(module, str) or not isinstance(qualname, str):
            raise _refused(repr((module, qualname)), "this is not a name")
        if self.allows_name(module, qualname):
            found = self.find(module, qualname)
            if isinstance(found, type):
                return found
        from . import modules, passive

        self.check_passive(module, qualname)
        name = f"{module}.{qualname}"
        found = modules.find(module, qualname)
        if not modules.is_same_place(found.__module__, module):
            raise _refused(name, f"what stands under that name is {qualified(found)}")
        reason = passive.why_not(found)
        if reason is not None:
            raise _refused(name, f"{reason}, and nobody allowed it", _allow_it(name), name)
        return found

    def is_quiet(self, cls: type) -> bool:
        """Tell whether a class that may be rebuilt without permission has no code of its own; see ``passive``."""
        from . import passive

        return passive.is_quiet(cls)

    def check_passive(self, module: str, qualname: str) -> None:
        """Refuse a class that is passive where that is not enough.

        Raises:
            UnsafeType: passive classes are turned off, and no pattern allows this one.
        """
        name = f"{module}.{qualname}"
        if not self.passive and not self.allows_name(module, qualname):
            raise _refused(name, "nobody allowed it, and passive classes are turned off here", _allow_it(name), name)

    def allows_name(self, module: str, qualname: str) -> bool:
        """Tell whether a pattern allows a name."""
        try:
            self._check_name(module, f"{module}.{qualname}")
        except UnsafeType:
            return False
        return True

    def _check_name(self, module: str, name: str) -> None:
        top = module.partition(".")[0]
        if (top in NEVER and name not in _HARMLESS) or module.endswith(".__main__"):
            raise _refused(name, "it belongs to one process, or runs, opens or loads things, and is never stored")
        if name in self._exact:
            return
        if top in _standard_library():
            raise _refused(
                name,
                "nobody allowed it, and classes of Python itself are allowed by their exact name only",
                _allow_it(name),
                name,
            )
        if self._wild is None or not self._wild.match(name):
            raise _refused(name, "nobody allowed it", _allow_it(pattern_of(name)), pattern_of(name))

    def _check_object(self, thing: Any, name: str) -> None:
        if isinstance(thing, type):
            if issubclass(thing, type):
                raise _refused(name, "it is a class of classes")
            for base in thing.__mro__:
                if base.__module__.partition(".")[0] in _NEVER_BASES:
                    raise _refused(name, f"it derives from {qualified(base)}, which runs or loads things")
        elif not is_function(thing):
            raise _refused(name, f"it is neither a class nor a function but a {type(thing).__name__}")
        elif name not in self._exact:
            raise _refused(
                name,
                "it is a function, and a function is allowed by its exact name only",
                f'If calling it with any arguments is harmless, allow it: allowed_classes=["{name}"].',
                name,
            )


def _allow_it(name: str) -> str:
    return f'Allow it where it is written and where it is read: allowed_classes=["{name}"].'


def pattern_of(name: str) -> str:
    """Return a pattern that allows a name: itself, or one without what lists of patterns cannot have in them."""
    return name if _LISTABLE.match(name) else f"{name.partition('[')[0]}[*"


def _refused(
    name: str, why: str, hint: str = "Store plain data instead, such as a dict of its fields.", pattern: str = ""
) -> UnsafeType:
    return UnsafeType(f"{name} may not be stored or read: {why}.", hint, name, (pattern,) if pattern else ())


def lookup(module: str, qualname: str) -> Any:
    """Import and look up a name that somebody vouched for; on the way to the last part only classes are passed.

    Raises:
        UnsafeType: there is no such thing here.
    """
    if module.startswith("unusual_prefix_"):  # the file of a DAG, which nothing but Airflow loads
        from . import modules

        return modules.find(module, qualname)
    try:
        found: Any = sys.modules.get(module) or importlib.import_module(module)
        for position, part in enumerate(qualname.split(".")):
            if position and not isinstance(found, type):
                raise AttributeError(part)
            found = getattr(found, part)
    except (ImportError, AttributeError, ValueError) as exc:
        if from_outside(exc):
            raise
        raise _refused(
            f"{module}.{qualname}",
            f"it cannot be found here ({type(exc).__name__}: {exc})",
            "Install the package that defines it, in the version that wrote the value, where it is read.",
        ) from exc
    return found
