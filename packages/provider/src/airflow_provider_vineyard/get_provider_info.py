"""What Airflow learns about this provider: the entry point ``apache_airflow_provider`` calls ``get_provider_info``.

Airflow validates the dict against its own schema in every process, and some releases refuse to start when it does not
fit, so it keeps to what every schema since 2.1 accepts: ``package-name`` is the distribution's exact name, each option
has all five fields, and each default is a string (a boolean is refused) without a percent sign or braces, which are
interpolated. The defaults here are the only ones:
``settings`` reads them from this dict, because Airflow before 2.7 does not know about a provider's options.
"""

from __future__ import annotations

from typing import Any, Dict

__all__ = ["CONFIG_SECTION", "get_provider_info", "option_default"]

CONFIG_SECTION = "vineyard"

_HOOK = "airflow_provider_vineyard.hooks.vineyard.VineyardHook"


def _option(description: str, kind: str, default: str, example: str) -> Dict[str, Any]:
    return {
        "description": description,
        "version_added": "1.0.0",
        "type": kind,
        "example": example,
        "default": default,
    }


_OPTIONS: Dict[str, Dict[str, Any]] = {
    "ipc_socket": _option(
        "Absolute path of the UNIX socket of the vineyardd that tasks on this host use. Empty: the environment "
        "variable VINEYARD_IPC_SOCKET, and without that an embedded server that is started on demand, with its "
        "socket at AIRFLOW_HOME/vineyard/vineyard.sock.",
        "string",
        "",
        "/var/run/vineyard.sock",
    ),
    "persist": _option(
        "Make the metadata of each stored value visible to every vineyardd of an etcd cluster. It does not write "
        "anything to disk.",
        "boolean",
        "False",
        "True",
    ),
    "tier": _option(
        "Where values are saved, so that they outlive vineyardd, and a full store is no end: the absolute path of a "
        "folder that all tasks which exchange values see, or the URL of a bucket (s3://bucket/prefix, gs://, az://), "
        "which takes an agent on each host (airflow-vineyard agent). Of several, separated by spaces or commas, the "
        "first is written and the others are only read. Empty: what the environment variable VINEYARD_TIER says; "
        "without that, the folder AIRFLOW_HOME/vineyard/values with the embedded server, and nothing with a server "
        "of your own. none: nothing is saved, and nothing is written to a disk.",
        "string",
        "",
        "/srv/airflow/values",
    ),
    "durability": _option(
        "With a tier: through saves a value before the task ends; behind has the agent save it afterwards; none saves "
        "nothing more, and reads what was saved. auto: behind for the folder that the embedded server has by default, "
        "through for a tier that was set.",
        "string",
        "auto",
        "behind",
    ),
    "spill": _option(
        "With a tier: folder of the notes of what is saved, and of values for which neither the store nor a folder "
        "tier has room. On a disk of this host, and under one path for all who use the socket. Empty: the socket's "
        "path with .tier at its end.",
        "string",
        "",
        "/var/lib/vineyard/spill",
    ),
    "disk_reserve": _option(
        "Share of the file systems of a folder tier and of spill that stays free: beyond it they count as full. 0.1 is "
        "a tenth.",
        "float",
        "0.1",
        "0.25",
    ),
    "tier_timeout": _option(
        "Seconds that saving or loading a value may take, with all that is tried again.",
        "integer",
        "120",
        "600",
    ),
    "tier_sync": _option(
        "Write what is saved in a folder through to the disk, so that it survives a power cut and not only a crash of "
        "programs. Saving takes longer.",
        "boolean",
        "False",
        "True",
    ),
    "tier_options": _option(
        "Settings of a bucket's service, as a JSON object of texts: endpoint, region and what else obstore knows. No "
        "credentials: they come from the agent's environment, from the role of its machine, or from tier_conn_id.",
        "string",
        "",
        '{"endpoint": "http://minio:9000", "region": "eu-central-1"}',
    ),
    "tier_conn_id": _option(
        "Airflow connection whose credentials airflow-vineyard agent uses for a bucket, of the type aws, "
        "google_cloud_platform, wasb or adls. Tasks need none. Empty: the agent's environment, or the role of its "
        "machine.",
        "string",
        "",
        "aws_default",
    ),
    "rpc_endpoint": _option(
        "host:port under which other hosts reach the RPC port of this host's vineyardd; written into each reference. "
        "Empty: what vineyardd reports of itself.",
        "string",
        "",
        "worker-1.example.org:9600",
    ),
    "inline_threshold": _option(
        "Values that take at most so many bytes stay in Airflow's database: as plain JSON where that carries them "
        "exactly, else encoded in their row (in base64, a third larger) beside a text for people. Everything larger "
        "goes to vineyard. 0 sends everything but Airflow's own XComs there.",
        "integer",
        "4096",
        "1024",
    ),
    "peers": _option(
        "Where the vineyardds of other hosts are: patterns of host:port, with * and ? as in file names, separated by "
        "spaces or commas. If there are any, tasks read from no other host, whatever a row says; to a host that is not "
        "listed, the password of VINEYARD_PASSWORD is never sent.",
        "string",
        "",
        "10.0.0.*:9600 worker-?.example.org:9600",
    ),
    "allowed_classes": _option(
        "Classes of your own that values may hold: patterns of their full names that begin with the name of a package, "
        "with * and ? as in file names, separated by spaces or commas. Reading a value runs the code that rebuilds its "
        "classes. The types of the usual data libraries need no entry; what [core] allowed_deserialization_classes "
        "lists counts as well.",
        "string",
        "",
        "mycompany.models.* mycompany.events.Order",
    ),
    "passive_classes": _option(
        "Whether classes that hold data and bring no code to their making need no entry in allowed_classes: named "
        "tuples, enumerations, dataclasses, classes of attrs, models of pydantic, subclasses of plain types, in the "
        "file of a DAG as well. They are rebuilt without running any method of theirs. False: each class of your own "
        "has to be allowed.",
        "boolean",
        "True",
        "False",
    ),
    "autostart": _option(
        "Start the embedded vineyardd when no ipc_socket is configured and none is running.",
        "boolean",
        "True",
        "False",
    ),
    "size": _option(
        "Memory of the embedded vineyardd: bytes, or a number with one of the units Ki, Mi, Gi, Ti, K, M, G, T. Empty: "
        "half of the memory of the host or container. Pages are taken when they are used, not when the server starts.",
        "string",
        "",
        "8Gi",
    ),
    "reserve_memory": _option(
        "Touch all memory of the embedded vineyardd when it starts, so that a host without enough of it shows at once.",
        "boolean",
        "False",
        "True",
    ),
    "preload": _option(
        "Modules that are imported once in the process that tasks are forked from (the scheduler with a LocalExecutor, "
        "a Celery worker), separated by spaces or commas, so that tasks need not import them again. That process grows "
        "by what they need, and starts later by as long as they take. Empty: none.",
        "string",
        "",
        "pandas, pyarrow",
    ),
    "deployment": _option(
        "Name of this Airflow deployment, written into the labels of each object that it stores. `airflow vineyard gc` "
        "deletes objects with this name only. Deployments that share a vineyardd must have different names, or each "
        "takes the other's objects for orphans.",
        "string",
        "airflow",
        "airflow-production",
    ),
    "host": _option(
        "Name of this host in the rows of values that are put here. Empty: what the system calls it, in a pod the "
        "pod's name. On Kubernetes, the node's name (spec.nodeName by the downward API), which placement needs.",
        "string",
        "",
        "worker-1",
    ),
    "ui": _option(
        "Whether Airflow's web interface has the page of the stores and their values, the tabs of task instances and "
        "runs, and the link to them: Airflow 2.8 and later. It is read where the web interface runs.",
        "boolean",
        "True",
        "False",
    ),
    "preview": _option(
        "What is kept beside each value in vineyard for people to look at, at most 4 KiB: schema, names, types, "
        "shapes and lengths; head, the first rows and members, too; stats, ranges and histograms of a sample, too; "
        "off, nothing. What has a name that Airflow masks is masked.",
        "string",
        "head",
        "schema",
    ),
    "preview_exclude": _option(
        "Ids of DAGs of whose values no more than the schema is kept: patterns with * and ? as in file names, "
        "separated by spaces or commas.",
        "string",
        "",
        "payroll_* patients",
    ),
    "other_interpreters": _option(
        "Whether tasks in other interpreters (`@task.external_python`, `@task.virtualenv`, `@task.docker`) receive and "
        "return large values as references, where vineyard-client is installed there. False: all are pickled to files, "
        "as Airflow does it.",
        "boolean",
        "True",
        "False",
    ),
    "placement": _option(
        "Prefer to run a task on the host that has most of its input. On Kubernetes this option alone turns it on; "
        "with Celery, [core] executor has to be airflow_provider_vineyard.executors.celery.VineyardCeleryExecutor too, "
        "and the workers need the option and their rpc_endpoint. See operating.md for when it pays.",
        "boolean",
        "False",
        "True",
    ),
    "placement_min_size": _option(
        "The smallest share of a task's input for which a host is preferred: bytes, or a number with one of the units "
        "Ki, Mi, Gi, Ti, K, M, G, T.",
        "string",
        "16Mi",
        "64Mi",
    ),
    "placement_bandwidth": _option(
        "Bytes per second between hosts, with the same units. A task waits for its host at most as long as its input "
        "would take to move. 100M is what 1 Gb/s carries.",
        "string",
        "100M",
        "1G",
    ),
    "placement_wait": _option(
        "Seconds, the most that a task waits for its host in a queue of Celery before any worker takes it, whatever "
        "the size of its input. 0: no task is sent to the queue of a host. With RabbitMQ, the message-ttl of the "
        "policy counts instead.",
        "integer",
        "10",
        "3",
    ),
}


def option_default(name: str) -> str:
    """Return the documented default of an option of ``[vineyard]``, as text."""
    return str(_OPTIONS[name]["default"])


def get_provider_info() -> Dict[str, Any]:
    """Return the provider's metadata as Airflow's schema wants it; a new dict on each call."""
    return {
        "package-name": "airflow-provider-vineyard",
        "name": "Vineyard",
        "description": "`Vineyard <https://v6d.io/>`__ carries what tasks return through shared memory.",
        # The first for Airflow 2.1, the second for all later ones; where both are known the second wins.
        "hook-class-names": [_HOOK],
        "connection-types": [{"connection-type": "vineyard", "hook-class-name": _HOOK, "hook-name": "Vineyard"}],
        # Known to Airflow from 3.2 on; earlier ones have the same commands as the program airflow-vineyard.
        "cli": ["airflow_provider_vineyard.cli.airflow_commands"],
        "config": {
            CONFIG_SECTION: {
                "description": "XCom backend and hook for the vineyard object store "
                "(airflow_provider_vineyard.xcom.VineyardXCom).",
                "options": {name: dict(option) for name, option in _OPTIONS.items()},
            }
        },
    }
