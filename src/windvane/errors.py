"""Every exception that windvane raises on purpose.

WindvaneError
├── UserError (a ValueError)      the user's input is wrong; exit code 2
│   ├── ConfigError               a configuration value or key
│   ├── DataError                 a row, a file or a data set; names file and line
│   ├── ModelError                a model, a tokenizer or a chat template
│   └── RunDirectoryError         a run directory that cannot be used as asked
├── RunFailed (a RuntimeError)    a run stopped on the way and can be resumed; exit code 3
│   ├── TrainingDiverged          a guard stopped the training
│   ├── OutOfMemory               the machine or its accelerator has no memory left
│   └── NoReply                   an engine has no answer to one request; it may answer others
└── BudgetSpent                   a request that the budget has no room for; a search ends with the best so far
"""

from typing import Self


class WindvaneError(Exception):
    """Base of everything below. The message names the value, the rule and the way out."""


class UserError(WindvaneError, ValueError):
    """The user's input is wrong."""


class ConfigError(UserError):
    """A configuration key or value is wrong."""


class DataError(UserError):
    """A data set, a file or a row is wrong."""


class ModelError(UserError):
    """A model, a tokenizer or a chat template cannot be used as asked."""


class RunDirectoryError(UserError):
    """A run directory cannot be used as asked."""


class RunFailed(WindvaneError, RuntimeError):
    """A run stopped on the way; the same command resumes it."""


class TrainingDiverged(RunFailed):
    """A guard stopped the training before it did harm."""


class OutOfMemory(RunFailed):
    """The machine or its accelerator has no memory left for what the settings ask."""

    @classmethod
    def of(cls, error: RuntimeError | MemoryError) -> Self | None:
        """Return what to say of an error that is one of memory, None for any other.

        torch has a class of its own for accelerators alone; on a CPU it raises a plain RuntimeError.
        """
        said = str(error).strip().partition("\n")[0]
        if not isinstance(error, MemoryError) and not any(words in said.lower() for words in _NO_MEMORY):
            return None
        return cls(
            f"there is not enough memory ({said.rstrip('.') or type(error).__name__}). What lowers it, while models "
            "write and measure: engine.batch_tokens, engine.batch_rows and engine.score_tokens; in training: "
            "training.micro_batch, training.gradient_checkpointing: true, and training.lora."
        )


_NO_MEMORY = ("out of memory", "not enough memory", "can't allocate memory", "cannot allocate memory")
"""What torch says of CUDA, MPS and CPUs."""


class NoReply(RunFailed):
    """An engine has no answer to one request, while it goes on answering others."""


class BudgetSpent(WindvaneError):
    """A request does not fit into the budget any more. It was not sent.

    Neither a mistake nor a failure, and so of neither family: whoever searches ends with the best so far.
    """
