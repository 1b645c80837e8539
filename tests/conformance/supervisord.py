"""supervisord, as the cases see it: an ini file, its XML-RPC over a unix socket, and its log."""

from __future__ import annotations

import http.client
import math
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import xmlrpc.client
import zlib
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from tests.conformance.adapter import LacksError, Program, Seen, State, Supervisor, Workers
from tests.conformance.worker import PRELUDE

_STATES: Mapping[str, State] = {
    "STOPPED": "stopped",
    "STARTING": "starting",
    "RUNNING": "up",
    "BACKOFF": "waiting",
    "STOPPING": "ending",
    "EXITED": "done",
    "FATAL": "failed",
    "UNKNOWN": "unknown",
}
_PATIENCE_S = 10.0
_LOGGED = re.compile(r"^(\S+ \S+,\d+) \w+ (spawned|exited|stopped): '?(\w+)'?(.*)$", re.MULTILINE)


class _Connection(http.client.HTTPConnection):
    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(_PATIENCE_S)
        self.sock.connect(self.host)


class Supervisord(Supervisor):
    """
    A real supervisord, found by the path of its program in CONFORMANCE_SUPERVISORD.

    Process names are ``SERVICE:SERVICE_INDEX``: its log shows no group.
    """

    name = "supervisord"
    harmless = (signal.SIGCHLD, signal.SIGUSR2)

    def begin(self, programs: Mapping[str, Program]) -> None:
        self._file = self.home / "supervisord.conf"
        self.rewrite(programs)
        program = os.environ["CONFORMANCE_SUPERVISORD"]
        inherited = {name: value for name, value in os.environ.items() if name != "CUDA_VISIBLE_DEVICES"}
        with (self.home / "daemon.log").open("ab") as log:
            self.process = subprocess.Popen(
                [*self.prefix, program, "-n", "-c", str(self._file)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.home,
                env={**inherited, **self.env},
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def file(self) -> Path:
        return self._file

    @property
    def output(self) -> str:
        return (self.home / "daemon.log").read_text(errors="replace")

    def look(self) -> Workers:
        seen = {}
        found = self._ask("getAllProcessInfo")
        logged = self.output.splitlines()  # Afterwards, so that it tells of all that was seen.
        for one in found:
            said = [line for line in logged if re.search(rf"\b{one['name']}\b", line)]
            ends = [line for line in said if re.search(r"exited|stopped|spawnerr", line)]
            words = f"{one['description']} {one['spawnerr']} {''.join(ends[-1:])} {self._tail(one['name'])}"
            pid = one["pid"] or None
            seen[_worker(one["name"])] = Seen(_STATES[one["statename"]], pid, words, one["statename"] == "BACKOFF")
        return seen

    def ask_stop(self, name: str) -> Callable[[], object]:
        return self._begin("stopProcess", _process(name), False)

    def stop(self, name: str) -> None:
        self.ask_stop(name)()

    def start(self, name: str) -> None:
        self._ask("startProcess", _process(name), False)

    def rewrite(self, programs: Mapping[str, Program] | str | None) -> None:
        if programs is None:
            self._file.unlink()
            return
        new = self._file.with_suffix(".new")
        new.write_text(programs if isinstance(programs, str) else render(self.home, programs))
        new.replace(self._file)

    def reload(self) -> int:
        return self._control("update")

    def wait(self, timeout_s: float) -> int | None:
        try:
            return self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return None

    def tell_status(self) -> int:
        return self._control("status")

    def ends(self, name: str) -> int:
        return sum(what in {"exited", "stopped"} for _, what in self._logged(name))

    def delays(self) -> dict[str, float]:
        raise LacksError("has no jitter: a delay is as many seconds as there were failures")

    def _tail(self, process: str) -> str:
        try:
            return (self.home / f"{process}.log").read_text(errors="replace")[-1000:]
        except OSError:
            return ""

    def _logged(self, name: str) -> list[tuple[datetime, str]]:
        process = _process(name).partition(":")[2]
        return [
            (datetime.strptime(at, "%Y-%m-%d %H:%M:%S,%f").astimezone(), what)
            for at, what, who, _ in _LOGGED.findall(self.output)
            if who == process
        ]

    def _ask(self, what: str, *arguments: str | bool) -> Any:
        return self._begin(what, *arguments)()

    def _begin(self, what: str, *arguments: str | bool) -> Callable[[], Any]:
        connection = _Connection(str(self.home / "s"))

        def finish() -> Any:
            try:
                return xmlrpc.client.loads(connection.getresponse().read())[0][0]
            except xmlrpc.client.Fault:
                return ()  # As by its command line: refused, and nothing happens.
            finally:
                connection.close()

        try:
            connection.request("POST", "/RPC2", xmlrpc.client.dumps(arguments, f"supervisor.{what}"))
        except OSError:
            connection.close()
            raise
        return finish

    def _control(self, *words: str) -> int:
        program = Path(os.environ["CONFORMANCE_SUPERVISORD"]).with_name("supervisorctl")
        command = [str(program), "-c", str(self._file), *words]
        return subprocess.run(command, check=False, capture_output=True, timeout=60, cwd=self.home).returncode


def _worker(process: str) -> str:
    service, _, index = process.rpartition("_")
    return f"{service}/{index}"


def _process(worker: str) -> str:
    service, _, index = worker.partition("/")
    return f"{service}:{service}_{index}"


def render(home: Path, programs: Mapping[str, Program]) -> str:
    """The ini file; LacksError where it has no key."""
    head = f"""
[supervisord]
logfile = /dev/null
logfile_maxbytes = 0
pidfile = {home}/pid
[unix_http_server]
file = {home}/s
[rpcinterface:supervisor]
supervisor.rpcinterface_factory = supervisor.rpcinterface:make_main_rpcinterface
[supervisorctl]
serverurl = unix://{home}/s
"""
    return head + "".join(_section(home, name, one, _depth(name, programs)) for name, one in programs.items())


def _depth(name: str, programs: Mapping[str, Program]) -> int:
    return 1 + max((_depth(one, programs) for one in programs[name].after), default=0)


def _section(home: Path, name: str, program: Program, priority: int) -> str:
    _refuse(program)
    command = program.command
    if not command:
        # Its file has no room for a script with line breaks; another script is another command.
        script = home / f"{name}-{zlib.crc32(program.script.encode())}.py"
        script.write_text(PRELUDE + program.script)
        command = (sys.executable, "-I", "-S", str(script))
    codes = [0, *program.permanent]
    values = {
        "command": shlex.join(command).replace("%", "%%"),
        "numprocs": program.workers,
        "process_name": f"{name}_%(process_num)d",
        "autorestart": _autorestart(program),
        "exitcodes": ",".join(map(str, codes)),
        "startsecs": math.ceil(program.ready_s),
        "startretries": program.tries - 1,
        "stopsignal": program.stop_signal,
        "stopwaitsecs": math.ceil(program.stop_s),
        "stopasgroup": program.stop_group,
        "killasgroup": True,
        "priority": priority,
        "redirect_stderr": True,
        "stdout_logfile": f"{home}/%(program_name)s_%(process_num)d.log",
        **({"user": program.user} if program.user else {}),
        **({"umask": program.umask} if program.umask else {}),
    }
    return f"[program:{name}]\n" + "".join(f"{key} = {value}\n" for key, value in values.items())


def _autorestart(program: Program) -> str:
    if program.policy == "never":
        return "false"
    return "unexpected" if program.policy == "on-failure" or program.permanent else "true"


def _refuse(program: Program) -> None:
    lacks = {
        "has no readiness probes": program.ready,
        "has no liveness probes": program.alive,
        "has no command to stop by": program.stop_exec,
        "has no second chance after FATAL": program.parole_s,
        "has no start timeout": program.start_s < 600.0 and not program.ready_s,
        "sets umask and user, nothing else": program.setup,
    }
    for words, is_asked in lacks.items():
        if is_asked:
            raise LacksError(words)
