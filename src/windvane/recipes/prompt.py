"""The prompt that a search found: its file, and the commands that show, ask and export it."""

import json
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Literal, Self, TypeVar

from pydantic import PlainSerializer, ValidationError
from rich.console import Console

from windvane.engines.chat_api import Dialect, request_body
from windvane.engines.protocols import ChatRequest, Reply, Talker
from windvane.engines.server_settings import ServerSettings
from windvane.errors import ConfigError, DataError, NoReply, RunDirectoryError
from windvane.prompt_search.demonstrations import Demonstration
from windvane.prompt_search.evaluator import Prompted
from windvane.prompt_search.proof import Proof
from windvane.prompt_search.records import SearchResult
from windvane.prompt_search.rendering import ExampleSource, NoExamples, render
from windvane.prompt_search.retrieval import RetrievalSettings, nearest_examples
from windvane.recipes.drpo_config import DrpoConfig, LocalModel
from windvane.recipes.report import SUMMARY
from windvane.recipes.roles import Engines
from windvane.reporting.cells import plain
from windvane.reporting.search import prompt_text, proof_tables, search_text
from windvane.run import RunDirectory, RunView
from windvane.types import Message, Query, Record, Sampling

R = TypeVar("R", bound=Record)

PROMPT = "prompt.json"
"""The found prompt, with all that rendering needs."""
PROOF = "proof.json"
"""What the held-out queries say, query by query."""
QUERY = "{query}"
"""Stands for the user's text in an export."""


class FoundPrompt(Record):
    """A prompt, and what answering with it takes: the same renderer, examples and sampling as in the search."""

    system_prompt: str
    examples: tuple[Demonstration, ...]
    """All optimised examples; `retrieval` says which of them a query is answered with."""
    retrieval: RetrievalSettings
    sampling: Annotated[Sampling, PlainSerializer(Sampling._asdict)]
    start_prompt: str
    candidate: str
    """The prompt's number in the search; p0 is the start prompt."""
    supported: bool
    """Whether the proof supports a gain over the start prompt."""
    statement: str
    """What the proof says."""

    @classmethod
    def of(
        cls, config: DrpoConfig, by: str, examples: Sequence[Demonstration], result: SearchResult, proof: Proof
    ) -> Self:
        """Return the prompt to use: the finalist that the proof puts first, or the start prompt where it scored less.

        `by` is what found the examples, so that whoever answers later does not find others.
        """
        texts = {candidate.id: candidate.text for candidate in result.candidates}
        best = proof.best  # with a difference of None the proof could not be made, and the search's word stands
        beaten = best is None or (best.difference is not None and best.difference <= 0)
        candidate = result.start.id if best is None or beaten else best.candidate
        found_by: Literal["bm25", "embeddings"] = "bm25" if by == "bm25" else "embeddings"
        return cls(
            system_prompt=texts[candidate],
            examples=tuple(examples),
            retrieval=config.retrieval.model_copy(update={"by": found_by}) if examples else config.retrieval,
            sampling=config.sampling.sampling(),
            start_prompt=config.start_prompt,
            candidate=candidate,
            supported=proof.verdict == "gain",
            statement=proof.statement,
        )

    @classmethod
    def read(cls, view: RunView) -> Self:
        """Return the prompt of a run; raises `RunDirectoryError` where it has none yet, or another command made it."""
        found = view.json(PROMPT)
        if found is None:
            provenance = view.json("provenance.json")
            command = provenance.get("command") if isinstance(provenance, dict) else None
            what = "is not finished; run the same command again" if command == "drpo" else f"is a run of {command}"
            raise RunDirectoryError(f"{view.path} has no {PROMPT}: it {what}. Prompts are found by windvane drpo.")
        return _valid(cls, found, view.path / PROMPT)

    def source(self) -> ExampleSource:
        """Return who chooses the examples."""
        return nearest_examples(self.examples, self.retrieval) if self.examples else NoExamples()

    def prompted(self, talker: Talker) -> Prompted:
        """Return a model under this prompt, as the search had it."""
        return Prompted(talker, self.sampling, self.source())


def show_prompt(path: Path, console: Console | None = None) -> None:
    """Print the found prompt and examples, its proof, and what the search took."""
    console = console or Console()
    view = RunDirectory.read(path)
    found = FoundPrompt.read(view)
    console.print(prompt_text(f"Prompt {found.candidate}", found.system_prompt))
    for number, example in enumerate(found.examples, start=1):
        console.print(prompt_text(f"Example {number}", f"{example.query.text}\n→ {example.answer}"))
    proof = view.json(PROOF)
    console.print(found.statement if proof is None else proof_tables(_valid(Proof, proof, view.path / PROOF)))
    summary = view.json(SUMMARY)
    search = summary.get("search") if isinstance(summary, dict) else None
    if isinstance(search, dict):
        console.print(search_text(search, {}))
        for note in search.get("notes", ()):
            console.print(plain(note), highlight=False, soft_wrap=True)


