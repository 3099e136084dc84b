"""A world in which prompts can be better: a stub server that plays model, judge and optimizer, with a known truth.

The model's answer says how many of the wanted words its system prompt has; the judge's score is that number. So a
search that works finds them, and every text is a function of the request alone.
"""

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import yaml

from tests.stub_server import Body, StubServer

WANTED = ("plain", "short", "kind")
"""Words that make a prompt better, one point each."""
WORDS = ("plain", "loud", "short", "slow", "kind", "odd")
MARK = re.compile(r"\(reply ([0-9a-f]{16})\)")
"""A mark as it stands in a text; see `marked`."""


def reply(body: Body, index: int) -> str:
    """Answer as whoever is asked; the request says who that is."""
    system = body["messages"][0]["content"] if body["messages"][0]["role"] == "system" else ""
    user = body["messages"][-1]["content"]
    if "windvane prompt search texts" in system:
        return _proposals(user, body.get("seed", 0) + index)
    if "windvane judging texts" in system and "You prepare" in system:
        return json.dumps({"aspects": ["Clarity", "Helpfulness"], "new": []})
    if "windvane judging texts" in system:
        return _scores(user)
    if "windvane example texts" in system:
        return "<answer>A better answer, quality 5.</answer>"
    return f"An answer to {user[:40]!r}, quality {quality(system, user)}."


def quality(system: str, user: str) -> int:
    """Return how good an answer is: 1, a point for each wanted word, and some chance."""
    chance = int(hashlib.sha256(f"{system} {user}".encode()).hexdigest(), 16) % 2
    return 1 + chance + sum(f"Be {word}." in system for word in WANTED)


def _proposals(user: str, seed: int) -> str:
    present = re.findall(r"Be (\w+)\.", user.split("ends -----")[0])
    new = [word for word in WORDS if word not in present]
    texts = [
        f"You help. {' '.join(f'Be {word}.' for word in [*present, new[(seed + n) % len(new)]])}" for n in range(4)
    ]
    return json.dumps({"critique": "It could say more.", "prompts": texts})


def _scores(user: str) -> str:
    found = re.findall(r"quality (\d)", user)
    score = int(found[-1]) if found else 1
    names = re.findall(r"^- ([\w-]+): ", user, re.MULTILINE)
    return json.dumps({name: {"reason": "So it says.", "score": score} for name in names})


def mark_of(body: Body, index: int) -> str:
    """Return what tells a reply from all others: what asked for it, with its sample."""
    asked = {name: body.get(name) for name in ("messages", "max_tokens", "temperature", "top_p")}
    asked["seed"] = body["seed"] + index
    return hashlib.sha256(json.dumps(asked).encode()).hexdigest()[:16]


def marked(body: Body, index: int) -> str:
    """Return what the world says, with the mark of the reply where whoever uses it will carry it on.

    Unlike in `reply`, a rewritten example has its faults, and a judge adds an aspect of its own.
    """
    mark = f"(reply {mark_of(body, index)})"
    said = reply(body, index)
    system = body["messages"][0]["content"]
    if "windvane prompt search texts" in system:
        proposed = json.loads(said)
        return json.dumps({**proposed, "prompts": [f"{text} {mark}" for text in proposed["prompts"]]})
    if "windvane judging texts" in system and "You prepare" in system:
        new = [{"name": "Fit", "definition": f"whether it fits {mark}"}]
        return json.dumps({"aspects": ["Clarity"], "new": new})
    if "windvane judging texts" in system:
        return said.replace("So it says.", f"So it says {mark}.")
    if "windvane example texts" in system:
        return f"<answer>An answer, quality {1 + int(mark[7], 16) % 4}. {mark}</answer>"
    return f"{said} {mark}"


def config(stub: StubServer, output: Path, queries: Path, **more: Any) -> dict[str, Any]:
    """Return a small configuration that asks the stub in all roles."""
    server = {"model": stub.model, "base_url": stub.url, "backoff": 0.01, "retries": 2}
    return {
        "model": server,
        "output_dir": str(output),
        "queries": str(queries),
        "holdout": 8,
        "search": {"type": "racing", "races": 4, "candidates": 4, "most_queries": 8},
        "judge": {"type": "dynamic", "choice": {"type": "fixed", "names": ["Clarity", "Helpfulness"]}},
        **more,
    }


def written(path: Path, values: dict[str, Any]) -> Path:
    """Write a configuration."""
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    return path
