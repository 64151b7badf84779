"""Who waited for whom."""

from __future__ import annotations

from itertools import combinations

import numpy as np

from driftkit.reporting.completions import Columns
from driftkit.reporting.groups import groups
from driftkit.reporting.stats import jain, median_interval
from driftkit.reporting.tables import Table, shown

NOTICEABLE = 1.05  # medians closer than this are not worth a sentence


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
        slowdowns = {
            tenant: float(np.mean(own["e2e_s"] / own["inference_s"]))
            for tenant, own in served.split("tenant")
        }
        worst = max(slowdowns, key=lambda tenant: slowdowns[tenant])
        longest = int(np.argmax(served["queue_wait_s"]))
        table.rows.append(
            {
                **group,
                "tenants": len(slowdowns),
                "jain_slowdown": jain(np.array(list(slowdowns.values()))),
                "worst_tenant": worst,
                "worst_slowdown": slowdowns[worst],
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
        tiers = (
            sorted((float(own["tier_level"].min()), name, own["e2e_s"]) for name, own in ranked.split("tier"))
            if len(ranked)
            else []
        )
        found = False
        for (better_level, better, its), (worse_level, worse, theirs) in combinations(tiers, 2):
            median, other = float(np.median(its)), float(np.median(theirs))
            apart = median_interval(its)[0] > median_interval(theirs)[1]
            if better_level < worse_level and median > NOTICEABLE * other and apart:
                found = True
                table.rows.append(
                    {
                        **group,
                        "finding": f"tier inversion: {better} waits longer than {worse}, median end-to-end "
                        f"{shown(median)} s against {shown(other)} s ({median / other:.1f} times)",
                        "inverted": True,
                        "better_tier": better,
                        "worse_tier": worse,
                        "better_median_s": median,
                        "worse_median_s": other,
                    }
                )
        if len(tiers) > 1 and not found:
            table.rows.append(
                {**group, "finding": "no tier waits longer than a lower one", "inverted": False}
            )
    if table.rows:
        table.notes.append(
            "an inversion is said when the medians differ by over 5 % and their 95 % intervals do not meet"
        )
    return table
