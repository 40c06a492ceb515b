"""Data-parallel training on several devices and machines.

TensorFlow: tf.distribute.MirroredStrategy, the GPUs of one machine. JAX:
keras.distribution.DataParallel, the GPUs of one or several machines, one process on each.
Every device holds all weights and gets an equal share of each batch.
"""

import contextlib
import functools
import itertools
import json
import os
import platform
import re
import zlib

import numpy as np

from roadseg.engine import keras
from roadseg.errors import StopRequest, TrainingError, UserError

JOINING_SECONDS = 300  # timeout of the start, when processes connect
HEARTBEAT_SECONDS = 10  # without a heartbeat a process counts as lost


def fill_up(count, unit):
    """Return indices 0..count-1, repeated up to a multiple of unit: int [...]."""
    return np.arange(count + -count % unit) % count


class Team:
    """One device; base class of the teams with several."""

    devices = 1  # in all processes
    process, processes = 0, 1
    neighbours = 1  # processes on this machine, this one too
    accumulates = True  # whether gradients of slices of a batch can be added up

    @property
    def own_devices(self):
        """The number of devices of this process."""
        return self.devices // self.processes

    @property
    def is_first(self):
        """Whether this is process 0, the only one that writes and prints."""
        return not self.process

    def scope(self):
        """Return a context to build and train networks in, on all devices."""
        return contextlib.nullcontext()

    def own_scope(self):
        """Return a context to build and use networks in, on this process's devices."""
        return contextlib.nullcontext()

    def adam(self, learning_rate, clip_norm, slices=1):
        """Make Adam that clips the gradients of all devices together.

        learning_rate: number or schedule; clip_norm: largest global norm of the gradients;
        slices: calls of train_on_batch that make a step.
        """
        return keras.optimizers.Adam(
            learning_rate,
            global_clipnorm=clip_norm,
            gradient_accumulation_steps=slices if slices > 1 else None,
        )

    def shard_step(self, array):
        """Put this process's share [N, ...] of a batch on the devices, for training."""
        return array

    def shard(self, array):
        """Put an array [N, ...] on this process's devices, for prediction."""
        return array

    def broadcast(self, array):
        """Return process 0's array; the others pass one of the same shape and dtype."""
        return array

    def largest(self, numbers):
        """Return the element-wise maximum of the processes' lists of integers."""
        return numbers

    def share(self, rows):
        """Return this process's share of a batch, a list.

        All shares have the same length, a multiple of the devices; so some rows come twice.
        """
        places = np.split(fill_up(len(rows), self.devices), self.processes)[self.process]
        return [rows[place] for place in places]

    def real_rows(self, count, each):
        """Return which of this process's `each` rows are not fill, in a batch of count: bool."""
        return self.process * each + np.arange(each) < count

    def from_first(self, function):
        """Call a function in process 0 alone. Returns its result, passed through JSON, everywhere.

        Its UserError or StopRequest is raised in every process.
        """
        if self.processes == 1:
            return json.loads(json.dumps(function()))
        told = json.dumps(_outcome(function)).encode() if self.is_first else b""
        size = int(self.broadcast(np.array(len(told), np.int32)))
        told = self.broadcast(np.frombuffer(told.ljust(size), np.uint8))
        outcome = json.loads(told.tobytes())
        if "stop" in outcome:
            raise StopRequest(outcome["stop"])
        if "error" in outcome:
            error = UserError(outcome["error"])
            error.exit_status = outcome["exit_status"]
            raise error
        return outcome["result"]

    def first_then_others(self, function):
        """Call a function in process 0, then in the others. Returns its result here."""
        once = functools.cache(function)

        def call_without_result():
            once()

        self.from_first(call_without_result)
        return once()


def _outcome(function):
    """Call a function. Returns its result or its error as a dict for JSON."""
    try:
        return {"result": function()}
    except UserError as error:
        return {"error": str(error), "exit_status": error.exit_status}
    except StopRequest as request:
        return {"stop": request.number}


ONE_DEVICE = Team()


class MirroredTeam(Team):
    """Several devices of this machine, on TensorFlow."""

    accumulates = False  # Keras' gradient_accumulation_steps fails under tf.distribute

    def __init__(self, names):
        """names: devices, such as "gpu:0"."""
        import tensorflow as tf

        tf.get_logger().setLevel("ERROR")
        self.tf, self.strategy = tf, tf.distribute.MirroredStrategy(names)
        self.devices = len(names)

    def scope(self):
        return self.strategy.scope()

    def adam(self, learning_rate, clip_norm, slices=1):
        tf, devices = self.tf, self.devices

        class AdamClippedTogether(keras.optimizers.Adam):
            """Keras' Adam clips each device's gradients before it adds them up."""

            def apply(self, grads, trainable_variables=None):
                total = tf.distribute.get_replica_context().all_reduce("SUM", grads)
                clipped, _ = tf.clip_by_global_norm(total, clip_norm)
                shares = [gradient / devices for gradient in clipped]  # they are added up again
                super().apply(shares, trainable_variables)

        return AdamClippedTogether(learning_rate)

    def shard(self, array):
        parts = np.split(array, self.devices)
        return self.strategy.experimental_distribute_values_from_function(
            lambda context: keras.ops.convert_to_tensor(parts[context.replica_id_in_sync_group])
        )

    shard_step = shard


