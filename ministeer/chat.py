"""A model's chat template: messages -> the text it was trained on, by jinja2's sandbox; the extra "chat" installs it.

    render(template, [{"role": "user", "content": "Hi"}], generation=True, eos_token="<|im_end|>")

A template is a program from a stranger's file. So it gets only its own data, a list of harmless names, and a
budget: it pays in advance for each step, each value it makes and each character it prints. What
transformers offers to templates is here, except what could turn a short value into a long one (`center`, `%` ...).
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from datetime import datetime
from typing import Any

BUDGET = 30_000_000  # characters, or `NODE` of them for a step or a value: some seconds and 100 MB at the most
NODE = 20
PER_CHARACTER = 50  # of what the messages hold, on top: a template may look at a long text that many times
LONGEST = 1_000_000  # characters of a template
FILTERS = """abs capitalize count d default dictsort first float indent int items join last length list lower map max
min reject rejectattr replace reverse safe select selectattr sort string title trim unique upper""".split()
METHODS = {  # of strings, lists and dicts
    *"startswith endswith strip lstrip rstrip split rsplit splitlines partition rpartition upper lower title".split(),
    *"capitalize find rfind index rindex count replace join removeprefix removesuffix isdigit isalpha isalnum".split(),
    *"isnumeric isspace isupper islower get items keys values".split(),
}
LOOP = set("index index0 revindex revindex0 first last length previtem nextitem changed cycle depth depth0".split())
DATE = re.compile(r"(?:%-?[A-Za-z%]|[^%]){,100}")
VIEWS: Any = (type({}.keys()), type({}.values()), type({}.items()))
left: ContextVar[int] = ContextVar("left")  # of the budget of the rendering under way


def render(template: str, messages: Any, *, generation: bool = True, **names: str) -> str:
    """The text of a conversation.

    messages: a list of `{"role": ..., "content": ...}`, both texts; other keys may hold plain data.
    generation: end with what opens the assistant's answer.
    names: what the tokenizer calls its special tokens, such as `bos_token`.
    A template that refuses the messages, breaks, reaches outside or does too much: `ValueError`.
    """
    _check(messages)
    # plain values of the template's own; many templates ask whether there is a key, and a table has all keys in all rows
    data = [{key: value for key, value in row.items() if value is not None} for row in json.loads(json.dumps(messages))]
    compiled = _compile(template)
    mark = left.set(BUDGET)
    try:
        left.set(BUDGET + PER_CHARACTER * _size(data))
        return str(
            compiled.render(messages=data, add_generation_prompt=generation, tools=None, documents=None, **names)
        )
    except Exception as error:  # whatever a stranger's program raises, RecursionError and MemoryError too
        raise ValueError(
            f"expected messages that the model's chat template takes, got {type(error).__name__}: {_short(error)}; "
            "write them as its model card does, or encode a text of your own"
        ) from error
    finally:
        left.reset(mark)


def _check(messages: Any) -> None:
    remedy = 'write [{"role": "user", "content": "..."}]'
    if not isinstance(messages, (list, tuple)) or not messages:
        raise ValueError(f"expected a list of messages with at least one in it, got {_short(messages)!r}; {remedy}")
    for number, message in enumerate(messages):
        if not isinstance(message, Mapping) or not all(isinstance(message.get(k), str) for k in ("role", "content")):
            raise ValueError(
                f"expected texts under `role` and `content` in each message, got {_short(message)!r} "
                f"as message {number}; {remedy}"
            )
    try:
        json.dumps(messages)
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"expected messages of plain data (JSON), got one with {_short(error)}; {remedy}") from error


def _short(thing: Any) -> str:
    text = " ".join(str(thing).split())
    return text if len(text) <= 200 else text[:200] + "..."


def _spend(units: int) -> None:
    rest = left.get(BUDGET) - units
    if rest < 0:
        raise ValueError("the template takes too many steps or makes too long a text")
    left.set(rest)


def _size(value: Any, opaque: bool = False) -> int:
    """What a value costs: its characters, and `NODE` for itself and each value in it. A shared part counts each time.

    opaque: whether the value may be another thing than data, such as a macro.
    """
    limit, size, todo = left.get(BUDGET), 0, [value]
    while todo and size <= limit:
        part = todo.pop()
        size += NODE
        if isinstance(part, str):
            size += len(part)
        elif isinstance(part, dict):
            todo += [*part, *part.values()]
        elif type(part) in (list, tuple, *VIEWS):
            todo += list(part)
        elif not (isinstance(part, (int, float, range, type(None))) or type(part).__name__ == "Undefined" or opaque):
            raise ValueError(f"a {type(part).__name__} is used as data")
        opaque = False
    return size


@functools.lru_cache(maxsize=16)
def _compile(source: str) -> Any:
    try:
        import jinja2
    except ImportError as error:
        raise ImportError("chat templates need jinja2; install it with pip install 'ministeer[chat]'") from error
    from jinja2 import ext, nodes, sandbox
    from jinja2.exceptions import SecurityError
    from jinja2.filters import FILTERS as USUAL
    from jinja2.runtime import LoopContext, TemplateReference, Undefined
    from jinja2.utils import Namespace
    from jinja2.visitor import NodeTransformer

    def wrapped(node: nodes.Expr, name: str) -> nodes.Expr:
        return nodes.Filter(node, name, [], [], None, None, lineno=node.lineno)

    class Priced(NodeTransformer):
        """Puts the price into a parsed template: on every turn, on every value that is made or compared."""

        def turns(self, node: Any) -> Any:
            self.generic_visit(node)
            size = NODE + sum(len(data.data) for part in node.body for data in part.find_all(nodes.TemplateData))
            size += sum(len(d.data) for part in node.body if isinstance(part, nodes.TemplateData) for d in [part])
            price = wrapped(nodes.Const(size, lineno=node.lineno), "_step")
            node.body.insert(0, nodes.ExprStmt(price, lineno=node.lineno))
            if getattr(node, "test", None) is not None:
                node.test = nodes.And(price, node.test, lineno=node.lineno)
            return node

        visit_For = visit_Macro = visit_CallBlock = visit_Block = turns

        def makes(self, node: Any) -> Any:
            self.generic_visit(node)
            return node if getattr(node, "ctx", "load") != "load" else wrapped(node, "_made")

        visit_List = visit_Tuple = visit_Dict = makes

        def visit_Getitem(self, node: Any) -> Any:
            self.generic_visit(node)
            return wrapped(node, "_made") if isinstance(node.arg, nodes.Slice) else node

        def visit_Concat(self, node: Any) -> Any:
            self.generic_visit(node)
            return wrapped(nodes.List(node.nodes, lineno=node.lineno), "_concat")

        def visit_Compare(self, node: Any) -> Any:
            self.generic_visit(node)
            node.expr = wrapped(node.expr, "_made")
            for operand in node.ops:
                operand.expr = wrapped(operand.expr, "_made")
            return node

        def visit_Test(self, node: Any) -> Any:
            self.generic_visit(node)
            node.node = wrapped(node.node, "_made")
            node.args = [wrapped(argument, "_made") for argument in node.args]
            return node

    class Sandbox(sandbox.ImmutableSandboxedEnvironment):
        intercepted_binops = frozenset(["+", "-", "*", "/", "//", "**", "%"])

        def _parse(self, source: str, name: Any, filename: Any) -> Any:
            return Priced().visit(super()._parse(source, name, filename))

        def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
            if isinstance(obj, LoopContext):
                return attr in LOOP
            if isinstance(obj, (str, list, tuple, dict)):
                return attr in METHODS
            return isinstance(obj, (Namespace, TemplateReference)) and attr[:1] != "_"

        def wrap_str_format(self, value: Any) -> None:
            """`format` can pad: no method of it."""

        def unsafe_undefined(self, obj: Any, attribute: str) -> Any:
            raise SecurityError(f"{attribute!r} of a {type(obj).__name__} is not for templates")

        def call(self, context: Any, function: Any, *args: Any, **kwargs: Any) -> Any:
            owner, name = getattr(function, "__self__", None), getattr(function, "__name__", "")
            _spend(sum(_size(given, opaque=True) for given in (*args, *kwargs.values())) + 10 * NODE)
            if isinstance(owner, str):
                _spend(_size(owner))
                amplified(name, owner, args)
            result = super().call(context, function, *args, **kwargs)
            _spend(_size(result, opaque=True))
            return result

        def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
            size = _size(left) + _size(right)
            if operator == "*":
                counts = [max(int(n), 1) for n in (left, right) if isinstance(n, int)]
                if len(counts) == 1:
                    size *= counts[0]
                elif len(counts) == 2 and left.bit_length() + right.bit_length() > 1000:
                    raise ValueError("a number is too large")
            elif operator == "**" and not (abs(left) <= 1000 and abs(right) <= 64):
                raise ValueError("a number is too large")
            elif operator == "%" and isinstance(left, str):
                raise ValueError("formatting by % is not supported")
            _spend(size)
            return super().call_binop(context, operator, left, right)

    def amplified(name: str, text: str, args: tuple[Any, ...]) -> None:
        """Pays for what `join` and `replace` add to what they are given."""
        if name == "join" and args:
            _spend(len(text) * len(args[0]))
        if name == "replace" and len(args) > 1:
            _spend(text.count(str(args[0])) * len(str(args[1])))

    def priced(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """A filter that pays for what it takes and gives, and gives lists instead of generators."""
        kind = getattr(getattr(function, "jinja_pass_arg", None), "name", None)

        @jinja2.pass_context
        def run(context: Any, value: Any, *args: Any, **kwargs: Any) -> Any:
            given = [*args, *kwargs.values()]
            _spend(_size(value) + _size(given))
            if name == "join" and given:
                value = list(value)
                amplified("join", str(given[0]), (value,))
            elif name == "replace":
                amplified("replace", str(value), (*given,))
            elif name in ("indent", "tojson"):
                if any(isinstance(n, int) and n > 16 for n in given) or _size(given) > 100 * (1 + len(given)):
                    raise ValueError(f"`{name}` by more than 16 is not supported")
                _spend(16 * _size(value))
            first = {"context": [context], "environment": [context.environment], "eval_context": [context.eval_ctx]}
            result = function(*first.get(kind or "", []), value, *args, **kwargs)
            if not isinstance(result, (str, int, float, list, tuple, dict, Undefined, type(None))):
                result = list(result)
            _spend(_size(result))
            return result

        return run

    @jinja2.pass_context
    def step(context: Any, price: int) -> bool:
        _spend(price)
        return True

    @jinja2.pass_context
    def made(context: Any, value: Any) -> Any:
        _spend(_size(value, opaque=True))
        return value

    @jinja2.pass_context
    def concat(context: Any, values: list[Any]) -> str:
        return "".join(str(shown(context, value)) for value in values)

    @jinja2.pass_context
    def shown(context: Any, value: Any) -> Any:
        _spend(_size(value))
        return value

    def to_json(
        x: Any, ensure_ascii: Any = False, indent: Any = None, separators: Any = None, sort_keys: Any = False
    ) -> str:
        return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

    def raise_exception(message: Any) -> None:
        raise jinja2.TemplateError(str(message))

    def strftime_now(form: str) -> str:
        if not DATE.fullmatch(form):
            raise ValueError(f"a date is written as {form!r}")
        return datetime.now().strftime(form)

    def namespace(*args: Any, **kwargs: Any) -> Any:
        return Namespace(*args, **kwargs)

    class Generation(ext.Extension):
        """`{% generation %}` marks the assistant's words for training; the text is as without it."""

        tags = {"generation"}  # noqa: RUF012, as jinja2 declares it

        def parse(self, parser: Any) -> Any:
            line = next(parser.stream).lineno
            return nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True), lineno=line)

    environment = Sandbox(
        trim_blocks=True,
        lstrip_blocks=True,
        optimized=False,
        finalize=shown,
        extensions=["jinja2.ext.loopcontrols", Generation],
    )
    environment.filters = {name: priced(name, USUAL[name]) for name in FILTERS} | {"tojson": priced("tojson", to_json)}
    environment.filters |= {"_step": step, "_made": made, "_concat": concat}
    environment.globals = {"range": sandbox.safe_range, "dict": lambda *a, **k: dict(*a, **k), "namespace": namespace,
                           "raise_exception": raise_exception, "strftime_now": strftime_now}  # fmt: skip
    if len(source) > LONGEST:
        raise ValueError(
            f"expected a chat template of at most {LONGEST:,} characters, got {len(source):,}; give it a real one"
        )
    try:
        return environment.from_string(source)
    except Exception as error:  # a syntax error, a filter that is not offered, nesting too deep for the parser
        raise ValueError(
            f"expected a chat template in jinja2 with the usual filters, got {type(error).__name__}: {_short(error)}; "
            "give the tokenizer another one in `chat_template`"
        ) from error
