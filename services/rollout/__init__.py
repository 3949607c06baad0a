"""rollout: prompts → completions. Replicated; samples groups with the newest weights, and stamps every token."""
