"""Every reply is written down before it is used: a reply paid for is never asked for again.

One file of JSON lines, one line a reply, under the key of the whole request (`request_key`). A line is written as soon
as the reply is there, and is safely on disk before whoever asked sees it; lines that come while the disk is busy are
synced together. What a kill or a full disk left of a last line is cut off when the journal is opened again.
"""

import asyncio
import fcntl
import json
import os
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, Self

from pydantic import ValidationError

from windvane.engines.metering import Usage
from windvane.engines.protocols import ChatRequest, Reply, Talker
from windvane.engines.request_key import request_key
from windvane.engines.sharing import Shared
from windvane.errors import RunDirectoryError, RunFailed
from windvane.run.files import append_whole, ensure_folder, explained, sync_folder


class Entry(NamedTuple):
    """One line: what was asked, and what was said."""

    key: str
    role: str
    """Who asked first; no part of the key, so roles with the same engine share replies."""
    asked: dict[str, Any]
    """The request, for a reader; its schema is left out."""
    reply: Reply


class ReplyJournal:
    """The replies of one run, open for reading and appending by one process. Use it as a context manager.

    Raises `RunDirectoryError` where another process has it open, `RunFailed` where the disk refuses.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        with explained(path):
            ensure_folder(path.parent)
            self._descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o666)
        try:
            self._lock()
            self._replies, self._usage = self._read()
        except BaseException:
            os.close(self._descriptor)
            raise
        self._unsynced: list[tuple[Entry, asyncio.Future[None]]] = []
        self._syncing: asyncio.Task[None] | None = None
        self._asking: dict[str, Shared[Reply]] = {}
        self.made = 0
        """Replies that an engine has given since the journal was opened."""
        self.reused = 0
        """Replies that stood in the journal, or that somebody else was just asking for."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __len__(self) -> int:
        return len(self._replies)

    def close(self) -> None:
        """Write nothing more, and let another process have the file."""
        os.close(self._descriptor)

    def usage(self) -> dict[str, Usage]:
        """Return the calls and tokens of all replies by role: those of earlier processes and of this one."""
        return dict(self._usage)

    def talker(self, inner: Talker, *, role: str) -> "JournalTalker":
        """Return a talker that asks `inner` only for what is not here."""
        return JournalTalker(self, inner, role)

    async def answer(self, inner: Talker, role: str, request: ChatRequest) -> Reply:
        """Return the reply on file, or that which another task is waiting for, or a new one.

        A failure goes to all who wait for it, and is not remembered.
        """
        key = request_key(inner.name, request)
        if key in self._replies:
            self.reused += 1
            return self._replies[key]
        asking = self._asking.get(key)
        if asking is None or not asking.open:
            asking = self._asking[key] = Shared(self._ask(key, inner, role, request))
        else:
            self.reused += 1
        try:
            return await asking.result()
        finally:
            if not asking.open and self._asking.get(key) is asking:
                del self._asking[key]

    async def _ask(self, key: str, inner: Talker, role: str, request: ChatRequest) -> Reply:
        reply = await inner.ask(request)
        await self._record(Entry(key, role, _asked(inner.name, request), reply))
        return reply

    async def _record(self, entry: Entry) -> None:
        """Write a line, and return when it is synced. The disk is waited for in a thread, so nobody else waits."""
        loop = asyncio.get_running_loop()
        self._write(_line(entry))
        done: asyncio.Future[None] = loop.create_future()
        self._unsynced.append((entry, done))
        if self._syncing is None or self._syncing.done() or self._syncing.get_loop() is not loop:
            self._syncing = loop.create_task(self._sync_all())
        await done

    async def _sync_all(self) -> None:
        while self._unsynced:
            batch, self._unsynced = self._unsynced, []
            try:
                await asyncio.to_thread(self._sync)
            except RunFailed as error:
                for _, done in batch:
                    if not done.done():
                        done.set_exception(RunFailed(str(error)))
            else:
                for entry, done in batch:
                    self._remember(entry)  # also where nobody waits for it any more
                    if not done.done():
                        done.set_result(None)
            finally:
                for _, done in batch:
                    done.cancel()  # of a task that was stopped; does nothing to those that are done

    def _remember(self, entry: Entry) -> None:
        self.made += 1
        self._replies.setdefault(entry.key, entry.reply)
        self._usage[entry.role] += Usage(1, entry.reply.prompt_tokens, entry.reply.completion_tokens)

    def _write(self, line: bytes) -> None:
        with explained(self._path):
            append_whole(self._descriptor, line)

    def _sync(self) -> None:
        with explained(self._path):
            os.fsync(self._descriptor)

    def _lock(self) -> None:
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RunDirectoryError(
                f"{self._path} is in use by another process. Wait for it to end, or choose another output_dir."
            ) from None

    def _read(self) -> tuple[dict[str, Reply], dict[str, Usage]]:
        """Return what is on file, and cut off a line that was never finished."""
        replies: dict[str, Reply] = {}
        usage: dict[str, Usage] = defaultdict(Usage)
        with explained(self._path):
            os.ftruncate(self._descriptor, self._path.read_bytes().rfind(b"\n") + 1)
            sync_folder(self._path.parent)
        for entry in read_replies(self._path):
            usage[entry.role] += Usage(1, entry.reply.prompt_tokens, entry.reply.completion_tokens)
            replies.setdefault(entry.key, entry.reply)
        return replies, usage


class JournalTalker:
    """A `Talker` that asks only for what its journal does not hold."""

    def __init__(self, journal: ReplyJournal, inner: Talker, role: str) -> None:
        self._journal, self._inner, self._role = journal, inner, role

    @property
    def name(self) -> str:
        """That of the engine."""
        return self._inner.name

    async def ask(self, request: ChatRequest) -> Reply:
        """Return the reply; see `ReplyJournal.answer`."""
        return await self._journal.answer(self._inner, self._role, request)


def read_replies(path: Path) -> Iterator[Entry]:
    """Yield the lines of a journal in order, also while a run writes it.

    A torn or unreadable line holds no reply, a missing file holds none.
    """
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return
    with file:
        for line in file:
            entry = _parsed(line)
            if entry is not None:
                yield entry


def _parsed(line: bytes) -> Entry | None:
    if not line.endswith(b"\n"):  # torn: the reply was never used
        return None
    try:
        fields = json.loads(line)
        return Entry(str(fields["key"]), str(fields["role"]), fields["asked"], Reply.model_validate(fields["reply"]))
    except (ValueError, KeyError, TypeError, ValidationError):
        return None


def _asked(talker: str, request: ChatRequest) -> dict[str, Any]:
    return {
        "talker": talker,
        "messages": [message.model_dump() for message in request.messages],
        **request.sampling._asdict(),
        "sample": request.sample,
    }


def _line(entry: Entry) -> bytes:
    fields = {**entry._asdict(), "reply": entry.reply.model_dump()}
    return json.dumps(fields, ensure_ascii=False).encode(errors="replace") + b"\n"
