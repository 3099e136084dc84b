"""How many prompts a share holds out."""

from pathlib import Path

import pytest

from windvane.config import load_config
from windvane.recipes.offline import _split
from windvane.recipes.preference import TrainConfig
from windvane.types import Completion, Message, Pair


@pytest.mark.parametrize(("prompts", "held_out"), [(2, 1), (6, 2), (10, 3), (14, 4)])
def test_a_half_prompt_is_held_out(prompts: int, held_out: int, tmp_path: Path) -> None:
    """As selection and noise round, too; half to even would hold out 0, 2, 2 and 4."""
    overrides = ["model=m", "preferences=p.jsonl", f"output_dir={tmp_path}", "holdout=0.25"]
    config = load_config(TrainConfig, None, overrides)
    said = Completion(text="a", token_ids=(1,), finish="stop")
    pairs = [
        Pair(id=str(number), prompt=(Message(role="user", content=f"Say {number}."),), chosen=said, rejected=said)
        for number in range(prompts)
    ]
    train, apart, _ = _split(pairs, config, set())
    assert (len(train), len(apart)) == (prompts - held_out, held_out)
