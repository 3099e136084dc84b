"""What a found prompt does to the base model, and how much of it an aligned policy does without the prompt."""

from collections.abc import Sequence

from pydantic import ValidationError

from windvane.evaluation.policy import answer_prompts
from windvane.evaluation.prompt_effect import PromptAnswers, PromptEffect, prompt_effect
from windvane.judging import RuleAspect, RuleJudge, RuleJudgeSettings, RuleSettings
from windvane.principles import PromptPrinciples
from windvane.prompt_search.rendering import render
from windvane.recipes.compare import Comparison
from windvane.recipes.drpo_config import DrpoConfig
from windvane.recipes.prompt_contrast import read_prompt
from windvane.recipes.session import Session
from windvane.recipes.sso_config import SSOConfig
from windvane.run import RunDirectory
from windvane.types import Completion, Prompt, Query


def answer_under_prompt(session: Session, queries: Sequence[Query], config: SSOConfig) -> list[Completion] | None:
    """Have the base model answer the held-out queries under the found prompt; None where none is learned from.

    Before anything is trained: the base model is in memory then, and a prompt that leaves no room is said in time.
    """
    if config.evaluation is None or not isinstance(config.principles, PromptPrinciples):
        return None
    run, bench, _ = session
    sampling = config.evaluation.sampling
    found = read_prompt(config.principles)
    source = found.source()
    prompts = [
        Prompt(render(found.system_prompt, source.examples_for(query), query), plain.seed)
        for query, plain in zip(queries, answer_prompts(queries, seed=config.seed), strict=True)
    ]

    def answer(shard: Sequence[Prompt]) -> list[Completion]:
        return bench.engine(config.model).generate(shard, sampling, advance=run.advance)

    return run.map(
        "evaluation/prompted", prompts, answer, Completion, shard_size=config.shard_size,
        label="answers under the prompt", inputs=bench.identity(config.model),
    )  # fmt: skip


def compare_with_prompt(
    session: Session,
    queries: Sequence[Query],
    compared: Comparison,
    prompted: Sequence[Completion] | None,
    config: SSOConfig,
) -> PromptEffect | None:
    """Say what the prompt does and what the policy does without it; None where the model was not `prompted`.

    The score is that of the search where its judge was made of rules, else of the evaluation's rule.
    """
    if prompted is None or config.evaluation is None or not isinstance(config.principles, PromptPrinciples):
        return None
    search = RunDirectory.read(config.principles.from_prompt).config()
    answers = PromptAnswers(compared.before, prompted, compared.after)
    effect = prompt_effect(queries, answers, _judge(search, config.evaluation.rule), seed=config.seed)
    session.reporter.prompt_effect(effect)
    return effect


def _judge(search: object, rule: RuleSettings | None) -> RuleJudge | None:
    try:
        judge = DrpoConfig.model_validate(search).judge
    except ValidationError:  # of another version of windvane
        judge = None
    if isinstance(judge, RuleJudgeSettings):
        return RuleJudge(judge)
    return None if rule is None else RuleJudge(RuleJudgeSettings(aspects=(RuleAspect(rule=rule),)))
