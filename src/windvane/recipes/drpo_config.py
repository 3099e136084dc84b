"""What a prompt search can be told; `windvane.recipes.drpo` is the story."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from windvane.config import Settings
from windvane.data import DataSource
from windvane.engines.budget import BudgetSettings
from windvane.engines.server_settings import ServerSettings
from windvane.judging import DigitJudgeSettings, DynamicJudgeSettings, JudgeSettings, RuleJudgeSettings
from windvane.prompt_search.demonstrations import RewritingSettings
from windvane.prompt_search.paper import PaperSettings
from windvane.prompt_search.proof import ProofSettings
from windvane.prompt_search.proposers import OptimizerSettings
from windvane.prompt_search.racing import RacingSettings
from windvane.prompt_search.retrieval import RetrievalSettings
from windvane.recipes.session import ModelRunConfig
from windvane.sampling import SamplingSettings

LEAST_HELD_OUT = 6
"""Queries with which a proof can say anything: of five coins that fall alike, one in 16 does so by chance."""


ROLES = ("model", "judge", "optimizer")
"""Who may cost something, by the names that `budget.prices` has for them."""


class LocalModel(Settings):
    """A model that runs in this process, as `engine` says."""

    shorthand: ClassVar[str | None] = "model"

    type: Literal["local"] = "local"
    """local: a model in this process."""
    model: str = Field(min_length=1)
    """A folder, a name of `windvane models list` or a hub name."""


def _role_in_short(given: Any) -> Any:
    """Let a name stand for a local model, and a group without a type for a server."""
    if isinstance(given, str):
        return {"type": "local", "model": given}
    return {"type": "server", **given} if isinstance(given, Mapping) and "type" not in given else given


RoleSettings = Annotated[LocalModel | ServerSettings, Field(discriminator="type"), BeforeValidator(_role_in_short)]
"""Who plays a role: a local model by name or folder, or a server as a group with `model` and `base_url`."""


class ModelProposer(OptimizerSettings):
    """The optimizer: a model that reads how a prompt did and writes better ones."""

    type: Literal["optimizer"] = "optimizer"
    """optimizer: have a model criticise a prompt and write new ones."""


class GuidelineProposerSettings(Settings):
    """The proposer that calls no model: it adds, drops, swaps and merges guidelines."""

    type: Literal["guidelines"] = "guidelines"
    """guidelines: change one guideline of a prompt at a time, without any model."""
    path: Path | None = None
    """A YAML file with a list `guidelines`, each a sentence spoken to the assistant."""
    bank: bool = True
    """Whether windvane's own good principles are guidelines, too."""
    at_most: int = Field(default=6, ge=1)
    """Guidelines of one prompt."""

    @model_validator(mode="after")
    def _has_some(self) -> Self:
        if self.path is None and not self.bank:
            raise ValueError("bank: false leaves no guideline; give the path of a file of your own")
        return self


class RacingSearch(RacingSettings):
    """The default search."""

    type: Literal["racing"] = "racing"
    """racing: races of new prompts against the best so far, on the same queries."""


class PaperSearch(PaperSettings):
    """The published search."""

    type: Literal["paper"] = "paper"
    """paper: the published beam search, each level judged on one query."""


class ExampleSource(DataSource):
    """A data set of in-context examples: requests and good answers."""

    answer_column: str = "answer"
    """Column with the answer."""


def _in_short(given: Any) -> Any:
    """Let one word stand for a group: ``guidelines``, ``paper``."""
    return {"type": given} if isinstance(given, str) else given


