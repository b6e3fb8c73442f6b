"""The history over commits, as far as the records know theirs."""

from __future__ import annotations

from collections.abc import Iterator

from allocmoe.report import timeline
from allocmoe.report.results import Results
from allocmoe.report.section import Block, Section

CAPTION = """\
{{ "Lower" if f.lower else "Higher" }} is better; {{ f.commits }} commits in order of their dates, a line breaks where
one was not measured. A ring is the first commit of a change of more than
{{ "%.2g" | format(100 * f.minimum) }}%{% if f.noise %} that noise
alone would show in about {{ "%.2g" | format(100 * f.alpha) }}% of series; there are {{ f.series }} here.
{% else %}; these figures repeat from run to run.
{% endif %}
{% for commit, day, direction, text in f.changes %}
<br><code>{{ commit }}</code> {{ day }} <span class="{{ direction }}">{{ direction }}</span> {{ text }}
{% endfor %}
{% if f.more %}
<br>and {{ f.more }} more: see <code>allocmoe history</code>
{% endif %}
{% for commit, day, what in f.gaps %}
<br><code>{{ commit }}</code> {{ day }} not measured from here on: {{ what }}
{% endfor %}
"""


def blocks(found: Results) -> Iterator[Block]:
    """A figure per metric, once a series has two commits."""
    for title, figure, facts in timeline.blocks(found.records):
        yield Block(title, figure, facts)


SECTION = Section("history", "History over commits", blocks, CAPTION)
