"""What pytest-benchmark says of the machine: as records do, so that saved runs name the GPU and the versions."""

from __future__ import annotations

from typing import Any

from allocmoe import records


def pytest_benchmark_update_machine_info(config: Any, machine_info: dict[str, Any]) -> None:
    machine_info["allocmoe"] = records.environment()
