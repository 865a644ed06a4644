"""``python -m airflow_vineyard_deploy`` is the command line."""

import sys

from .cli import main

sys.exit(main())
