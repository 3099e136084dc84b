"""Run by torchrun in `test_two_processes`: trains a tiny model and writes what came of it."""

import json
import sys
from pathlib import Path

from tests.training.pairs import examples
from tests.training.test_equality import DPO, train


def main() -> None:
    folder = Path(sys.argv[1])
    reference = sys.argv[2]
    result, _ = train(folder, objective=DPO, given=examples(19), micro_batch=2, reference=reference, save_every=2)
    (folder / f"history-{sys.argv[2]}.json").write_text(json.dumps(result.history))


if __name__ == "__main__":
    main()
