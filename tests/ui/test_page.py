"""The page of stores and values in Airflow's web interface, as a person uses it: headless Chromium, ``nox -s ui``.

Airflow is served below a path, without a scheduler: its DAG has run before. With ``VINEYARD_PICTURES=FOLDER`` in the
environment, what the page looks like is kept there.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List

import pytest
from vineyard_testing.browser import BROWSER, DRIVER, missing

HERE = Path(__file__).resolve().parent
BASE = "/af"

MISSING = missing()

pytestmark = [
    pytest.mark.airflow,
    pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]

FLAGS = (
    "--headless --no-sandbox --disable-gpu --no-first-run --disable-background-networking --disable-dev-shm-usage "
    "--window-size=1500,1100"
)


def until(condition: Callable[[], Any], what: str, seconds: float = 60) -> Any:
    """Return the first true answer of a condition; an element that was replaced meanwhile is looked for again."""
    from selenium.common.exceptions import WebDriverException

    deadline = time.monotonic() + seconds
    while True:
        try:
            answer = condition()
        except WebDriverException:
            answer = None
        if answer:
            return answer
        assert time.monotonic() < deadline, f"not within {seconds:.0f} s: {what}"
        time.sleep(0.25)


def did(command: List[str], env: Dict[str, str], home: Path) -> None:
    """Run a command, which has to succeed."""
    ran = subprocess.run(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd=home, text=True)
    assert ran.returncode == 0, f"{command} returned {ran.returncode}: {ran.stdout[-4000:]}"


@pytest.fixture(scope="module")
def airflow() -> Iterator[str]:
    """Return the address of an Airflow below a path, in which a DAG has run."""
    home = Path(tempfile.mkdtemp(prefix="uip-"))
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("AIRFLOW_", "VINEYARD_"))}
    url = f"http://localhost:{port}{BASE}"
    env: Dict[str, str] = {
        **kept,
        "PYTHONWARNINGS": "ignore",
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__API__BASE_URL": url,
        "AIRFLOW__CORE__DAGS_FOLDER": str(HERE / "dags"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "True",
        "AIRFLOW__CORE__XCOM_BACKEND": "airflow_provider_vineyard.xcom.VineyardXCom",
        "AIRFLOW__VINEYARD__INLINE_THRESHOLD": "1000",
    }
    program = [sys.executable, "-m", "airflow"]
    server = None
    try:
        for command in (["db", "migrate"], ["dags", "reserialize"], ["dags", "test", "looked_at"]):
            did([*program, *command], env, home)
        command = [*program, "api-server", "--port", str(port), "--workers", "1"]
        with open(home / "server.log", "wb") as log:
            server = subprocess.Popen(command, env=env, stdout=log, stderr=log, cwd=home, start_new_session=True)

        def serves() -> bool:
            assert server.poll() is None, (home / "server.log").read_text(errors="replace")[-4000:]
            try:
                with urllib.request.urlopen(f"{url}/vineyard/", timeout=5) as answer:
                    return bool(answer.status == 200)
            except OSError:
                return False

        until(serves, "Airflow's web interface", 240)
        yield url
    finally:
        if server is not None:
            os.killpg(server.pid, signal.SIGTERM)
            server.wait(30)
        store = home / "vineyard" / "vineyard.sock"
        if store.exists():
            did([sys.executable, "-m", "vineyard_client", "stop", "--socket", str(store), "--discard"], env, home)
        shutil.rmtree(home, ignore_errors=True)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Return headless Chromium with a profile of its own."""
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    profile = tempfile.mkdtemp(prefix="uip-chromium-")
    options = webdriver.ChromeOptions()
    for flag in (*FLAGS.split(), f"--user-data-dir={profile}"):
        options.add_argument(flag)
    options.binary_location = BROWSER
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    yield driver
    driver.quit()
    shutil.rmtree(profile, ignore_errors=True)


# What a script begins with: the element in whose shadow our page is, what is in there, and the page.
OURS = (
    "const host = [...document.querySelectorAll('div')].filter(each => each.shadowRoot).at(-1);"
    "const root = host?.shadowRoot, page = root?.querySelector('.page');"
)


def ask(browser: Any, script: str, *arguments: Any) -> Any:
    """Return what a script returns that knows ``host``, ``root`` and ``page``."""
    return browser.execute_script(OURS + script, *arguments)


