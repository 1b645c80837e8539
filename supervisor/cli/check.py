"""
What `check` finds in a service file: its problems, and what this machine lacks for it.

Starts nothing, and asks no driver, no daemon and no network.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from supervisor.cli.programs import missing_programs
from supervisor.core.environment import Host, Moment, fill, render
from supervisor.core.file.names import names_in
from supervisor.core.file.quantities import MIB, Percent
from supervisor.core.plan import Launch
from supervisor.core.slices import WHOLE
from supervisor.core.spec import Problem, Spec, SpecError, WorkerSpec, unknown_names
from supervisor.host.accounts import Account, AccountError, find_account
from supervisor.host.files import SpecRefused, load_spec
from supervisor.host.machine import cpu_count, installed_vendors, missing_command, read_memory
from supervisor.host.tokens import KEY


@dataclass(frozen=True, slots=True)
class Checked:
    """
    A file that a daemon would take here.

    Args:
        services: How many.
        workers: How many, all services together.
        is_sized: The GPUs decide on more of them.
        warnings: What this machine or this environment lacks for it, whole lines.
    """

    services: int
    workers: int
    warnings: tuple[str, ...]
    is_sized: bool = False


def check(file: Path, environ: Mapping[str, str]) -> Checked:
    """
    Read a file and look whether this machine has what it names.

    Args:
        file: As the person named it.
        environ: The environment that a daemon would have.

    Raises:
        SpecRefused: With every problem of the file.
    """
    loaded = load_spec(file)
    try:
        workers = loaded.spec.expand(cpu_count())
    except SpecError as error:
        raise SpecRefused(loaded.locate_all(error.problems)) from None
    findings = [*unknown_names(loaded.spec, environ), *dict.fromkeys(_too_large(loaded.spec, cpu_count()))]
    findings += dict.fromkeys(_too_much_memory(loaded.spec, read_memory()[1]))
    findings += dict.fromkeys(_too_much_gpu_memory(loaded.spec))
    findings += dict.fromkeys(_too_few_gpus(loaded.spec))
    if loaded.token is not None and loaded.token.is_short:
        findings.append(Problem(KEY, "the token is short enough to be guessed", "openssl rand -hex 32 makes one"))
    findings += _lacks(workers, Host(environ, installed_vendors()))
    findings += missing_programs(loaded.spec, loaded.positions.document, str(file.absolute().parent), environ)
    warnings = loaded.locate_all(Problem(one.path, f"warning: {one.message}", one.hint) for one in findings)
    is_sized = any(service.is_sized for service in loaded.spec.services.values())
    return Checked(len(loaded.spec.services), len(workers), warnings, is_sized)


def _lacks(workers: tuple[WorkerSpec, ...], host: Host) -> Iterator[Problem]:
    """Users, directories and commands that are not there, each once for a service."""
    seen: set[object] = set()
    for worker in workers:
        account, lack = _account(worker)
        if lack is not None and (worker.id.service, lack) not in seen:
            seen.add((worker.id.service, lack))
            yield lack
        rendered = render(Launch(worker.recipe), Moment(worker.id, 1, 0, 1, {}), host)
        if account is not None:
            rendered = fill(rendered, account.env)
        elif lack is not None:
            continue
        question = (rendered.argv[0], rendered.env.get("PATH", ""), rendered.working_dir)
        # A name without a value has been found already; what else is wrong with such a text cannot be told.
        # Neither can what is known only at the start, which stands between NULs.
        if (worker.id.service, question) in seen or any(names_in(text) or "\0" in text for text in question):
            continue
        seen.add((worker.id.service, question))
        yield from _lack(worker.id.service, *question)


def _too_large(spec: Spec, cores: int) -> Iterator[Problem]:
    """Services whose workers are to have more cores each than there are."""
    for name, service in spec.services.items():
        for index, entry in enumerate(service.variants()):
            is_own = entry.cpu is not None
            wanted = entry.cpu if is_own else service.resources.cpu
            if wanted is not None and wanted > 1000 * cores:
                below = ("workers", index, "cpu") if is_own else ("resources", "cpu")
                message = f"{wanted / 1000:g} cores for each worker, and there are {cores} on this machine"
                yield Problem(("services", name, *below), message)


def _too_much_memory(spec: Spec, total: int) -> Iterator[Problem]:
    """Services of which a worker would wait for ever: it declares more memory than the host has."""
    for name, service in spec.services.items():
        for index, entry in enumerate(service.variants()):
            memory = service.resources.memory if entry.memory is None else entry.memory
            if memory is not None and memory > total:
                below = ("resources", "memory") if entry.memory is None else ("workers", index, "memory")
                message = f"{memory // MIB} MiB for each worker, and this machine has {total // MIB} MiB: it would wait"
                yield Problem(("services", name, *below), message)


def _too_much_gpu_memory(spec: Spec) -> Iterator[Problem]:
    """Parts of a GPU that leave less than the headroom free, whatever GPU it is."""
    headroom = spec.daemon.headroom
    least = Percent(20) if headroom is None else headroom  # Of the default that is what large GPUs have.
    spared = least.thousandths if isinstance(least, Percent) else min(least, 1)
    for name, service in spec.services.items():
        for index, entry in enumerate(service.variants()):
            memory = service.resources.gpu_memory if entry.gpu_memory is None else entry.gpu_memory
            if isinstance(memory, Percent) and memory.thousandths + spared > 1000:
                below = ("resources", "gpu_memory") if entry.gpu_memory is None else ("workers", index, "gpu_memory")
                beside = f"a headroom of {least}" if isinstance(least, Percent) else "any headroom"
                hint = "lower it, or daemon.headroom"
                yield Problem(
                    ("services", name, *below), f"{memory} fits on no GPU beside {beside}: it would wait", hint
                )


def _too_few_gpus(spec: Spec) -> Iterator[Problem]:
    """Workers that are to have more GPUs each than they may choose from."""
    for name, service in spec.services.items():
        for index, entry in enumerate(service.variants()):
            request = service.request(entry)
            if request.gpus is None or request.gpu == "all" or request.gpu <= WHOLE * len(request.gpus):
                continue
            below = ("resources", "gpu") if entry.gpu is None else ("workers", index, "gpu")
            count = f"{request.gpu // WHOLE} GPUs for each worker, and gpus names {len(request.gpus)}"
            yield Problem(("services", name, *below), f"{count}: it would wait")


def _account(worker: WorkerSpec) -> tuple[Account | None, Problem | None]:
    """Whose its process would be, if it says so, and why that cannot be."""
    setup = worker.recipe.setup
    if setup.user is None and setup.group is None:
        return None, None
    try:
        return find_account(setup.user, setup.group), None
    except AccountError as error:
        return None, Problem(("services", worker.id.service, error.key), error.detail)


def _lack(service: str, command: str, path: str, working_dir: str) -> Iterator[Problem]:
    if not Path(working_dir).is_dir():
        yield Problem(("services", service, "working_dir"), f"no such directory here: {working_dir}")
    elif reason := missing_command(command, path, working_dir):
        yield Problem(("services", service, "command"), f"{reason} (on this machine)")
