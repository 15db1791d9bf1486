"""One page that holds studies of placebos: pictures, tables, what was checked, and definitions; nothing is loaded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from dodona import __version__
from dodona.eval.causal.origin import Origin
from dodona.eval.placebo.arms import KINDS
from dodona.eval.placebo.study import Study
from dodona.eval.placebo.tables import notes, table
from dodona.eval.report import html
from dodona.eval.report.picture import Picture
from dodona.eval.report.table import definitions

BOUNDS_ARE: Final = (
    "hindsight and stepwise know what the oracle says, which no trigger can. They are no true optimum: hindsight takes "
    "its positions from the text that the base writes without help, which is another one after the first burst, and "
    "both take for the worst token the one where the models differ, not the one that spoils the answer. An arm can do "
    "better than either."
)


def page(studies: Sequence[Study], pictures: Sequence[Picture], origin: Origin) -> str:
    """The page as a text; the same records give the same page."""
    lead = (
        f"By dodona {__version__}. Intervals are 95 % intervals; differences are of the same problems. The denominator "
        "is every problem that was asked for."
    )
    body = [html.note(BOUNDS_ARE), html.figures(pictures)]
    tables = [table(study) for study in studies]
    for study, own in zip(studies, tables, strict=True):
        body.append(html.titled_table(own))
        body += map(html.note, notes(study))
    columns = {head: meaning for head, meaning in definitions(tables).items() if head != tables[0].heads[0].text}
    body.append(html.meanings({**KINDS, **columns}, of="lines and columns"))
    facts = html.listing(html.experiment_facts(origin.experiment))
    body.append(html.folded("Configuration, versions and files", facts))
    return html.document(f"Triggers against their placebos: {origin.experiment.title}", lead, body)
