"""The gate: is this commit worse than the baseline, in quality, activations or speed?

    from allocmoe import gate, records
    found = gate.compare(records.load("new.jsonl"), records.load("baseline.jsonl"))
    sys.exit(found.code)  # 0 pass, 1 regressed, 2 could not measure

`pairing` finds what may be compared and the evidence, `verdict` judges it, `show` words it.
"""

from allocmoe.gate.floors import load as load_floors
from allocmoe.gate.verdict import NEW, PASS, REGRESSED, UNMEASURED, Gate, Row, compare, read_margins

__all__ = [
    "NEW",
    "PASS",
    "REGRESSED",
    "UNMEASURED",
    "Gate",
    "Row",
    "compare",
    "load_floors",
    "read_margins",
]
