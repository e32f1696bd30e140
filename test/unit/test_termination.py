"""Signals end the wait, whenever they come and whichever thread gets them."""

import os
import queue
import signal
import subprocess
import sys
import threading

import pytest

from rrto_ros.termination import Termination, told_of


def test_a_signal_that_came_before_the_wait_ends_it():
    with Termination() as termination:
        os.kill(os.getpid(), signal.SIGTERM)
        assert termination.wait() == signal.SIGTERM


def test_a_signal_that_another_thread_gets_ends_the_wait():
    with Termination() as termination:
        # Blocked here, the kernel gives it to the other thread.
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
        done = threading.Event()

        def other():
            signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])
            os.kill(os.getpid(), signal.SIGINT)
            done.wait(20)

        thread = threading.Thread(target=other)
        thread.start()
        try:
            assert termination.wait() == signal.SIGINT
        finally:
            done.set()
            thread.join()
            signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])


def test_other_signals_do_not_end_it_and_handlers_come_back():
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    usual = signal.signal(signal.SIGUSR1, lambda *_: None)
    with Termination() as termination:
        os.kill(os.getpid(), signal.SIGUSR1)
        os.kill(os.getpid(), signal.SIGINT)
        assert termination.wait() == signal.SIGINT
    signal.signal(signal.SIGUSR1, usual)
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before
    assert signal.set_wakeup_fd(-1) == -1


def test_a_process_that_waits_ends_with_the_signal():
    text = (
        "from rrto_ros.termination import Termination\n"
        "with Termination() as t:\n"
        "    print('up', flush=True)\n"
        "    print(t.wait().name)\n"
    )
    with subprocess.Popen([sys.executable, "-c", text], stdout=subprocess.PIPE, text=True) as p:
        assert p.stdout.readline() == "up\n"
        p.send_signal(signal.SIGTERM)
        assert p.communicate(timeout=20)[0] == "SIGTERM\n"


def test_a_thread_that_cannot_handle_signals_is_told():
    errors = []

    def enter():
        with pytest.raises(RuntimeError, match="main thread"), Termination():
            pass
        errors.append("told")

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert errors == ["told"]


def test_a_signal_is_told_while_the_main_thread_waits_in_a_call_that_it_does_not_end():
    got = queue.SimpleQueue()
    with told_of([signal.SIGINT, signal.SIGUSR1], got.put):
        # Blocked here, the kernel gives it to the other thread and interrupts no call of this one.
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
        waits, done = threading.Event(), threading.Event()

        def other():
            signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGUSR1])
            waits.wait(20)
            os.kill(os.getpid(), signal.SIGUSR1)
            done.wait(20)

        thread = threading.Thread(target=other)
        thread.start()
        try:
            waits.set()
            assert got.get(timeout=20) == signal.SIGUSR1
        finally:
            done.set()
            thread.join()
            signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGUSR1])
    assert signal.set_wakeup_fd(-1) == -1
