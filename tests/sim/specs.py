"""Service files: random documents, random edits of them, and what the reader makes of one."""

from __future__ import annotations

import copy
import random
from typing import Any

from supervisor.core.file.env_file import parse_env_file, with_variables
from supervisor.core.message import SpecLoaded, SpecRejected
from supervisor.core.spec import Spec, SpecError, parse_spec
from tests.sim.devices import Gpu

Document = dict[str, Any]
KINDS = ("nvidia-h100-80gb", "*H100*", ["nvidia-l4", "*h100*"], "nvidia-l4")
NAMES = ("llm", "embed", "rank", "web")
ENV_FILES = "x-env-files"
"""Key of a document under which the texts of its env_files stand; the reader of files leaves such keys alone."""


def read(document: Document, cpu_count: int) -> SpecLoaded | SpecRejected:
    """What the reader says of a document."""
    try:
        spec = _with_env_files(parse_spec(document, base_dir="/srv"), document.get(ENV_FILES, {}))
        spec.expand(cpu_count)
    except SpecError as error:
        return SpecRejected(tuple(str(problem.message) for problem in error.problems))
    return SpecLoaded(spec, cpu_count)


def _with_env_files(spec: Spec, texts: dict[str, str]) -> Spec:
    """The file with the variables of the other files that it names, as the host's reader puts them in."""
    services = {}
    for name, service in spec.services.items():
        variables = [parse_env_file(texts.get(path, ""))[0] for path in service.env_file]
        services[name] = with_variables(service, variables) if variables else service
    return spec.model_copy(update={"services": services})


SURGING = "x-surge"
"""A mark at a document all of whose services may have extra workers."""


