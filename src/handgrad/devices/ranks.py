"""Place of this process among several, and how they find each other.

torchrun, srun and a person who starts one command on each node say the place by variables. Of such
variables an environment is full that no one meant for this run: a batch job, a notebook, a shell in
which another training was started. They count only where they are complete, agree with each other
and belong to a launcher that starts one process for each device. All others are removed before
anything is imported that reads them, as Lightning does on import.
"""

import json
import os
import socket
import struct
import time
from contextlib import ExitStack, suppress
from typing import Any, NamedTuple

from handgrad.config.errors import BadInput, Failed, warn

TORCHRUN = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK")
SRUN = ("SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID", "SLURM_NTASKS_PER_NODE", "SLURM_NODEID")
BY_HAND = ("MASTER_ADDR", "MASTER_PORT", "NODE_RANK")
OTHERS = ("JSM_NAMESPACE_RANK", "JSM_NAMESPACE_SIZE", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE")
NUMBERS = {*TORCHRUN, *SRUN[:3], *OTHERS, "NODE_RANK"}  # that tell of other processes
RENDEZVOUS = "HANDGRAD_RENDEZVOUS"  # says where the processes of our own launcher meet
PREFIXES = ("TORCHELASTIC_", "ROLE_", "GROUP_WORLD_SIZE", "PL_", "MPLBACKEND", RENDEZVOUS)
OWN_STEPS = 2**32 - 16  # from here on, SLURM numbers what is no program: batch, interactive, extern
SIOCGIFADDR = 0x8915  # of Linux: asks for the address of an interface
PATIENCE = 5.0  # seconds to connect, and to say who one is
FORGOTTEN: dict[str, str] = {}  # removed from the environment, and not yet told


class Place(NamedTuple):
    """Holds where a launcher has put this process; on each node, it started equally many."""

    launcher: str
    rank: int
    world_size: int
    local_rank: int
    per_node: int
    node: int

    @property
    def mark(self) -> str:
        """Name of the variable without which this process would not belong to others."""
        return "TORCHELASTIC_RUN_ID" if self.launcher == "torchrun" else "SLURM_STEP_ID"


def place() -> Place | None:
    """Return the place that torchrun or srun gave this process, or None if neither started it."""
    if "TORCHELASTIC_RUN_ID" in os.environ and {"MASTER_ADDR", "MASTER_PORT"} <= os.environ.keys():
        return _consistent("torchrun", [os.environ.get(name, "") for name in TORCHRUN])
    step = os.environ.get("SLURM_STEP_ID", "")
    if step.isdecimal() and int(step) < OWN_STEPS and os.environ.get("SLURM_NTASKS") != "1":
        values = {name: os.environ.get(name, "") for name in SRUN}
        if not values["SLURM_NTASKS_PER_NODE"]:  # "2(x3)": two on each of three nodes
            each, _, _ = os.environ.get("SLURM_STEP_TASKS_PER_NODE", "").partition("(x")
            values["SLURM_NTASKS_PER_NODE"] = each
        return _consistent("srun", list(values.values()))
    return None


def _consistent(launcher: str, values: list[str]) -> Place | None:
    """Return a place, or None where what describes it is no number or impossible."""
    if not all(value.isdecimal() for value in values):
        return None
    found = Place(launcher, *map(int, values))
    mine = found.node * found.per_node + found.local_rank
    right = found.local_rank < found.per_node and max(mine, found.rank) < found.world_size
    return found._replace(rank=mine) if right else None


def launched_by() -> str | None:
    """Return what started this process as one of several: "torchrun", "srun", or None."""
    found = place()
    return found and found.launcher


def is_first() -> bool:
    """Return whether this process is the one that writes the run's folder."""
    found = place()
    return found.rank == 0 if found else os.environ.get("NODE_RANK", "0") == "0"


def forget_leftovers() -> None:
    """Remove from the environment what says another place than this process has.

    A notebook's MPLBACKEND goes too: it names a module that need not exist here.
    Where srun started this process, what Lightning reads is set: srun has names of its own.
    """
    found = place()
    kept = {"torchrun": TORCHRUN, "srun": SRUN, None: ()}[found and found.launcher]
    torchrun = found is not None and found.launcher == "torchrun"
    for name in (*TORCHRUN, *SRUN, *OTHERS):
        if name not in kept:
            _forget(name)
    for name in [each for each in os.environ if each.startswith(PREFIXES)]:
        if not (torchrun and name.startswith("TORCHELASTIC_")):
            _forget(name)
    if found:
        numbers = {"RANK": found.rank, "LOCAL_RANK": found.local_rank, "NODE_RANK": found.node}
        os.environ |= {name: str(number) for name, number in numbers.items()}


def forget_nodes() -> None:
    """Remove what says how several nodes find each other, for a run on one."""
    for name in BY_HAND:
        _forget(name)


def _forget(name: str) -> None:
    """Remove a variable, and note it if it says that this is one of several processes."""
    value = os.environ.pop(name, None)
    harmless = (None, "0" if name.endswith(("RANK", "ID")) else "1")
    if name.startswith("PL_TRAINER") or (name in NUMBERS and value not in harmless):
        FORGOTTEN[name] = str(value)


def tell_of_leftovers() -> None:
    """Warn, once, of variables that were removed and said another place than this process has."""
    if FORGOTTEN:
        names = ", ".join(f"{name}={value}" for name, value in FORGOTTEN.items())
        FORGOTTEN.clear()
        warn(f"{names}: left in the environment by another program, and not used")


def check_agent() -> None:
    """Refuse a process of torchrun's whose torchrun is gone.

    Raises:
        BadInput: one line that says how to train without it.
    """
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
        host, port = address_of_first()
        try:
            socket.create_connection((host, port), timeout=PATIENCE).close()
        except OSError as error:
            raise BadInput(
                f"MASTER_ADDR={host} MASTER_PORT={port}: no torchrun answers there ({error}); "
                "unset TORCHELASTIC_RUN_ID to train without it"
            ) from None


def node_by_hand(num_nodes: int) -> None:
    """Refuse several nodes without the variables through which they find each other.

    Raises:
        BadInput: one line that names what is missing or wrong.
    """
    if missing := [name for name in BY_HAND if not os.environ.get(name)]:
        raise BadInput(
            f"trainer.num_nodes={num_nodes} needs {', '.join(missing)} in the environment of each "
            "node, or torchrun, or srun"
        )
    node = os.environ["NODE_RANK"]
    if not node.isdecimal() or int(node) >= num_nodes:
        raise BadInput(
            f"NODE_RANK={node}: trainer.num_nodes={num_nodes} needs 0 to {num_nodes - 1}"
        )
    os.environ["NODE_RANK"] = str(int(node))
    address_of_first()


def address_of_first(default: tuple[str, int] | None = None) -> tuple[str, int]:
    """Return where the first device waits for the others: MASTER_ADDR and MASTER_PORT.

    Args:
        default: where a variable is missing.

    Raises:
        BadInput: if this is no address, or no port.
    """
    host = os.environ.get("MASTER_ADDR") or (default[0] if default else "")
    port = os.environ.get("MASTER_PORT") or (str(default[1]) if default else "")
    if not port.isdecimal() or not 0 < int(port) < 2**16:
        raise BadInput(f"MASTER_PORT={port}: must be a port, from 1 to 65535")
    try:
        socket.getaddrinfo(host, int(port), type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise BadInput(f"MASTER_ADDR={host}: no such address ({error})") from None
    return host, int(port)


def use_interface(address: str) -> None:
    """Make gloo, which listens too, use the interface of one of this machine's addresses alone.

    Without this it takes that of the host's name, which on Debian's systems others cannot reach.
    The variable is left as it is where the user has set it.

    Raises:
        BadInput: if it names no interface of this machine.
    """
    names = [name for _, name in socket.if_nameindex()] if hasattr(socket, "if_nameindex") else []
    given = os.environ.get("GLOO_SOCKET_IFNAME")
    if names and given and (wrong := set(given.split(",")) - set(names)):
        raise BadInput(f"GLOO_SOCKET_IFNAME={given}: {min(wrong)} is not one of {', '.join(names)}")
    for name in () if given else names:
        if _ipv4(name) == address:
            os.environ["GLOO_SOCKET_IFNAME"] = name


def _ipv4(interface: str) -> str | None:
    """Return an interface's address, where the system tells it as Linux does."""
    with (
        suppress(ImportError, OSError),
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_one,
    ):
        from fcntl import ioctl  # late: Windows has none

        answer = ioctl(any_one.fileno(), SIOCGIFADDR, struct.pack("256s", interface.encode()[:15]))
        return socket.inet_ntoa(answer[20:24])
    return None


class Meeting(NamedTuple):
    """Holds how a device reaches the others: its address there, and on the first a socket."""

    host: str
    port: int
    own: str  # this machine's address on the way there
    listening: socket.socket | None


def meet(
    rank: int, world_size: int, per_node: int, address: tuple[str, int], timeout: float
) -> Meeting:
    """Wait at an address until all devices have come.

    The first device listens there, on that interface alone.

    Args:
        rank: of this device.
        world_size: devices in all.
        per_node: devices on each node.
        address: of the first device.
        timeout: seconds.

    Raises:
        BadInput: if the address is not to be had, or nodes contradict each other.
        Failed: if devices did not come in time; with those that did.
    """
    me = {"rank": rank, "devices": [per_node, world_size], "host": socket.gethostname()}
    deadline = time.monotonic() + timeout
    if rank:
        return _visit(me, address, deadline, timeout)
    listening = _listen(address)
    with ExitStack() as guests:
        kind, text = _receive(listening, me, guests, deadline, timeout)
    if text:
        listening.close()
        raise (BadInput if kind == "bad input" else Failed)(text)
    own, port = listening.getsockname()[:2]
    return Meeting(own, port, own, listening)


def _listen(address: tuple[str, int]) -> socket.socket:
    """Return a socket that listens at an address of this machine.

    Raises:
        BadInput: if it is not one, or the port is in use.
    """
    why = None
    for family, kind, _, _, found in socket.getaddrinfo(*address, type=socket.SOCK_STREAM):
        listening = socket.socket(family, kind)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind(found)
            listening.listen(1024)
            return listening
        except OSError as error:
            why = error.strerror
            listening.close()
    raise BadInput(
        f"MASTER_ADDR={address[0]} MASTER_PORT={address[1]}: the first device cannot wait there "
        f"({why}); give a free port of the node with NODE_RANK=0, which only one may have"
    )


def _receive(
    listening: socket.socket, me: dict[str, Any], guests: ExitStack, deadline: float, timeout: float
) -> tuple[str, str]:
    """Receive all devices, tell them whether to go on, and return what is wrong, or ""."""
    per_node, world_size = me["devices"]
    came, connections, verdict = {0: me}, [], ("", "")
    while len(came) < world_size and not verdict[1]:
        listening.settimeout(max(0.001, deadline - time.monotonic()))
        try:
            guest = guests.enter_context(listening.accept()[0])
            guest.settimeout(PATIENCE)
            theirs = json.loads(guest.makefile("rb").readline(1000))
            other, devices, host = theirs["rank"], theirs["devices"], theirs["host"]
        except TimeoutError:
            if time.monotonic() >= deadline:
                verdict = ("failed", _missing(came, per_node, world_size, timeout))
            continue
        except (OSError, ValueError, LookupError, TypeError):
            continue  # not one of ours
        connections.append(guest)
        if devices != me["devices"]:
            verdict = (
                "bad input",
                "nodes have another trainer.devices or trainer.num_nodes: "
                f"{per_node} of {world_size} devices on {me['host']}, "
                f"{devices[0]} of {devices[1]} on {host}",
            )
        elif other in came:
            node = other // per_node
            verdict = (
                "bad input",
                f"NODE_RANK={node} is given twice: on {came[other]['host']} and on {host}",
            )
        came[other] = theirs
    for guest in connections:
        with suppress(OSError):
            guest.sendall(json.dumps(verdict).encode() + b"\n")
    return verdict


def _missing(came: dict[int, Any], per_node: int, world_size: int, timeout: float) -> str:
    """Return the line on devices that did not come."""
    nodes = {rank // per_node: each["host"] for rank, each in sorted(came.items())}
    absent = [f"NODE_RANK={n}" for n in range(world_size // per_node) if n not in nodes]
    absent = absent or [f"device {rank}" for rank in range(world_size) if rank not in came]
    return (
        f"trainer.timeout={timeout:g} seconds are over: of {world_size // per_node} nodes, "
        f"{', '.join(f'NODE_RANK={node} ({host})' for node, host in nodes.items())} came, and "
        f"{', '.join(absent)} did not"
    )


def _visit(
    me: dict[str, Any], address: tuple[str, int], deadline: float, timeout: float
) -> Meeting:
    """Say to the first device who this one is, and wait for what it answers."""
    where = f"MASTER_ADDR={address[0]} MASTER_PORT={address[1]}"
    while time.monotonic() < deadline:
        with suppress(OSError), socket.create_connection(address, timeout=PATIENCE) as connection:
            (host, port), own = connection.getpeername()[:2], connection.getsockname()[0]
            connection.sendall(json.dumps(me).encode() + b"\n")
            connection.settimeout(max(0.0, deadline - time.monotonic()) + PATIENCE)
            if answer := connection.makefile("rb").readline(10_000):
                _heed(answer, where)
                return Meeting(host, port, own, None)
        time.sleep(0.1)  # it is not there yet
    raise Failed(
        f"{where}: the node with NODE_RANK=0 did not answer there within "
        f"trainer.timeout={timeout:g} seconds"
    )


def _heed(answer: bytes, where: str) -> None:
    """Stop where the first device says that this cannot go on."""
    try:
        kind, text = json.loads(answer)
    except (ValueError, TypeError):
        raise BadInput(f"{where}: another program answers there") from None
    if text:
        raise (BadInput if kind == "bad input" else Failed)(text)
