"""Report: records become one HTML page that a budget's costs and gains can be read from.

    from allocmoe import records, report
    report.write(records.load("records.jsonl"), "report.html", "Alloc-MoE on mini")

`tables` turns records into rows and comparisons, `figures` draws rows, `page` words and lays it out.
"""

from allocmoe.report.page import write
from allocmoe.report.tables import summary

__all__ = ["summary", "write"]
