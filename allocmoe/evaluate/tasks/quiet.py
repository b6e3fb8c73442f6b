"""lm-eval and datasets without their noise."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from lm_eval import evaluator
from tqdm import tqdm


@contextmanager
def quiet() -> Iterator[None]:
    """lm-eval and datasets without their progress bars and log lines, and without the subprocesses (git, pip) with
    which lm-eval describes a machine: records do that."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    bar: Any = tqdm
    original = bar.__init__

    def silent(self: Any, *args: Any, **kwargs: Any) -> None:
        original(self, *args, **{**kwargs, "disable": True})

    bar.__init__ = silent
    describing = {name: getattr(evaluator, name, None) for name in ("get_git_commit_hash", "add_env_info")}
    for name in describing:
        setattr(evaluator, name, lambda *_: None)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    try:
        yield
    finally:
        bar.__init__ = original
        for name, function in describing.items():
            setattr(evaluator, name, function)
        logging.disable(before)
