"""The API against its own OpenAPI document, with made-up requests."""

from collections.abc import Iterator

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from tests.monitor.actor import Actor
from tests.monitor.theatre import Theatre, theatre_in

CHECKS = (
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
    response_headers_conformance,
)
"""Not that valid data are accepted: a job's files must also exist."""


@pytest.fixture(scope="module")
def theatre(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Theatre]:
    with theatre_in(tmp_path_factory.mktemp("openapi")) as theatre:
        yield theatre


@pytest.fixture(scope="module")
def job(theatre: Theatre) -> str:
    """A job with a history that has ended, so that its live stream ends too."""
    job = theatre.run(theatre.stage.submit())
    theatre.run(theatre.stage.state(job, "running"))
    actor = Actor(theatre.stage, job)
    theatre.run(actor.evaluate(0))
    for _ in range(3):
        theatre.run(actor.step())
    theatre.run(theatre.stage.jobs.move(job, "done"))
    theatre.run(theatre.stage.report(job, "done"))
    return job


@pytest.mark.parametrize("known", [False, True], ids=["unknown job", "known job"])
def test_no_request_meets_a_fault_or_an_undocumented_answer(theatre: Theatre, job: str, known: bool) -> None:
    schema = schemathesis.openapi.from_url(f"http://127.0.0.1:{theatre.port}/openapi.json")
    operations = [found.ok() for found in schema.get_all_operations()]
    operations.sort(key=lambda operation: operation.label.startswith("DELETE"))  # last: nothing is known after it
    for operation in operations:

        @settings(max_examples=12, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
        @given(case=operation.as_strategy())
        def check(case: schemathesis.Case) -> None:
            if known and "job_id" in (case.path_parameters or {}):
                case.path_parameters["job_id"] = job
            case.call_and_validate(checks=CHECKS, timeout=20)

        check()
    labels = {operation.label for operation in operations}
    assert {"POST /v1/jobs", "GET /v1/jobs/{job_id}/samples", "GET /v1/jobs/{job_id}/events"} <= labels
