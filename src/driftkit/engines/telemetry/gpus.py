"""NVIDIA's GPUs, through NVML (the extra `gpu`: nvidia-ml-py)."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from driftkit.engines.telemetry.source import UnavailableError
from driftkit.records.schema import Record

#: by field: how NVML, a module, says it of a device. Power is in milliwatts, on most GPUs since Ampere the
#: mean of the last second; utilisation is the share of the last sixth of a second to a second in which any
#: kernel ran (NVML API reference, nvmlDeviceGetPowerUsage and nvmlUtilization_t).
READINGS: dict[str, Callable[[Any, Any], float]] = {
    "gpu_busy_ratio": lambda nvml, device: nvml.nvmlDeviceGetUtilizationRates(device).gpu / 100,
    "gpu_memory_bytes": lambda nvml, device: nvml.nvmlDeviceGetMemoryInfo(device).used,
    "power_w": lambda nvml, device: nvml.nvmlDeviceGetPowerUsage(device) / 1000,
    "temperature_c": lambda nvml, device: nvml.nvmlDeviceGetTemperature(device, nvml.NVML_TEMPERATURE_GPU),
    "sm_clock_mhz": lambda nvml, device: nvml.nvmlDeviceGetClockInfo(device, nvml.NVML_CLOCK_SM),
    "memory_clock_mhz": lambda nvml, device: nvml.nvmlDeviceGetClockInfo(device, nvml.NVML_CLOCK_MEM),
}


#: what the driver makes where there is a GPU
DEVICE = "/dev/nvidiactl"


def gpus(warn: Callable[[str], None] = lambda text: None) -> list[Gpus]:
    """The GPUs of this machine as one source; none without a GPU, its driver or the package.

    `warn` is told when it is the package alone that is missing.
    """
    try:
        nvml: Any = importlib.import_module("pynvml")
    except ImportError:
        if Path(DEVICE).exists():
            warn("telemetry: there is a GPU, and no nvidia-ml-py to ask it: pip install 'driftkit[gpu]'")
        return []
    try:
        nvml.nvmlInit()
        devices = [nvml.nvmlDeviceGetHandleByIndex(index) for index in range(nvml.nvmlDeviceGetCount())]
    except nvml.NVMLError:
        return []
    return [Gpus(nvml, devices)] if devices else []


class Gpus:
    """A record for each device, by NVML's index; what a device cannot tell is left out."""

    name = "GPUs"

    def __init__(self, nvml: Any, devices: Sequence[Any]) -> None:
        self._nvml = nvml
        self._devices = devices

    def sample(self) -> list[Record]:
        samples = [{"gpu": index, **self._read(device)} for index, device in enumerate(self._devices)]
        samples = [sample for sample in samples if len(sample) > 1]
        if not samples:
            raise UnavailableError("NVML answers nothing")
        return samples

    def _read(self, device: Any) -> Record:
        told = {}
        for field, reading in READINGS.items():
            try:
                told[field] = reading(self._nvml, device)
            except self._nvml.NVMLError:  # as power is on some cards
                continue
        return told

    def close(self) -> None:
        try:
            self._nvml.nvmlShutdown()
        except self._nvml.NVMLError:
            return
