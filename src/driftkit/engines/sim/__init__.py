"""vLLM V1's scheduler in virtual time: which requests share a step, and how long the step takes."""
