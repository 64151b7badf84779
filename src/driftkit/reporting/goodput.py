"""Goodput: requests that met their service level objectives, per second (DistServe, arXiv 2401.09670)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from driftkit.reporting.completions import Columns, Mask
from driftkit.reporting.groups import groups
from driftkit.reporting.latency import Rates
from driftkit.reporting.tables import Table

OBJECTIVES = (("slo_ttft_s", "ttft_s", "ttft_met_percent"), ("slo_e2e_s", "e2e_s", "e2e_met_percent"))


def goodput(data: Columns, by: Sequence[str]) -> Table:
    """Per label and group: how many had an objective, how many met all they had, and that per second.

    A request that was not served has missed; so has one with an objective for a first token that nobody saw.
    """
    columns = [("label", "label"), *((name, name) for name in by), ("objectives", "with an SLO")]
    columns += [("met", "met"), ("met_percent", "met %"), ("ttft_met_percent", "TTFT met %")]
    columns += [("e2e_met_percent", "end-to-end met %"), ("goodput_rps", "goodput/s")]
    table = Table("goodput", "Goodput", columns)
    rates = Rates(data)
    for group, part in groups(data, by):
        asked: Mask = np.zeros(len(part), dtype=np.bool_)
        missed: Mask = np.zeros(len(part), dtype=np.bool_)
        served = part.equal("status", "ok")
        shares = {}
        for objective, latency, share in OBJECTIVES:
            limit = part[objective]
            has = ~np.isnan(limit)
            met = has & served & (part[latency] <= limit)
            asked |= has
            missed |= has & ~met
            shares[share] = float(met.sum() / has.sum() * 100) if has.any() else None
        if not asked.any():
            continue
        met_all = int((asked & ~missed).sum())
        table.rows.append(
            {
                **group,
                "objectives": int(asked.sum()),
                "met": met_all,
                "met_percent": met_all / int(asked.sum()) * 100,
                **shares,
                "goodput_rps": rates.per_second(met_all, part),
            }
        )
    if table.rows:
        table.notes.append("met: all objectives of the request; one that was not served has missed them")
    return table
