"""What is public: the exported names, their docstrings, and that everything else stays out of the way."""

from __future__ import annotations

import builtins
import importlib
import inspect
import pkgutil
import re
from typing import Any, Iterator, List, Tuple

import pytest

import vineyard_client as vc
from vineyard_client import exceptions

# The interface that people rely on. A change here is a change for them, and belongs into the changelog.
PUBLIC = {
    "Backlog": "number nbytes age",
    "Client": "put get source info reference exists preview delete list migrate status collect create close saved",
    "Collectable": "info reason frees",
    "Disk": "path purpose file_system free size",
    "Draft": "",
    "Durable": "state place reason",
    "EncodedValue": "to_bytes release",
    "EmbeddedServer": "start stop socket log",
    "Explanation": "arrives complete patterns refusals type types",
    "Finding": "kind what remedy",
    "ObjectInfo": "ref summary labels created host socket deleted type size memory blobs origin replicas age",
    "ObjectRef": "id token endpoint type size copy to_json from_json",
    "Refusal": "name pattern reason remedy where",
    "Peer": "status look preview delete close",
    "SavedCopy": "key size modified tier token",
    "SavedValues": "where save list delete status check drain",
    "StoreStatus": "socket version instance_id metadata endpoint memory_used memory_limit connections identity "
    "small_values small_values_used inventory",
    "TierOptions": "url durability spill reserve timeout sync options agent urls",
    "TierStatus": "urls durability spill agent unsaved lost overflow overflow_bytes disks counts last_error",
    "connect": "",
    "declare_type": "",
    "dumps": "",
    "encode": "",
    "ensure_server": "",
    "explain": "",
    "from_outside": "",
    "handover": "ENVIRONMENT LIMIT Terms argument dump load received take",
    "loads": "",
    "parse_size": "",
    "preload": "",
    "stop_server": "",
    **dict.fromkeys(exceptions.__all__, ""),
    "__version__": "",
}


def test_exports() -> None:
    """``__all__`` is exactly the public interface, and each name in it is there."""
    assert sorted(vc.__all__) == sorted(PUBLIC), set(vc.__all__) ^ set(PUBLIC)
    assert len(vc.__all__) == len(set(vc.__all__))
    for name in vc.__all__:
        assert getattr(vc, name) is not None


def test_members() -> None:
    """The methods and fields that people rely on are there, and no others."""
    for name, members in PUBLIC.items():
        cls = getattr(vc, name)
        if members:
            found = {member for member in dir(cls) if not member.startswith("_")}
            found |= set(getattr(cls, "__dataclass_fields__", {}))
            found = set(cls.__all__) if inspect.ismodule(cls) else found
            assert found == set(members.split()), f"{name}: {found ^ set(members.split())}"


def test_version() -> None:
    """The version is the distribution's."""
    from importlib import metadata

    assert re.match(r"\d+\.\d+\.\d+", vc.__version__)
    assert metadata.version("vineyard-client") == vc.__version__


def test_star_import() -> None:
    """``import *`` brings the public names and nothing else."""
    names: dict = {}  # type: ignore[type-arg]
    exec("from vineyard_client import *", names)
    assert set(names) - {"__builtins__"} == set(vc.__all__)


def modules() -> List[str]:
    found = [
        info.name
        for info in pkgutil.walk_packages(vc.__path__, "vineyard_client.")
        if not info.name.endswith("__main__")
    ]
    return [name for name in found if "adapters" not in name and "_native" not in name]


@pytest.mark.parametrize("name", modules())
def test_modules_say_what_they_export(name: str) -> None:
    """Each module with definitions has an ``__all__`` of names that it has."""
    module = importlib.import_module(name)
    own = [value for value in vars(module).values() if getattr(value, "__module__", "") == name]
    if not own:
        return
    exported = module.__all__
    assert len(exported) == len(set(exported))
    for public in exported:
        assert hasattr(module, public), f"{name} has no {public}"


