"""Kill forked runs with SIGKILL at random times, then let one finish.

python kill_often.py NUM_KILLS OVERRIDE...

Forking after the imports makes a restart cheap enough for dozens of kills. Nothing may compute before the fork: a child
would inherit locks of threads that it does not have.
"""

import os
import random
import signal
import sys
import time

import torch

import vcrast.cli.start
import vcrast.evaluate


def child(overrides):
    torch.set_num_threads(1)
    code = 1
    try:
        code = vcrast.cli.start.start(overrides)
    finally:
        os._exit(code)


def main():
    wanted, overrides = int(sys.argv[1]), sys.argv[2:]
    torch.set_num_threads(1)
    chance = random.Random(0)
    killed, longest = 0, 0.3
    while True:
        pid = os.fork()
        if pid == 0:
            child(overrides)
        if killed < wanted:
            # Short lives at first, longer when they leave no progress behind, so that kills fall into every phase.
            time.sleep(chance.uniform(0.0, longest))
            if os.waitpid(pid, os.WNOHANG)[0]:
                sys.exit(f"the run ended after {killed} kills, before the {wanted} asked for; make it longer")
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            killed, longest = killed + 1, min(1.6, longest + 0.04)
            continue
        _, status = os.waitpid(pid, 0)
        print(f"killed {killed} times, then exit {os.waitstatus_to_exitcode(status)}")
        sys.exit(os.waitstatus_to_exitcode(status))


if __name__ == "__main__":
    main()
