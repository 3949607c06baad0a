"""The `vllm` engine: AsyncLLM in this process, vLLM's own engine process beside it."""
