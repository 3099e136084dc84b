"""From settings to whoever answers, judges and writes prompts: engines behind one budget and one journal of replies."""

import asyncio
import hashlib
import shlex
import threading
from collections.abc import Callable, Coroutine, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, TypeVar

from windvane.engines.budget import Budget
from windvane.engines.identity import model_identity
from windvane.engines.journal import ReplyJournal
from windvane.engines.metering import Usage
from windvane.engines.protocols import Advance, ChatRequest, Reply, Talker, no_progress
from windvane.engines.server_settings import ServerSettings
from windvane.engines.settings import EngineSettings
from windvane.engines.talkers import LocalTalker
from windvane.engines.workbench import BenchEngine, Workbench
from windvane.judging import (
    DigitJudge,
    DigitJudgeSettings,
    DynamicJudge,
    Judge,
    JudgeSettings,
    RuleJudge,
    RuleJudgeSettings,
)
from windvane.recipes.drpo_config import DrpoConfig, LocalModel
from windvane.reporting.search import Traffic
from windvane.types import Completion, Logprob, Prompt, Sampling, ScoreRequest

T = TypeVar("T")

REPLIES = "replies.jsonl"
"""Every reply that was paid for."""
Engine = LocalModel | ServerSettings


class Roles:
    """Who plays which role in a run. Nothing is loaded, started or asked before `work` is called."""

    def __init__(self, config: DrpoConfig, journal: ReplyJournal, folder: Path, say: Callable[[str], None]) -> None:
        self._config, self._journal = config, journal
        self._engines = Engines(config.engine, config.seed, folder, say)
        self._counters: dict[str, _Counted] = {}
        self.on_file = len(journal)
        """Replies that this process found on file."""
        self.budget = Budget(config.budget, earlier=journal.usage())

    @property
    def names(self) -> tuple[str, ...]:
        """What tells the engines from others: an input of every stage that asks them."""
        config = self._config
        asked = {"model": config.model, "judge": config.judges, "optimizer": config.optimizer or config.model}
        return tuple(f"{role}={self._engines.name(engine)}" for role, engine in asked.items())

    @property
    def usage(self) -> Usage:
        """Calls and tokens of all replies on file."""
        return sum(self._journal.usage().values(), Usage())

    @property
    def money(self) -> float | None:
        """What all replies on file cost; None where no price is known."""
        if not self._config.budget.prices:
            return None
        return Budget(self._config.budget, earlier=self._journal.usage()).spent.money

    def traffic(self) -> Traffic:
        """Return what is on the way at this moment."""
        waiting = sum(min(one.open, one.most) for one in self._counters.values())
        return Traffic(len(self._journal), waiting, self.budget.spent, self._config.budget)

    def talker(self, role: str, engine: Engine) -> Talker:
        """Return the engine of a role behind budget and journal; raises `ConfigError` where its price is not known."""
        if role not in self._counters:
            paid = self.budget.talker(role, self._engines.talker(engine), free=isinstance(engine, LocalModel))
            most = self._config.engine.batch_rows
            if isinstance(engine, ServerSettings):
                most = engine.concurrency * max(1, len(engine.urls))
            self._counters[role] = _Counted(self._journal.talker(paid, role=role), most)
        return self._counters[role]

    def model(self) -> Talker:
        """Return the model whose prompt is searched."""
        return self.talker("model", self._config.model)

    def optimizer(self) -> Talker:
        """Return who writes new prompts and rewrites examples."""
        return self.talker("optimizer", self._config.optimizer or self._config.model)

    def judge(self) -> Judge:
        """Return who scores answers."""
        return self._judge(self._config.judge)

    def _judge(self, settings: JudgeSettings) -> Judge:
        engine = self._config.judges
        if isinstance(settings, RuleJudgeSettings):
            return RuleJudge(settings)
        if isinstance(settings, DigitJudgeSettings):
            assert isinstance(engine, LocalModel)
            local = self._engines.local(engine)
            return DigitJudge(local, local.begun_ids, settings)
        return DynamicJudge(self.talker("judge", engine), settings)

    def work(self, make: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Run the asynchronous work of a stage, with every engine of the run opened and checked; see `Engines.work`."""

        def opened() -> Coroutine[Any, Any, T]:
            self.model()
            self.judge()
            if self._config.asks_optimizer:
                self.optimizer()
            return make()

        return self._engines.work(opened)

    def close(self) -> None:
        """End servers and workers."""
        self._engines.close()


@contextmanager
def open_roles(config: DrpoConfig, folder: Path, say: Callable[[str], None]) -> Iterator[Roles]:
    """Yield the roles of a run, whose replies stand in `REPLIES` in its directory; servers end with it."""
    with ReplyJournal(folder / REPLIES) as journal:
        roles = Roles(config, journal, folder, say)
        try:
            yield roles
        finally:
            roles.close()


class Engines:
    """The engines of a run: two roles with the same settings share one."""

    def __init__(self, settings: EngineSettings, seed: int, folder: Path, say: Callable[[str], None]) -> None:
        self._settings, self._seed, self._folder, self._say = settings, seed, folder, say
        self._locals: dict[str, _Local] = {}
        self._talkers: dict[str, Talker] = {}
        self._ready: list[Callable[[], Coroutine[Any, Any, None]]] = []
        self._stack = ExitStack()

    def name(self, engine: Engine) -> str:
        """Return what tells an engine's replies from another's; loads nothing."""
        if isinstance(engine, ServerSettings):
            return engine.reply_name
        template = self._settings.template_file
        texts = template.read_text(encoding="utf-8") if template is not None and template.is_file() else ""
        parts = [model_identity(engine.model), str(self._settings.chat_template), texts, self._settings.dtype]
        digest = hashlib.sha256("\0".join(parts).encode()).hexdigest()[:12]
        return f"local:{Path(engine.model).name}#{digest}:{self._seed}"

    def local(self, engine: LocalModel) -> "_Local":
        """Return a model in this process; it is loaded when its first work begins."""
        if engine.model not in self._locals:
            bench = Workbench(self._settings, say=self._say, count=lambda name, n: None)
            local = self._locals[engine.model] = _Local(bench.engine(engine.model))
            self._ready.append(local.load)
        return self._locals[engine.model]

    def talker(self, engine: Engine) -> Talker:
        """Return the talker of an engine; a server with a command is started, one that runs is not asked yet."""
        key = engine.model_dump_json()
        if key not in self._talkers:
            self._talkers[key] = self._server(engine) if isinstance(engine, ServerSettings) else self._model(engine)
        return self._talkers[key]

    def work(self, make: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Run asynchronous work to its end. All servers are checked before, and connections closed after it.

        It may be called in a thread with a running event loop, as a notebook has one.
        """
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return asyncio.run(self._work(make))
        with ThreadPoolExecutor(1) as aside:
            return aside.submit(asyncio.run, self._work(make)).result()

    def close(self) -> None:
        """End servers and workers."""
        self._stack.close()

    async def _work(self, make: Callable[[], Coroutine[Any, Any, T]]) -> T:
        from windvane.engines.server import ServerTalker

        try:
            work = make()  # opens the engines that it asks
            checks, self._ready = self._ready, []
            try:
                for check in checks:
                    await check()
            except BaseException:
                work.close()
                raise
            return await work
        finally:
            for talker in self._talkers.values():
                if isinstance(talker, ServerTalker):
                    await talker.close()

    def _server(self, settings: ServerSettings) -> Talker:
        from windvane.engines.server_process import started

        log = self._folder / f"server-{len(self._talkers) + 1}.log"
        if settings.command:
            self._say(f"starting {shlex.join(settings.command)}; it prints to {log}")
        talker = self._stack.enter_context(started(settings, log=log, seed=self._seed))
        self._ready.append(talker.check)
        return talker

    def _model(self, engine: LocalModel) -> Talker:
        local = self.local(engine)
        talker = LocalTalker(
            local, self.name(engine), seed=self._seed, rows=self._settings.batch_rows, prompt_tokens=local.prompt_tokens
        )
        self._stack.callback(talker.close)
        return talker


class _Local:
    """A model in this process, as generator and scorer, which does one thing at a time."""

    def __init__(self, engine: BenchEngine) -> None:
        self._engine = engine
        self._lock = threading.Lock()

    async def load(self) -> None:
        """Load the model, so that a wrong name is known before the first call of any role."""
        assert self._engine.chat

    def generate(
        self, prompts: Sequence[Prompt], sampling: Sampling, *, advance: Advance = no_progress
    ) -> list[Completion]:
        """Return one completion for each prompt; see `Generator.generate`."""
        with self._lock:
            return self._engine.generate(prompts, sampling, advance=advance)

    def score(self, requests: Sequence[ScoreRequest], *, advance: Advance = no_progress) -> list[tuple[Logprob, ...]]:
        """Return the log-probabilities of each request's responses; see `Scorer.score`."""
        with self._lock:
            return self._engine.score(requests, advance=advance)

    def begun_ids(self, text: str) -> Sequence[int]:
        """Return the token ids of a response that begins with a text."""
        return self._engine.chat.response_ids(text, "length")

    def prompt_tokens(self, messages: Sequence[Any]) -> int:
        """Return how many tokens a conversation takes."""
        return len(self._engine.chat.prompt_ids(messages))


class _Counted:
    """A `Talker` that knows how many of its requests are open, of which at most so many are in flight."""

    def __init__(self, inner: Talker, most: int) -> None:
        self._inner, self.most = inner, most
        self.open = 0

    @property
    def name(self) -> str:
        return self._inner.name

    async def ask(self, request: ChatRequest) -> Reply:
        self.open += 1
        try:
            return await self._inner.ask(request)
        finally:
            self.open -= 1
