"""Ray and the machine: starting, threads, devices."""

import logging
import os
import sys
import warnings

import ray
import ray.data

# Ray replaces 127.0.0.1 by the machine's outer address; another loopback address it keeps, where
# there is one. Some of its servers listen on all interfaces all the same.
_LOOPBACK = "127.0.0.2" if sys.platform == "linux" else "127.0.0.1"
_OBJECT_STORE_BYTES = 512 * 1024**2  # parts on their way to an encoder, and centroids


def start_ray(num_cpus: int | None = None) -> None:
    """Join the cluster that RAY_ADDRESS names, or start a private one on loopback."""
    if ray.is_initialized():
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")  # its banner ignores verbose=0
    os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    # Ray's own 15 lets its workers wait for minutes beside any other job of the machine
    os.environ.setdefault("RAY_worker_niceness", "0")
    common = {"namespace": "serkd", "logging_level": "ERROR", "log_to_driver": False}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if "RAY_ADDRESS" in os.environ:
            ray.init(**common)
            return
        ray.init(
            address="local",
            num_cpus=num_cpus,
            include_dashboard=False,
            object_store_memory=_OBJECT_STORE_BYTES,
            _node_ip_address=_LOOPBACK,
            **common,
        )
    ray.data.DataContext.get_current().enable_progress_bars = False


def cluster_actors(*, is_shared: bool) -> tuple[int, float]:
    """How many extraction or clustering actors the whole cluster takes, and the GPUs of each.

    One per GPU where there are any: more would wait for each other for ever. Actors pass each
    other paths: where the machines share no storage folder (`is_shared`), there are none (0), and
    the caller's process does their work.
    """
    if not is_shared and sum(node["Alive"] for node in ray.nodes()) > 1:
        return 0, 0.0
    cluster = ray.cluster_resources()
    if gpus := int(cluster.get("GPU", 0)):
        return gpus, 1.0
    # without the CPU of the job's own entry point: actors without room would wait for ever too
    return max(1, int(ray.available_resources().get("CPU", 1))), 0.0
