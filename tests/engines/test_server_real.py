"""A real server: `transformers serve` with the tiny model, started and ended as a user's configuration would."""

import asyncio
import importlib.util
import json
import shutil
from pathlib import Path

import pytest

from windvane.engines.protocols import ChatRequest, Reply
from windvane.engines.server import ServerSettings, ServerTalker
from windvane.engines.server_process import started
from windvane.engines.settings import EngineSettings
from windvane.errors import ConfigError
from windvane.types import Message, Prompt, Sampling

HELLO = (Message(role="system", content="Be kind."), Message(role="user", content="Hello"))


def sampling_copy(model: Path, folder: Path) -> Path:
    """A copy of a model whose generation settings say that it samples; else this server takes the likeliest token.

    It reads `temperature` from the request, but not whether to sample at all.
    """
    shutil.copytree(model, folder)
    file = folder / "generation_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text(encoding="utf-8")), "do_sample": True}), encoding="utf-8")
    return folder


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.skipif(importlib.util.find_spec("uvicorn") is None, reason="pip install transformers[serving]")
def test_a_model_behind_a_server_says_what_it_says_in_this_process(tiny_model_folder: Path, tmp_path: Path) -> None:
    """Greedy text, token counts and finish are those of the local engine; samples are made up for (it ignores n)."""
    from windvane.engines.local import LocalEngine, load_model

    name = str(sampling_copy(tiny_model_folder, tmp_path / "model"))
    engine = LocalEngine(load_model(name, EngineSettings()), EngineSettings())
    greedy = Sampling(12, temperature=0.0)
    (local,) = engine.generate([Prompt(HELLO, 0)], greedy)
    settings = ServerSettings(
        model=name,
        command=("transformers", "serve", name, "--port", "{port}", "--host", "127.0.0.1", "--device", "cpu"),
        ready_within=800.0,
    )

    async def talk(server: ServerTalker) -> tuple[Reply, list[Reply], ConfigError]:
        async with server:
            await server.check()
            wrong = ServerTalker(settings.model_copy(update={"model": "no-such-model"}), urls=server.urls)
            async with wrong:
                with pytest.raises(ConfigError) as refused:
                    await wrong.check()
            reply = await server.ask(ChatRequest(HELLO, greedy, schema={"type": "object"}))
            samples = [ChatRequest(HELLO, Sampling(12, 1.0), sample) for sample in range(3)]
            return reply, await asyncio.gather(*map(server.ask, samples)), refused.value

    with started(settings, log=tmp_path / "server.log") as server:
        reply, samples, refused = asyncio.run(talk(server))
        assert server.requests_sent == 4
    assert (reply.text, reply.finish) == (local.text, local.finish)
    assert reply.prompt_tokens == len(engine.loaded.chat.prompt_ids(HELLO))
    assert reply.completion_tokens == len(local.token_ids)
    assert not reply.estimated
    assert len({sample.text for sample in samples}) == 3
    assert all(0 < sample.completion_tokens <= 12 for sample in samples)
    assert "no-such-model" in str(refused)
