import pytest

from tests import tiny
from windvane.engines.chat import PLAIN_TEMPLATE, ChatFormat, split_thinking, with_system
from windvane.errors import DataError, ModelError
from windvane.types import Message

BOS, END = 4, 2
REFUSES_SYSTEM = (
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    + tiny.CHATML
)
SWALLOWS_SYSTEM = "{% set messages = messages | rejectattr('role', 'equalto', 'system') | list %}" + tiny.CHATML
HI = (Message(role="user", content="Hi"),)
PRINCIPLED = (Message(role="system", content="Be brief."), *HI)


def chat_format(*, template: str = tiny.CHATML, adds_bos: bool = False, pad_token: str = "<pad>") -> ChatFormat:
    tokenizer = tiny.tokenizer(chat_template=template, pad_token=pad_token)
    if adds_bos:
        from tokenizers.processors import TemplateProcessing

        tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", BOS)])
    return ChatFormat(tokenizer)


def shown(chat: ChatFormat, messages: tuple[Message, ...]) -> str:
    return chat.tokenizer.decode(chat.prompt_ids(messages))


@pytest.mark.parametrize(
    ("template_adds", "tokenizer_adds"), [(True, True), (True, False), (False, True), (False, False)]
)
def test_one_bos_where_template_or_tokenizer_adds_one_and_none_elsewhere(template_adds, tokenizer_adds):
    template = ("{{ bos_token }}" if template_adds else "") + tiny.CHATML
    ids = chat_format(template=template, adds_bos=tokenizer_adds).prompt_ids(HI)
    expected = 1 if template_adds or tokenizer_adds else 0
    assert ids.count(BOS) == expected
    assert (ids[0] == BOS) == bool(expected)


def test_a_bos_that_also_opens_every_turn_is_not_doubled_at_the_start():
    chat = chat_format(adds_bos=True)
    chat.tokenizer.bos_token = "<|im_start|>"
    from tokenizers.processors import TemplateProcessing

    chat.tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|im_start|> $A", special_tokens=[("<|im_start|>", 1)]
    )
    assert shown(ChatFormat(chat.tokenizer), HI).startswith("<|im_start|>user")


def test_a_response_gets_no_bos_and_one_end():
    chat = chat_format(adds_bos=True)
    ids = chat.response_ids("ok", "stop")
    assert BOS not in ids
    assert ids.count(END) == 1
    assert ids[-1] == END
    assert chat.response_ids("ok<|im_end|>", "stop") == ids


def test_a_cut_off_response_gets_no_end():
    assert END not in chat_format().response_ids("ok", "length")


def test_the_generation_prompt_stands_there_once():
    assert shown(chat_format(), HI) == "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"


def test_a_template_that_always_writes_the_generation_prompt_writes_it_once():
    always = tiny.CHATML.replace("{% if add_generation_prompt %}", "{% if true %}")
    assert shown(chat_format(template=always), HI).count("<|im_start|>assistant\n") == 1


@pytest.mark.parametrize("template", [REFUSES_SYSTEM, SWALLOWS_SYSTEM])
def test_a_system_message_that_the_template_does_not_take_goes_to_the_head_of_the_first_user_turn(template):
    chat = chat_format(template=template)
    assert not chat.accepts_system
    conversation = (*PRINCIPLED, Message(role="assistant", content="Yes?"), Message(role="user", content="Go"))
    text = shown(chat, conversation)
    assert text.startswith("<|im_start|>user\nBe brief.\n\nHi<|im_end|>")
    assert text.count("Be brief.") == 1


def test_a_system_message_that_the_template_takes_stays_a_turn():
    chat = chat_format()
    assert chat.accepts_system
    assert shown(chat, PRINCIPLED).startswith("<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi")


def test_a_template_that_refuses_an_order_of_turns_is_quoted():
    strict = "{% if messages | length > 1 %}{{ raise_exception('one turn only') }}{% endif %}" + tiny.CHATML
    with pytest.raises(ModelError, match=r"turns user, user: one turn only.*engine\.chat_template"):
        chat_format(template=strict).prompt_ids((*HI, *HI))


