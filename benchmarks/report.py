"""What the benchmarks share: what they ran on, how samples are summed up, and where the report goes."""

from __future__ import annotations

import json
import os
import platform
import statistics
from importlib import metadata
from typing import Any, Dict, List, Optional


def machine(*distributions: str) -> Dict[str, Any]:
    """Describe where the figures come from, with the versions of some distributions."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / (1 << 30)
    return {
        "cpus": os.cpu_count(),
        "memory_gib": round(memory, 1),
        "system": platform.platform(),
        "python": platform.python_version(),
        **{name: metadata.version(name) for name in distributions},
    }


def spread(seconds: List[float]) -> Dict[str, float]:
    """Return median, lowest and highest of some samples, in milliseconds."""
    return {
        "median_ms": statistics.median(seconds) * 1e3,
        "low_ms": min(seconds) * 1e3,
        "high_ms": max(seconds) * 1e3,
    }


def write(report: Dict[str, Any], markdown: str, path: Optional[str]) -> None:
    """Print the report as Markdown and, where a path is given, write it there as JSON."""
    if path:
        with open(path, "w") as file:
            json.dump(report, file, indent=2)
    print(markdown)
