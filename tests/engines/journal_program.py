"""A small program over a journal and a server: two chained calls for each query, and a last one over all.

As a script: ``python -m tests.engines.journal_program JOURNAL URL`` prints its result.
"""

import asyncio
import hashlib
import sys
from pathlib import Path
from typing import Any

from windvane.engines.journal import ReplyJournal
from windvane.engines.protocols import ChatRequest, Talker
from windvane.engines.server import ServerSettings, ServerTalker
from windvane.types import Message, Sampling

QUERIES = 10


def answers(body: dict[str, Any], index: int) -> str:
    """A reply that depends on all of the request, so that a wrong reuse would show in the result."""
    return hashlib.sha256(f"{body['messages']} {body['seed'] + index}".encode()).hexdigest()[:12]


def program(path: Path, url: str) -> str:
    """Return what the calls say, through the journal at `path`."""

    async def work() -> str:
        settings = ServerSettings(model="stub", base_url=url, concurrency=4)
        with ReplyJournal(path) as journal:
            async with ServerTalker(settings) as server:
                talker = journal.talker(server, role="judge")
                parts = await asyncio.gather(*(_chain(talker, f"query {number}") for number in range(QUERIES)))
                return await _ask(talker, " ".join(parts))

    return asyncio.run(work())


async def _chain(talker: Talker, text: str) -> str:
    return await _ask(talker, await _ask(talker, text))


async def _ask(talker: Talker, text: str) -> str:
    request = ChatRequest((Message(role="user", content=text),), Sampling(32))
    return (await talker.ask(request)).text


if __name__ == "__main__":
    print(program(Path(sys.argv[1]), sys.argv[2]))
