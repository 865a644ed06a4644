"""What the tests beside a real server share."""

from __future__ import annotations

from typing import Iterator

import pytest

import vineyard_client as vc


@pytest.fixture
def other(server: vc.EmbeddedServer, client: vc.Client) -> Iterator[vc.Client]:
    """A second client, as another process would have it."""
    with vc.connect(server.socket) as second:
        yield second
