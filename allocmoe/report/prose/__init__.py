"""Figures in prose: a document names where each of its figures comes from, and this fills them in.

    python -m allocmoe.report.prose README.md docs/*.md            # writes what has changed
    python -m allocmoe.report.prose --check README.md docs/*.md    # says it, and ends with 1

A figure stands between two comments that a reader of the page does not see, a table between two lines of them:

    At half of the activations it gives up <!--fig loss embedded mini-qwen alloc-moe 1/2-->2.0 %<!--/fig-->.

    <!--table quality embedded mini-qwen-->
    ...
    <!--/table-->

A figure never begins a line: there, Markdown takes a comment for the end of a paragraph. The words after `fig` and
`table` are a row of `FIGURES` or `TABLES`, then its arguments; "embedded" is `reports/records/embedded.jsonl`. `marks`
finds the places, `sources` reads the records, the other modules make what belongs there.
"""

from allocmoe.report.prose.marks import fill
from allocmoe.report.prose.sources import Sources

__all__ = ["Sources", "fill"]
