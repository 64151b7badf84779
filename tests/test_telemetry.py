"""Sampling a run that is under way: who is asked when, what a source tells, and what fails without harm.

There is no GPU where these tests run: an object with the names of the real bindings, to which a test holds
it, plays NVML. Servers and processes are real.
"""

from __future__ import annotations

import http.server
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cli import PATIENCE_S, Record
from driftkit.engines.telemetry import prometheus, servers
from driftkit.engines.telemetry.gpus import gpus
from driftkit.engines.telemetry.processes import Processes, family, processes, usage
from driftkit.engines.telemetry.sampler import PATIENCE_S as LAST_SAMPLES_S
from driftkit.engines.telemetry.sampler import Telemetry
from driftkit.engines.telemetry.servers import Server
from driftkit.engines.telemetry.source import UnavailableError
from driftkit.reporting.telemetry import check_telemetry

# --- sampling -------------------------------------------------------------------------------------

RUN = {"run_id": "run-1", "label": "fifo"}


class Scripted:
    """A source that does `told` each time that it is asked."""

    def __init__(self, told: Callable[[int], list[Record]], name: str = "scripted") -> None:
        self.name = name
        self.told = told
        self.asked = 0
        self.closed = False

    def sample(self) -> list[Record]:
        self.asked += 1
        return self.told(self.asked)

    def close(self) -> None:
        self.closed = True


def until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.002)


def failing(why: str) -> Callable[[int], list[Record]]:
    def told(asked: int) -> list[Record]:
        raise UnavailableError(why)

    return told


def test_a_sample_is_a_record_at_the_runs_time() -> None:
    source = Scripted(lambda asked: [{"gpu": 0, "power_w": 50.0 + asked}, {"gpu": 1, "power_w": 20.0}])
    instants = iter([0.5, 0.70000049, *([9.0] * 10**6)])
    written: list[Record] = []
    with Telemetry([source], RUN, lambda: next(instants), written.append, every_s=0.005):
        until(lambda: source.asked >= 3)
    assert source.closed
    head = {"kind": "telemetry", "schema": 1, "run_id": "run-1", "label": "fifo"}
    assert written[:3] == [
        {**head, "at_s": 0.5, "gpu": 0, "power_w": 51.0},
        {**head, "at_s": 0.5, "gpu": 1, "power_w": 20.0},
        {**head, "at_s": 0.7, "gpu": 0, "power_w": 52.0},
    ]
    assert len(written) == 2 * source.asked  # the last ones, at the end of the run, included
    for record in written:
        check_telemetry(record)


def test_nothing_is_kept_from_before_the_clock_starts() -> None:
    source = Scripted(lambda asked: [{"cpu_ratio": 1}])
    written: list[Record] = []
    with Telemetry([source], RUN, lambda: source.asked - 3.0, written.append, every_s=0.001):
        until(lambda: source.asked >= 5)
    assert written[0]["at_s"] == 0.0
    assert len(written) == source.asked - 2


def test_samples_come_as_often_as_asked_and_are_not_made_up_for() -> None:
    stalled = Scripted(lambda asked: time.sleep(0.1) or [] if asked == 1 else [])
    begin = time.monotonic()
    with Telemetry([stalled], RUN, lambda: 0.0, lambda record: None, every_s=0.01):
        until(lambda: stalled.asked >= 6)
    took = time.monotonic() - begin
    assert stalled.asked <= 2 + (took - 0.1) / 0.01 + 1


def test_a_source_that_hangs_delays_neither_the_others_nor_the_end() -> None:
    release = threading.Event()
    hung = Scripted(lambda asked: [{"replica": "hung"}] if release.wait(PATIENCE_S) else [])
    good = Scripted(lambda asked: [{"cpu_ratio": 1}])
    written: list[Record] = []
    telemetry = Telemetry([hung, good], RUN, lambda: 1.0, written.append, every_s=0.005)
    telemetry.start()
    until(lambda: good.asked >= 10)
    begin = time.monotonic()
    telemetry.stop()
    assert time.monotonic() - begin < LAST_SAMPLES_S + 0.5
    kept = len(written)
    assert kept == good.asked
    release.set()  # what it tells after the end is not written
    until(lambda: hung.closed)
    assert len(written) == kept


