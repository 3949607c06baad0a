"""With a frozen tower and a trained connector, the tower's layers run once a step, and nothing else changes."""

import pytest
import torch

from services.learner.policy.tower import KeptTower

TRAINED = {"freeze": ["vit"], "learning_rate": 1e-3}
TWICE = {"updates_per_step": 2}


@pytest.fixture
def groups(make_group):
    shapes = [{"sizes": [(56, 84)]}, {"sizes": [(28, 28), (56, 56)]}, {"sizes": []}, {"sizes": [(112, 56)]}]
    return [make_group(ordinal, **shape) for ordinal, shape in enumerate(shapes)]


def stepped(make_engine, groups, algorithm=TWICE, **learner):
    """An engine after a step, its metrics, and how often a layer of its tower has run in it."""
    engine = make_engine(optimizer=TRAINED, algorithm=algorithm, learner=learner)
    ready, calls = [engine.ingest(*group) for group in groups], []
    hook = engine.model.hf.model.visual.blocks[0].attn.register_forward_hook(lambda *_: calls.append(1))
    metrics = engine.step(ready).metrics
    hook.remove()
    return engine, metrics, len(calls)


def test_the_step_is_the_same_and_the_tower_runs_once_over_each_micro_batch(make_engine, groups):
    kept, metrics, once = stepped(make_engine, groups)
    full, expected, often = stepped(make_engine, groups, feature_memory_gib=0.0)
    assert (once, often) == (2, 3)  # the second update's images are seen by the pass for its old log-probs, too
    assert metrics == expected
    ours, theirs = kept.weights(), full.weights()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert metrics["grad_norm/connector"] > 0.0


def test_nothing_is_kept_that_no_other_pass_reads(make_engine, groups, monkeypatch):
    kept = []
    monkeypatch.setattr(KeptTower, "forget", lambda tower: kept.append(tower.kept_bytes))
    stepped(make_engine, groups)
    assert kept.pop() > 0
    stepped(make_engine, groups, algorithm=TWICE | {"old_policy": "rollout"})
    assert kept == []


def test_nothing_is_kept_after_the_step_or_beyond_the_limit(make_engine, groups):
    engine, _, _ = stepped(make_engine, groups)
    assert engine.model.tower.kept_bytes == 0
    ready = [engine.ingest(*group) for group in groups]
    images = {image.name: engine.pixels.get(image) for image in ready[0].images}
    for limit, held in ((10**6, True), (10, False)):
        engine.model.tower.limit_bytes = limit
        with engine.model.tower.of(tuple(images)):
            engine.model.image_features(list(images.values()))
        assert (engine.model.tower.kept_bytes > 0) == held
        engine.model.tower.forget()


@pytest.mark.parametrize("freeze", [["vit", "connector"], ["llm"], []])
def test_a_tower_that_is_trained_or_has_no_trained_connector_is_left_alone(make_engine, freeze):
    assert make_engine(optimizer={"freeze": freeze}).model.tower is None
