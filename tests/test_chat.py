"""Chat templates: the text that transformers makes of them, and what a template may not do."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from typing import Any

import pytest
from texts import trained

from ministeer import bpe, chat
from ministeer.tokenizer import Tokenizer

pytest.importorskip("jinja2")

# Written here from what the families' model cards show of their forms.
CHATML = """{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system
You help.<|im_end|>
' }}{% endif %}{{ '<|im_start|>' + message['role'] + '
' + message['content'] + '<|im_end|>' + '
' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant
' }}{% endif %}"""
QWEN = """{%- if tools %}
    {{- '# Tools' }}
    {%- for tool in tools %}{{- tool | tojson }}{%- endfor %}
{%- else %}
    {%- if messages[0].role == 'system' %}
        {{- '<|im_start|>system\\n' + messages[0]['content'] + '<|im_end|>\\n' }}
    {%- else %}
        {{- '<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n' }}
    {%- endif %}
{%- endif %}
{%- for message in messages %}
    {%- if (message.role == "user") or (message.role == "system" and not loop.first) or (message.role == "assistant" and not message.tool_calls) %}
        {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}
    {%- elif message.role == "assistant" %}
        {%- for call in message.tool_calls %}
            {{- '<tool_call>' }}{{- call.arguments | tojson }}{{- '</tool_call>\\n' }}
        {%- endfor %}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""
LLAMA3 = """{{- bos_token }}
{%- if not date_string is defined %}
    {%- set date_string = "26 Jul 2024" %}
{%- endif %}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content']|trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_message = "" %}
{%- endif %}
{{- "<|start_header_id|>system<|end_header_id|>\\n\\n" }}
{{- "Today Date: " + date_string + "\\n\\n" }}
{{- system_message }}
{{- "<|eot_id|>" }}
{%- for message in messages %}
    {%- if not (message.role == 'ipython' or 'tool_calls' in message) %}
        {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' + message['content'] | trim + '<|eot_id|>' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}
"""
ZEPHYR = """{% for message in messages %}
{% if message['role'] == 'user' %}
{{ '<|user|>
' + message['content'] + eos_token }}
{% elif message['role'] == 'system' %}
{{ '<|system|>
' + message['content'] + eos_token }}
{% elif message['role'] == 'assistant' %}
{{ '<|assistant|>
'  + message['content'] + eos_token }}
{% endif %}
{% if loop.last and add_generation_prompt %}
{{ '<|assistant|>' }}
{% endif %}
{% endfor %}"""
LLAMA2 = """{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}{% set system_message = messages[0]['content'] %}{% else %}{% set loop_messages = messages %}{% set system_message = false %}{% endif %}{% for message in loop_messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('roles must alternate user/assistant/user') }}{% endif %}{% if loop.index0 == 0 and system_message != false %}{% set content = '<<SYS>>\\n' + system_message + '\\n<</SYS>>\\n\\n' + message['content'] %}{% else %}{% set content = message['content'] %}{% endif %}{% if message['role'] == 'user' %}{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}{% elif message['role'] == 'assistant' %}{{ ' '  + content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}"""
THINKING = """{%- set ns = namespace(last=-1) -%}
{%- macro shown(text) -%}{{ text.split('</think>')[-1].lstrip('\\n') }}{%- endmacro -%}
{%- for message in messages[::-1] %}{% if message.role == 'user' %}{% set ns.last = loop.index0 %}{% break %}{% endif %}{% endfor -%}
{{ ns.last }}{% for m in messages %}{% if m.role == 'assistant' %}{% generation %}{{ shown(m.content) ~ eos_token }}{% endgeneration %}
{% else %}
    {{ m.content | upper | replace('A', 'b') }} {{ m | tojson(indent=2) }} {{ loop.index ~ '/' ~ loop.length }}
{% endif %}{% continue %}{% endfor %}{{ strftime_now('%Y') }} {{ range(3) | list }} {{ messages | map(attribute='role') | join(', ') }}
{{ messages | selectattr('role', 'equalto', 'user') | list | length }} {{ messages[0].items() | list }} {{ dict(a=[1, none, 2.5]) }}
"""
TALKS: list[list[dict[str, Any]]] = [
    [{"role": "user", "content": "Hi"}],
    [{"role": "system", "content": " Be brief. "}, {"role": "user", "content": "Hi <|im_end|> there\n"}],
    [{"role": "user", "content": "Hi", "tool_calls": None, "name": None}],
    [
        {"role": "user", "content": "  1 < 2 & \"é\" '日本'"},
        {"role": "assistant", "content": "<think>\nso\n</think>\n\nYes. "},
        {"role": "user", "content": ""},
    ],
]


def of_transformers(template: str, messages: Any, generation: bool, **names: str) -> str:
    """What transformers' own function makes of it, of messages without what holds nothing, as `apply_chat_template` gives them to it."""
    messages = [{key: value for key, value in row.items() if value is not None} for row in messages]
    utils = pytest.importorskip("transformers.utils.chat_template_utils")
    found, _ = utils.render_jinja_template(
        [messages], chat_template=template, add_generation_prompt=generation, **names
    )
    return str(found[0])


@pytest.mark.parametrize("template", [CHATML, QWEN, LLAMA3, ZEPHYR, LLAMA2, THINKING])
def test_the_same_text_as_transformers(template):
    names = {"bos_token": "<s>", "eos_token": "</s>"}
    for messages in TALKS:
        for generation in (True, False):
            theirs = of_transformers(template, messages, generation, **names)
            assert chat.render(template, messages, generation=generation, **names) == theirs


def test_a_key_that_holds_nothing_is_none():
    """As rows of a table have it: Llama 3.1's template asks whether there is a key, and leaves out messages that have one."""
    template = "{% for m in messages %}{% if 'tool_calls' not in m %}{{ m.content }}{% endif %}{% endfor %}"
    assert chat.render(template, [{"role": "user", "content": "Hi", "tool_calls": None}]) == "Hi"


def test_the_same_ids_as_transformers(tmp_path):
    transformers = pytest.importorskip("transformers")
    (tmp_path / "tokenizer.json").write_text(json.dumps(trained("smollm")), "utf-8")
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<|im_start|>", "eos_token": "<|im_end|>"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config | {"chat_template": CHATML}))
    tok, theirs = Tokenizer.from_folder(tmp_path, 1000), transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert (tok.eot, tok.stop) == (0, (0, 2))
    for messages in TALKS:
        for more in (True, False):
            ids = theirs.apply_chat_template(messages, add_generation_prompt=more, return_dict=False)
            assert tok.chat(messages, generation=more) == list(ids)
    # the file beside goes before the config, and a config may name several
    (tmp_path / "chat_template.jinja").write_text("{{ messages[0].content }}")
    assert Tokenizer.from_folder(tmp_path, 1000).chat(TALKS[0]) == tok.encode("Hi")
    (tmp_path / "chat_template.jinja").unlink()
    named = [{"name": "tool_use", "template": "no"}, {"name": "default", "template": "{{ eos_token }}"}]
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config | {"chat_template": named}))
    assert Tokenizer.from_folder(tmp_path, 1000).chat(TALKS[0]) == [2]


@pytest.mark.parametrize(
    "named",
    [
        {
            "sep_token": "<|im_end|>",
            "cls_token": {"content": "<|im_start|>", "__type": "AddedToken"},
            "mask_token": "<|im_end|>",
            "pad_token": "<|im_end|>",
        },
        {"image_token": "<|im_start|>", "sep_token": None},
        {"extra_special_tokens": {"image_token": "<|im_start|>"}, "add_bos_token": False},
    ],
)
def test_every_token_that_the_files_name_is_the_templates(tmp_path, named):
    transformers = pytest.importorskip("transformers")
    (tmp_path / "tokenizer.json").write_text(json.dumps(trained("smollm")), "utf-8")
    names = ("bos", "eos", "sep", "cls", "mask", "pad", "image")
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<|im_end|>",
        "eos_token": "<|im_end|>",
    } | named
    config["chat_template"] = "|".join("{{ " + name + "_token }}" for name in names)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    tok, theirs = Tokenizer.from_folder(tmp_path, 1000), transformers.AutoTokenizer.from_pretrained(tmp_path)
    expected = theirs.apply_chat_template(TALKS[0], tokenize=False)
    assert tok.decode(tok.chat(TALKS[0])) == expected and expected.count("im_") > 1
    again = tmp_path / "again"
    again.mkdir()
    tok.save(again)
    assert Tokenizer.from_folder(again, 1000).chat(TALKS[0]) == tok.chat(TALKS[0])


@pytest.mark.parametrize("names", [{}, {"eos_token": "<|im_end|>"}, {"bos_token": "<|im_start|>"}])
def test_a_saved_tokenizer_names_the_tokens_that_its_source_named(tmp_path, names):
    pytest.importorskip("tokenizers")
    (tmp_path / "tokenizer.json").write_text(json.dumps(trained("smollm")), "utf-8")
    config = {"chat_template": "{{ bos_token }}|{{ eos_token }}|{{ messages[0].content }}"} | names
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    tok = Tokenizer.from_folder(tmp_path, 1000)
    again = tmp_path / "again"
    again.mkdir()
    tok.save(again)
    saved = Tokenizer.from_folder(again, 1000)
    expected = f"{names.get('bos_token', '')}|{names.get('eos_token', '')}|"
    assert tok.decode(tok.chat(TALKS[0])).startswith(expected) and saved.chat(TALKS[0]) == tok.chat(TALKS[0])
    assert (saved.bos, saved.eot, saved.stop) == (tok.bos, tok.eot, tok.stop)


def test_a_gguf_file_brings_its_template():
    tokens = [*bpe.byte_letters(), "<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    metadata = {
        "model": "gpt2",
        "pre": "gpt-2",
        "tokens": tokens,
        "merges": [],
        "token_type": [1] * 256 + [3] * 3,
        "eos_token_id": 258,
    }
    told = {f"tokenizer.ggml.{name}": value for name, value in metadata.items()} | {"tokenizer.chat_template": CHATML}
    ids = Tokenizer.from_gguf(told).chat([{"role": "user", "content": "a"}])
    assert [i for i in ids if i > 255] == [257, 258, 257, 258, 257]
    told |= {"tokenizer.ggml.seperator_token_id": 257, "tokenizer.chat_template": "{{ sep_token }}{{ eos_token }}"}
    assert Tokenizer.from_gguf(told).chat([{"role": "user", "content": "a"}]) == [257, 258]


def test_without_a_template_a_sentence():
    with pytest.raises(ValueError, match="expected a tokenizer with a chat template, got one without"):
        Tokenizer.gpt2().chat([{"role": "user", "content": "Hi"}])


@pytest.mark.parametrize(
    ("messages", "got"),
    [
        ("Hi", "got 'Hi'"),
        ([], "at least one in it, got"),
        (["Hi"], "as message 0"),
        ([{"role": "user"}], "as message 0"),
        ([{"role": "user", "content": "a"}, {"content": "b"}], "as message 1"),
        ([{"role": "user", "content": None}], "as message 0"),
        ([{"role": "user", "content": "a", "more": object()}], "plain data"),
        ({"role": "user", "content": "Hi"}, "expected a list of messages"),
    ],
)
def test_what_are_no_messages(messages, got):
    with pytest.raises(ValueError, match=got):
        chat.render(CHATML, messages)


def test_a_template_may_refuse_messages():
    with pytest.raises(ValueError, match="TemplateError: roles must alternate"):
        chat.render(LLAMA2, [{"role": "assistant", "content": "Hi"}], bos_token="", eos_token="")


def doubling(start: str, step: str, end: str = "") -> str:
    return f"{{% set ns = namespace(x={start}) %}}{{% for i in range(99) %}}{step}{{% endfor %}}{end}"


ENDLESS = [
    "{% for i in range(10**9) %}x{% endfor %}",
    "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
    "{% for i in range(99999) %}{% for j in range(99999) if false %}{% endfor %}{% endfor %}",
    "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}",
    "{% for x in [1] recursive %}{% if loop.depth < 60 %}{{ loop([1]) }}{{ loop([1]) }}{% endif %}{% endfor %}",
    "{% block a %}{{ self.a() }}{{ self.a() }}{% endblock %}",
    "{% set a = range(99999) | list %}{% for i in a %}{% if -1 in a %}{% endif %}{% endfor %}",
    "{% set a = 'a' * 1000000 %}{% for i in range(99999) %}{% if a is eq(a) %}{% endif %}{% endfor %}",
    "{% set a = 'a' * 1000000 %}{% for i in range(99999) %}{% set b = a[1:] %}{% endfor %}",
    "{% for i in range(99999) %}" + "y" * 100_000 + "{% endfor %}",
    "{% for i in range(99999) %}{% set x %}" + "y" * 100_000 + "{% endset %}{% endfor %}",
]
HUGE = [
    "{{ 'a' * 10**10 }}",
    "{{ [0] * 10**10 }}",
    "{{ 10**10**10 }}",
    "{{ 2**64 * 10**300 * 10**300 * 10**300 }}{{ ('9' * 4000) | int * ('9' * 4000) | int }}",
    "{{ '%1000000000d' % 1 }}",
    "{{ '{:1000000000}'.format(1) }}",
    "{{ 'a'.center(10**10) }}",
    "{{ 'a' | center(10**10) }}",
    "{{ [1] | tojson(indent=10**9) }}",
    "{{ 'a\n' | indent(10**9) }}",
    "{{ 'a' | replace('', 'b' * 10**6) | replace('', 'b' * 10**6) }}",
    "{{ ('a' * 10**6).replace('a', 'b' * 10**6) }}",
    "{{ ('b' * 10**6).join('a' * 10**6) }}",
    "{{ ('a' * 10**5) | join('b' * 10**6) }}",
    "{{ strftime_now('%1000000000d') }}",
    "{{ lipsum(10**9) }}",
    doubling("'ab'", "{% set ns.x = ns.x ~ ns.x %}"),
    doubling("'ab'", "{% set ns.x = ns.x + ns.x %}"),
    doubling("'ab'", "{% set ns.x %}{{ ns.x }}{{ ns.x }}{% endset %}"),
    doubling("['ab']", "{% set ns.x = [ns.x, ns.x] %}", "{{ ns.x }}"),
    doubling("('ab',)", "{% set ns.x = (ns.x, ns.x) %}", "{{ ns.x | string }}"),
    doubling("{}", "{% set ns.x = {1: ns.x, 2: ns.x} %}", "{{ ns.x | tojson }}"),
    doubling("{}", "{% set ns.x = dict(a=ns.x, b=ns.x) %}", "{{ ns.x }}"),
    doubling("namespace()", "{% set ns.x = namespace(a=ns.x, b=ns.x) %}", "{{ ns.x }}"),
    doubling("namespace()", "{% set ns.x = namespace(a=ns.x, b=ns.x) %}", "{{ ns.x ~ '' }}"),
    doubling("namespace()", "{% set ns.x = namespace(a=ns.x, b=ns.x) %}", "{{ [ns.x] | string }}"),
]
OUTSIDE = [
    "{{ ''.__class__.__mro__ }}",
    "{{ messages.__class__ }}",
    "{{ messages | map(attribute='__class__') | list }}",
    "{{ messages | attr('__class__') }}",
    "{{ messages | sort(attribute='__class__') }}",
    "{{ namespace.__globals__ }}",
    "{{ raise_exception.__globals__ }}",
    "{{ self._TemplateReference__context }}",
    "{% for i in [1] %}{{ loop._iterable }}{% endfor %}",
    "{{ messages.append(1) }}",
    "{% include 'x' %}",
    "{% import 'os' as os %}",
    "{{ cycler.__init__.__globals__.os }}",
]
BROKEN = [
    "{% for %}",
    "{{ 1 +",
    "{{ " + "(" * 5000,
    "{{ " + "1+" * 5000 + "1 }}",
    "{{ 1 | nonsense }}",
    "x" * 1_000_001,
]


def test_a_template_that_does_too_much_or_reaches_outside_costs_a_sentence():
    """In a process of its own: it must end, and must not grow."""
    templates = [*ENDLESS, *HUGE, *OUTSIDE, *BROKEN]
    before = time.monotonic()
    done = subprocess.run(
        [sys.executable, __file__],
        input=json.dumps(templates),
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    *said, grown = json.loads(done.stdout)
    assert [t[:80] for t, sentence in zip(templates, said, strict=True) if not sentence.startswith("expected ")] == []
    assert max(map(len, said)) < 500
    assert grown < 400, f"{grown} MB in {time.monotonic() - before:.0f} s"


def main() -> None:
    """Renders the templates on standard input; prints what was said of each, and by how many MB the process grew."""
    said, start = [], resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for template in json.load(sys.stdin):
        try:
            said.append("rendered: " + chat.render(template, [{"role": "user", "content": "Hi"}])[:50])
        except ValueError as error:
            said.append(str(error))
    print(json.dumps([*said, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - start) // 1024]))


def test_a_long_conversation_is_not_too_much():
    messages = [{"role": "user" if i % 2 == 0 else "assistant", "content": "word " * 2000} for i in range(1000)]
    for template in (CHATML, QWEN, LLAMA3, LLAMA2):
        assert len(chat.render(template, messages, bos_token="<s>", eos_token="</s>")) > 9_000_000


def test_without_jinja2_a_sentence_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(ImportError, match=r"pip install 'ministeer\[chat\]'"):
        chat.render("{{ 'never compiled before' }}", TALKS[0])


if __name__ == "__main__":
    main()