def documented() -> Iterator[Tuple[str, Any]]:
    """Yield every function, method and class that people call."""
    for name in PUBLIC:
        thing = getattr(vc, name)
        if inspect.isfunction(thing):
            yield name, thing
        elif inspect.isclass(thing):
            yield name, thing
            for member, value in vars(thing).items():
                if member.startswith("_"):
                    continue
                if isinstance(value, (classmethod, staticmethod)):
                    value = value.__func__
                if inspect.isfunction(value) or isinstance(value, property):
                    yield f"{name}.{member}", value


DOCUMENTED = list(documented())


@pytest.mark.parametrize("name, thing", DOCUMENTED, ids=[name for name, _ in DOCUMENTED])
def test_docstrings(name: str, thing: Any) -> None:
    """Everything public has a docstring of its own: a sentence, every argument, and errors that exist."""
    text = inspect.getdoc(thing) or ""
    assert text, f"{name} has no docstring"
    assert text.split("\n\n")[0].endswith("."), f"{name} does not begin with a sentence"
    if inspect.isfunction(thing):
        arguments = [p for p in inspect.signature(thing).parameters if p not in ("self", "cls")]
        listed = re.findall(r"^    (\w+): ", text.partition("Args:")[2].partition("Raises:")[0], re.MULTILINE)
        if "Args:" in text:
            assert listed == arguments, f"{name} lists {listed}, takes {arguments}"
        else:
            assert len(arguments) <= 1 or name.startswith("EmbeddedServer."), (
                f"{name} does not say what its arguments are"
            )
    raised = re.findall(r"^    (\w+): ", text.partition("Raises:")[2], re.MULTILINE)
    for error in raised:
        cls = getattr(vc, error, None) or getattr(builtins, error)
        assert inspect.isclass(cls) and issubclass(cls, Exception), f"{name} names {error}"


RAISES = {
    "Client": {"ConnectionFailed", "ProtocolError", "UnsupportedVersion"},
    "Client.put": {"UnsafeType", "StoreFull", "ValueError"},
    "Client.create": {"UnsafeType", "StoreFull"},
    "Client.get": {"ObjectNotFound", "MigrationFailed", "StoreFull", "UnsafeType", "ObjectCorrupted"},
    "Client.reference": {"ObjectNotFound"},
    "Client.migrate": {"ObjectNotFound", "MigrationFailed", "StoreFull"},
    "Client.delete": {"MigrationFailed"},
    "Client.info": {"ObjectNotFound", "MigrationFailed"},
    "Client.exists": {"MigrationFailed"},
    "EncodedValue.to_bytes": {"ValueError"},
    "declare_type": {"ValueError"},
    "dumps": {"UnsafeType"},
    "encode": {"UnsafeType"},
    "loads": {"UnsafeType", "ObjectCorrupted", "UnsupportedVersion"},
    "EmbeddedServer.start": {"ServerStartFailed", "ConnectionFailed", "ValueError"},
    "ObjectRef": {"InvalidReference"},
    "ObjectRef.from_json": {"InvalidReference", "UnsupportedVersion"},
    "connect": {"ConnectionFailed", "ServerStartFailed", "ProtocolError", "UnsupportedVersion"},
    "ensure_server": {"ServerStartFailed", "ConnectionFailed", "ValueError"},
    "parse_size": {"ValueError"},
    "stop_server": {"ConnectionFailed", "ProtocolError", "TierUnavailable", "UnsupportedVersion"},
}


@pytest.mark.parametrize("name", RAISES)
def test_errors_are_documented(name: str) -> None:
    """What tests elsewhere show to be raised is in the docstring."""
    text = inspect.getdoc(dict(DOCUMENTED)[name]) or ""
    raised = set(re.findall(r"^    (\w+): ", text.partition("Raises:")[2], re.MULTILINE))
    assert raised >= RAISES[name], f"{name} does not name {RAISES[name] - raised}"
