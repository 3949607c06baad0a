"""Errors come out of a worker process as they went in."""

import pickle

import pytest

from services.reward.workers.pool import Overloaded
from shared.errors import BadJob, TriuneError, UserError
from shared.jobs.record import UnknownJob


@pytest.mark.parametrize(
    "error",
    [
        UserError("the input is wrong"),
        BadJob(["one mistake"]),
        BadJob(["one mistake", "and another"]),
        UnknownJob("a"),
        Overloaded(9, 4, 1.0),
    ],
    ids=lambda error: type(error).__name__,
)
@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_an_error_is_the_same_after_pickling(error: TriuneError, protocol: int) -> None:
    again = pickle.loads(pickle.dumps(error, protocol))
    assert (type(again), str(again), again.args, vars(again)) == (type(error), str(error), error.args, vars(error))
