"""Kill a run with reading workers at random times, look for orphans, let it finish.

python kill_working.py NUM_KILLS CACHE_FOLDER OVERRIDE...

Before some of the starts the cache is removed, so that kills also fall into its building.
"""

import os
import random
import shutil
import subprocess
import sys
import time
import uuid
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PATIENCE_S = 30.0


def marked(mark):
    """Processes of any generation that were started with this mark in their environment."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal():
            try:
                found += [int(folder.name)] if mark in (folder / "environ").read_bytes() else []
            except OSError:
                continue
    return found


def wait_until_gone(mark):
    """Seconds until the last of them was gone."""
    began = time.monotonic()
    while alive := marked(mark):
        waited = time.monotonic() - began
        if waited > PATIENCE_S:
            commands = [Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")[:80] for pid in alive]
            sys.exit(f"{len(alive)} processes live {waited:.0f} s after their run: {commands}")
        time.sleep(0.1)
    return time.monotonic() - began


def main():
    wanted, cache, overrides = int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:]
    chance, program = random.Random(0), [sys.executable, "launch/local.py", *overrides]
    longest, gone_s = 0.0, 0.0
    for number in range(wanted):
        if chance.random() < 0.4:
            shutil.rmtree(cache, ignore_errors=True)
        mark = uuid.uuid4().hex
        run = subprocess.Popen(program, cwd=ROOT, env={**os.environ, "KILLED_BY": mark}, stdout=subprocess.DEVNULL)
        try:
            # Importing torch takes seconds, and a run of so few steps not many more.
            code = run.wait(chance.uniform(4.0, 12.0 + 0.1 * number))
            sys.exit(f"the run ended with {code} after {number} kills, before the {wanted} asked for; make it longer")
        except subprocess.TimeoutExpired:
            longest = max(longest, len(marked(mark.encode())))
            run.kill()
            run.wait()
        gone_s = max(gone_s, wait_until_gone(mark.encode()))
    code = subprocess.run(program, cwd=ROOT, check=False).returncode
    print(f"killed {wanted} times with up to {longest} processes, the last gone after {gone_s:.1f} s, then exit {code}")
    sys.exit(code)


if __name__ == "__main__":
    main()
