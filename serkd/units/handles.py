"""A shard to call, in this process or in an actor that is replaced when it dies."""

import logging
from typing import Any

import ray
from ray.exceptions import RayActorError

from serkd.units.shards import Shard, ShardActor

logger = logging.getLogger(__name__)
_ACTOR_CPUS = 0.5  # the other half of the CPUs reads Parquet
MAX_DEATHS = 3  # of one shard's actors; then it is the machine and not chance


class Call:
    """A method under way: its name, arguments, and result (or, until it ends, the reference)."""

    def __init__(self, method: str, arguments: tuple[Any, ...], result: Any) -> None:  # noqa: ANN401
        self.method, self.arguments, self.result = method, arguments, result


class ShardHandle:
    """Calls a shard that is here, or one in an actor that is replaced when it dies."""

    def __init__(self, num_shards: int) -> None:
        """`num_shards` is how many share the cluster; 0 = this one is here."""
        self.local = None if num_shards else Shard()
        self.actor: Any = None
        self.state: list[Call] = []  # what another actor has to be told first
        self.told: list[ray.ObjectRef] = []  # that this one is being told it
        self.num_deaths = 0
        if num_shards:
            gpus = 1.0 if ray.cluster_resources().get("GPU", 0) >= num_shards else 0.0
            self.options = {"num_cpus": _ACTOR_CPUS, "num_gpus": gpus}
            self._create()

    def _create(self) -> None:
        self.actor = ray.remote(ShardActor).options(**self.options).remote()

    def begin(self, method: str, *arguments: Any) -> Call:  # noqa: ANN401
        if self.local is not None:
            return Call(method, arguments, getattr(self.local, method)(*arguments))
        return Call(method, arguments, getattr(self.actor, method).remote(*arguments))

    def settle(self, call: Call) -> None:
        """Wait until a call is done; one whose actor died is made again by another."""
        if self.local is not None:
            return
        while True:
            try:
                ray.get(self.told)
                ray.wait([call.result], fetch_local=False)
                ray.get(self.actor.__ray_ready__.remote())
                return
            except RayActorError as error:
                self._replace(call, error)

    def end(self, call: Call) -> Any:  # noqa: ANN401
        """The result of a call."""
        while self.local is None:
            try:
                ray.get(self.told)  # or it would go on with less
                call.result = ray.get(call.result)
                break
            except RayActorError as error:
                self._replace(call, error)
        if call.method in ("restrict", "draw"):
            self.state = [told for told in self.state if told.method != call.method] + [call]
        return call.result

    def _replace(self, call: Call, error: RayActorError) -> None:
        """A new actor with the same frames; its first pass adds all of them, to the same bits."""
        self.num_deaths += 1
        if self.num_deaths > MAX_DEATHS:
            raise error
        logger.warning("a clustering actor died in %s and is replaced", call.method)
        self._create()
        self.told = [getattr(self.actor, one.method).remote(*one.arguments) for one in self.state]
        call.result = getattr(self.actor, call.method).remote(*call.arguments)

    def renew(self) -> None:
        """Another actor, which has nothing yet."""
        self.close()
        self._create()

    def close(self) -> None:
        if self.actor is not None:
            ray.kill(self.actor)
            self.actor = None
