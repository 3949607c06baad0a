"""monitor: reads scored groups and events, keeps the history, serves the REST API and the page."""