def test_a_source_that_fails_once_is_left_out_once_and_not_told_of() -> None:
    def told(asked: int) -> list[Record]:
        if asked == 3:
            raise UnavailableError("reset")
        return [{"cpu_ratio": asked}]

    source = Scripted(told)
    written: list[Record] = []
    warned: list[str] = []
    with Telemetry([source], RUN, lambda: 1.0, written.append, every_s=0.005, warn=warned.append):
        until(lambda: source.asked >= 5)
    assert [record["cpu_ratio"] for record in written[:4]] == [1, 2, 4, 5]
    assert warned == []


def test_a_source_that_is_not_there_is_told_once_and_asked_seldom() -> None:
    gone = Scripted(failing("connection refused"), "http://localhost:1/metrics")
    good = Scripted(lambda asked: [])
    warned: list[str] = []
    with Telemetry([gone, good], RUN, lambda: 1.0, lambda r: None, every_s=0.005, warn=warned.append):
        until(lambda: good.asked >= 50)
    assert warned == [
        "telemetry: http://localhost:1/metrics: connection refused; there are no samples until it answers"
    ]
    assert 2 <= gone.asked <= good.asked / 2


def test_what_cannot_be_written_is_raised_at_the_end_and_nothing_more_is_tried() -> None:
    tried: list[Record] = []

    def write(record: Record) -> None:
        tried.append(record)
        raise OSError(28, "No space left on device")

    sources = [Scripted(lambda asked: [{"cpu_ratio": 1}, {"cpu_ratio": 2}]) for _ in range(3)]
    telemetry = Telemetry(sources, RUN, lambda: 1.0, write, every_s=0.005)
    telemetry.start()
    until(lambda: all(source.closed for source in sources))
    with pytest.raises(OSError, match="No space left"):
        telemetry.stop()
    assert len(tried) == 1


def test_the_error_of_the_run_is_the_one_that_is_seen() -> None:
    def write(record: Record) -> None:
        raise OSError(28, "No space left on device")

    source = Scripted(lambda asked: [{"cpu_ratio": 1}])

    def fails() -> None:
        with Telemetry([source], RUN, lambda: 1.0, write):
            until(lambda: source.closed)
            raise KeyError("the run")

    with pytest.raises(KeyError, match="the run"):
        fails()


# --- processes ------------------------------------------------------------------------------------


def test_processor_time_and_memory_of_this_process_and_its_children() -> None:
    """A child that spins takes a core, and counts from the second time that it is seen."""
    spinning = [sys.executable, "-c", "x = bytearray(64 << 20)\nprint(flush=True)\nwhile True: pass"]
    with subprocess.Popen(spinning, stdout=subprocess.PIPE) as child:
        try:
            assert child.stdout is not None
            child.stdout.readline()
            (source,) = processes()
            (first,) = source.sample()
            assert "cpu_ratio" not in first
            own = usage(child.pid)
            assert own is not None
            assert first["memory_bytes"] > (64 << 20)
            began, spent = time.monotonic(), own.ticks
            until(lambda: (used := usage(child.pid)) is not None and used.ticks >= spent + 20)
            (second,) = source.sample()
            elapsed = time.monotonic() - began
            assert second["cpu_ratio"] >= 0.9 * 0.2 / elapsed
            assert second["cpu_ratio"] < 1.1 * (0.3 / elapsed + 1)
        finally:
            child.kill()


def test_over_next_to_no_time_there_is_no_ratio() -> None:
    instants = iter([0.0, 0.05, 0.2])
    (root,) = (source._root for source in processes())
    source = Processes(root, clock=lambda: next(instants))
    fields = [set(source.sample()[0]) for _ in range(3)]
    assert fields == [{"memory_bytes"}, {"memory_bytes"}, {"memory_bytes", "cpu_ratio"}]


def test_grandchildren_are_of_the_family_and_strangers_are_not() -> None:
    nested = "import subprocess, sys\nsubprocess.run([sys.executable, '-c', 'print(flush=True); input()'])"
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", nested], stdin=pipe, stdout=pipe) as child:
        assert child.stdout is not None
        child.stdout.readline()
        found = family(child.pid)
        assert found[0] == child.pid
        assert len(found) == 2
        assert 1 not in found
        child.communicate(b"\n")


def test_processes_that_are_gone_are_unavailable() -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as child:
        child.wait()
    with pytest.raises(UnavailableError):
        Processes(child.pid).sample()


