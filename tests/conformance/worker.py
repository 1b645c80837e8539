"""What every scripted worker begins with: a diary that a case reads, whichever supervisor runs it."""

from __future__ import annotations

PRELUDE = '''
import os, pathlib, signal, socket, subprocess, sys, time

HOME = pathlib.Path(os.environ["CASE_HOME"])
NAME = os.environ.get("WORKER") or os.environ["SUPERVISOR_PROCESS_NAME"].replace("_", "/")

def say(word, *rest):
    """One line in one write: many write at once."""
    with open(HOME / "diary", "ab", buffering=0) as diary:
        diary.write((" ".join(map(str, (time.monotonic(), NAME, word, *rest))) + "\\n").encode())

def is_alive(pid):
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False

def earlier():
    """Processes of this worker that said to live, and do."""
    lines = [line.split() for line in (HOME / "diary").read_text().splitlines()] if (HOME / "diary").exists() else []
    pids = [int(rest[0]) for _, who, word, *rest in lines if who == NAME and word in ("start", "child")]
    return [pid for pid in pids if is_alive(pid)]

def earlier_starts():
    return [one for one in (HOME / "diary").read_text().splitlines() if f" {NAME} start " in one]

def wait(name):
    while not (HOME / name).exists():
        time.sleep(0.02)

def on(number, word, then=lambda: None):
    def handle(*_):
        say(word, os.getpid())
        then()
    signal.signal(number, handle)

def leave(code=0):
    return lambda: os._exit(code)

def child(life):
    """Another process, which says that it lives before this returns."""
    pid = os.fork()
    if pid == 0:
        life()
        say("child", os.getpid())
        while True:
            time.sleep(1000)
    while not any(f" child {pid}" in line for line in (HOME / "diary").read_text().splitlines()):
        time.sleep(0.01)
    return pid

def deaf():
    signal.signal(signal.SIGTERM, signal.SIG_IGN)

def forever():
    while True:
        time.sleep(1000)

say("start", os.getpid(), *earlier())
'''
