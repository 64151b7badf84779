"""Who sends the requests: the paper's three tenants."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Tenant:
    """A tenant and its tier: `level` is the tier's rank (lower first), `weight` its picks per cycle."""

    name: str
    tier: str
    level: int
    weight: int

    def fields(self) -> dict[str, Any]:
        return {
            "tenant": self.name,
            "tier": self.tier,
            "tier_level": self.level,
            "weight": self.weight,
        }


# DriftSched: three tenants, picked uniformly, each in the tier of its name; the weighted cycle is 5:3:2
DRIFTSCHED = (
    Tenant("tenant-premium", "premium", 1, 5),
    Tenant("tenant-standard", "standard", 2, 3),
    Tenant("tenant-batch", "batch", 3, 2),
)
