"""Consumes scored groups from the journal, trains, publishes weights with their cursor and window.

Owns checkpoints, the weights in the blob store, and the staleness ledger.
"""
