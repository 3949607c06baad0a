"""Verifiers that no worker can run: a model that is asked over HTTP, and programs in processes of their own."""
