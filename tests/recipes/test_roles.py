"""Who plays which role: one engine for several roles, servers that a run starts, names that tell engines apart."""

import asyncio
import os
import sys
from pathlib import Path

import pytest

from tests.recipes import drpo_world, small
from tests.stub_server import StubServer
from windvane.config import load_config
from windvane.engines.journal import ReplyJournal, read_replies
from windvane.engines.server_settings import ServerSettings
from windvane.engines.settings import EngineSettings
from windvane.recipes.drpo import run_drpo
from windvane.recipes.drpo_config import DrpoConfig, LocalModel
from windvane.recipes.roles import REPLIES, Engines, Roles
from windvane.run import RunDirectory

OFFLINE = {"judge": "rules", "proposer": {"type": "guidelines"}}


def configured(folder: Path, **values: object) -> DrpoConfig:
    given = {"output_dir": str(folder / "run"), "queries": str(folder / "queries.jsonl"), "holdout": 8, **values}
    return load_config(DrpoConfig, drpo_world.written(folder / "config.yaml", given))


def engines(folder: Path, *, seed: int = 0, dtype: str = "auto") -> Engines:
    return Engines(EngineSettings.model_validate({"dtype": dtype}), seed, folder, lambda _: None)


def test_two_roles_with_the_same_settings_share_an_engine(tmp_path: Path) -> None:
    one, same = (ServerSettings(model="m", base_url="http://127.0.0.1:9/v1") for _ in range(2))
    other = ServerSettings(model="m", base_url="http://127.0.0.1:9/v1", concurrency=2)
    found = engines(tmp_path)
    assert found.talker(one) is found.talker(same)
    assert found.talker(one) is not found.talker(other)
    assert found.local(LocalModel(model="x")) is found.local(LocalModel(model="x"))


def test_a_name_tells_local_models_apart_and_loads_none(model: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    for path in model.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    local = LocalModel(model=str(model))
    name = engines(tmp_path).name(local)
    assert name == engines(tmp_path).name(local)
    others = [
        engines(tmp_path, seed=1).name(local),
        engines(tmp_path, dtype="bfloat16").name(local),
        engines(tmp_path).name(LocalModel(model="smollm2-135m")),
    ]
    (copy / "config.json").write_text((copy / "config.json").read_text() + " ")
    others.append(engines(tmp_path).name(LocalModel(model=str(copy))))
    assert len({name, *others}) == 5


def test_nobody_is_asked_for_a_reply_on_file_whatever_the_role(queries: Path, tmp_path: Path) -> None:
    """Model and judge are one server here, so an equal request of both is one reply."""
    values = {"queries": str(queries), "model": {"model": "stub", "base_url": "http://127.0.0.1:9/v1"}}
    config = configured(tmp_path, **values)
    with ReplyJournal(tmp_path / REPLIES) as journal:
        roles = Roles(config, journal, tmp_path, lambda _: None)
        names = [name.partition("=")[2] for name in roles.names]
        assert names == ["server:stub"] * 3
        assert roles.model() is not roles.optimizer()
        assert roles.model().name == roles.optimizer().name
        assert roles.traffic().in_flight == 0
        assert roles.money is None


def test_a_run_starts_its_server_and_ends_it(queries: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(small.ROOT)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(small.ROOT / "src"), str(small.ROOT)]))
    command = [sys.executable, "-m", "tests.stub_server", "--port", "{port}"]
    search = {"races": 1, "candidates": 3, "most_queries": 8}
    config = configured(
        tmp_path, model={"model": "stub", "command": command}, queries=str(queries), search=search, **OFFLINE
    )
    result = run_drpo(config, console=small.QUIET)
    log = result.run / "server-1.log"
    assert "ready" in log.read_text(encoding="utf-8")
    assert len(list(read_replies(result.run / REPLIES))) > 8
    log.unlink()
    run_drpo(config, console=small.QUIET)
    assert not log.exists()  # a finished run starts nothing


def test_three_roles_are_three_servers(queries: Path, tmp_path: Path) -> None:
    with (
        StubServer(reply=drpo_world.reply) as model,
        StubServer(reply=drpo_world.reply) as judge,
        StubServer(reply=drpo_world.reply) as optimizer,
    ):
        servers = {
            name: {"model": "stub", "base_url": stub.url}
            for name, stub in (("model", model), ("judge_model", judge), ("optimizer", optimizer))
        }
        search = {"races": 1, "candidates": 4, "most_queries": 8}
        config = configured(tmp_path, queries=str(queries), search=search, **servers)
        run = run_drpo(config, console=small.QUIET).run
        said = {
            stub: {body["messages"][0]["content"].split(",")[0] for body in stub.bodies}
            for stub in (model, judge, optimizer)
        }
    assert said[judge] == {"[windvane judging texts"}
    assert said[optimizer] == {"[windvane prompt search texts"}
    assert not any("windvane" in head for head in said[model])
    roles = {entry.role for entry in read_replies(run / REPLIES)}
    assert roles == {"model", "judge", "optimizer"}
    assert RunDirectory.read(run).counts()["model_calls"] == model.total + judge.total + optimizer.total


def test_it_runs_where_an_event_loop_runs_as_in_a_notebook(tmp_path: Path) -> None:
    async def answer() -> int:
        return 5

    async def cell() -> int:
        return engines(tmp_path).work(answer)

    assert asyncio.run(cell()) == 5