def shows(browser: Any, *words: str) -> str:
    """Wait until our page shows all of these words, and return what it shows."""
    text = ""

    def there() -> bool:
        nonlocal text
        text = ask(browser, "return page?.innerText ?? ''") or ""
        return all(word in text for word in words)

    try:
        until(there, "")
    except AssertionError:
        raise AssertionError(f"{words} are not all in: {text!r}; {browser.get_log('browser')}") from None
    return text


def keep(browser: Any, name: str) -> None:
    """Keep a picture where somebody asked for pictures."""
    folder = os.environ.get("VINEYARD_PICTURES")
    if folder:
        assert browser.save_screenshot(os.path.join(folder, f"{name}.png"))


def press(browser: Any, label: str) -> None:
    """Press the first button or link of our page whose text or name begins so."""
    script = (
        "const found = [...root.querySelectorAll('button, a')]"
        ".find(each => (each.ariaLabel ?? each.innerText).startsWith(arguments[0])); found?.click(); return !!found"
    )
    until(lambda: ask(browser, script, label), f"the button {label!r}")


def follow(browser: Any, words: str) -> None:
    """Press the button or link of Airflow's with these words."""
    choice = f"//a[normalize-space()='{words}'] | //button[normalize-space()='{words}']"

    def pressed() -> bool:
        browser.find_element("xpath", choice).click()
        return True

    until(pressed, f"{words!r} in Airflow")


def values(airflow: str, browser: Any) -> List[Dict[str, Any]]:
    """Return what the page is told of all values."""
    script = "return fetch(arguments[0]).then(answer => answer.json())"
    browser.get(f"{airflow}/vineyard/")
    found: List[Dict[str, Any]] = browser.execute_script(script, f"{airflow}/vineyard/api/values")["values"]
    return found


def run_page(airflow: str, browser: Any) -> str:
    """Return the address of the run's page."""
    return f"{airflow}/dags/looked_at/runs/{values(airflow, browser)[0]['run_id']}"


def test_from_the_menu_to_a_value_without_loading_anew(airflow: str, browser: Any) -> None:
    """The page shows which task fills the store; a click shows its values, another one the tab of the task instance."""
    browser.get(f"{airflow}/dags")
    browser.execute_script("window.here = true")
    follow(browser, "Browse")
    follow(browser, "Vineyard")
    shows(browser, "Stores", "in use", "Which tasks fill the stores", "looked_at · frame", "Could be freed")
    keep(browser, "stores")
    press(browser, "looked_at · frame")
    shows(browser, "pandas.DataFrame", "in memory")
    keep(browser, "values")
    press(browser, "frame")
    shows(browser, "return_value", "What the task frame returned", "Preview: pandas.DataFrame")
    assert browser.execute_script("return window.here") is True
    assert "/tasks/frame/" in browser.current_url
    marked = "return [...document.querySelectorAll('a[aria-current=page]')].map(each => each.innerText)"
    assert "Values" in browser.execute_script(marked)


def test_a_preview_and_nothing_of_it_is_markup(airflow: str, browser: Any) -> None:
    """Rows and members are shown; names and texts that look like an element are the texts that they are."""
    run = run_page(airflow, browser)
    evil = "<img src=x onerror=document.title='struck'>"
    shown = {
        "frame": ("Preview: pandas.DataFrame", "10,000 rows × 2 columns", "First rows", "Oslo", "Rome", evil),
        "nested": ("Preview: builtins.dict", "dict of 2", evil, "str of 43"),
        "array": ("Preview: numpy.ndarray", "float64, 100 × 50", "First elements", "178.5"),
        "text": ("Preview: builtins.str", "100,043 characters, the beginning is shown", evil),
    }
    for task, words in shown.items():
        browser.get(f"{run}/tasks/{task}/plugin/vineyard-task")
        shows(browser, "return_value", *words)
        keep(browser, f"task-{task}")
        assert ask(browser, "return root.querySelectorAll('img, script').length") == 0
        assert browser.title != "struck"


