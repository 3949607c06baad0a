"""A job's log (journal and events): reading it to a named end, purging what nothing needs any more."""
