"""The stage itself: queries in, one principle for each out."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

from windvane.engines.protocols import Advance, Generator, no_progress
from windvane.errors import ConfigError
from windvane.principles.choosing import choose_by_model, fill_up, wants_concision
from windvane.principles.features import Feature, feature_bank, read_features
from windvane.principles.message import steering_text, system_message
from windvane.principles.settings import BankPrinciples, GeneratedPrinciples, UserPrinciples
from windvane.principles.writing import PrinciplePair, Task, write_pairs
from windvane.types import Principle, Query


class Menu(NamedTuple):
    """What a query's features are chosen from, and how many."""

    features: tuple[Feature, ...]
    n: int
    concision_rate: float
    choice: Literal["model", "random"]


def choose_principles(
    queries: Sequence[Query],
    settings: BankPrinciples | GeneratedPrinciples | UserPrinciples,
    *,
    generator: Generator | None = None,
    seed: int,
    advance: Advance = no_progress,
) -> list[Principle]:
    """Return one principle for each query, in order (SSO, step 1).

    The result for a query depends on the settings, the seed, the query and the generator alone: neither on the other
    queries nor on their order. `advance` hears of each model reply, of which there may be several for a query, or none.

    Raises `ConfigError` for an unusable principle file, for `n_features` beyond the features that there are, and where
    a generator is needed and None is given.
    """
    menu = _menu(settings)
    chosen = _choose(queries, menu, generator, seed=seed, advance=advance)
    if isinstance(settings, GeneratedPrinciples):
        writer = _needed(generator, "principles of the type generated")
        return _generated(queries, chosen, settings, writer, seed=seed, advance=advance)
    origin: Literal["user", "bank"] = "user" if isinstance(settings, UserPrinciples) else "bank"
    return [_principle(query, features, origin) for query, features in zip(queries, chosen, strict=True)]


def features_on_offer(settings: BankPrinciples | GeneratedPrinciples | UserPrinciples) -> tuple[Feature, ...]:
    """Return the features that a query's are chosen from: the bank's, or those of the user's file.

    Raises `ConfigError` as `choose_principles` does.
    """
    return _menu(settings).features


def _menu(settings: BankPrinciples | GeneratedPrinciples | UserPrinciples) -> Menu:
    if not isinstance(settings, UserPrinciples):
        return Menu(feature_bank().choosable, settings.n_features, settings.concision_rate, settings.choice)
    features = read_features(settings.path)
    n = len(features) if settings.n_features is None else settings.n_features
    if n > len(features):
        raise ConfigError(
            f"principles.n_features is {n}, but {settings.path} has {len(features)} features; add some, or lower it."
        )
    return Menu(features, n, 0.0, settings.choice)


def _choose(
    queries: Sequence[Query], menu: Menu, generator: Generator | None, *, seed: int, advance: Advance
) -> list[tuple[Feature, ...]]:
    if menu.n == len(menu.features):
        chosen = [menu.features for _ in queries]
    elif menu.choice == "model":
        asked = _needed(generator, "principles.choice: model")
        chosen = choose_by_model(queries, menu.features, menu.n, asked, seed=seed, advance=advance)
    else:
        chosen = [fill_up((), menu.features, menu.n, query, seed=seed) for query in queries]
    concision = feature_bank().concision
    return [
        (*features, concision) if wants_concision(query, menu.concision_rate, seed=seed) else features
        for query, features in zip(queries, chosen, strict=True)
    ]


def _generated(
    queries: Sequence[Query],
    chosen: Sequence[tuple[Feature, ...]],
    settings: GeneratedPrinciples,
    generator: Generator,
    *,
    seed: int,
    advance: Advance,
) -> list[Principle]:
    """Have the model write; where it fails for one feature, only that feature speaks in the bank's words."""
    parts = [[(feature,) for feature in features] if settings.scope == "feature" else [features] for features in chosen]
    tasks = [Task(query, part) for query, own in zip(queries, parts, strict=True) for part in own]
    pairs = iter(write_pairs(tasks, settings, generator, seed=seed, advance=advance))
    written = [[(part, next(pairs)) for part in own] for own in parts]
    return [_written(query, own) for query, own in zip(queries, written, strict=True)]


def _written(query: Query, parts: Sequence[tuple[tuple[Feature, ...], PrinciplePair | None]]) -> Principle:
    features = [feature for part, _ in parts for feature in part]
    good = [text for part, pair in parts for text in ([pair.good] if pair else [f.good_principle for f in part])]
    bad = [text for part, pair in parts for text in ([pair.bad] if pair else [f.bad_principle for f in part])]
    return Principle(
        query_id=query.id,
        features=tuple(feature.name for feature in features),
        good=steering_text([feature.good_adjective for feature in features], good),
        bad=steering_text([feature.bad_adjective for feature in features], bad),
        origin="generated" if all(pair for _, pair in parts) else "fallback",
    )


def _principle(query: Query, features: Sequence[Feature], origin: Literal["user", "bank"]) -> Principle:
    return Principle(
        query_id=query.id,
        features=tuple(feature.name for feature in features),
        good=system_message(features, "good"),
        bad=system_message(features, "bad"),
        origin=origin,
    )


def _needed(generator: Generator | None, what: str) -> Generator:
    if generator is None:
        raise ConfigError(f"{what} needs a model to ask; give one, or set principles.type: bank with choice: random.")
    return generator
