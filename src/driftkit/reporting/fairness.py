"""Who waited for whom."""

from __future__ import annotations

from itertools import combinations

import numpy as np

from driftkit.reporting.completions import Columns
from driftkit.reporting.groups import groups
from driftkit.reporting.stats import Array, jain, quantile_interval
from driftkit.reporting.tables import Table, shown

NOTICEABLE = 1.05  # tiers closer than this are not worth a sentence
# looked at in turn: the tail only where the middle shows nothing
PLACES = (("median", 0.5), ("P95", 0.95))


def fairness(data: Columns) -> Table:
    """Per label: Jain's index over the tenants' slowdowns, the worst tenant, the longest wait."""
    columns = [("label", "label"), ("tenants", "tenants"), ("jain_slowdown", "Jain index")]
    columns += [("worst_tenant", "worst tenant"), ("worst_slowdown", "its slowdown")]
    columns += [("longest_wait_s", "longest wait s"), ("longest_wait_tenant", "of tenant")]
    table = Table("fairness", "Fairness", columns)
    for group, part in groups(data.ok, ()):
        served = part.where((part["inference_s"] > 0) & ~np.isnan(part["queue_wait_s"]))
        if not len(served):
            continue
        tenants, codes = np.unique(served.codes("tenant"), return_inverse=True)
        requests = np.bincount(codes)
        slowdowns = np.bincount(codes, served["e2e_s"] / served["inference_s"]) / requests
        worst = int(np.argmax(slowdowns))
        longest = int(np.argmax(served["queue_wait_s"]))
        table.rows.append(
            {
                **group,
                "tenants": tenants.size,
                "jain_slowdown": jain(slowdowns),
                "worst_tenant": data.texts["tenant"].values[int(tenants[worst])],
                "worst_slowdown": float(slowdowns[worst]),
                "longest_wait_s": float(served["queue_wait_s"][longest]),
                "longest_wait_tenant": served.text("tenant", longest),
            }
        )
    if table.rows:
        table.notes.append(
            "slowdown: a tenant's mean of end-to-end time over its time in execution; Jain's index is 1 when "
            "all tenants are slowed alike"
        )
    return table


def tier_inversions(data: Columns) -> Table:
    """Pairs of tiers in which the better one (lower tier_level) waits longer, in words."""
    table = Table("tiers", "Tiers", [("label", "label"), ("finding", "finding")])
    for group, part in groups(data.ok, ()):
        ranked = part.where(~np.isnan(part["tier_level"]))
        tiers = sorted(
            (float(own["tier_level"].min()), name, own["e2e_s"]) for name, own in ranked.split("tier")
        )
        found = False
        for (better_level, better, its), (worse_level, worse, theirs) in combinations(tiers, 2):
            inversion = _inversion(its, theirs) if better_level < worse_level else None
            if inversion is not None:
                found = True
                place, own, other = inversion
                table.rows.append(
                    {
                        **group,
                        "finding": f"tier inversion: {better} waits longer than {worse}, {place} end-to-end "
                        f"{shown(own)} s against {shown(other)} s ({own / other:.1f} times)",
                        "inverted": True,
                        "better_tier": better,
                        "worse_tier": worse,
                        "statistic": place.lower(),
                        "better_s": own,
                        "worse_s": other,
                    }
                )
        if len(tiers) > 1 and not found:
            finding = "no inversion: no tier's end-to-end time is longer than a lower one's, median or P95"
            table.rows.append({**group, "finding": finding, "inverted": False})
    if not table.rows and len(data.texts["tier"].values) > 1:
        table.notes.append("the completions have no tier_level: nobody knows which tier is the better one")
    if table.rows:
        table.notes.append(
            "an inversion is said when the medians, or else the P95, differ by over 5 % and their 95 % "
            "intervals do not meet"
        )
    return table


def _inversion(better: Array, worse: Array) -> tuple[str, float, float] | None:
    """Where the better tier's times lie clearly above the worse one's, and both values; None if nowhere."""
    for name, q in PLACES:
        own, other = float(np.quantile(better, q)), float(np.quantile(worse, q))
        apart = quantile_interval(better, q)[0] > quantile_interval(worse, q)[1]
        if own > NOTICEABLE * other and apart:
            return name, own, other
    return None
