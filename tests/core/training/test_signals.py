"""The first signal asks, the second one ends, and afterwards the process is as it was."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from diptych.core.training.signals import STOP_SIGNALS, Stopped, StopSignals

# Stops being able to run Python after the first signal, as inside a long compilation.
STUBBORN = """
import sys, time
from diptych.core.training.signals import StopSignals
with StopSignals() as stop:
    print("ready", flush=True)
    while not stop.stop_requested:
        time.sleep(0.01)
    print("asked", flush=True)
    while True:
        pass
"""


@pytest.mark.parametrize("name", STOP_SIGNALS)
def test_the_first_signal_is_remembered_and_the_handlers_come_back(name, capfd, request):
    number = signal.Signals[name]
    found = signal.signal(number, signal.SIG_DFL)  # nohup ignores SIGHUP, and then so does whatever it starts
    request.addfinalizer(lambda: signal.signal(number, found))
    before = {other: signal.getsignal(signal.Signals[other]) for other in STOP_SIGNALS}
    with StopSignals() as stop:
        assert (stop.stop_requested, stop.received, stop.exit_status) == (False, None, 0)
        os.kill(os.getpid(), number)
        assert (stop.stop_requested, stop.received, stop.exit_status) == (True, name, 128 + number)
    assert {other: signal.getsignal(signal.Signals[other]) for other in STOP_SIGNALS} == before
    message = capfd.readouterr().err
    assert name in message
    assert "saving" in message
    assert "\x1b" not in message


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGUSR1"])
def test_the_second_signal_ends_the_process_at_once(name):
    with subprocess.Popen(
        [sys.executable, "-c", STUBBORN], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout.readline() == "ready\n"
            process.send_signal(signal.Signals[name])
            assert process.stdout.readline() == "asked\n"
            assert process.poll() is None
            process.send_signal(signal.Signals[name])
            process.wait(timeout=10)
        finally:
            process.kill()
    assert process.returncode == -signal.Signals[name]


def test_an_ignored_signal_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopSignals() as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            assert not stop.stop_requested
    finally:
        signal.signal(signal.SIGHUP, before)


def test_handlers_come_back_after_an_error():
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(ZeroDivisionError), StopSignals():
        raise ZeroDivisionError
    assert signal.getsignal(signal.SIGTERM) is before


def test_outside_the_main_thread_nothing_is_caught_and_nothing_breaks():
    found = []

    def enter():
        with StopSignals() as stop:
            found.append(stop.stop_requested)

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert found == [False]


def test_a_signal_ends_a_wait_where_it_is():
    started = time.monotonic()
    timer = threading.Timer(0.1, lambda: os.kill(os.getpid(), signal.SIGTERM))
    with StopSignals() as stop:
        timer.start()
        with pytest.raises(Stopped), stop.leaving_at_once():
            threading.Event().wait(30)
        assert stop.exit_status == 143
        with pytest.raises(Stopped), stop.leaving_at_once():
            raise AssertionError("entered after a signal")
    assert time.monotonic() - started < 5


def test_what_must_not_break_off_is_finished_first():
    done = []

    def save(stop):
        with stop.finishing_first():
            os.kill(os.getpid(), signal.SIGTERM)
            done.append("saved")

    with StopSignals() as stop:
        with pytest.raises(Stopped), stop.leaving_at_once():
            save(stop)
        with stop.finishing_first():
            done.append("outside nothing is raised")
    assert done == ["saved", "outside nothing is raised"]