class Writer:
    """
    Somebody who writes service files for a machine.

    Args:
        rng: The seed's.
        gpus: What is in the machine.
    """

    def __init__(self, rng: random.Random, gpus: list[Gpu]) -> None:
        self.rng = rng
        self.gpus = gpus
        self._version = 0

    def write(self) -> Document:
        """A whole file."""
        rng = self.rng
        names = rng.sample(NAMES, rng.randint(1, 3))
        document: Document = {"services": {name: self._service(NAMES.index(name)) for name in names}}
        for name in names:
            if rng.random() < 0.4:
                self._order(document["services"], name)
        daemon: dict[str, Any] = {"gpu_wait": rng.choice((0, 5, 30))}
        if rng.random() < 0.7:
            daemon["start_parallel"] = rng.choice((0, 1, 1, 2, 3))
        if rng.random() < 0.4:
            daemon["headroom"] = rng.choice(("0", "1GiB", "5%"))
        if rng.random() < 0.15:
            daemon["exit_when_failed"] = True
        document["daemon"] = daemon
        if self.gpus and rng.random() < 0.15:
            document["gpus"] = self._tokens(rng.randint(1, len(self.gpus)))
        self._surge(document, 0.6)
        return document

    def edit(self, before: Document) -> Document:
        """The file after somebody has worked on it: a few changes, or one, or none at all."""
        after = copy.deepcopy(before)
        after.pop("nonsense", None)
        for _ in range(self.rng.choice((0, 1, 1, 1, 1, 2, 3))):
            self.rng.choice((self._edit_service, self._edit_service, self._edit_service, self._edit_file))(after)
        self._surge(after, 0.1)
        return after

    def _surge(self, document: Document, chance: float) -> None:
        """
        Some services that may have extra workers want some, or no more; who may not does not.

        By dice of its own, so that whoever may not lives as before. In some files all may, and often change.
        """
        services = document.get("services") or {}
        dice = random.Random(f"{self._version} {services}")
        if chance > 0.5 and dice.random() < 0.15:
            document[SURGING] = True
        for name, service in services.items():
            rng = random.Random(f"{self._version} {name} {service}")
            if document.get(SURGING):
                service.pop("port", None)
                if not isinstance(service["workers"], int):
                    service["workers"] = rng.choice((1, 2, 3))
                if rng.random() < 0.5:
                    service["env"] = {**service.get("env", {}), "SURGE": str(rng.randint(0, 9))}
            may = "port" not in service and not isinstance(service["workers"], list)
            may &= service["workers"] not in {"per_gpu", "fit"} if may else False
            update = service.get("update", {})
            if may and rng.random() < (0.8 if document.get(SURGING) else chance):
                service["update"] = {"max_unavailable": rng.choice((0, 0, 1, 2)), "surge": rng.choice((1, 1, 2))}
            elif update.get("surge") and (not may or rng.random() < chance):
                service["update"] = {"max_unavailable": max(1, update["max_unavailable"])}

    # ---- one service ------------------------------------------------------------------------------------------------

    def _service(self, number: int) -> dict[str, Any]:
        rng = self.rng
        service: dict[str, Any] = {
            "command": self._command(),
            "workers": self._workers(),
            "resources": self._resources(),
            "on_no_gpu": rng.choice(("wait", "wait", "cpu", "fail")),
            "placement": rng.choice(("pack", "pack", "spread")),
            "ready": self._ready(),
            **self._alive(),
            "stop": self._stop(),
            "restart": self._restart(),
        }
        if rng.random() < 0.5:
            service["update"] = {"max_unavailable": rng.choice((1, 1, 2, 3))}
        if rng.random() < 0.3:
            service["recycle"] = {"after": rng.choice((5, 20, 70)), "memory": "4GiB"}
        if rng.random() < 0.6:
            service["port"] = 8000 + 100 * number
        if rng.random() < 0.4:
            service |= self._setup()
        if rng.random() < 0.3:
            service |= {"pin": rng.choice(("auto", "index", "uuid")), "numa": rng.choice(("any", "near"))}
            service["resources"]["cpu"] = rng.choice((1, 2.5, "500m"))
            service["env"] = rng.choice(({}, {"OMP_NUM_THREADS": "7"}, {"MASTER_PORT": "29500"}))
        return service

    def _order(self, services: dict[str, Any], name: str) -> None:
        """It comes after some of those that stand before it in a list that all share, so that nobody goes round."""
        firsts = sorted(set(services) & set(NAMES[: NAMES.index(name)]))
        services[name].pop("after", None)
        if firsts:
            services[name]["after"] = self.rng.sample(firsts, self.rng.randint(1, len(firsts)))

    def _command(self) -> str:
        self._version += 1
        return f"serve --version {self._version} --number $(WORKER_NUMBER) --gpus $(CUDA_VISIBLE_DEVICES)"

    def _workers(self) -> int | str | list[dict[str, Any]]:
        rng = self.rng
        if rng.random() < 0.15:
            return [self._entry() for _ in range(rng.randint(1, 3))]
        return rng.choice(("cpu_count", "per_gpu", "fit")) if rng.random() < 0.2 else rng.choice((0, 1, 1, 2, 2, 3, 4))

    def _entry(self) -> dict[str, Any]:
        rng = self.rng
        entry: dict[str, Any] = {"env": {"SHARD": str(rng.randint(0, 2))}} if rng.random() < 0.5 else {}
        if self.gpus and rng.random() < 0.5:
            entry["gpus"] = self._tokens(rng.randint(1, 2))
        return entry

    def _resources(self) -> dict[str, Any]:
        rng = self.rng
        resources: dict[str, Any] = {}
        if rng.random() < (0.6 if any(gpu.is_unified for gpu in self.gpus) else 0.3):
            resources["memory"] = rng.choice(("1GiB", "6GiB", "12GiB", "40GiB"))
        if not self.gpus and rng.random() < 0.5:
            return resources
        gpu = rng.choice((0, 1, 1, 1, 0.25, 0.3, 0.5, 0.5, 0.7, 2, "all"))
        resources["gpu"] = gpu
        if gpu == 0:
            return resources
        if rng.random() < 0.5:
            resources["gpu_memory"] = rng.choice(("4GiB", "8GiB", "20%", "50%", "90%"))
        if self.gpus and rng.random() < 0.25:
            resources["gpus"] = self._tokens(rng.randint(1, len(self.gpus)))
        if rng.random() < 0.15:
            resources["gpu_type"] = rng.choice(KINDS)
        return resources

    def _tokens(self, count: int) -> list[Any]:
        rng = self.rng
        parts = [part for gpu in self.gpus for part in gpu.parts]
        if parts and rng.random() < 0.5:
            return self._names_of_parts(rng.sample(parts, min(count, len(parts))))
        chosen = rng.sample(self.gpus, min(count, len(self.gpus)))
        kind = rng.choice(("index", "uuid", "start", "pci", "absent"))
        match kind:
            case "index":
                return [self.gpus.index(gpu) for gpu in chosen]
            case "uuid":
                return [gpu.uuid for gpu in chosen]
            case "start":
                return [gpu.uuid[:6] for gpu in chosen]
            case "pci":
                return [f"00000000:{16 + gpu.slot:02X}:00.0" for gpu in chosen]
            case _:
                return [7]

    def _names_of_parts(self, parts: list[Gpu]) -> list[Any]:
        """Instances by their names, or so short that they may mean several, or beside a whole GPU."""
        match self.rng.choice(("uuid", "uuid", "start", "any", "mixed")):
            case "uuid":
                return [part.uuid for part in parts]
            case "start":
                return [part.uuid[:7] for part in parts]
            case "any":
                return ["MIG-"]
            case _:
                return [*(part.uuid for part in parts), self.rng.choice(self.gpus).uuid]

    def _ready(self) -> dict[str, Any]:
        rng = self.rng
        ready: dict[str, Any] = {"timeout": rng.choice((5, 15, 40, 400))}
        if rng.random() < 0.4:
            ready["after"] = rng.choice((0, 0.5, 2))
        return ready

    def _alive(self) -> dict[str, Any]:
        """Half of all services are asked whether they live on."""
        rng = self.rng
        if rng.random() < 0.5:
            return {}
        interval = rng.choice((1, 5, 10))
        # Some are to speak for themselves; which, is no draw of its own, so that lives stay as they were.
        how = {"notify": True} if interval == 5 else {"exec": ["check", "$(WORKER)"]}
        return {"alive": {**how, "interval": interval, "failures": rng.choice((1, 3))}}

    def _stop(self) -> dict[str, Any]:
        rng = self.rng
        stop: dict[str, Any] = {"timeout": rng.choice((0, 1, 3, 10, 20)), "signal": rng.choice(("SIGTERM", "SIGINT"))}
        if rng.random() < 0.3:
            stop["group"] = True
        if rng.random() < 0.3 and stop["timeout"]:
            stop["exec"] = ["drain", "$(MAINPID)"]
        return stop

    def _restart(self) -> dict[str, Any]:
        rng = self.rng
        restart: dict[str, Any] = {"policy": rng.choice(("always", "always", "on-failure", "never"))}
        if rng.random() < 0.7:
            restart["delay"] = rng.choice((0, 0.1, 1, 5))
            restart["max_delay"] = rng.choice((5, 20))
        restart["start_limit"] = rng.choice((0, 2, 5))
        restart["limit"] = rng.choice((0, 3, 10))
        restart["parole"] = rng.choice((0, 0, 2, 10, 40))
        if rng.random() < 0.3:
            own = rng.choice(({"policy": "never"}, {"delay": 3}, {"limit": 1, "parole": 20}, {"start_limit": 1}))
            restart["on"] = {rng.choice(("exit", "signal", "spawn", "start_timeout", "host_oom", "cuda_oom")): own}
        return restart

    def _setup(self) -> dict[str, Any]:
        """One or two keys of whose a process is and what it may."""
        rng = self.rng
        keys: dict[str, tuple[Any, ...]] = {
            "user": ("ann", "bob", 1000),
            "group": ("video", 44),
            "umask": ("022", "077"),
            "limits": ({"nofile": 4096}, {"nofile": "1024:4096", "core": 0}, {"memlock": "infinity"}),
            "nice": (0, 5, -5),
            "oom_score_adj": (0, 500),
            "env_file": ("common.env", ["common.env", "own.env"]),
        }
        return {key: rng.choice(keys[key]) for key in rng.sample(sorted(keys), rng.randint(1, 2))}

    # ---- edits ------------------------------------------------------------------------------------------------------

    def _edit_service(self, document: Document) -> None:
        rng = self.rng
        services = document.get("services")
        if not services:
            document["services"] = {"llm": self._service(0)}
            return
        name = rng.choice(sorted(services))
        service = services[name]
        kinds = (
            "command",
            "workers",
            "workers",
            "env",
            "port",
            "resources",
            "memory",
            "policy",
            "policy",
            "setup",
            "order",
        )
        match rng.choice(kinds):
            case "command":
                service["command"] = self._command()
            case "workers":
                service["workers"] = self._workers()
            case "env":
                service.setdefault("env", {})["MODE"] = str(rng.randint(0, 3))
            case "port":
                service["port"] = 8000 + 100 * rng.randint(0, 5)
            case "resources":
                service["resources"] = self._resources()
            case "memory":
                if service.get("resources", {}).get("gpu", 0) != 0:
                    service["resources"]["gpu_memory"] = rng.choice(("4GiB", "8GiB", "20%", "50%"))
            case "setup":
                self._edit_setup(document, service)
            case "order" if rng.random() < 0.1:
                service["after"] = [rng.choice(NAMES)]  # Which may be itself, or nobody, or go round.
            case "order":
                self._order(services, name)
            case _:
                self._edit_policy(service)

    def _edit_setup(self, document: Document, service: dict[str, Any]) -> None:
        """One key comes, goes or changes; or what stands in an env_file does, and the service file not at all."""
        rng = self.rng
        if rng.random() < 0.3:
            path = rng.choice(("/srv/common.env", "/srv/own.env"))
            document[ENV_FILES] = {**document.get(ENV_FILES, {}), path: f"COMMON={rng.randint(0, 2)}\n"}
        elif rng.random() < 0.3:
            for key in self._setup():
                service.pop(key, None)
        else:
            service |= self._setup()

    def _edit_policy(self, service: dict[str, Any]) -> None:
        match self.rng.choice(("on_no_gpu", "ready", "alive", "stop", "restart", "logs")):
            case "logs":
                service["logs"] = self.rng.choice(("inherit", "journal", {"file": "$(WORKER_INDEX).log", "keep": 2}))
            case "on_no_gpu":
                service["on_no_gpu"] = self.rng.choice(("wait", "cpu", "fail"))
            case "ready":
                service["ready"] = self._ready()
            case "alive":
                service.pop("alive", None)
                service |= self._alive()
            case "stop":
                service["stop"] = self._stop()
            case _:
                service["restart"] = self._restart()

    def _edit_file(self, document: Document) -> None:
        rng = self.rng
        services = document.setdefault("services", {})
        match rng.choice(("add", "remove", "pool", "headroom", "bad", "order", "exit")):
            case "add":
                name = rng.choice(NAMES)
                services.setdefault(name, self._service(NAMES.index(name)))
            case "remove":
                if services:
                    gone = rng.choice(sorted(services))
                    del services[gone]
                    for other in services.values():
                        if gone in other.get("after", ()):
                            other["after"] = [one for one in other["after"] if one != gone]
            case "pool":
                document.pop("gpus", None)
                if self.gpus and rng.random() < 0.5:
                    document["gpus"] = self._tokens(rng.randint(1, len(self.gpus)))
            case "headroom":
                document.setdefault("daemon", {})["headroom"] = rng.choice(("0", "1GiB", "5%"))
            case "exit":
                document.setdefault("daemon", {})["exit_when_failed"] = rng.random() < 0.3
            case "bad":
                document["nonsense"] = True
            case _:
                document["services"] = dict(rng.sample(sorted(services.items()), len(services)))