class ParallelTeam(Team):
    """The devices of one or several processes, on JAX."""

    def __init__(self, limit):
        """limit: devices of each process to use; None: all."""
        import jax
        from jax.experimental import multihost_utils

        self.between = multihost_utils
        self.process, self.processes = jax.process_index(), jax.process_count()
        chosen = [jax.local_devices(process)[:limit] for process in range(self.processes)]
        self.devices = sum(map(len, chosen))
        machine = np.uint32(zlib.crc32(platform.node().encode()))
        self.neighbours = int((multihost_utils.process_allgather(machine) == machine).sum())
        self.all, self.own = (
            keras.distribution.DataParallel(
                devices=[f"{device.platform}:{device.id}" for device in devices],
                auto_shard_dataset=False,
            )
            for devices in ([*itertools.chain(*chosen)], chosen[self.process])
        )

    def scope(self):
        return self.all.scope()

    def own_scope(self):
        return self.own.scope()

    def shard(self, array):
        return keras.distribution.distribute_tensor(array, self.own.get_data_layout(array.shape))

    def broadcast(self, array):
        return self.between.broadcast_one_to_all(array)

    def largest(self, numbers):
        gathered = self.between.process_allgather(np.array(numbers, np.int32))
        return gathered.max(axis=0).tolist()


# --- connecting -----------------------------------------------------------------------------------

PROCESS_COUNTS = ("JAX_NUM_PROCESSES", "SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE")
KUBERNETES = ("KUBERNETES_SERVICE_HOST", "JOB_COMPLETION_INDEX")
# Words of any engine's error when a process or its machine is lost.
LOST = re.compile("gloo|nccl|coordination service|connection (reset|closed)|socket closed", re.I)


@contextlib.contextmanager
def joined(limit=None):
    """Form a Team of all devices of all processes.

    limit: devices of each process to use; None: all. Several processes are set up by
    JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID, or by SLURM, Open MPI or
    Kubernetes (see jax.distributed.initialize). Yields the Team; only process 0 prints. Raises
    UserError if the processes do not connect, TrainingError if one is lost later (JAX may end
    this process first).
    """
    if several := _tells_of_several():
        _meet(several)
    team = form_team(limit)
    with contextlib.ExitStack() as silence:
        if not team.is_first:
            nowhere = silence.enter_context(open(os.devnull, "w", encoding="utf-8"))
            silence.enter_context(contextlib.redirect_stdout(nowhere))
            silence.enter_context(contextlib.redirect_stderr(nowhere))
        try:
            yield team
        except Exception as error:  # each engine has its own class for this
            if team.processes > 1 and LOST.search(repr(error)):
                raise TrainingError(
                    "another process is lost; start all of them again with the same --run to "
                    "resume from the last checkpoint"
                ) from error
            raise


def form_team(limit):
    """Make the Team of the engine's devices."""
    names, backend, processes = keras.distribution.list_devices(), keras.backend.backend(), 1
    if backend == "jax":
        import jax

        processes = jax.process_count()
    here = len(names) // processes
    if limit and limit > here:
        raise UserError(
            f"--devices {limit}: {backend} finds only {here} here: {', '.join(names)}; give "
            f"{here} or fewer"
        )
    used = limit or here
    if backend == "jax" and used * processes > 1:
        return ParallelTeam(used)
    if backend == "tensorflow" and used > 1:
        return MirroredTeam(names[:used])
    return ONE_DEVICE


def _tells_of_several():
    """Return the environment variable that announces several processes, or None."""
    for name in PROCESS_COUNTS:
        if _number(name, 1) > 1:
            return name
    return KUBERNETES[1] if set(KUBERNETES) <= os.environ.keys() else None


def _number(name, default=None):
    """Read a whole number from an environment variable."""
    text = os.environ.get(name, default)
    try:
        return None if text is None else int(text)
    except ValueError:
        raise UserError(f"{name}={text}: expected a whole number") from None


def _meet(told_by):
    """Connect to the other processes through JAX; told_by: see `_tells_of_several`."""
    if keras.backend.backend() != "jax":
        raise UserError(
            f"{told_by} announces several processes, which only JAX supports: set "
            f"KERAS_BACKEND=jax, or unset {told_by}"
        )
    import jax

    jax.config.update("jax_enable_preemption_service", False)  # SIGTERM is for stopping.py
    try:
        jax.distributed.initialize(
            num_processes=_number("JAX_NUM_PROCESSES"),
            process_id=_number("JAX_PROCESS_ID"),
            initialization_timeout=JOINING_SECONDS,
            heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
            shutdown_timeout_seconds=HEARTBEAT_SECONDS,
        )
    except (ValueError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"the processes did not connect: {reason}; start all of them, with the same address"
        ) from error
