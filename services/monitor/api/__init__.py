"""The REST API: routes by subject and the shapes of their answers."""
