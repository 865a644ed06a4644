"""What tests in a browser need of the machine."""

from __future__ import annotations

import shutil
from importlib import metadata, util
from typing import List, Tuple

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser")
DRIVER = shutil.which("chromedriver")


def missing(*modules: str) -> List[str]:
    """Return what is not installed of Airflow, the browser, its driver, Selenium and these modules."""
    needed = {
        "Airflow 3.3, its pages have looked otherwise before": _airflow_release() >= (3, 3),
        "Chromium (apt-get install chromium)": BROWSER,
        "its driver (apt-get install chromium-driver)": DRIVER,
        **{name: util.find_spec(name) for name in ("selenium", *modules)},
    }
    return [what for what, there in needed.items() if not there]


def _airflow_release() -> Tuple[int, ...]:
    try:
        return tuple(int(part) for part in metadata.version("apache-airflow").split(".")[:2])
    except metadata.PackageNotFoundError:
        return ()
