"""Imported by the fork server alone, before it forks: load torch once, and outlive the signals of a preempted job.

Workers inherit both (`vcrast.data.processes`).
"""

import signal

import vcrast.data.loader  # noqa: F401

for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
    signal.signal(number, signal.SIG_IGN)
