"""The vLLM engine: a plan that changes what `vllm serve` or `LLM(...)` computes.

`plugin` is what vLLM loads, `settings` how a plan reaches it, `refuse` what it turns down,
`router` keeps and drops, `kernels` skips what was dropped, `probe` makes a kernel prove it, `backend` says which
kernel to ask for, `install` puts them into a worker,
`worker` is the way in for a running engine, and `engine` drives an in-process vLLM for measuring.
"""