# --- GPUs -----------------------------------------------------------------------------------------


class FakeNvml:
    """Two GPUs as NVML tells of them; the second has no power reading, as some cards have none."""

    class NVMLError(Exception):
        pass

    NVML_TEMPERATURE_GPU, NVML_CLOCK_SM, NVML_CLOCK_MEM = 0, 1, 2

    def __init__(self, count: int = 2, driver: bool = True) -> None:
        self.count = count
        self.driver = driver
        self.shut = 0

    def nvmlInit(self) -> None:  # noqa: N802
        if not self.driver:
            raise self.NVMLError("Driver Not Loaded")

    def nvmlShutdown(self) -> None:  # noqa: N802
        self.shut += 1

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        return self.count

    def nvmlDeviceGetHandleByIndex(self, index: int) -> str:  # noqa: N802
        return f"device {index}"

    def nvmlDeviceGetUtilizationRates(self, device: str) -> Any:  # noqa: N802
        return SimpleNamespace(gpu=87, memory=40)

    def nvmlDeviceGetMemoryInfo(self, device: str) -> Any:  # noqa: N802
        return SimpleNamespace(total=24 << 30, used=20 << 30, free=4 << 30)

    def nvmlDeviceGetPowerUsage(self, device: str) -> int:  # noqa: N802
        if device == "device 1":
            raise self.NVMLError("Not Supported")
        return 71_500

    def nvmlDeviceGetTemperature(self, device: str, sensor: int) -> int:  # noqa: N802
        assert sensor == self.NVML_TEMPERATURE_GPU
        return 64

    def nvmlDeviceGetClockInfo(self, device: str, clock: int) -> int:  # noqa: N802
        return {self.NVML_CLOCK_SM: 2040, self.NVML_CLOCK_MEM: 6251}[clock]


def test_each_gpu_is_a_record(monkeypatch: pytest.MonkeyPatch) -> None:
    nvml = FakeNvml()
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    (source,) = gpus()
    both: Record = {"gpu_busy_ratio": 0.87, "gpu_memory_bytes": 20 << 30, "temperature_c": 64}
    both |= {"sm_clock_mhz": 2040, "memory_clock_mhz": 6251}
    assert source.sample() == [{"gpu": 0, **both, "power_w": 71.5}, {"gpu": 1, **both}]
    source.close()
    assert nvml.shut == 1


def test_a_gpu_that_has_fallen_off_the_bus_is_unavailable(monkeypatch: pytest.MonkeyPatch) -> None:
    nvml = FakeNvml()
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    (source,) = gpus()

    def lost(*args: Any) -> None:
        raise nvml.NVMLError("GPU is lost")

    for name in dir(nvml):
        if name.startswith("nvmlDeviceGet") or name == "nvmlShutdown":
            monkeypatch.setattr(nvml, name, lost)
    with pytest.raises(UnavailableError):
        source.sample()
    source.close()


