"""
A box of pretended GPUs to work with by hand: a shell in it, and a way to let its GPUs fail.

    python -m tests.nvml shell [GPUS]       a shell in which `gpu-supervisor` sees so many GPUs; its end is theirs
    fake-gpu xid GPU NUMBER                 in that shell: let the driver report an error of a GPU
    fake-gpu event GPU KIND [DATA]          another of NVML's events, by its bit
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.nvml.fake import FakeBox

ROOT = Path(__file__).parents[2]
XID = 0x8
USAGE = 2


def main(words: list[str]) -> int:
    """Do one of these, and return the exit status."""
    match words:
        case ["shell", *rest] if len(rest) < 2 and all(word.isdecimal() for word in rest):
            return open_shell(int(rest[0]) if rest else 4)
        case ["xid", gpu, number] if gpu.isdecimal() and number.isdecimal():
            return report(int(gpu), XID, int(number))
        case ["event", gpu, kind, *data] if gpu.isdecimal():
            return report(int(gpu), int(kind, 0), int(data[0], 0) if data else 0)
    sys.stderr.write(__doc__ or "")
    return USAGE


def open_shell(gpus: int) -> int:
    """A shell with GPUs, which are gone when it ends."""
    with tempfile.TemporaryDirectory(prefix="box-") as home:
        folder = Path(home)
        programs = write_programs(folder / "bin")
        env = {**os.environ, **FakeBox(folder, gpus=gpus).env, "GPU_SUPERVISOR_SOCKET": f"{home}/control.sock"}
        env["PATH"] = f"{programs}:{env.get('PATH', os.defpath)}"
        env.pop("CUDA_VISIBLE_DEVICES", None)
        sys.stderr.write(f"{gpus} pretended GPUs; `fake-gpu xid 0 79` lets one fail, `exit` ends them\n")
        return subprocess.run([os.environ.get("SHELL", "/bin/sh")], env=env, check=False).returncode


def write_programs(folder: Path) -> Path:
    """`gpu-supervisor` and `fake-gpu` of this checkout, in a folder for PATH."""
    folder.mkdir(parents=True)
    for name, module in (("gpu-supervisor", "supervisor"), ("fake-gpu", "tests.nvml")):
        program = folder / name
        program.write_text(f'#!/bin/sh\nPYTHONPATH={ROOT} exec {sys.executable} -m {module} "$@"\n')
        program.chmod(0o755)
    return folder


def report(gpu: int, kind: int, data: int) -> int:
    """Add an event to the box's file, which every process with the library reads; they come in its order."""
    state = Path(os.environ.get("FAKE_NVML_STATE", ""))
    if not state.is_file():
        sys.stderr.write("cannot find the GPUs: this is not the shell of `python -m tests.nvml shell`\n")
        return 1
    text = state.read_text(errors="surrogateescape")
    uuids = [line.split("uuid=")[1].split()[0] for line in text.splitlines() if line.startswith("device ")]
    if gpu >= len(uuids):
        sys.stderr.write(f"cannot let GPU {gpu} fail: there are {len(uuids)}\n")
        return 1
    line = f"event uuid={uuids[gpu]} kind={kind} data={data} gi={0xFFFFFFFF} ci={0xFFFFFFFF}\n"
    half = state.with_name("state.told")
    half.write_text(f"{text}{line}", errors="surrogateescape")
    half.replace(state)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
