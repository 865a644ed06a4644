"""Record what a release puts: ``PYTHONPATH=OF/THAT/RELEASE/packages/core/src python record.py FILE``.

``test_upgrade`` reads it with the release that it belongs to. For each value of ``VALUES``: its reference, its metadata
as the server has them, and its bytes.
"""

from __future__ import annotations

import base64
import collections
import datetime
import decimal
import fractions
import json
import sys
import uuid
from typing import Any, Callable, Dict

import vineyard_client as vc

MADE = datetime.datetime(2026, 11, 22, 11, 9, 0, 5, datetime.timezone(datetime.timedelta(hours=1)))


def frame() -> Any:
    import numpy
    import pandas

    index = pandas.date_range("2013-01-01", periods=50, freq="D", tz="UTC", name="day")
    texts = pandas.Series(
        [None if number % 7 == 0 else f"flight {number}" for number in range(50)], index, dtype=object
    )
    return pandas.DataFrame(
        {
            "number": numpy.arange(50),
            "delay": numpy.linspace(-1, 1, 50),
            "late": numpy.arange(50) % 2 == 0,
            "text": texts,
        },
        index,
    )


def of_numpy(make: Callable[[Any], Any]) -> Callable[[], Any]:
    def made() -> Any:
        import numpy

        return make(numpy)

    return made


# By name; each is made anew, so that it can be compared with what was read.
VALUES: Dict[str, Callable[[], Any]] = {
    "plain": lambda: [1, -(2**70), 1.5, None, True, "text", b"bytes", {"key": (1, 2)}, {3}, frozenset("a"), 1 + 2j],
    "itself": lambda: collections.OrderedDict(a=collections.Counter("aab"), b=collections.deque([1], 5)),
    "times": lambda: [
        MADE,
        MADE.date(),
        datetime.timedelta(1, 2, 3),
        datetime.time(1, 2, tzinfo=datetime.timezone.utc),
    ],
    "numbers": lambda: [decimal.Decimal("1.10"), fractions.Fraction(1, 3), uuid.UUID(int=5), range(3), slice(1)],
    "bytes": lambda: bytes(range(256)) * 40,
    "bytearray": lambda: bytearray(b"v" * 9000),
    "array": of_numpy(lambda numpy: numpy.arange(3000, dtype="<f8").reshape(30, 100)),
    "fortran": of_numpy(lambda numpy: numpy.asfortranarray(numpy.arange(3000, dtype=">i4").reshape(30, 100))),
    "objects": of_numpy(lambda numpy: numpy.array([1, "two", None, [3]], dtype=object)),
    "structured": of_numpy(lambda numpy: numpy.zeros(300, [("a", "<i2"), ("b", "U5")])),
    "scalar": of_numpy(lambda numpy: numpy.float32(0.1)),
    "masked": of_numpy(lambda numpy: numpy.ma.masked_greater(numpy.arange(500), 400)),
    "frame": frame,
    "series": lambda: frame()["delay"],
}


def main(path: str) -> None:
    """Write the file."""
    from vineyard_client._wire.messages import GetBuffers, GetData
    from vineyard_client.ids import parse_id

    recorded = {}
    with vc.EmbeddedServer("64Mi") as server, vc.connect(server.socket) as client:
        connection = client._connection()
        for name, make in VALUES.items():
            ref = client.put(make(), labels={"airflow": "airflow", "dag_id": "etl"})
            number = parse_id(ref.id)
            tree = connection.call(GetData([number]))[number]
            record = {"reference": ref.to_json(), "tree": tree}
            if "blob" in tree:
                (payload,) = connection.call(GetBuffers([parse_id(tree["blob"]["id"])]))
                record["bytes"] = base64.b64encode(connection.read(payload)).decode()
            recorded[name] = record
    with open(path, "w", encoding="utf-8") as file:
        json.dump({"release": vc.__version__, "python": sys.version.split()[0], "values": recorded}, file, indent=1)
        file.write("\n")


if __name__ == "__main__":
    main(sys.argv[1])
