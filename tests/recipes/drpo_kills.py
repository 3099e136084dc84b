"""Kills a prompt search at chosen calls, and notes at each kill what was asked, what was used and what is on file.

The replies are marked (`drpo_world.marked`), so the requests themselves tell which replies were used: to have an answer
judged is to show it, and an answer is asked for under a proposed prompt.
"""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

from tests.recipes import drpo_world, small
from tests.stub_server import Body, StubServer
from windvane.engines.journal import read_replies

_PATIENCE = 60.0
"""Seconds that a process may take to say its number."""
_QUERIES, _HELD_OUT = 14, 6

EXAMPLES = [
    {"id": "e1", "prompt": "Name the moon.", "answer": "Moon, quality 2."},
    {"id": "e2", "prompt": "Name the fish of the river.", "answer": "Fish, quality 3."},
]
_RACING = {"races": 2, "candidates": 3, "first_look": 1, "minibatch": 2, "most_queries": 4, "least_pairs": 3}
SEARCHES: dict[str, dict[str, Any]] = {
    "racing": {"search": {"type": "racing", **_RACING}},
    "paper": {"compat": "paper", "search": {"depth": 3, "extension": 1}},
}
"""The default search and the published one, each on a small scale: some 80 calls."""


class Kill(NamedTuple):
    """What was known when a process had been killed."""

    asked: frozenset[str]
    """Marks of all replies that were asked for so far."""
    used: frozenset[str]
    """Those of them that stood in a request."""
    on_file: frozenset[str]
    """Those of them in the journal."""

    @property
    def in_flight(self) -> frozenset[str]:
        """Asked for and not on file: under way, or just arrived."""
        return self.asked - self.on_file


class Attempt(NamedTuple):
    """One process."""

    code: int
    """Its exit code, negative for a signal."""
    asked: frozenset[str]
    """Marks of the replies that it asked for."""


class Forker:
    """A process that forks one for each run; see `drpo_program`. Use it as a context manager."""

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.recipes.drpo_program"],
            cwd=small.ROOT, text=True, bufsize=1, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._process.__exit__(kind, error, at)

    def begin(self, config: Path) -> int:
        """Run ``windvane drpo``; return the number of its process."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{config}\n")
        return self._answer()

    def end(self) -> int:
        """Wait for the run, and return its exit code."""
        return self._answer()

    def _answer(self) -> int:
        assert self._process.stdout is not None
        return int(self._process.stdout.readline())


KillAt = Callable[[int], int | None]
"""Says of each attempt at a run, counted from 0, at which call it is killed; None for never.

Calls are counted that no earlier attempt has made, so each attempt gets further than the one before.
"""


def never(attempt: int) -> None:
    """Kill nothing."""


def every(calls: int) -> KillAt:
    """Kill each attempt at its new call number `calls`."""
    return lambda attempt: calls


def once(call: int) -> KillAt:
    """Kill the first attempt only."""
    return lambda attempt: None if attempt else call


class History:
    """All attempts at one run."""

    def __init__(self, folder: Path) -> None:
        self.run = folder / "run"
        self.attempts: list[Attempt] = []
        self.kills: list[Kill] = []
        self.calls: Counter[str] = Counter()
        """How often each reply was asked for."""
        self._used: set[str] = set()
        self._now: set[str] = set()
        self._left: int | None = None
        self._number = 0
        self._begun = threading.Event()

    def reply(self, body: Body, index: int) -> str:
        """Answer as the world does, and kill the process if this is the call."""
        mark = drpo_world.mark_of(body, index)
        new = mark not in self.calls
        self.calls[mark] += 1
        self._now.add(mark)
        self._used |= {used for message in body["messages"] for used in drpo_world.MARK.findall(message["content"])}
        if new and self._left is not None:
            self._left -= 1
            if not self._left:
                assert self._begun.wait(_PATIENCE)
                os.kill(self._number, signal.SIGKILL)
        return drpo_world.marked(body, index)

    def attempt(self, config: Path, forker: Forker, stub: StubServer, kill_at: int | None) -> int:
        """Run the command once; return its exit code."""
        self._left, self._now = kill_at, set()
        self._begun.clear()
        self._number = forker.begin(config)
        self._begun.set()
        code = forker.end()
        self._left = None
        settle(stub)
        self.attempts.append(Attempt(code, frozenset(self._now)))
        if code == -signal.SIGKILL:
            self.kills.append(Kill(frozenset(self.calls), frozenset(self._used), frozenset(self.on_file())))
        return code

    def on_file(self) -> Iterator[str]:
        """Yield the marks of the replies in the journal, each as often as it stands there."""
        for entry in read_replies(self.run / "replies.jsonl"):
            (mark,) = set(drpo_world.MARK.findall(entry.reply.text))
            yield mark


def history(
    folder: Path,
    forker: Forker,
    search: str,
    kill_at: KillAt,
    *,
    concurrency: int = 4,
    faults: Mapping[str, float] | None = None,
    **more: Any,
) -> History:
    """Run a search in `folder` until it ends by itself.

    `concurrency` is the most requests in flight of all roles together: they share one engine. `more` is configuration.
    """
    folder.mkdir()
    small.write_queries(folder / "queries.jsonl", small.THINGS[:_QUERIES])
    (folder / "examples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in EXAMPLES), encoding="utf-8")
    found = History(folder)
    with StubServer(reply=found.reply, latency=latency, faults=faults) as stub:
        values = drpo_world.config(
            stub, Path("run"), Path("queries.jsonl"),
            holdout=_HELD_OUT, judge="dynamic", examples="examples.jsonl", rewriting={"attempts": 2},
            retrieval={"by": "bm25", "k": 1}, **{**SEARCHES[search], **more},
        )  # fmt: skip
        values["model"] |= {"concurrency": concurrency, "retries": 8}
        config = drpo_world.written(folder / "config.yaml", values)
        code = -signal.SIGKILL
        while code == -signal.SIGKILL:
            code = found.attempt(config, forker, stub, kill_at(len(found.attempts)))
    assert code == 0, (folder / "log").read_text(encoding="utf-8")
    return found


def latency(body: Body) -> float:
    """Return up to 10 ms, so that replies overtake one another; it depends on the request alone."""
    return int(drpo_world.mark_of(body, 0)[:4], 16) / 0xFFFF * 0.01


def settle(stub: StubServer) -> None:
    """Wait until the server has read all that a process had sent before it ended."""
    seen = -1
    while stub.connections or seen != stub.total:
        seen = stub.total
        time.sleep(0.02)
