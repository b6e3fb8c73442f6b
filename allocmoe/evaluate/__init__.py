"""Quality: perplexity of held-out text, and lm-eval tasks."""
