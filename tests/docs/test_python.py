"""Every Python block of every page runs: those of a page in order, in one process, beside a real server."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Dict

import pytest
from vineyard_testing.markdown import by_language

pytestmark = pytest.mark.integration

PAGES = by_language("python")

# What a page takes for granted, by page: run before its first block.
GIVEN = {
    "README.md": "from __future__ import annotations\nimport pandas as pd\nfrom airflow.sdk import task",
    "packages/core/README.md": """
import pandas as pd
import vineyard_client as vc
frame = pd.DataFrame({"a": range(3)})
native = vc.connect().put(frame, native=True)
""",
}

# What stands for something that is different for each reader, by page, and what to put there; {socket} is the server's.
DIFFERENT = {
    "packages/core/README.md": {'"/run/vineyard.sock"': '"{socket}"', '"o0016f0c2e3a10001"': "native.id"},
}

# Runs the blocks it is given, each at its line, so that a traceback names the place on the page.
_RUN = """
import json, sys
namespace = {"__name__": "page"}
for page, line, source in json.load(sys.stdin):
    exec(compile("\\n" * (line - 1) + source, page, "exec"), namespace)
"""


@pytest.mark.parametrize("page", PAGES)
def test_python(page: str, server: Any) -> None:
    """The blocks of a page run as they stand there, and the page's claims in them hold."""
    steps = [("given", 1, GIVEN.get(page, ""))]
    replaced: Dict[str, int] = dict.fromkeys(DIFFERENT.get(page, {}), 0)
    for block in PAGES[page]:
        source = block.text
        for old, new in DIFFERENT.get(page, {}).items():
            replaced[old] += source.count(old)
            source = source.replace(old, new.format(socket=server.socket))
        steps.append((page, block.line, source))
    assert all(replaced.values()), f"not on the page any more: {replaced}"
    with tempfile.TemporaryDirectory() as home:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("AIRFLOW_")}
        env = {**inherited, "AIRFLOW_HOME": home, "VINEYARD_IPC_SOCKET": server.socket, "PYTHONWARNINGS": "ignore"}
        done = subprocess.run(
            [sys.executable, "-c", _RUN], input=json.dumps(steps), env=env, capture_output=True, text=True, check=False
        )
    assert done.returncode == 0, done.stderr


def test_what_is_given_is_used() -> None:
    """No preparation is left for a page that is gone."""
    assert {*GIVEN, *DIFFERENT} <= set(PAGES)
    assert all(Path(page).suffix == ".md" for page in PAGES)
