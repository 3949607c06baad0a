"""What lives long is kept out of the collector's sight, and what is dead still goes."""

import gc
import weakref
from collections.abc import Iterator

import pytest

from shared.runtime.collector import ignore_what_is_there, loading


class Model:
    """Refers to itself, as models with hooks do: nothing but the collector frees it."""

    def __init__(self) -> None:
        self.itself = self


@pytest.fixture(autouse=True)
def as_it_was() -> Iterator[None]:
    threshold = gc.get_threshold()
    yield
    gc.unfreeze()
    gc.set_threshold(*threshold)


def test_what_a_job_has_loaded_is_looked_at_again_only_when_the_next_one_loads() -> None:
    with loading():
        model = Model()
    gone = weakref.ref(model)
    del model
    gc.collect()
    assert gone() is not None, "frozen"
    with loading():
        assert gone() is None, "no second model is loaded beside it"


def test_the_collector_rests_while_something_is_loaded_and_works_again_after_a_failure() -> None:
    with pytest.raises(ValueError, match="no such model"), loading():
        assert not gc.isenabled()
        raise ValueError("no such model")
    assert gc.isenabled()


def test_what_a_service_has_imported_is_never_looked_at() -> None:
    ignore_what_is_there()
    assert gc.get_freeze_count() > 10_000
    assert len(gc.get_objects()) < 1_000
