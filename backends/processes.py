"""The processes of a run: how a launcher's are brought together on each backend."""

from collections.abc import Mapping

from diptych.backends.rooms import name, room
from diptych.core.placement import Placement, launched

_TORCHRUN = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
_KNOWN_TO_JAX = ("SLURM_STEP_NUM_TASKS", "SLURM_PROCID", "OMPI_COMM_WORLD_SIZE", "TPU_WORKER_HOSTNAMES")

Coordinator = tuple[str, int, int]
"""Address and port of process 0, the number of processes, and that of this one."""


def join(
    environment: Mapping[str, str],
    *,
    devices: int = 1,
    fsdp: int = 1,
    zero: bool = False,
    coordinator: Coordinator | None = None,
) -> Placement:
    """This process's place among those that carry out a run together; before the framework computes anything.

    On torch torchrun starts them; on jax srun, mpirun, or the hosts of a TPU, or anything with a `coordinator`. A
    process of which nothing says that it is one of several is alone. On tensorflow its devices may be parts of a CPU,
    into which it is divided here.

    Args:
        environment: of this process, where launchers speak.
        devices: of this process, that share each of its batches.
        fsdp: over how many devices of all processes the state is spread.
        zero: whether slots, averages and teacher alone are spread.
        coordinator: of jax.

    Raises:
        ValueError: it was started as one of several in a way that the backend does not know; each would train a model
            of its own; or the state cannot be spread over so many devices.
    """
    many, backend = launched(environment), name()
    if backend == "jax":
        if hosts := environment.get("TPU_WORKER_HOSTNAMES", "").count(","):
            many["TPU_WORKER_HOSTNAMES"] = f"{hosts + 1} hosts"
        if coordinator or any(known in many for known in _KNOWN_TO_JAX):
            room().join(coordinator)
            many, coordinator = {}, None
    elif backend == "torch" and "WORLD_SIZE" in many and all(known in environment for known in _TORCHRUN):
        room().join(environment)
        many = {}
    elif backend == "tensorflow" and devices > 1:
        room().divide_cpu(devices)
    if coordinator:
        raise ValueError(
            f"--coordinator-address brings processes of jax together; Keras runs on {backend}. {_WAYS[backend]}"
        )
    if many:
        said = ", ".join(f"{variable}={value}" for variable, value in many.items())
        raise ValueError(
            f"This process was started as one of several ({said}), and each would train a model of its own. "
            f"{_WAYS[backend]} If independent runs are meant, start each with env -u {' -u '.join(many)}."
        )
    process, processes = room().processes()
    gather = {"gather": room().gather} if processes > 1 else {}
    return Placement(process=process, processes=processes, devices=devices, fsdp=fsdp, zero=zero, **gather)


def leave() -> None:
    """Part from the others once all is done; jax does so itself when the process ends."""
    if name() == "torch":
        room().leave()


_WAYS = {
    "jax": "On jax several processes are started by srun or mpirun, or each with --coordinator-address HOST:PORT, "
    "--num-processes and --process-id; one process uses the devices of a machine with --data-parallel.",
    "torch": "On torch several processes are started by torchrun --nproc-per-node N -m recipes.siglip ...",
    "tensorflow": "On tensorflow one process carries out a run, with the devices of its machine by --data-parallel.",
}
