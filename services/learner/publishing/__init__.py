"""What the world gets of the learner: weights, windows, evaluations."""
