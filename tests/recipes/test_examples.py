"""Every configuration in examples/ is read as it is, and run on a tiny model with small numbers."""

import warnings
from itertools import pairwise
from pathlib import Path

import pytest
from datasets import load_dataset
from transformers import AutoModelForCausalLM

from tests import tiny
from tests.recipes import small
from windvane.config import Settings
from windvane.data import PreferenceSource, load_preferences, load_queries
from windvane.data.source import DataSource
from windvane.engines.chat import ChatFormat
from windvane.engines.journal import read_replies
from windvane.recipes.audit import AuditConfig, run_audit
from windvane.recipes.augment import AugmentConfig, run_augment
from windvane.recipes.drpo import run_drpo
from windvane.recipes.drpo_config import DrpoConfig
from windvane.recipes.evaluate import EvaluateConfig, run_evaluate
from windvane.recipes.pairs import PairsConfig, PairsResult, run_pairs
from windvane.recipes.preference import TrainConfig, run_train
from windvane.recipes.prompt import FoundPrompt, ask_prompt
from windvane.recipes.select import SelectConfig, run_select
from windvane.recipes.sera import run_sera
from windvane.recipes.sera_config import SeraConfig
from windvane.recipes.sso import SSOConfig, run_sso
from windvane.run import RunDirectory
from windvane.run.layout import Layout
from windvane.run.stage import all_manifests
from windvane.selection import PairMargin
from windvane.training import encode_pair
from windvane.types import Dropped, ReferencedPair, ScoredPair

KINDS: dict[str, type[Settings]] = {
    "sso": SSOConfig,
    "sso-generator": SSOConfig,
    "pbaa": SSOConfig,
    "demo-concise": SSOConfig,
    "demo-structured": SSOConfig,
    "sso-from-prompt": SSOConfig,
    "pairs": PairsConfig,
    "select": SelectConfig,
    "select-margin": AuditConfig,
    "sera": SeraConfig,
    "sera-from-pairs": SeraConfig,
    "sera-smollm2": SeraConfig,
    "sso-margin": SSOConfig,
    "train": TrainConfig,
    "evaluate": EvaluateConfig,
    "augment": AugmentConfig,
    "drpo": DrpoConfig,
    "drpo-offline": DrpoConfig,
}
FOUND = sorted(path.stem for path in small.EXAMPLES.glob("*.yaml"))
DEMOS = [name for name in FOUND if name.startswith("demo-")]


@pytest.mark.parametrize("name", FOUND)
def test_an_example_is_read(name: str) -> None:
    assert small.load(KINDS[name], name, []).model_dump()["output_dir"].parts[0] == "runs"