@pytest.mark.parametrize("module", [None, FakeNvml(count=0), FakeNvml(driver=False)])
def test_without_package_gpu_or_driver_there_is_no_source(
    module: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", module)  # None: its import fails
    warned: list[str] = []
    monkeypatch.setattr("driftkit.engines.telemetry.gpus.DEVICE", "/dev/no-such-device")
    assert gpus(warned.append) == []
    assert warned == []
    monkeypatch.setattr("driftkit.engines.telemetry.gpus.DEVICE", "/dev/null")
    assert gpus(warned.append) == []
    missing = "telemetry: there is a GPU, and no nvidia-ml-py to ask it: pip install 'driftkit[gpu]'"
    assert warned == ([missing] if module is None else [])


def test_the_real_bindings_have_the_names_that_are_used() -> None:
    """And, where there is no driver, say so as an NVMLError."""
    import pynvml

    for name in dir(FakeNvml):
        if name.lower().startswith("nvml"):
            assert hasattr(pynvml, name)
    for source in gpus():  # on a machine with a GPU
        for sample in source.sample():
            check_telemetry({"run_id": "r", "at_s": 0, **sample})
        source.close()


# --- what servers tell ----------------------------------------------------------------------------

# from a vLLM 0.32 of two engines, a SGLang and a llama.cpp; a few of their lines
VLLM = b"""# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="m"} 6.0
vllm:num_requests_running{engine="1",model_name="m"} 4.0
vllm:num_requests_waiting{engine="0",model_name="m"} 13.0
vllm:num_requests_waiting{engine="1",model_name="m"} 0.0
vllm:num_requests_waiting_by_reason{engine="0",model_name="m",reason="capacity"} 99.0
vllm:kv_cache_usage_perc{engine="0",model_name="m"} 0.75
vllm:kv_cache_usage_perc{engine="1",model_name="m"} 0.25
vllm:num_preemptions_total{engine="0",model_name="m"} 131.0
vllm:num_preemptions_created{engine="0",model_name="m"} 1.795575649434221e+09
"""
SGLANG = b"""sglang:num_running_reqs{model_name="m"} 161.0
sglang:num_queue_reqs{model_name="m"} 2826.0
sglang:token_usage{model_name="m"} 0.28
"""
LLAMA_CPP = b"""# HELP llamacpp:requests_processing Number of requests processing.
llamacpp:requests_processing 3
llamacpp:requests_deferred 1
"""


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            VLLM,
            {"running_requests": 10, "waiting_requests": 13, "kv_ratio": 0.5, "preemptions_total": 131},
        ),
        (SGLANG, {"running_requests": 161, "waiting_requests": 2826, "kv_ratio": 0.28}),
        (LLAMA_CPP, {"running_requests": 3, "waiting_requests": 1}),
        (VLLM.replace(b"\n", b"\r\n"), prometheus.told(VLLM)),
    ],
)
def test_the_metrics_of_three_servers(text: bytes, expected: Record) -> None:
    assert prometheus.told(text) == expected


RUNNING = b"vllm:num_requests_running"


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b" ",
        b"{",
        b"{}",
        b" NaN",
        b" +Inf",
        b" -1",
        b" 1e300",
        b" " + b"1" * 10**6,
        b'{a="' + b"}" * 10**6,
        b" one",
        b'{a="b"} \xff\xfe',
        b"\x00 5",
        b"_total 5",
        b" 0x10",
    ],
)
def test_a_line_that_is_none_is_left_out(line: bytes) -> None:
    begin = time.perf_counter()
    assert prometheus.told(RUNNING + line) == {}
    assert prometheus.told(b"\n" + RUNNING + line + b"\n" + SGLANG).get("kv_ratio") == 0.28
    assert time.perf_counter() - begin < 1


@pytest.mark.parametrize(
    "line",
    [b" 7", b"\t7", b"{} 7", b'{a="} 5",b="\\"}"} 7.0 1700000000000', b" 7\r"],
)
def test_a_line_that_is_one_is_read(line: bytes) -> None:
    assert prometheus.told(RUNNING + line) == {"running_requests": 7}


@given(
    st.lists(st.sampled_from([RUNNING, b"{", b"}", b'"', b" ", b"\n", b"7", b"NaN", b"\xff"]), max_size=40)
)
def test_any_text_gives_fields_in_their_bounds(parts: list[bytes]) -> None:
    check_telemetry({"run_id": "r", "at_s": 0, **prometheus.told(b"".join(parts))})


def test_a_share_over_all_is_none() -> None:
    assert prometheus.told(b"vllm:kv_cache_usage_perc 85\n") == {}


# --- asking servers -------------------------------------------------------------------------------


