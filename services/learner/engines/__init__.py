"""Training engines behind `services.learner.engine.Engine`."""