def _valid(kind: type[R], values: object, path: Path) -> R:
    """Return a record that a run wrote; raises `RunDirectoryError` where the file says something else."""
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise RunDirectoryError(
            f"{path} cannot be read ({error.error_count()} of its values are wrong). Run the same command again to "
            "have it written."
        ) from error


def _config(view: RunView) -> DrpoConfig:
    try:
        return DrpoConfig.model_validate(view.config())
    except ValidationError as error:
        raise RunDirectoryError(
            f"{view.path} has a configuration that this version of windvane cannot read."
        ) from error


def ask_prompt(path: Path, text: str, console: Console | None = None) -> Reply:
    """Answer a query with the found prompt, by the model that it was found for, and print the answer.

    Raises `ConfigError` for an empty query and `DataError` for one that the model does not take.
    """
    console = console or Console()
    view = RunDirectory.read(path)
    found = FoundPrompt.read(view)
    if not text.strip():
        raise ConfigError("The query is empty; give some text to answer.")
    config = _config(view)
    said = Console(stderr=True)
    with TemporaryDirectory() as folder:
        engines = Engines(config.engine, config.seed, Path(folder), lambda line: said.print(line, markup=False))
        try:
            reply = engines.work(
                lambda: found.prompted(engines.talker(config.model)).answer(found.system_prompt, asked(text))
            )
        except NoReply as error:
            raise DataError(str(error)) from error
        finally:
            engines.close()
    console.print(reply.text, markup=False, highlight=False, soft_wrap=True)
    return reply


def asked(text: str) -> Query:
    """Return a user's text as a query that is none of a search's."""
    return Query(id="asked", messages=(Message(role="user", content=text),))


Format = Literal["json", "txt", "openai", "jinja", "modelfile"]
"""What a prompt is exported as."""


def export_prompt(path: Path, form: Format) -> str:
    """Return the found prompt in a format.

    json is the file as it is; txt the system prompt alone; openai the body of a request of the search, without a seed
    and with `{query}` for the user's text; jinja a template of the messages as JSON, of one variable `query`; modelfile
    what Ollama builds a model from. The last three hold the first examples: which ones are most like a query is only
    known when it comes.
    """
    view = RunDirectory.read(path)
    found = FoundPrompt.read(view)
    if form == "json":
        return json.dumps(found.model_dump(mode="json"), indent=2, ensure_ascii=False)
    if form == "txt":
        return found.system_prompt
    model = _config(view).model
    messages = render(found.system_prompt, found.examples[: found.retrieval.k], asked(QUERY))
    if form == "openai":
        server = model if isinstance(model, ServerSettings) else _served(model)
        body = request_body(ChatRequest(messages, found.sampling), 1, server, Dialect(seed=False))
        return json.dumps(body, indent=2, ensure_ascii=False)
    return _jinja(messages) if form == "jinja" else _modelfile(messages, model, found)


def _served(model: LocalModel) -> ServerSettings:
    """Return the settings of a server that has a local model, wherever that may be."""
    return ServerSettings(model=model.model, base_url="http://127.0.0.1:8000/v1")


def _jinja(messages: Sequence[Message]) -> str:
    """Return a template; braces in a text are written as JSON escapes, so that jinja sees none."""
    fixed = [
        f'{{"role": "{message.role}", "content": {_braceless(json.dumps(message.content, ensure_ascii=False))}}}'
        for message in messages[:-1]
    ]
    last = '{"role": "user", "content": {{ query | tojson }}}'
    return "[\n" + ",\n".join([*fixed, last]) + "\n]"


def _braceless(text: str) -> str:
    return text.replace("{", "\\u007b").replace("}", "\\u007d")


def _modelfile(messages: Sequence[Message], model: LocalModel | ServerSettings, found: FoundPrompt) -> str:
    lines = ["# Put the name or the path that Ollama has for this model behind FROM.", f"FROM {model.model}"]
    for message in messages[:-1]:
        if '"""' in message.content:
            raise ConfigError(
                'A text of the prompt holds """, which a Modelfile has no way to write; export it as json or openai.'
            )
        head = "SYSTEM" if message.role == "system" else f"MESSAGE {message.role}"
        lines.append(f'{head} """{message.content}"""')
    sampling = found.sampling
    lines += [f"PARAMETER temperature {sampling.temperature}", f"PARAMETER top_p {sampling.top_p}"]
    lines += [f"PARAMETER num_predict {sampling.max_new_tokens}"]
    return "\n".join(lines)
