"""Tasks through lm-eval: what is asked (spec, table), how it is loaded and put (loading, planned), and what comes back.

`suite.TaskSuite` runs them; `spec` and `table` need neither torch nor lm-eval.
"""
