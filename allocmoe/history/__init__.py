"""The history of measurements over commits: series, changes with the first bad commit, and gaps.

    from allocmoe import history, records
    found = history.series(records.load("records.jsonl"))
    for change in history.changes(found):
        print(history.words(change))

Quality repeats to rounding on one machine, so any change larger than a stated minimum is one. Times
are relative to the unchanged model's in the same session, and what is left of the noise is tested:
`collect` makes the series, `steps` finds where numbers step, `find` says what that means.
"""

from allocmoe.history.collect import Commit, Point, Series, level, named, series
from allocmoe.history.find import Change, Gap, changes, gaps, plural, title, words
from allocmoe.history.steps import ALPHA

__all__ = [
    "ALPHA", "Change", "Commit", "Gap", "Point", "Series",
    "changes", "gaps", "level", "named", "plural", "series", "title", "words",
]  # fmt: skip
