"""Requests that fit the server's own OpenAPI document, and requests that do not: Schemathesis over a real socket."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, seed, settings

from esrt.cloud.openapi import document
from tests.fuzz.conftest import KEY, Budget

schemathesis = pytest.importorskip("schemathesis", reason="Schemathesis needs Python 3.11")
from schemathesis import GenerationMode  # noqa: E402
from schemathesis.checks import CHECKS  # noqa: E402
from schemathesis.config import SchemathesisConfig  # noqa: E402

EXAMPLES = 40  # of each operation in each mode
CONFIG = SchemathesisConfig.from_dict(
    {
        "generation": {"with-security-parameters": False, "allow-extra-parameters": False},
        # Its own list has no 413, with which too large a body is refused before anything else of it is looked at.
        "checks": {"negative_data_rejection": {"expected-statuses": [400, 401, 404, 405, 413]}},
    }
)
SCHEMA = schemathesis.openapi.from_dict(document(), config=CONFIG)
OPERATIONS = {found.ok().label: found.ok() for found in SCHEMA.get_all_operations()}
CASES = [
    pytest.param(name, mode, id=f"{name} {mode}")
    for name, operation in OPERATIONS.items()
    for mode in GenerationMode
    # Where a request has no parts, there is nothing to make wrong.
    if mode.is_positive or operation.body or operation.query or operation.path_parameters
]


@pytest.mark.parametrize(("name", "mode"), CASES)
def test_every_operation(server: Any, budget: Budget, name: str, mode: GenerationMode) -> None:
    """No 5xx; statuses, types and bodies are those of the document; what does not fit it is refused."""
    # No schema says which bytes are a frame, nor which features are stored.
    excluded = CHECKS.get_by_names(["positive_data_acceptance"]) if OPERATIONS[name].body else []
    healthy = list(HealthCheck)

    @seed(budget.seed)
    @settings(max_examples=EXAMPLES * budget.factor, deadline=None, database=None, suppress_health_check=healthy)
    @given(OPERATIONS[name].as_strategy(generation_mode=mode))
    def ask(case: Any) -> None:
        case.call_and_validate(
            base_url=server.url, headers={"Authorization": f"Bearer {KEY}"}, excluded_checks=excluded
        )

    ask()
