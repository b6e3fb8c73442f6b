"""Records: what was measured, on what, with which versions and command. Append-only.

from allocmoe import records
records.append(path, records.Record(...))
for record in records.load(path): ...
"""

from allocmoe.records.files import append, load, resume
from allocmoe.records.origin import commit, environment, machine, typed
from allocmoe.records.record import Record
from allocmoe.records.views import conditions

__all__ = ["Record", "append", "commit", "conditions", "environment", "load", "machine", "resume", "typed"]
