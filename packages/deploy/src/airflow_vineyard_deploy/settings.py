"""Every version, image, size and port that the assets name, in one place, and what may be said instead with ``--set``.

An asset has ``@name@`` where a setting goes. ``Settings`` checks what was given, derives the rest (the base image from
the versions, the memory of a pod from the size of its store), and fills assets in.

Invariants: a wrong key or value raises ``WrongSetting`` before anything is written, with what would be right; a
placeholder that no setting fills is a bug of the asset, and raises KeyError.
"""

from __future__ import annotations

import re
from typing import Callable, Dict, List, Mapping, NamedTuple, Tuple

from ._version import __version__

__all__ = ["SETTINGS", "Settings", "WrongSetting", "parse_size"]


class WrongSetting(ValueError):
    """A key that is none, or a value that it cannot have."""


class Setting(NamedTuple):
    """One setting.

    Attributes:
        default: its value unless another one is given.
        meaning: what it is, in some words.
        check: raises WrongSetting for a value that it cannot have.
    """

    default: str
    meaning: str
    check: Callable[[str], object]


_SIZE = re.compile(r"(\d{1,20}(?:\.\d+)?)([KMGT]i?)?\Z")
_UNITS = {"": 1, **{unit: 1000 ** (power + 1) for power, unit in enumerate("KMGT")}}
_UNITS.update({f"{unit}i": 1024 ** (power + 1) for power, unit in enumerate("KMGT")})
_MIB = 1 << 20

# Below this vineyardd has no room for a value.
_LEAST = 16 * _MIB

# What vineyardd itself takes beside its store (80 MiB at rest), its log and its connections.
_OVERHEAD = 256 * _MIB


def parse_size(text: str) -> int:
    """Return a size in bytes: ``1073741824``, ``1Gi``, ``1.5Gi``, ``800M``.

    Raises:
        WrongSetting: the text is no size, or less than 16Mi.
    """
    match = _SIZE.match(text)
    if not match:
        raise WrongSetting(f"{text!r} is no size; write a number with Mi, Gi or Ti, such as 2Gi")
    number = int(float(match[1]) * _UNITS[match[2] or ""])
    if number < _LEAST:
        raise WrongSetting(f"{text!r} is {number} bytes; a store needs at least 16Mi, such as 2Gi")
    return number


def _matches(pattern: str, example: str) -> Callable[[str], object]:
    compiled = re.compile(rf"(?:{pattern})\Z")

    def check(text: str) -> None:
        if not compiled.match(text):
            raise WrongSetting(f"{text!r} does not look like {example!r}")

    return check


def _port(text: str) -> None:
    # Below 1024 a container would need a capability.
    if not text.isdecimal() or not 1024 <= int(text) <= 65535:
        raise WrongSetting(f"{text!r} is no port from 1024 to 65535")


