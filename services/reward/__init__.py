"""reward: completions → scored. Stateless; judges each completion by the verifier that its sample names."""
