"""Run one of the example DAGs through real Airflow, from nothing, and show what became of its XComs.

::

    python examples/run_example.py flights

Everything happens in a private AIRFLOW_HOME, a temporary folder: Airflow's database is created there, and the embedded
vineyardd that the first task starts has its socket there. At the end the server is stopped and the folder removed. The
commands are shown as they are run; with an AIRFLOW_HOME of your own you would type the same.

Of what ``airflow`` says, this shows what the tasks print, the provider's log lines, and errors. Airflow is told to log
in JSON, so that the three can be told apart from the rest; before 3.2 it does not do it, and everything is shown.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

EXAMPLES = Path(__file__).resolve().parent


def environment(home: Path) -> dict[str, str]:
    """Return the environment of a private Airflow: ours, without anybody's Airflow or vineyard settings."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("AIRFLOW_", "VINEYARD_"))}
    return {
        **inherited,
        # The programs of this interpreter's environment, whether it is activated or not.
        "PATH": os.pathsep.join([sysconfig.get_path("scripts"), os.environ["PATH"]]),
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__CORE__DAGS_FOLDER": str(EXAMPLES / "dags"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        # This is the one setting that a deployment needs.
        "AIRFLOW__CORE__XCOM_BACKEND": "airflow_provider_vineyard.xcom.VineyardXCom",
        "AIRFLOW__LOGGING__JSON_LOGS": "True",
        # Deprecations inside Airflow and its dependencies are not what an example is about.
        "PYTHONWARNINGS": "ignore",
    }


def interesting(line: str) -> str | None:
    """Return what to show of a line of output, or None."""
    if not line.startswith('{"timestamp"'):
        return line.rstrip("\n")
    record = json.loads(line)
    if record["level"] in ("error", "critical"):
        causes = [f"{cause['exc_type']}: {cause['exc_value']}" for cause in record.get("exception", [])]
        return "\n  ".join([f"{record['level']}: {record['event']}", *causes])
    if record["event"].startswith("[DAG TEST] starting task_id="):
        return "task " + record["event"].split("=")[1].split()[0]
    if record.get("logger", "").startswith("airflow_provider_vineyard"):
        # There is but one run here, so its id only makes the lines longer.
        return "  " + re.sub(r" \(run [^)]*\)", "", record["event"])
    return None


def run(command: str, env: dict[str, str], log: Path) -> None:
    """Run a command; show the interesting part of its output as it comes, keep all of it.

    Raises:
        SystemExit: the command failed.
    """
    print(f"\n$ {command}", flush=True)
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    with log.open("a") as kept, subprocess.Popen(shlex.split(command), env=env, **pipes) as process:
        for line in process.stdout:
            kept.write(line)
            shown = interesting(line)
            if shown is not None:
                print(shown, flush=True)
    if process.returncode:
        raise SystemExit(f"{command} failed with exit status {process.returncode}; all of its output is in {log}.")


def main() -> None:
    """Run the DAG, show its XComs, leave nothing behind but, if something failed, the log."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dag_id", choices=sorted(path.stem for path in (EXAMPLES / "dags").glob("*.py")))
    dag_id = parser.parse_args().dag_id

    # Directly below the system's folder for temporary files: the path of a UNIX socket has at most 107 bytes.
    home = Path(tempfile.mkdtemp(prefix="airflow-"))
    log = home / "output.log"
    env = environment(home)
    socket = home / "vineyard" / "vineyard.sock"
    print(f"export AIRFLOW_HOME={home} AIRFLOW__CORE__DAGS_FOLDER={EXAMPLES / 'dags'}")
    print(f"export AIRFLOW__CORE__XCOM_BACKEND={env['AIRFLOW__CORE__XCOM_BACKEND']}")
    try:
        run("airflow db migrate", env, log)
        run(f"airflow dags test {dag_id}", env, log)
        print(f"\n$ python examples/show_xcoms.py {dag_id}", flush=True)
        subprocess.run([sys.executable, str(EXAMPLES / "show_xcoms.py"), dag_id], env=env, check=True)
    finally:
        if socket.exists():
            run(f"vineyard-client stop --socket {socket}", env, log)
    shutil.rmtree(home)


if __name__ == "__main__":
    main()
