"""Preloaded by the fork server: imports torch once, blocks the signals of a job.

The fork server alone imports it; workers inherit both (`vcrast.data.processes`). Blocked rather than ignored:
multiprocessing and DataLoader install handlers of their own in a new worker, and a signal just then would end it.
"""

import signal

import vcrast.data.loader  # noqa: F401
from vcrast.data.processes import OUTER_SIGNALS

signal.pthread_sigmask(signal.SIG_BLOCK, OUTER_SIGNALS)
