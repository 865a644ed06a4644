"""``python -m airflow_provider_vineyard``: the program ``airflow-vineyard``, also where that is not on PATH."""

from __future__ import annotations

import sys

from airflow_provider_vineyard.cli import main

if __name__ == "__main__":
    sys.exit(main())
