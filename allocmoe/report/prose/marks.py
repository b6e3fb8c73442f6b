"""The marked places of a document, and what belongs into them."""

from __future__ import annotations

import inspect
import re
import shlex
from collections.abc import Callable, Mapping

from allocmoe.errors import AllocMoEError, shown
from allocmoe.report.prose.agreement import AGREEMENT
from allocmoe.report.prose.analysed import ANALYSED, VALUES
from allocmoe.report.prose.answers import ANSWERS
from allocmoe.report.prose.batches import BATCHES
from allocmoe.report.prose.code import CODE
from allocmoe.report.prose.costs import COSTS
from allocmoe.report.prose.divergences import DIVERGENCES
from allocmoe.report.prose.experts import EXPERTS, LEADS
from allocmoe.report.prose.figures import FIGURES
from allocmoe.report.prose.routing import ROUTING
from allocmoe.report.prose.sources import Sources
from allocmoe.report.prose.studies import STUDIES
from allocmoe.report.prose.tables import TABLES

KINDS: Mapping[str, Mapping[str, Callable[..., str]]] = {
    "fig": {**FIGURES, **LEADS, **VALUES},
    "table": {
        **TABLES, **EXPERTS, **BATCHES, **COSTS, **ROUTING, **STUDIES, **DIVERGENCES, **ANSWERS, **CODE, **AGREEMENT,
        **ANALYSED,
    },
}  # fmt: skip
MARK = re.compile(r"<!--(fig|table)\s(.*?)-->(.*?)<!--/(fig|table)-->", re.DOTALL)
BEGINNING = re.compile(r"(?:\A|\n)[ \t]*(?:(?:[-*+>]|\d+[.)])[ \t]+)*\Z")
ANY = re.compile(r"<!--/?(?:fig|table)\b")


def fill(text: str, sources: Sources, where: str = "the document") -> str:
    """A document with every marked figure and table as the records have it; all else stays as it is.

    Raises AllocMoEError, with the line, for a mark that is not closed, a figure that begins a line, an unknown figure
    or table, arguments that it does not take, or what no record holds.
    """
    marks = {start for found in MARK.finditer(text) for start in (found.start(), found.start(3) + len(found[3]))}
    for found in ANY.finditer(text):
        if found.start() not in marks:
            raise AllocMoEError(f"{where}:{_line(text, found.start())}: this mark has no other end of its own")

    def filled(found: re.Match[str]) -> str:
        kind, call, _, end = found.groups()
        try:
            if kind == "fig" and BEGINNING.search(text[: found.start()]):
                raise AllocMoEError(
                    "this figure begins a line, where Markdown reads a comment as the end of a paragraph"
                )
            if kind != end:
                raise AllocMoEError(f"this mark opens a {kind} and closes a {end}")
            value = _called(kind, call, sources)
        except AllocMoEError as error:
            raise AllocMoEError(f"{where}:{_line(text, found.start())}: {error}") from None
        between = f"\n{value}\n" if kind == "table" else value
        return f"<!--{kind} {call}-->{between}<!--/{kind}-->"

    return MARK.sub(filled, text)


def _called(kind: str, call: str, sources: Sources) -> str:
    try:
        name, *arguments = shlex.split(call)
    except ValueError as error:
        raise AllocMoEError(f"{shown(call)} cannot be read: {error}") from None
    known = KINDS[kind]
    if name not in known:
        raise AllocMoEError(f"unknown {kind} {shown(name)}: expected one of {', '.join(known)}")
    signature = inspect.signature(known[name])
    try:
        signature.bind(sources, *arguments)
    except TypeError:
        wanted = " ".join(
            p.name.upper() if p.default is p.empty else f"[{p.name.upper()}]"
            for p in list(signature.parameters.values())[1:]
        )
        raise AllocMoEError(
            f"{kind} {name} takes {wanted or 'no arguments'}, not {shown(' '.join(arguments))}"
        ) from None
    try:
        return known[name](sources, *arguments)
    except (LookupError, TypeError, ValueError, ArithmeticError) as error:  # records of another kind than it reads
        raise AllocMoEError(f"the records do not have what {kind} {name} needs ({shown(error)})") from None


def _line(text: str, place: int) -> int:
    return text.count("\n", 0, place) + 1
