"""Noticing that the world has moved: alarms on residuals (actual against estimate) and on inputs."""
