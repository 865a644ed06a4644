"""The server's error codes as exceptions: each text is pinned."""

from __future__ import annotations

from typing import Any, Type

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vineyard_client._wire.status import error_from
from vineyard_client.exceptions import ConnectionFailed, ObjectNotFound, ServerError, StoreFull, VineyardError


@pytest.mark.parametrize(
    "code, kind, hint",
    [
        (12, ObjectNotFound, "It was deleted, or the server restarted since it was put."),
        (31, ConnectionFailed, "The server is still starting: try again in a moment."),
        (33, ConnectionFailed, "Check the user name and password, and what the server's log says."),
        (34, ConnectionFailed, "Check the user name and password, and what the server's log says."),
        (41, StoreFull, "Delete objects that nobody needs (vineyard-client list), or give vineyardd a larger --size."),
        (14, ServerError, ""),
        (255, ServerError, ""),
    ],
)
def test_codes(code: int, kind: Type[VineyardError], hint: str) -> None:
    """A code has its class and its hint; the text says what was asked and what the server said."""
    error = error_from({"code": code, "message": " it said so\n"}, "seal_request")
    assert type(error) is kind
    assert error.what == f"vineyardd refused seal_request with code {code}: it said so."
    assert error.hint == hint
    if isinstance(error, ServerError):
        assert error.code == code


@pytest.mark.parametrize("message", [{}, {"message": ""}, {"message": None}])
def test_no_reason(message: Any) -> None:
    """An error without a text says so."""
    assert str(error_from({"code": 7, **message}, "x")) == "vineyardd refused x with code 7: no reason given."


@pytest.mark.parametrize("code", ["12", True, 12.0, [12]])
def test_a_code_that_is_no_number(code: Any) -> None:
    """A code of another kind is shown as it came, and taken for no known one."""
    error = error_from({"code": code, "message": "m"}, "x")
    assert type(error) is ServerError and error.code == 255
    assert str(error) == f"vineyardd refused x with the code {code!r}: m."


@given(
    st.dictionaries(
        st.sampled_from(["code", "message", "type"]), st.integers() | st.text() | st.none() | st.lists(st.integers())
    )
)
def test_any_reply(message: Any) -> None:
    """Whatever an error reply holds, an exception of ours comes out."""
    assert isinstance(error_from(message, "x"), VineyardError)
