"""Shares a training out among the devices and machines there are.

On TensorFlow tf.distribute.MirroredStrategy does it, for the GPUs of one machine; on JAX
keras.distribution.DataParallel, for the GPUs of one machine or of several, with a process on each.
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

JOINING_SECONDS = 300  # that the processes wait for each other at the start
HEARTBEAT_SECONDS = 10  # without a sign of life, after which a process counts as lost


def fill_up(count, unit):
    """Number `count` rows, and again from the first on, up to a multiple of unit: int [...]."""
    return np.arange(count + -count % unit) % count


class Team:
    """One device, which has nobody to share with; and what the others have in common."""

    devices = 1  # of all processes together
    process, processes = 0, 1
    neighbours = 1  # processes on this machine, this one among them
    accumulates = True  # whether the engine can add up the gradients of slices of a batch

    @property
    def own_devices(self):
        """The number of devices of this process."""
        return self.devices // self.processes

    @property
    def is_first(self):
        """Whether this is the process that writes and speaks."""
        return not self.process

    def scope(self):
        """Open a context in which networks are built and trained on all devices."""
        return contextlib.nullcontext()

    def own_scope(self):
        """Open a context in which networks are built and used on this process's own devices."""
        return contextlib.nullcontext()

    def adam(self, learning_rate, clip_norm, slices=1):
        """Make Adam that clips the gradients of all devices together.

        learning_rate: number or schedule; clip_norm: the longest that all gradients together may
        be; slices: calls of train_on_batch whose gradients make a step.
        """
        return keras.optimizers.Adam(
            learning_rate,
            global_clipnorm=clip_norm,
            gradient_accumulation_steps=slices if slices > 1 else None,
        )

    def shard_step(self, array):
        """Lay this process's share [N, ...] of a batch on devices, to train on it."""
        return array

    def shard(self, array):
        """Lay an array [N, ...] on this process's own devices, to predict it."""
        return array

    def broadcast(self, array):
        """Return the first process's array; the others give one of its shape and dtype."""
        return array

    def largest(self, numbers):
        """Return the largest of the whole numbers that the processes give, place by place."""
        return numbers

    def share(self, rows):
        """Choose what this process is to read of a batch, a list.

        All get equally many, a multiple of their devices, for which some rows come twice.
        """
        places = np.split(fill_up(len(rows), self.devices), self.processes)[self.process]
        return [rows[place] for place in places]

    def real_rows(self, count, each):
        """Tell which of this process's `each` rows count, in a batch of count: bool [each]."""
        return self.process * each + np.arange(each) < count

    def from_first(self, function):
        """Let the first process call a function for all.

        Returns what it gives, as JSON keeps it. A UserError or StopRequest becomes one everywhere.
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
        """Call a function, in the first process before the others. Returns what it gives here."""
        once = functools.cache(function)

        def call_without_result():
            once()

        self.from_first(call_without_result)
        return once()


def _outcome(function):
    """Call a function. Returns what there is to tell of it, for JSON."""
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
        """names: of the devices, such as "gpu:0"."""
        import tensorflow as tf

        tf.get_logger().setLevel("ERROR")
        self.tf, self.strategy = tf, tf.distribute.MirroredStrategy(names)
        self.devices = len(names)

    def scope(self):
        return self.strategy.scope()

    def adam(self, learning_rate, clip_norm, slices=1):
        tf, devices = self.tf, self.devices

        class AdamClippedTogether(keras.optimizers.Adam):
            """Keras' own would clip each device's gradients before it adds them up."""

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
    """The devices of one process or of several, on JAX."""

    def __init__(self, limit):
        """limit: how many devices of each process are used, None: all."""
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


# --- finding each other ---------------------------------------------------------------------------

PROCESS_COUNTS = ("JAX_NUM_PROCESSES", "SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE")
KUBERNETES = ("KUBERNETES_SERVICE_HOST", "JOB_COMPLETION_INDEX")
# What an engine says, in any of its words, where a process or its machine is gone.
LOST = re.compile("gloo|nccl|coordination service|connection (reset|closed)|socket closed", re.I)


@contextlib.contextmanager
def joined(limit=None):
    """Form a team of all devices, and of all processes where the environment tells of several.

    limit: how many devices of each process are used, None: all. Processes are told of each other by
    JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID, or by what SLURM, Open MPI and
    Kubernetes set, as jax.distributed.initialize reads it. Yields the Team; all but the first
    process are silent meanwhile. Raises UserError where it can't be formed, and TrainingError
    where a process is lost later, unless JAX ends this one first.
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
                    "another process is lost; start all of them again with the same --run, and "
                    "they go on from the last checkpoint"
                ) from error
            raise


def form_team(limit):
    """Make the Team of the devices that the engine has."""
    names, backend, processes = keras.distribution.list_devices(), keras.backend.backend(), 1
    if backend == "jax":
        import jax

        processes = jax.process_count()
    here = len(names) // processes
    if limit and limit > here:
        raise UserError(f"--devices {limit}: {backend} finds only {here} here: {', '.join(names)}")
    used = limit or here
    if backend == "jax" and used * processes > 1:
        return ParallelTeam(used)
    if backend == "tensorflow" and used > 1:
        return MirroredTeam(names[:used])
    return ONE_DEVICE


def _tells_of_several():
    """Return the name of the environment's variable that tells of several processes, or None."""
    for name in PROCESS_COUNTS:
        if _number(name, 1) > 1:
            return name
    return KUBERNETES[1] if set(KUBERNETES) <= os.environ.keys() else None


def _number(name, default=None):
    """Read a whole number from the environment."""
    text = os.environ.get(name, default)
    try:
        return None if text is None else int(text)
    except ValueError:
        raise UserError(f"{name}={text}: expected a whole number") from None


def _meet(told_by):
    """Let JAX find the other processes; told_by: the variable that tells of them."""
    if keras.backend.backend() != "jax":
        raise UserError(
            f"{told_by} tells of several processes, which JAX alone can join: set "
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
        raise UserError(f"the processes did not find each other: {reason}") from error