@contextmanager
def serving(answer: Callable[[Any], None], protocol: str = "HTTP/1.1") -> Iterator[tuple[str, list[Any]]]:
    """A server that lets `answer` answer each GET; its base URL, and the requests that came."""
    came: list[Any] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = protocol

        def do_GET(self) -> None:
            came.append((self.path, dict(self.headers), self.client_address))
            answer(self)

        def log_message(self, *args: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", came
    finally:
        server.shutdown()
        server.server_close()


def answers(body: bytes, status: int = 200, **headers: str) -> Callable[[Any], None]:
    def answer(handler: Any) -> None:
        handler.send_response(status)
        handler.send_header("Content-Length", str(len(body)))
        for name, value in headers.items():
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(body)

    return answer


@pytest.mark.parametrize("path", ["", "/", "/v1", "/v1/"])
def test_a_server_is_asked_over_one_connection_with_the_key(path: str) -> None:
    with serving(answers(VLLM)) as (url, came):
        source = Server(url + path, headers={"Authorization": "Bearer secret"})
        samples = [source.sample() for _ in range(3)]
        source.close()
    assert samples == [[{"replica": url + path, **prometheus.told(VLLM)}]] * 3
    assert [path for path, _, _ in came] == ["/metrics"] * 3
    assert {headers["Authorization"] for _, headers, _ in came} == {"Bearer secret"}
    assert len({address for _, _, address in came}) == 1
    assert source.name == f"{url}/metrics"


def test_a_server_that_closes_each_connection_is_asked_again() -> None:
    with serving(answers(SGLANG), "HTTP/1.0") as (url, _):
        source = Server(url)
        assert source.sample() == source.sample()
        source.close()


def test_a_gateways_path_is_kept_and_a_password_not_shown() -> None:
    with serving(answers(VLLM)) as (url, came):
        source = Server(url.replace("http://", "http://me:hush@") + "/llm/v1")
        source.sample()
        source.close()
    assert came[0][0] == "/llm/metrics"
    assert "hush" not in source.name


def redirects(handler: Any) -> None:
    answers(VLLM, 302, Location="http://127.0.0.1:9/metrics")(handler)


def drips(handler: Any) -> None:
    handler.send_response(200)
    handler.end_headers()
    try:
        while True:
            handler.wfile.write(b"#")
            time.sleep(0.02)
    except OSError:
        return


def pours(handler: Any) -> None:
    handler.send_response(200)
    handler.end_headers()
    try:
        while True:
            handler.wfile.write(VLLM * 1000)
    except OSError:
        return


def babbles(handler: Any) -> None:
    handler.wfile.write(b"\x1b[2J not HTTP at all\r\n\r\n")
    handler.close_connection = True


def is_cut_off(handler: Any) -> None:
    handler.send_response(200)
    handler.send_header("Content-Length", "1000000")
    handler.end_headers()
    handler.wfile.write(b"vllm:")
    handler.close_connection = True


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (answers(b"", 404), "answered with status 404"),
        (answers(VLLM, 401), "answered with status 401"),
        (redirects, "answered with status 302"),
        (answers(b"up 1\n"), "none of the metrics of vLLM, SGLang or llama.cpp is there"),
        (drips, "not answered within 0.2 s"),
        (lambda handler: time.sleep(1), "timed out"),
        (pours, "longer than 1 MiB"),
        (babbles, "its answer is not HTTP, or cut off"),
        (is_cut_off, "its answer is not HTTP, or cut off"),
    ],
)
def test_an_answer_that_is_none(
    answer: Callable[[Any], None], says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(servers, "MOST_BYTES", 1 << 20)
    with serving(answer, "HTTP/1.0" if answer in (drips, pours) else "HTTP/1.1") as (url, _):
        source = Server(url, timeout_s=0.2)
        for _ in range(2):
            with pytest.raises(UnavailableError) as told:
                source.sample()
            assert str(told.value) == says
        source.close()


def test_a_server_that_is_not_there_yet_and_then_is() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and not listening: whoever connects is refused
        source = Server(f"http://127.0.0.1:{taken.getsockname()[1]}", timeout_s=0.5)
        with pytest.raises(UnavailableError, match="connection refused"):
            source.sample()
    with pytest.raises(UnavailableError):
        Server("http://no-such-host.invalid:1").sample()


def test_a_server_restarts_during_a_run() -> None:
    """Samples come before and after; in between it is left out, and nobody is told."""
    written: list[Record] = []
    warned: list[str] = []
    up = threading.Event()
    up.set()

    def answer(handler: Any) -> None:
        if up.is_set():
            answers(VLLM)(handler)
        else:
            handler.close_connection = True

    with serving(answer) as (url, came):
        source = Server(url)
        begin = time.monotonic()
        with Telemetry(
            *([source], RUN, lambda: time.monotonic() - begin, written.append),
            every_s=0.01,
            warn=warned.append,
        ):
            until(lambda: len(written) >= 3)
            up.clear()
            until(lambda: len(came) >= len(written) + 2)
            kept = len(written)
            up.set()
            until(lambda: len(written) >= kept + 2)
    assert warned == []
    assert {record["replica"] for record in written} == {url}
    assert [record["at_s"] for record in written] == sorted(record["at_s"] for record in written)
