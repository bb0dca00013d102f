"""Waiting for a state, always with a deadline."""

import time


class TimedOut(AssertionError):
    pass


def until(ask, timeout, what, every=0.02):
    """Asks until the answer is true, and returns it. what: a text, or a function that tells the latest."""
    deadline = time.monotonic() + timeout
    while True:
        answer = ask()
        if answer:
            return answer
        if time.monotonic() > deadline:
            raise TimedOut(f"not within {timeout:g} s: {what() if callable(what) else what}")
        time.sleep(every)