def test_a_template_that_refuses_everything_is_found_at_once():
    with pytest.raises(ModelError, match="never"):
        chat_format(template="{{ raise_exception('never') }}")


def test_without_a_template_the_error_names_the_way_out():
    with pytest.raises(ModelError, match=r"no chat template.*engine\.chat_template to a jinja file, or to plain"):
        ChatFormat(tiny.tokenizer(chat_template=None))


def test_a_prompt_must_end_with_a_user_turn():
    with pytest.raises(DataError, match="'assistant'"):
        chat_format().prompt_ids((*HI, Message(role="assistant", content="Hello")))
    with pytest.raises(DataError, match="missing"):
        chat_format().prompt_ids(())


def test_the_plain_template_parts_turns_and_ends_answers():
    chat = chat_format(template=PLAIN_TEMPLATE)
    assert chat.end_id == END
    history = (*PRINCIPLED, Message(role="assistant", content="Yes?"), Message(role="user", content="Go"))
    assert (
        shown(chat, history) == "System: Be brief.\n\nUser: Hi\n\nAssistant: Yes?<|im_end|>\n\nUser: Go\n\nAssistant:"
    )


def test_the_end_of_a_turn_is_what_the_template_writes_even_if_the_tokenizer_names_another():
    tokenizer = tiny.tokenizer()
    tokenizer.eos_token = "<|endoftext|>"
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_end|>"]}, replace_extra_special_tokens=False)
    assert ChatFormat(tokenizer).end_id == END


def test_the_end_of_a_turn_may_be_special_without_being_named_among_the_special_tokens():
    from tokenizers import AddedToken

    tokenizer = tiny.tokenizer()
    tokenizer.eos_token = "<|endoftext|>"
    tokenizer.add_tokens([AddedToken("<|end|>", special=True)])
    end = tokenizer.convert_tokens_to_ids("<|end|>")
    assert end not in tokenizer.all_special_ids
    tokenizer.chat_template = tiny.CHATML.replace("<|im_end|>", "<|end|>")
    assert ChatFormat(tokenizer).end_id == end


def test_pad_equal_to_eos_changes_no_ids():
    same, other = chat_format(pad_token="<|im_end|>"), chat_format()
    assert same.prompt_ids(PRINCIPLED) == other.prompt_ids(PRINCIPLED)
    assert same.response_ids("ok", "stop") == other.response_ids("ok", "stop")


def test_the_prompt_is_a_prefix_of_prompt_and_response_whatever_the_response_begins_with():
    chat = chat_format()
    prompt = chat.prompt_ids(HI)
    for text in ("\nnew line", " space", "é"):
        row = [*prompt, *chat.response_ids(text, "stop")]
        assert row[: len(prompt)] == prompt
        assert chat.decode(row[len(prompt) :]) == text


def test_a_think_block_in_a_response_survives_the_round_trip():
    chat = chat_format()
    text = "<think>\nhm\n</think>\n\nYes."
    assert chat.decode(chat.response_ids(text, "stop")) == text


def test_thinking_is_turned_off_where_the_template_knows_it():
    template = tiny.CHATML + "{% if enable_thinking is defined and not enable_thinking %}<think></think>{% endif %}"
    assert shown(chat_format(template=template), HI).endswith("<think></think>")


def test_a_think_block_is_parted_from_the_answer():
    assert split_thinking("<think>\na\n</think>\n\nYes") == ("a", "Yes")
    assert split_thinking("a\n</think>\nYes") == ("a", "Yes")
    assert split_thinking("<think>\nendless") == ("endless", "")
    assert split_thinking("Yes") == (None, "Yes")


def test_a_second_system_message_joins_the_first():
    once = with_system(HI, "Be brief.")
    assert once == PRINCIPLED
    assert with_system(once, "Be kind.")[0].content == "Be brief.\n\nBe kind."
    assert len(with_system(once, "Be kind.")) == 2
