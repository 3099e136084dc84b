"""Runs ``windvane drpo`` again and again in children, forked so that none pays for imports.

As a script: each line of standard input is the path of a configuration. It is answered by two lines: the number of the
child that runs it, and, when that has ended, its exit code (negative for a signal). Output goes to ``log`` beside the
configuration.
"""

import gc
import os
import sys
from pathlib import Path
from typing import NoReturn

from tests.recipes.program import be_the_command_line


def warm() -> None:
    """Import all that a child will, as far as it starts no thread."""
    import bm25s
    import json_repair
    import openai

    import windvane.cli
    import windvane.engines.http_client
    import windvane.engines.server
    import windvane.engines.server_process
    import windvane.recipes.drpo

    assert bm25s
    assert json_repair
    assert windvane
    client = openai.AsyncOpenAI(api_key="none", http_client=openai.DefaultAsyncHttpxClient(trust_env=False))
    assert client.chat.completions  # imported late
    assert client.models


def child(config: Path) -> NoReturn:
    """Run the command line in the configuration's folder, and end the process."""
    os.chdir(config.parent)
    be_the_command_line(["windvane", "drpo", config.name], Path("log"))


def serve() -> None:
    """Answer standard input."""
    warm()
    gc.freeze()  # what the children share
    for line in sys.stdin:
        number = os.fork()
        if number == 0:
            child(Path(line.rstrip("\n")))
        print(number, flush=True)
        _, status = os.waitpid(number, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


if __name__ == "__main__":
    serve()
