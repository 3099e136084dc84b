"""A small search tree of our own, in the format of the recorded ones, drawn by hand.

It has a path mean that leaves the root out, two ties that the order of creation decides, a proposal that equals its
parent, judgements that cannot be read inside and outside of the beam, a beam whose order is not that of creation, and
two kept prompts on one level, which lengthen the tree by one. depth is 4, extension 3; it ends on level 6.
"""

import json
from pathlib import Path

from windvane.prompt_search.paper import PaperSettings

SETTINGS = PaperSettings(depth=4, extension=3)
NODES: list[tuple[int | None, int, str, tuple[int, ...]]] = [
    # parent, level, prompt, marks (none: the judgement could not be read)
    (None, 1, "start", (5, 2)),  # 0
    (0, 2, "A", (4, 5)),  # 1  4.5 is not above 4.5: rewritten
    (0, 2, "B", (4, 4)),
    (0, 2, "C", (4, 5)),  # 3  ties with 1, comes second
    (1, 3, "A1", ()),
    (1, 3, "A", (5, 5)),  # 5  equals its parent; kept
    (1, 3, "A2", (3, 3)),
    (3, 3, "C1", ()),
    (3, 3, "C2", (5, 5)),  # 8  ties with 5; kept: one more level, not two
    (3, 3, "C3", (1, 1)),
    (5, 4, "A", ()),  # 10 counts 0, stays in the beam, and is kept: one more level
    (8, 4, "C2", (2, 3)),  # 11 leads
    (11, 5, "D1", (3, 3)),
    (11, 5, "D2", (4, 5)),  # 13
    (11, 5, "D3", (4, 5)),  # 14 ties with 13
    (10, 5, "A", (5, 5, 5)),
    (13, 6, "E1", (3,)),
    (13, 6, "E2", (5,)),  # 17 the best
    (13, 6, "E3", (4,)),
    (14, 6, "F1", (5,)),  # 19 ties with it
    (14, 6, "F2", (1,)),
    (14, 6, "F3", (2,)),
]
BEAMS = [(0,), (1, 3), (5, 8), (11, 10), (13, 14), (17, 19)]
KEPT = [(), (), (5, 8), (10,), (), ()]
BEST_PATH = [0, 3, 8, 11, 13, 17]
BEST_MEAN = (4.5 + 5 + 2.5 + 4.5 + 5) / 5


def written(path: Path) -> Path:
    """Write the tree to a file, its lines not in order."""
    lines = []
    for number, (parent, level, prompt, marks) in enumerate(NODES):
        lines.append(
            json.dumps(
                {
                    "run": "ours",
                    "node": number,
                    "parent": parent,
                    "level": level,
                    "system_prompt": prompt,
                    "query": f"query {level}",
                    "output": f"answer {number}",
                    "judgement": {
                        f"aspect {place}": {"score": str(mark), "rationale": "so"} for place, mark in enumerate(marks)
                    },
                    "reward": sum(marks) / len(marks) if marks and parent is not None else 0,
                    "on_best_path": number in BEST_PATH,
                    "terminal": number == 17,
                    "path_mean_reward": BEST_MEAN if number == 17 else None,
                }
            )
        )
    path.write_text("\n".join(lines[::-1]) + "\n", encoding="utf-8")
    return path
