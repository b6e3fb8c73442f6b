"""Report: records become one HTML page that a budget's costs and gains can be read from.

    from allocmoe import records, report
    report.write(records.load("records.jsonl"), "report.html", "Alloc-MoE on mini")

`groups` says which records may be compared, `rows` and `compare` compute, `results` gathers, `sections` draws (one file
each, on `figures` and `style`), `page` words it and lays it out.
"""

from allocmoe.report.page import write
from allocmoe.report.results import summary

__all__ = ["summary", "write"]
