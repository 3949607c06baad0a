"""Evaluations by version, as their groups arrive in any order."""

from services.learner.publishing.evaluations import Complete, Evaluations, is_due


def test_an_evaluation_is_complete_when_all_its_groups_have_arrived_each_counted_once():
    evaluations = Evaluations()
    evaluations.announce(4, incarnation=1)
    for ordinal, void in ((0, False), (1, True), (1, False)):  # the first record of an ordinal counts
        evaluations.arrive(4, ordinal, void=void)
    evaluations.end(4, total=3)
    assert evaluations.complete() == [] and evaluations.open == {4}
    evaluations.arrive(4, 2, void=False)
    assert evaluations.complete() == [Complete(version=4, incarnation=1, total=3, void=1)]


def test_a_done_evaluation_holds_nothing_any_more_also_of_groups_that_come_twice():
    evaluations = Evaluations()
    for version in range(100):
        evaluations.announce(version, incarnation=0)
        for ordinal in range(10):
            evaluations.arrive(version, ordinal, void=False)
        evaluations.finish(version)
        evaluations.arrive(version, 3, void=True)
    assert evaluations.held == 0 and evaluations.open == set() and evaluations.complete() == []
    assert evaluations.is_announced(99)


def test_the_first_the_last_and_every_nth_version_are_evaluated():
    assert [step for step in range(11) if is_due(step, 10, 4)] == [0, 4, 8, 10]
    assert [step for step in range(11) if is_due(step, 10, 0)] == [0, 10]