_name = _matches(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", "vineyard-system")
_image = _matches(r"[a-z0-9][a-zA-Z0-9._/-]*(:\d+/[a-zA-Z0-9._/-]+)?:[\w.-]+", "registry.example.org/airflow:1")

SETTINGS: Dict[str, Setting] = {
    "airflow_version": Setting("3.3.2", "release of Airflow", _matches(r"\d+\.\d+\.\d+", "3.3.2")),
    "python_version": Setting("3.12", "Python of Airflow's image", _matches(r"3\.\d+", "3.12")),
    "provider": Setting(
        f"airflow-provider-vineyard=={__version__}",
        "what pip installs into the image",
        _matches(r"[\w.,\[\]<>=!~-]+( [\w.,\[\]<>=!~-]+)*", "airflow-provider-vineyard==1.0.0"),
    ),
    "image": Setting("airflow-vineyard:@airflow_version@", "image that the Dockerfile makes", _image),
    "postgres_image": Setting("postgres:16", "image of the database", _image),
    "redis_image": Setting("redis:7.2-bookworm", "image of the broker", _image),
    "airflow_uid": Setting("50000", "user id that Airflow and vineyardd run as", _matches(r"[1-9]\d{0,8}", "50000")),
    "airflow_port": Setting("8080", "port of Airflow's UI on the host", _port),
    "vineyardd_size": Setting("1Gi", "memory of one store; two on one machine with Compose", parse_size),
    "rpc_port": Setting("9600", "port at which other hosts reach a store", _port),
    "meta": Setting("local", "where vineyardd keeps metadata: local or etcd", _matches("local|etcd", "local")),
    "etcd_endpoint": Setting(
        "http://vineyard-etcd:2379", "URL of etcd, where meta=etcd", _matches(r"https?://[\w.:-]+", "http://etcd:2379")
    ),
    "namespace": Setting("vineyard-system", "Kubernetes namespace of vineyardd", _name),
    "name": Setting("vineyardd-sample", "name of vineyardd in it", _name),
    "airflow_namespace": Setting("airflow", "Kubernetes namespace of Airflow", _name),
    "release": Setting("airflow", "Helm release of Airflow", _name),
    "venv": Setting(
        "/opt/airflow/venv", "virtual environment on hosts without containers", _matches(r"(/[\w.-]+)+", "/x")
    ),
}

# The Pythons for which Airflow publishes images: the first release that has one, and the first that no longer has.
_IMAGES: Dict[str, Tuple[Tuple[int, ...], Tuple[int, ...]]] = {
    "3.8": ((2, 1, 0), (2, 11, 0)),
    "3.9": ((2, 1, 0), (3, 1, 0)),
    "3.10": ((2, 3, 0), (99,)),
    "3.11": ((2, 6, 2), (99,)),
    "3.12": ((2, 9, 0), (99,)),
    "3.13": ((3, 1, 0), (99,)),
    "3.14": ((3, 2, 0), (99,)),
}


class Settings:
    """All settings, with the given ones instead of the defaults.

    Args:
        given: values by key.

    Raises:
        WrongSetting: a key is unknown, a value is wrong, or there is no image for the versions together.
    """

    def __init__(self, given: Mapping[str, str]) -> None:
        for key, value in given.items():
            if key not in SETTINGS:
                raise WrongSetting(f"There is no setting {key!r}. The settings are: {', '.join(SETTINGS)}.")
            try:
                SETTINGS[key].check(value)
            except WrongSetting as error:
                raise WrongSetting(f"{key}: {error}.") from None
        values = {key: given.get(key, setting.default) for key, setting in SETTINGS.items()}
        _check_image(values["airflow_version"], values["python_version"])
        values["base_image"] = f"apache/airflow:{values['airflow_version']}-python{values['python_version']}"
        values["image"] = values["image"].replace("@airflow_version@", values["airflow_version"])
        values["image_repository"], _, values["image_tag"] = values["image"].rpartition(":")
        # Kubernetes counts what the store holds to vineyardd, because it reserves its memory.
        memory = parse_size(values["vineyardd_size"]) + _OVERHEAD
        values["vineyardd_memory"] = f"{-(-memory // _MIB)}Mi"
        self._values = values

    @property
    def airflow(self) -> Tuple[int, ...]:
        """The release of Airflow, as numbers."""
        return _numbers(self._values["airflow_version"])

    def fill(self, text: str) -> str:
        """Return an asset's text with the values in the places of the placeholders."""
        return re.sub(r"@([a-z_]+)@", lambda match: self._values[match[1]], text)


def _numbers(release: str) -> Tuple[int, ...]:
    return tuple(int(part) for part in release.split("."))


def _check_image(airflow: str, python: str) -> None:
    """Raise WrongSetting if Airflow publishes no image of this release for this Python."""
    release = _numbers(airflow)
    having: List[str] = [version for version, (first, end) in _IMAGES.items() if first <= release < end]
    if python in having:
        return
    if having:
        remedy = f"There is one for Python {', '.join(having)}: --set python_version={having[-1]}."
    else:
        remedy = "Choose another airflow_version; images with a Python that the provider runs on begin with 2.1.0."
    raise WrongSetting(f"There is no image apache/airflow:{airflow}-python{python}. {remedy}")
