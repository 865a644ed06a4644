"""What would happen to a value, said beforehand."""

from __future__ import annotations

import json
import threading

import pytest

import vineyard_client as vc
from vineyard_client.cli import main


class Mine:
    """Needs permission."""

    def __init__(self, part: object) -> None:
        self.part = part


def test_a_value_that_arrives() -> None:
    explanation = vc.explain({"a": [1, 2.5, {3}]})
    assert explanation.arrives and not explanation.refusals and not explanation.patterns and explanation.complete
    assert str(explanation) == "A builtins.dict arrives as it is."


def test_what_needs_permission_and_what_never_arrives() -> None:
    explanation = vc.explain([Mine(threading.Lock()), complex(1, 2), (n for n in [1])])
    found = {refusal.name: refusal for refusal in explanation.refusals}
    mine = found[f"{__name__}.Mine"]
    assert mine.pattern == mine.name and mine.where == "value[0]" and "holds data" in mine.reason
    assert found["_thread.lock"].where == "value[0].part" and not found["_thread.lock"].pattern
    assert "list(…)" in found["builtins.generator"].remedy
    assert explanation.types == {"builtins.complex": 1}
    assert explanation.patterns == (f"{__name__}.Mine",) and not explanation.arrives
    text = str(explanation)
    assert f"needs permission: {__name__}.Mine (at value[0])" in text and "never: _thread.lock" in text


def test_with_permission() -> None:
    assert vc.explain(Mine(1), allowed_classes=[f"{__name__}.*"]).arrives
    with pytest.raises(vc.UnsafeType, match="allows too much"):
        vc.explain(1, allowed_classes=["*"])


def test_passive_classes_can_be_turned_off() -> None:
    from collections import namedtuple

    row = namedtuple("row", "a")(1)
    assert vc.explain(row).arrives
    assert not vc.explain(row, passive_classes=False).arrives


def test_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "datetime:datetime(2024, 1, 1)"]) == 0
    assert capsys.readouterr().out == "A datetime.datetime arrives as it is.\n"
    assert main(["explain", "--json", "threading:[Lock()]"]) == 3
    told = json.loads(capsys.readouterr().out)
    assert not told["arrives"] and told["refusals"][0]["name"] == "_thread.lock"
    assert main(["explain", "string:Template('a')", "--allow", "string.Template"]) == 0
    for wrong in ("no_such_module:x", "threading", "threading:", ":x"):
        assert main(["explain", wrong]) == 1
    assert "module:expression" in capsys.readouterr().err
