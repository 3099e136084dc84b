"""What a found prompt does to the base model, and how much of it an aligned policy does without the prompt."""

from collections.abc import Sequence

from pydantic import ValidationError

from windvane.engines.chat import with_prompt
from windvane.evaluation.policy import answer_prompts
from windvane.evaluation.prompt_effect import PromptAnswers, PromptEffect, prompt_effect
from windvane.judging import RuleAspect, RuleJudge, RuleJudgeSettings, RuleSettings
from windvane.principles import PromptPrinciples
from windvane.prompt_search.rendering import shown_turns
from windvane.recipes.compare import Comparison
from windvane.recipes.drpo_config import DrpoConfig
from windvane.recipes.prompt import FoundPrompt
from windvane.recipes.session import Session
from windvane.recipes.sso_config import SSOConfig
from windvane.run import RunDirectory
from windvane.types import Completion, Prompt, Query


def compare_with_prompt(
    session: Session, queries: Sequence[Query], compared: Comparison, config: SSOConfig
) -> PromptEffect | None:
    """Have the base model answer the held-out queries under the found prompt, too; None where none is learned from.

    The score is that of the search where its judge was made of rules, else of the evaluation's rule.
    """
    if config.evaluation is None or not isinstance(config.principles, PromptPrinciples):
        return None
    run, bench, reporter = session
    sampling = config.evaluation.sampling
    view = RunDirectory.read(config.principles.from_prompt)
    found = FoundPrompt.read(view)
    source = found.source()
    prompts = [
        Prompt(with_prompt(plain.messages, found.system_prompt, shown_turns(source.examples_for(query))), plain.seed)
        for query, plain in zip(queries, answer_prompts(queries, seed=config.seed), strict=True)
    ]

    def answer(shard: Sequence[Prompt]) -> list[Completion]:
        return bench.engine(config.model).generate(shard, sampling, advance=run.advance)

    prompted = run.map(
        "evaluation/prompted", prompts, answer, Completion, shard_size=config.shard_size, label="answers prompted",
        inputs=bench.identity(config.model),
    )  # fmt: skip
    answers = PromptAnswers(compared.before, prompted, compared.after)
    effect = prompt_effect(queries, answers, _judge(view.config(), config.evaluation.rule), seed=config.seed)
    reporter.prompt_effect(effect)
    return effect


def _judge(search: object, rule: RuleSettings | None) -> RuleJudge | None:
    try:
        judge = DrpoConfig.model_validate(search).judge
    except ValidationError:  # of another version of windvane
        judge = None
    if isinstance(judge, RuleJudgeSettings):
        return RuleJudge(judge)
    return None if rule is None else RuleJudge(RuleJudgeSettings(aspects=(RuleAspect(rule=rule),)))