@pytest.mark.parametrize("name", FOUND)
def test_the_files_that_an_example_names_are_there(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Paths are relative to the folder that commands are run in: the repository's."""
    monkeypatch.chdir(small.ROOT)
    values = small.load(KINDS[name], name, []).model_dump(mode="json")
    principles = values.get("principles", {}).get("path")
    guidelines = values.get("proposer", {}).get("path")
    files = [values.get("queries", {}).get("path"), principles, guidelines]
    assert [file for file in files if file and file.startswith("examples/") and not Path(file).exists()] == []


def test_the_generator_examples_differ_from_their_twins_only_where_they_say() -> None:
    """PBAA is SSO with another loss and nothing else, so that the two may be compared."""
    sso, pbaa = (small.load(SSOConfig, name, []).model_dump(mode="json") for name in ("sso", "pbaa"))
    assert {key for key in sso if sso[key] != pbaa[key]} == {"output_dir", "loss"}
    assert sso["loss"]["base"] == pbaa["loss"]


def test_pbaa_runs(model: Path, queries: Path, tmp_path: Path) -> None:
    overrides = small.sso_overrides(model, queries, tmp_path / "run", "max_queries=9")
    result = run_sso(small.load(SSOConfig, "pbaa", overrides), console=small.QUIET)
    assert len(result.iterations) == 3
    assert result.evaluation is not None
    assert result.evaluation.n == 4


@pytest.mark.parametrize("name", DEMOS)
def test_a_demo_runs(name: str, model: Path, queries: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(small.ROOT)
    config = small.load(SSOConfig, name, [])
    rounds = config.iterations
    places = [f"model={model}", f"queries={queries}", f"output_dir={tmp_path / 'run'}", f"max_queries={4 * rounds}"]
    guards = "training.guards={max_cut_share: null, max_fall: null, step0_tolerance: 0.02}"
    tiny_numbers = ["sampling.max_new_tokens=8", *small.EVALUATION, *small.NO_FILTER, guards]
    result = run_sso(small.load(SSOConfig, name, [*places, *tiny_numbers]), console=small.QUIET)
    assert result.evaluation is not None
    assert config.evaluation is not None
    assert (result.evaluation.win_rate is None) == (config.evaluation.rule is None)
    if config.training.lora is not None:
        assert (result.policy / "adapter" / "adapter_model.safetensors").is_file()
    AutoModelForCausalLM.from_pretrained(result.policy)  # merged: an ordinary model
    summary = small.read_json(result.run / "summary.json")
    assert {origin["origin"] for origin in _principles(result.run)} == {"user"}
    assert summary["counts"]["queries"] == 4 * rounds


def _principles(run: Path) -> list[dict[str, object]]:
    from windvane.types import Principle

    return [each.model_dump() for each in small.records(run / "iteration-1" / "principles.jsonl", Principle)]


@pytest.fixture(scope="module")
def pairs(model: Path, queries: Path, tmp_path_factory: pytest.TempPathFactory) -> PairsResult:
    """A run of examples/pairs.yaml."""
    folder = tmp_path_factory.mktemp("pairs") / "run"
    overrides = [f"model={model}", f"queries={queries}", f"output_dir={folder}", "sampling.max_new_tokens=12"]
    principles = f"principles={small.EXAMPLES / 'principles' / 'concise.yaml'}"
    return run_pairs(small.load(PairsConfig, "pairs", [*overrides, principles]), console=small.QUIET)


def test_pairs_become_a_preference_file(pairs: PairsResult) -> None:
    scored = small.records(pairs.run / "pairs" / "scored.jsonl", ScoredPair)
    rows = load_preferences(PreferenceSource(path=str(pairs.pairs)))
    assert [row.id for row in rows] == [each.pair.id for each in scored]
    assert [row.chosen for row in rows] == [each.pair.chosen.text for each in scored]
    assert [row.rejected for row in rows] == [each.pair.rejected.text for each in scored]
    summary = small.read_json(pairs.run / "summary.json")
    assert summary["counts"]["pairs_made"] == summary["counts"]["pairs_kept"] == len(rows)
    assert summary["iterations"][0]["pair_accuracy"] is not None  # the example has a rule


def test_a_response_of_the_file_that_was_cut_off_stays_open(pairs: PairsResult) -> None:
    """Neither sampled nor read back from the file does it end with the end of the turn."""
    chat = ChatFormat(tiny.tokenizer())
    sampled = {one.pair.id: one.pair for one in small.records(pairs.run / "pairs" / "scored.jsonl", ScoredPair)}
    rows = load_preferences(PreferenceSource(path=str(pairs.pairs)))
    assert {row.extra["chosen_finish"] for row in rows} >= {"length"}
    for row in rows:
        closed = sampled[row.id].chosen.token_ids[-1] == chat.end_id
        assert (encode_pair(chat, row).views["plain"].chosen[-1] == chat.end_id) == closed
        assert closed == (row.extra["chosen_finish"] == "stop")


def test_trl_reads_and_trains_on_the_pairs(pairs: PairsResult, model: Path, tmp_path: Path) -> None:
    with warnings.catch_warnings():  # its own, about names that transformers is giving up
        warnings.simplefilter("ignore")
        from trl import DPOConfig, DPOTrainer

        data = load_dataset("json", data_files=str(pairs.pairs), split="train", cache_dir=str(tmp_path / "cache"))
        arguments = DPOConfig(
            output_dir=str(tmp_path / "trl"), max_steps=1, per_device_train_batch_size=2, report_to="none", bf16=False,
            use_cpu=True, disable_tqdm=True, save_strategy="no", gradient_checkpointing=False, logging_steps=1,
        )  # fmt: skip
        policy = AutoModelForCausalLM.from_pretrained(model)
        trainer = DPOTrainer(policy, args=arguments, train_dataset=data, processing_class=tiny.tokenizer())
        trainer.train()
    assert trainer.state.log_history[0]["loss"] == pytest.approx(0.6931, abs=1e-3)  # ln 2: policy and reference agree


def test_pairs_are_selected_trained_on_and_evaluated(
    pairs: PairsResult, model: Path, queries: Path, tmp_path: Path
) -> None:
    """The chain that the examples are: pairs, select, train, evaluate, each from what the one before left."""
    step = f"run={pairs.run}", f"output_dir={tmp_path / 'select'}", "selection={ordering: false, on_policy: 0.25}"
    selected = run_select(small.load(SelectConfig, "select", step), console=small.QUIET)
    scored = small.records(pairs.run / "pairs" / "scored.jsonl", ScoredPair)
    kept = small.records(tmp_path / "select" / "selection" / "kept.jsonl", ScoredPair)
    dropped = small.records(tmp_path / "select" / "selection" / "dropped.jsonl", Dropped)
    assert {one.pair.id for one in kept} | {one.id for one in dropped} == {one.pair.id for one in scored}
    assert 0 < len(kept) < len(scored) == len(kept) + len(dropped)
    assert all(record.reason and record.detail for record in dropped)

    step = f"model={model}", f"preferences={selected.pairs}", f"output_dir={tmp_path / 'train'}"
    settings = ["training.pairs_per_step=4", "training.guards={max_cut_share: null, max_fall: null}", "loss.beta=2"]
    trained = run_train(small.load(TrainConfig, "train", [*step, *settings]), console=small.QUIET)
    assert small.read_json(trained.policy / "windvane.json")["pairs"] == len(kept)
    assert small.read_json(tmp_path / "train" / "summary.json")["policy"] == str(trained.policy)
    assert len(small.metrics(trained.policy)) == -(-len(kept) // 4) == trained.trained.note.steps

    step = f"base={model}", f"policy={trained.policy}", f"queries={queries}", f"output_dir={tmp_path / 'evaluate'}"
    more = ["max_queries=6", "max_new_tokens=8"]
    evaluated = run_evaluate(small.load(EvaluateConfig, "evaluate", [*step, *more]), console=small.QUIET)
    assert evaluated.evaluation.n == 6
    assert evaluated.evaluation.win_rate is not None
    assert small.read_json(tmp_path / "evaluate" / "summary.json")["evaluation"]["n"] == 6


@pytest.mark.parametrize("name", ["sera", "sera-from-pairs", "sera-smollm2"])
def test_sera_runs_on_the_pairs(name: str, pairs: PairsResult, model: Path, tmp_path: Path) -> None:
    places = f"model={model}", f"preferences={pairs.pairs}", f"output_dir={tmp_path / 'run'}", "holdout=0.2"
    few = ["bootstrapping.sampling.max_new_tokens=200", "training.pairs_per_step=4", "training.learning_rate=0.003"]
    guards = "training.guards={max_cut_share: null, max_fall: null}"
    config = small.load(SeraConfig, name, [*places, *few, guards])
    if config.evaluation is not None:
        config = small.load(SeraConfig, name, [*places, *few, guards, "evaluation.max_new_tokens=8"])
    result = run_sera(config, console=small.QUIET)
    assert len(result.rounds) == config.rounds
    assert (result.evaluation is None) == (config.evaluation is None)
    for later in result.rounds[1:]:
        offline = len(result.rounds[0].review.kept)
        assert len(later.review.kept) == int(config.selection.keep * offline + 0.5) < offline
        assert len(later.review.kept) + len(later.review.dropped) == offline


def test_the_margin_reviews_what_sso_made(model: Path, queries: Path, tmp_path: Path) -> None:
    """From the second iteration on, and the pairs that it leaves are those that are trained on."""
    overrides = small.sso_overrides(model, queries, tmp_path / "run", "max_queries=12", "iterations=2")
    result = run_sso(small.load(SSOConfig, "sso-margin", overrides), console=small.QUIET)
    margins = small.records(result.run / "iteration-2" / "margin" / "kept.jsonl", PairMargin)
    left = small.records(result.run / "iteration-2" / "kept.jsonl", ScoredPair)
    assert len(margins) == int(0.5 * len(left) + 0.5) < len(left)
    assert result.iterations[1].signal.n_kept == result.iterations[1].policy.note.pairs == len(margins)
    assert not (result.run / "iteration-1" / "margin").exists()
    measured = small.records(result.run / "iteration-2/reference.jsonl", ReferencedPair)
    initial = {one.pair.id: one.reference for one in measured}
    sides = sum(len(one.pair.chosen.token_ids) + len(one.pair.rejected.token_ids) for one in measured)
    manifest = all_manifests(Layout(result.run))["iteration-2/reference"]
    assert manifest.counts["tokens_scored"] == sides  # the two that a margin reads, not the seven of a pair
    for one in left:
        mine, theirs = one.scores, initial[one.pair.id]
        assert theirs is not None
        chosen = (mine.chosen_plain.sum - theirs.chosen.sum) / mine.chosen_plain.tokens  # the base loss is IPO
        rejected = (mine.rejected_plain.sum - theirs.rejected.sum) / mine.rejected_plain.tokens
        found = [margin.margin for margin in margins if margin.id == one.pair.id]
        assert found == [] or found[0] == pytest.approx(chosen - rejected)


def test_the_margin_reads_the_scores_of_the_first_model_that_the_loss_needs(
    model: Path, queries: Path, tmp_path: Path
) -> None:
    """With ``reference: initial`` all seven are measured, once, and the margin reads two of them."""
    more = ["max_queries=12", "iterations=2", "reference=initial", "evaluation=null"]
    overrides = small.sso_overrides(model, queries, tmp_path / "run", *more)
    run = run_sso(small.load(SSOConfig, "sso-margin", overrides), console=small.QUIET).run
    margins = small.records(run / "iteration-2" / "margin" / "kept.jsonl", PairMargin)
    own = {one.pair.id: one.scores for one in small.records(run / "iteration-2/kept.jsonl", ScoredPair)}
    first = {one.pair.id: one.scores for one in small.records(run / "iteration-2/reference.jsonl", ScoredPair)}
    for each in margins:
        mine, theirs = own[each.id], first[each.id]
        chosen = (mine.chosen_plain.sum - theirs.chosen_plain.sum) / mine.chosen_plain.tokens
        rejected = (mine.rejected_plain.sum - theirs.rejected_plain.sum) / mine.rejected_plain.tokens
        assert each.margin == pytest.approx(chosen - rejected)


def test_an_audit_measures_any_policy_without_training(pairs: PairsResult, model: Path, tmp_path: Path) -> None:
    tiny.model("llama", seed=1, max_position_embeddings=4096).save_pretrained(tmp_path / "policy")
    tiny.tokenizer().save_pretrained(tmp_path / "policy")
    places = [f"policy={tmp_path / 'policy'}", f"preferences={pairs.pairs}", f"output_dir={tmp_path / 'run'}"]
    config = small.load(AuditConfig, "select-margin", [*places, f"reference={model}"])
    result = run_audit(config, console=small.QUIET)
    rows = load_preferences(PreferenceSource(path=str(result.pairs)))
    margins = {each.id: each.margin for each in result.margins}
    assert {row.id: row.extra["margin"] for row in rows} == {
        each.id: margins[each.id] for each in result.selection.kept
    }
    assert {"principle_good", "chosen_finish"} <= rows[0].extra.keys()  # the data's own columns are still there
    assert min(margins[row.id] for row in rows) >= max(margins[each.id] for each in result.selection.dropped)
    assert run_audit(config, console=small.QUIET).margins == result.margins


def test_a_model_compared_with_itself_is_a_draw(model: Path, queries: Path, tmp_path: Path) -> None:
    places = f"base={model}", f"policy={model}", f"queries={queries}", f"output_dir={tmp_path / 'run'}"
    config = small.load(EvaluateConfig, "evaluate", [*places, "max_queries=6", "max_new_tokens=8"])
    found = run_evaluate(config, console=small.QUIET).evaluation
    assert found.win_rate == 0.5
    assert found.mean_words_before == found.mean_words_after
    assert found.base_logprob_before == pytest.approx(found.base_logprob_after, abs=1e-5)
    assert found.relevance_before == pytest.approx(found.relevance_after, abs=1e-5)


def test_augment_runs_and_drops_what_cannot_be_read(model: Path, queries: Path, tmp_path: Path) -> None:
    places = f"model={model}", f"queries={queries}", f"output_dir={tmp_path / 'run'}"
    small_numbers = "augment={count: 2, style: mixed, max_new_tokens: 16, requests_per_query: 4}"
    config = small.load(AugmentConfig, "augment", [*places, small_numbers])
    result = run_augment(config, console=small.QUIET)
    summary = small.read_json(result.run / "summary.json")
    assert summary["counts"]["queries"] == len(result.augmentation.queries)
    assert sum(summary["counts"]["dropped"].values()) == len(result.augmentation.dropped) > 0
    assert summary["counts"]["model_calls"] == 8  # count * requests_per_query: a random model writes nothing readable
    if result.augmentation.queries:
        assert len(load_queries(DataSource(path=str(result.queries)))) == len(result.augmentation.queries)
    again = run_augment(config, console=small.QUIET)
    assert again.augmentation == result.augmentation


def test_iterations_are_numbered_as_the_examples_say() -> None:
    """examples/evaluate.yaml names the policy that `make demo` ends with."""
    demo = small.load(SSOConfig, "demo-concise", [])
    policy = small.load(EvaluateConfig, "evaluate", []).policy
    assert policy == f"{demo.output_dir}/iteration-{demo.iterations}/policy"
    train, select = small.load(TrainConfig, "train", []), small.load(SelectConfig, "select", [])
    made = small.load(PairsConfig, "pairs", []).output_dir
    assert (train.preferences.path, select.run) == (f"{made}/pairs.jsonl", made)
    audit, sera = small.load(AuditConfig, "select-margin", []), small.load(SeraConfig, "sera-smollm2", [])
    assert (audit.policy, audit.reference) == (f"{sera.output_dir}/round-1/policy", sera.model)
    assert audit.preferences.path == sera.preferences.path == f"{made}/pairs.jsonl"


def test_the_makefile_names_examples_that_are_there() -> None:
    words = (small.ROOT / "Makefile").read_text(encoding="utf-8").split()
    named = [word for word in words if word.startswith("examples/")]
    assert named
    assert [name for name in named if not (small.ROOT / name).is_file()] == []
    assert all(earlier != later for earlier, later in pairwise(sorted(named)))


@pytest.mark.parametrize("judge", ["rules", "digits"])
def test_the_offline_search_runs_on_a_model_in_this_process(
    judge: str, model: Path, queries: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(small.ROOT)
    overrides = [
        f"model={model}", f"queries={queries}", f"output_dir={tmp_path / 'run'}", "holdout=8", "max_queries=24",
        "search.races=1", "search.candidates=3", "search.most_queries=8", "sampling.max_new_tokens=8",
        *(["judge={type: digits, names: [Clarity], least_mass: 0}"] if judge == "digits" else []),
    ]  # fmt: skip
    result = run_drpo(small.load(DrpoConfig, "drpo-offline", overrides), console=small.QUIET)
    assert result.search.races
    assert result.search.unscored == 0
    summary = small.read_json(result.run / "summary.json")
    assert summary["search"]["calls"] == summary["counts"]["model_calls"] > 0
    assert summary["search"]["candidates"] == 4
    if judge == "rules":
        aspects = {aspect.aspect for one in result.search.evaluations for aspect in one.judged.aspects}
        assert aspects == {"Conciseness", "Directness", "Variety"}
    found = FoundPrompt.read(RunDirectory.read(result.run))
    asked = (entry for entry in read_replies(result.run / "replies.jsonl"))
    same = next(entry for entry in asked if entry.asked["messages"][0]["content"] == found.system_prompt)
    reply = ask_prompt(result.run, same.asked["messages"][-1]["content"], console=small.QUIET)
    assert reply.text == same.reply.text  # the model says under the found prompt what it said in the search
