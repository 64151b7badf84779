"""driftkit: which scheduling policy, fed by which length estimate, gives whom what latency?"""

__version__ = "0.1.0"
