"""A Redis cluster of three masters with a replica each."""

import re
import secrets
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import redis
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.cluster import RedisCluster as AsyncRedisCluster
from redis.crc import key_slot

from .process import running
from .redis import BUS, RedisServer
from .releases import REDIS, Release, one_of_each
from .waits import until

SLOTS = 16384
_READY_WITHIN = 120.0
# Milliseconds until a silent node is given up. A busy machine is silent now and then: only a test
# that kills a node wants to see it replaced.
_NEVER = 600_000
_SOON = 3000


class RedisCluster:
    """``nodes[0:3]`` begin as masters, and ``nodes[3:6]`` as their replicas, in that order.

    They start with a shared map, so that none has to be met, and keep their ports. With
    ``fails_over`` a replica takes the place of a master that is down.
    """

    def __init__(
        self,
        directory: Path,
        *options: str,
        fails_over: bool = False,
        release: Release = REDIS[0],
    ) -> None:
        gives_up_after = str(_SOON if fails_over else _NEVER)
        every = ("--cluster-enabled", "yes", "--cluster-node-timeout", gives_up_after)
        # a master waits for more replicas to sync along unless it is told not to
        every += ("--repl-diskless-sync-delay", "0", *options)
        self.nodes = [
            RedisServer(directory / f"node-{number}", *every, release=release)
            for number in range(6)
        ]
        self._ids = [secrets.token_hex(20) for _ in self.nodes]

    def connect(self, **options: Any) -> AsyncRedisCluster:
        """A client, which waits for an answer long enough for the busiest machine."""
        nodes = [ClusterNode("127.0.0.1", node.port) for node in self.nodes]
        patience = dict.fromkeys(("socket_timeout", "socket_connect_timeout"), 60.0)
        return AsyncRedisCluster(startup_nodes=nodes, **{**patience, **options})

    def start(self) -> "RedisCluster":
        for number, node in enumerate(self.nodes):
            node.directory.mkdir(parents=True, exist_ok=True)
            (node.directory / "nodes.conf").write_text(self._map(number))
            node.start()
        self.wait_until_whole()
        return self

    def stop(self) -> None:
        for node in self.nodes:
            node.stop()

    def flush(self) -> None:
        for node in self.nodes:
            if is_master(node):
                node.flush()

    def connections_made(self) -> int:
        """How many clients have connected to the nodes that answer, since each was started."""
        return self._sum("INFO stats", rb"connections_received:(\d+)")

    def count_moved(self) -> int:
        """How many commands the nodes that answer have sent elsewhere, since each was started."""
        return self._sum("INFO errorstats", rb"errorstat_MOVED:count=(\d+)")

    def _sum(self, question: str, number: bytes) -> int:
        return sum(_number(node, question, number) for node in self.nodes)

    def wait_until_whole(self) -> None:
        """Every node is up and sees all slots served, and every replica follows a master."""
        until(self._is_whole, within=_READY_WITHIN, what="the cluster is whole")

    def wait_until_promoted(self, number: int) -> None:
        """A replica has become a master, and every node that is up knows it."""
        node = self.nodes[number]
        until(lambda: is_master(node), within=_READY_WITHIN, what=f"node {number} is a master")
        running = [each for each in self.nodes if each.is_running and not each.is_paused]
        until(
            lambda: all(_has_all_slots(each) and _follows(each, node) for each in running),
            within=_READY_WITHIN,
            what=f"the cluster knows that node {number} is a master",
        )

    def wait_until_replicated(self, number: int) -> None:
        """The replica of a master has all that the master had acknowledged before the call."""
        goal = _number(self.nodes[number], "INFO replication", rb"master_repl_offset:(\d+)")
        offset = rb"slave_repl_offset:(\d+)"
        until(
            lambda: _number(self.nodes[number + 3], "INFO replication", offset) >= goal,
            within=_READY_WITHIN,
            what=f"node {number + 3} has what node {number} had",
        )

    def move_slots(self, *, source: int, target: int, stop: Callable[[], bool]) -> int:
        """Move slots that hold keys from a master to another one, as resharding does.

        Each slot's keys migrate while clients use them. Ends when ``stop()`` says so, or when the
        source has no keys left; gives how many slots were moved.
        """
        with ExitStack() as stack:
            clients = {
                node.port: stack.enter_context(redis.Redis(port=node.port, socket_timeout=60))
                for node in self.nodes
                if is_master(node)
            }
            giver, taker = (clients.pop(self.nodes[number].port) for number in (source, target))
            move = _Move(giver, taker, [*clients.values()], self.nodes[target].port)
            moved = 0
            while not stop() and (slots := {key_slot(key) for key in giver.scan_iter()}):
                for slot in slots:
                    move.one(slot)
                    moved += 1
                    if stop():
                        break
            return moved

    def _map(self, myself: int) -> str:
        share = SLOTS // 3 + 1
        lines: list[str] = []
        for number, node in enumerate(self.nodes):
            flags = "myself," if number == myself else ""
            address = f"{self._ids[number]} 127.0.0.1:{node.port}@{node.port + BUS}"
            if number < 3:
                slots = f"{number * share}-{min((number + 1) * share, SLOTS) - 1}"
                lines.append(f"{address} {flags}master - 0 0 {number + 1} connected {slots}")
            else:
                master = self._ids[number - 3]
                lines.append(f"{address} {flags}slave {master} 0 0 {number - 2} connected")
        return "\n".join([*lines, "vars currentEpoch 3 lastVoteEpoch 0", ""])

    def _is_whole(self) -> bool:
        return all(_has_all_slots(node) and _is_synced(node) for node in self.nodes)