class DrpoConfig(ModelRunConfig):
    """Everything that a prompt search depends on."""

    model: RoleSettings
    """The model whose prompt is searched: a name or folder for one in this process, or a group with `model` and
    `base_url` for a server. Its weights stay as they are."""
    judge: JudgeSettings = DynamicJudgeSettings()
    """Who scores answers."""
    judge_model: RoleSettings | None = None
    """The model that a judge of type dynamic or digits asks; null is `model`."""
    optimizer: RoleSettings | None = None
    """The model that writes new prompts and rewrites examples; null is `model`."""
    start_prompt: str = "You are a helpful assistant."
    """The system prompt to improve on; empty to begin without one."""
    queries: DataSource
    """What users ask."""
    max_queries: int | None = Field(default=None, ge=1)
    """Use only the first so many queries; null uses all."""
    holdout: int = Field(default=32, ge=LEAST_HELD_OUT)
    """Queries set aside for the proof, which the search never sees; with fewer than 6 nothing can be proved."""
    examples: ExampleSource | None = None
    """In-context examples to answer with; null answers without any."""
    rewriting: RewritingSettings | None = RewritingSettings()
    """How the examples are optimised before the search; null takes them as they are."""
    retrieval: RetrievalSettings = RetrievalSettings()
    """Which of the examples a query is answered with."""
    search: Annotated[RacingSearch | PaperSearch, Field(discriminator="type"), BeforeValidator(_in_short)] = (
        RacingSearch()
    )
    """How prompts are searched."""
    proposer: Annotated[
        ModelProposer | GuidelineProposerSettings, Field(discriminator="type"), BeforeValidator(_in_short)
    ] = ModelProposer()
    """Who proposes new prompts."""
    compat: Literal["paper"] | None = None
    """paper: the published algorithm, in short for `search: paper`, `judge.compat_paper: true` and
    `proposer.temperature: 0.2`; what is set beside it counts."""
    sampling: SamplingSettings = SamplingSettings(max_new_tokens=512, temperature=0.0, top_p=1.0)
    """How answers are drawn. Greedy by default: a prompt is compared with another, and chance would only blur it."""
    proof: ProofSettings = ProofSettings()
    """What is held against the start prompt at the end."""
    budget: BudgetSettings = BudgetSettings()
    """The most that the run may take. It may be changed when a run is resumed."""

    @model_validator(mode="before")
    @classmethod
    def _as_published(cls, given: Any) -> Any:
        if not isinstance(given, Mapping) or given.get("compat") != "paper":
            return given
        judge = _in_short(given.get("judge", "dynamic"))
        if isinstance(judge, Mapping) and judge.get("type", "dynamic") == "dynamic":
            judge = {"type": "dynamic", "compat_paper": True, **judge}
        search = _in_short(given.get("search", "paper"))
        proposer = _in_short(given.get("proposer", "optimizer"))
        if isinstance(proposer, Mapping) and proposer.get("type", "optimizer") == "optimizer":
            proposer = {"type": "optimizer", "temperature": 0.2, **proposer}
        search = {"type": "paper", **search} if isinstance(search, Mapping) else search
        return {**given, "judge": judge, "search": search, "proposer": proposer}

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.compat == "paper" and not isinstance(self.search, PaperSearch):
            raise ValueError("compat: paper is the published search, and search is racing; leave one of them out")
        if isinstance(self.judge, RuleJudgeSettings) and self.judge_model is not None:
            raise ValueError("judge_model has no effect, as a judge of type rules asks no model; leave it out")
        if isinstance(self.judge, DigitJudgeSettings) and not isinstance(self.judges, LocalModel):
            raise ValueError(
                "a judge of type digits reads the probabilities of a model in this process, and this one is a server: "
                "set judge_model to a local model, or judge to dynamic"
            )
        if self.optimizer is not None and not self.asks_optimizer:
            raise ValueError(
                "optimizer has no effect: the proposer guidelines asks no model, and no examples are rewritten; leave "
                "it out"
            )
        if self.holdout < self.proof.fewest_queries:
            raise ValueError(
                f"holdout {self.holdout} cannot prove anything about {self.proof.finalists} finalists, whose intervals "
                f"are the wider for it: set holdout to {self.proof.fewest_queries} at least, or lower proof.finalists"
            )
        if unknown := sorted(set(self.budget.prices) - set(ROLES)):
            raise ValueError(f"budget.prices.{unknown[0]} is the price of nobody; the roles are {', '.join(ROLES)}")
        return self

    @property
    def judges(self) -> LocalModel | ServerSettings:
        """The model behind the judge, where it asks one."""
        return self.judge_model or self.model

    @property
    def rewrites(self) -> RewritingSettings | None:
        """How examples are rewritten, where there are any."""
        return self.rewriting if self.examples is not None else None

    @property
    def asks_optimizer(self) -> bool:
        """Whether anything asks the optimizer."""
        return isinstance(self.proposer, ModelProposer) or self.rewrites is not None

    def may_change(self) -> frozenset[str]:
        """Return the settings that change no reply, and so may differ when a run is resumed.

        The budget is among them: a search that it cut short is then made anew, from the replies that are on file.
        """
        patience = (
            "base_url", "api_key_env", "ready_within", "timeout", "retries", "backoff", "max_wait", "concurrency",
            "samples_per_request",
        )  # fmt: skip
        servers = [
            name for name in ("model", "judge_model", "optimizer") if isinstance(getattr(self, name), ServerSettings)
        ]
        return frozenset({"budget", "engine.batch_rows"} | {f"{name}.{key}" for name in servers for key in patience})
