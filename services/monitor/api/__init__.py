"""The REST API: routes by subject, shapes of answers, checks of what is submitted."""