class _Move:
    """Moves slots, one after the other, by the commands that ``redis-cli`` sends."""

    def __init__(
        self, giver: "redis.Redis", taker: "redis.Redis", others: "list[redis.Redis]", port: int
    ) -> None:
        self._giver, self._taker, self._others, self._port = giver, taker, others, port
        self._giver_id, self._taker_id = (
            client.execute_command("CLUSTER MYID").decode() for client in (giver, taker)
        )

    def one(self, slot: int) -> None:
        giver, taker = self._giver, self._taker
        taker.execute_command("CLUSTER SETSLOT", slot, "IMPORTING", self._giver_id)
        giver.execute_command("CLUSTER SETSLOT", slot, "MIGRATING", self._taker_id)
        while keys := giver.execute_command("CLUSTER GETKEYSINSLOT", slot, 50):
            giver.execute_command("MIGRATE", "127.0.0.1", self._port, "", 0, 2000, "KEYS", *keys)
        for client in (taker, giver, *self._others):
            client.execute_command("CLUSTER SETSLOT", slot, "NODE", self._taker_id)


def is_master(node: RedisServer) -> bool:
    return _says(node, "INFO replication", b"role:master")


def _has_all_slots(node: RedisServer) -> bool:
    return _says(node, "CLUSTER INFO", b"cluster_state:ok")


def _is_synced(node: RedisServer) -> bool:
    return is_master(node) or _says(node, "INFO replication", b"master_link_status:up")


def _follows(node: RedisServer, master: RedisServer) -> bool:
    """Tell whether it knows that the master, which may be itself, serves slots."""
    line = rb"127\.0\.0\.1:%d@\S* (myself,)?master - \d+ \d+ \d+ \w+ \d"
    return re.search(line % master.port, _ask(node, "CLUSTER NODES")) is not None


def _number(node: RedisServer, question: str, pattern: bytes) -> int:
    """The number in its answer; 0 if it is down."""
    # a node that is only slow has to be counted
    found = re.search(pattern, _ask(node, question, within=20))
    return int(found[1]) if found else 0


def _says(node: RedisServer, question: str, answer: bytes) -> bool:
    return answer in _ask(node, question)


def _ask(node: RedisServer, question: str, within: float = 2) -> bytes:
    try:
        return node.say(question, within)
    except OSError:  # it is down, or hangs
        return b""


@pytest.fixture(scope="session")
def redis_clusters(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Callable[[Release], RedisCluster]]:
    """Six nodes of each release for the whole run."""
    with one_of_each(
        lambda release: running(RedisCluster(tmp_path_factory.mktemp("cluster"), release=release))
    ) as clusters:
        yield clusters


@pytest.fixture
def redis_cluster(
    redis_clusters: Callable[[Release], RedisCluster], redis_release: Release
) -> RedisCluster:
    """Those of the release that the test runs on; leave them as they are."""
    return redis_clusters(redis_release)


@pytest.fixture
def own_cluster(redis_release: Release, tmp_path: Path) -> Iterator[RedisCluster]:
    """A cluster for one test, which may kill its masters."""
    cluster = RedisCluster(tmp_path / "cluster", fails_over=True, release=redis_release)
    with running(cluster):
        yield cluster