def test_mapped_run_and_small(airflow: str, browser: Any) -> None:
    """A mapped task instance shows its own value, a run those of all its tasks, a small value is what it is."""
    run = run_page(airflow, browser)
    browser.get(f"{run}/tasks/square/mapped/1/plugin/vineyard-task")
    shows(browser, "What the task square[1] returned", "number: 4")
    browser.get(f"{run}/plugin/vineyard-run")
    shows(browser, "frame", "nested", "small", "square[0]", "square[1]")
    keep(browser, "run")
    browser.get(f"{run}/tasks/small/plugin/vineyard-task")
    shows(browser, '{"answer": 42}', "Airflow's database")


def test_the_link_of_a_task_instance(airflow: str, browser: Any) -> None:
    """It opens the page by itself, with the values of that task instance; a task without values has none."""
    run = run_page(airflow, browser)
    browser.get(f"{run}/tasks/frame/details")
    follow(browser, "Vineyard")
    until(lambda: "/vineyard/?" in browser.current_url, "the page behind the link")
    shows(browser, "What the task frame returned", "Preview: pandas.DataFrame")
    keep(browser, "link")


def test_to_free_a_value(airflow: str, browser: Any) -> None:
    """Whoever frees a value is asked first; then it is said to be gone, and stays so when the page is loaded anew."""
    address = f"{run_page(airflow, browser)}/tasks/spare/plugin/vineyard-task"
    browser.get(address)
    press(browser, "Free this value")
    shows(browser, "Its row stays")
    press(browser, "Keep it")
    press(browser, "Free this value")
    press(browser, "Free it")
    said = shows(browser, "Freed. It is gone: clear spare", "✕ gone", "✕ no copy")
    assert "● in memory" not in said and "✓ safe" not in said
    keep(browser, "freed")


def test_by_itself_with_the_keyboard_in_a_narrow_window(airflow: str, browser: Any) -> None:
    """The page needs no menu; its tabs obey the arrows, and it fits a telephone."""
    from selenium.webdriver import ActionChains, Keys

    before = browser.get_window_size()
    browser.set_window_size(500, 900)
    try:
        browser.get(f"{airflow}/vineyard/")
        shows(browser, "Which tasks fill the stores")
        fits = "return document.documentElement.scrollWidth <= window.innerWidth"
        assert ask(browser, fits)
        keep(browser, "narrow-stores")
        ask(browser, "root.querySelector('[role=tab][aria-selected=true]').focus()")
        ActionChains(browser).send_keys(Keys.ARROW_RIGHT).perform()
        shows(browser, "newest run first", "square[1]")
        assert ask(browser, "return root.activeElement.innerText") == "Values"
        press(browser, "Show return_value of frame")
        shows(browser, "Preview: pandas.DataFrame")
        assert ask(browser, fits)
        keep(browser, "narrow-values")
    finally:
        browser.set_window_size(before["width"], before["height"])


@pytest.mark.parametrize("path", ["plugin/vineyard", "vineyard/"])
def test_dark(airflow: str, browser: Any, path: str) -> None:
    """With Airflow's dark colours the page has them, too, in Airflow and by itself; with light ones it is light."""
    brightness = (
        "const pen = document.createElement('canvas').getContext('2d'), style = getComputedStyle(host);"
        "const of = color => { pen.fillStyle = color; pen.fillRect(0, 0, 1, 1);"
        " return Math.max(...pen.getImageData(0, 0, 1, 1).data.slice(0, 3)) };"
        "return [of(style.backgroundColor), of(style.color)]"
    )
    found = {}
    for theme in ("dark", "light"):
        browser.get(f"{airflow}/{path}")
        browser.execute_script("localStorage.setItem('theme', arguments[0])", theme)
        browser.refresh()
        shows(browser, "in use")
        found[theme] = ask(browser, brightness)
        keep(browser, f"{theme}-{path.partition('/')[0]}")
    assert found["dark"][0] < 80 and found["dark"][1] > 200, found
    assert found["light"][0] > 240 and found["light"][1] < 80, found


def test_no_page_complains(airflow: str, browser: Any) -> None:
    """Chromium has nothing to say about our scripts and files: none is missing, and no policy blocks one."""
    browser.get_log("browser")
    run = run_page(airflow, browser)
    for address in (f"{airflow}/plugin/vineyard", f"{run}/tasks/frame/plugin/vineyard-task"):
        browser.get(address)
        shows(browser, "in use" if address.endswith("vineyard") else "Preview")
    said = [each["message"] for each in browser.get_log("browser")]
    assert not [each for each in said if "/vineyard/" in each], said
