"""What learner and rollout both do with a model that transformers has loaded; the only part that needs torch."""
