"""Models behind OpenAI's HTTP API: the client of one server, the judge's questions, the teacher's log-probs."""
