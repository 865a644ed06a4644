"""Every version, image, size and port that the assets name, in one place, and what may be said instead with ``--set``.

An asset has ``@name@`` where a setting goes. ``Settings`` checks what was given, derives the rest (the base image from
the versions, the memory of a pod from the size of its store), and fills assets in.

Invariants: a wrong key or value raises ``WrongSetting`` before anything is written, with what would be right; a
placeholder that no setting fills is a bug of the asset, and raises KeyError.
"""

from __future__ import annotations

import json
import re
from typing import Callable, Dict, List, Mapping, NamedTuple, Tuple, Type

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


def _count(text: str) -> None:
    if not text.isdecimal() or not 1 <= int(text) <= 10_000:
        raise WrongSetting(f"{text!r} is no number from 1 to 10000")


def _json(kind: Type[object], example: str) -> Callable[[str], object]:
    def check(text: str) -> None:
        try:
            found = json.loads(text)
        except ValueError:
            found = None
        if not isinstance(found, kind):
            raise WrongSetting(f"{text!r} is not in JSON, or something else; write it like {example}")

    return check


def _tier(text: str) -> None:
    # A path would be another folder on each host, or another one in each container.
    if text and not re.match(r"(s3|s3a|gs|az|azure|abfs|abfss)://[\w.@-]+(/[\w.@/-]*)?\Z", text):
        raise WrongSetting(f"{text!r} is no bucket; write one such as s3://bucket/prefix, gs://… or az://…")


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
    "metrics_port": Setting("9601", "port at which agents serve figures to Prometheus", _port),
    "monitoring_namespace": Setting("monitoring", "Kubernetes namespace of Prometheus", _name),
    "ip_family": Setting("ipv4", "of the nodes' addresses: ipv4 or ipv6", _matches("ipv4|ipv6", "ipv4")),
    "tier": Setting("", "bucket that values are saved in, such as s3://bucket/prefix; none by default", _tier),
    "older_than": Setting(
        "never", "age at which agents delete values, such as 7d", _matches(r"never|\d{1,6}(\.\d+)?[smhd]", "7d")
    ),
    "grace": Setting("300", "seconds that an agent has to save the rest when it is to end", _count),
    "meta": Setting("local", "where vineyardd keeps metadata: local or etcd", _matches("local|etcd", "local")),
    "etcd_endpoint": Setting(
        "http://vineyard-etcd:2379", "URL of etcd, where meta=etcd", _matches(r"https?://[\w.:-]+", "http://etcd:2379")
    ),
    "namespace": Setting("vineyard-system", "Kubernetes namespace of vineyardd", _name),
    "name": Setting("vineyardd-sample", "name of vineyardd in it", _name),
    "qos": Setting(
        "burstable",
        "class of the stores' pods: burstable or guaranteed",
        _matches("burstable|guaranteed", "guaranteed"),
    ),
    "priority_class": Setting(
        "",
        "of the stores' pods, such as system-node-critical",
        _matches(r"|[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?", "high"),
    ),
    "node_selector": Setting("{}", "labels of the nodes that get a store", _json(dict, '{"pool": "airflow"}')),
    "tolerations": Setting(
        "[]", "taints of nodes that get a store all the same", _json(list, '[{"operator": "Exists"}]')
    ),
    "identity": Setting(
        "{}",
        "annotations of the stores' service account, for a cloud's workload identity",
        _json(dict, '{"eks.amazonaws.com/role-arn": "arn:aws:iam::1:role/vineyard"}'),
    ),
    "nodes": Setting("1", "number of nodes with a store, for gc.yaml", _count),
    "gc_schedule": Setting("23 3 * * *", "when gc.yaml runs", _matches(r"[\d*/,-]+( [\w*/,-]+){4}", "23 3 * * *")),
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


# Probes, five seconds apart, that reserving a GiB of memory may take: on a slow node some seconds.
_PROBES_PER_GIB = 2

# What the containers of a store's pod ask for. Guaranteed pods have limits that equal their requests. In the other
# class the agent may take as much as a store, whose memory it holds for a while when vineyardd was killed.
_QOS: Dict[str, Dict[str, str]] = {
    "burstable": {
        "small_cpu": "10m",
        "vineyardd_cpu": "100m",
        "vineyardd_limit_cpu": "",
        "agent_cpu": "50m",
        "agent_limit_cpu": "",
        "agent_request": "64Mi",
    },
    "guaranteed": {
        "small_cpu": "100m",
        "vineyardd_cpu": "1",
        "vineyardd_limit_cpu": "cpu: 1, ",
        "agent_cpu": "500m",
        "agent_limit_cpu": "cpu: 500m, ",
        "agent_request": "512Mi",
        "agent_memory": "512Mi",
    },
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
        size = parse_size(values["vineyardd_size"])
        values["vineyardd_memory"] = f"{-(-(size + _OVERHEAD) // _MIB)}Mi"
        values["startup_probes"] = str(24 + _PROBES_PER_GIB * (size >> 30))
        values.update(_QOS[values["qos"]])
        values.setdefault("agent_memory", values["vineyardd_memory"])
        others = ["apiserver", "dag-processor"] if _numbers(values["airflow_version"]) >= (3,) else ["webserver"]
        values["other_services"] = "\n  ".join(f"airflow-{name}: *vineyard" for name in others)
        rolling = "{type: RollingUpdate, rollingUpdate: {maxUnavailable: 1}}"
        values["update_strategy"] = rolling if values["tier"] else "{type: OnDelete}"
        etcd = [f"--etcd_endpoint={values['etcd_endpoint']}"] if values["meta"] == "etcd" else []
        values["meta_options"] = json.dumps([f"--meta={values['meta']}", *etcd])[1:-1]
        host = "$(VINEYARD_HOST)" if values["ip_family"] == "ipv4" else "[$(VINEYARD_HOST)]"
        values["rpc_endpoint"] = f"{host}:{values['rpc_port']}"
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
