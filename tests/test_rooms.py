"""The rooms of the package and which way the arrows point, read from the imports, and what no room may contain.

A new file in the package needs a line in `ROOMS`: what it may import of the package, and which other packages.
"""

import ast
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

PACKAGE = Path(__file__).parents[1] / "ministeer"


class Room(NamedTuple):
    """What a file may import: rooms of the package (None: any), and packages beside the standard library."""

    rooms: set[str] | None
    outside: set[str]


ROOMS = {
    "model.py": Room(set(), {"torch"}),
    "llama.py": Room({"model"}, {"torch"}),
    "bpe.py": Room({"merges"}, {"tiktoken", "tokenizers", "regex"}),
    "merges.py": Room(set(), set()),
    "chat.py": Room(set(), {"jinja2"}),
    "tokenizer.py": Room({"bpe", "chat", "files"}, set()),
    "pack.py": Room({"model"}, {"torch"}),
    "files.py": Room(set(), set()),
    "gguf_file.py": Room({"files"}, {"torch", "numpy", "gguf"}),
    "gguf_model.py": Room({"gguf_file"}, {"torch", "numpy"}),
    "hub.py": Room({"files", "gguf_model", "tokenizer"}, {"huggingface_hub", "safetensors"}),
    "layouts.py": Room({"llama", "model"}, set()),
    "model_files.py": Room({"files", "gguf_model", "hub", "layouts", "tokenizer"}, {"torch", "safetensors"}),
    "checkpoint.py": Room({"files", "layouts", "model", "model_files", "tokenizer"}, {"torch", "safetensors"}),
    "source.py": Room(set(), set()),
    "provenance.py": Room({"model"}, {"torch"}),
    "identity.py": Room({"model", "provenance", "source"}, {"torch"}),
    "prompts.py": Room({"model", "provenance"}, {"torch"}),
    "health.py": Room(set(), {"torch"}),
    "initialize.py": Room({"model"}, {"torch"}),
    "vectors.py": Room({"files", "health", "model", "provenance"}, {"torch", "safetensors"}),
    "steer.py": Room({"model", "prompts", "receipt", "vectors"}, {"torch"}),
    "receipt.py": Room({"model"}, {"torch"}),
    "cuda_graph.py": Room({"model"}, {"torch"}),
    "generate.py": Room(
        {"cuda_graph", "model", "prompts", "receipt", "steer", "tokenizer", "vectors"}, {"torch", "typing_extensions"}
    ),
    "activations.py": Room({"model", "prompts", "variants"}, {"torch"}),
    "directions.py": Room(set(), {"torch"}),
    "extract.py": Room(
        {"activations", "directions", "health", "model", "pairs", "prompts", "provenance", "tokenizer", "vectors"},
        {"numpy", "torch", "typing_extensions"},
    ),
    "pairs.py": Room({"activations", "model", "prompts", "provenance", "tokenizer"}, {"torch", "typing_extensions"}),
    "strength.py": Room({"activations", "model", "steer"}, {"torch"}),
    "variants.py": Room({"model", "prompts"}, {"torch"}),
    "heads.py": Room(
        {
            "activations",
            "files",
            "health",
            "identity",
            "model",
            "prompts",
            "provenance",
            "tokenizer",
            "variants",
            "vectors",
        },
        {"torch", "safetensors"},
    ),
    "interventions.py": Room({"activations", "model", "prompts", "receipt", "steer"}, {"torch"}),
    "calibrate.py": Room({"activations", "metrics", "model", "prompts", "steer"}, {"torch"}),
    "formats.py": Room({"files", "gguf_file", "layouts", "model", "provenance", "vectors"}, {"torch", "gguf"}),
    "metrics.py": Room(set(), {"torch", "numpy"}),
    "batches.py": Room({"activations", "prompts"}, {"torch"}),
    "sweep.py": Room(
        {
            "activations",
            "batches",
            "files",
            "identity",
            "model",
            "prompts",
            "provenance",
            "steer",
            "variants",
            "vectors",
        },
        {"torch", "tqdm"},
    ),
    "options.py": Room({"hub", "model"}, set()),
    "verbs.py": Room(
        {
            "calibrate",
            "checkpoint",
            "extract",
            "formats",
            "hub",
            "model",
            "options",
            "pairs",
            "prompts",
            "steer",
            "sweep",
            "tokenizer",
            "vectors",
        },
        set(),
    ),
    "cli.py": Room(None, {"torch", "numpy", "tqdm"}),
    "__main__.py": Room({"cli"}, set()),
    "__init__.py": Room(None, set()),
    "lab/__init__.py": Room(set(), set()),
    "lab/data/__init__.py": Room(set(), set()),
    "lab/data/balance.py": Room({"lab.data"}, set()),
    "lab/experiment.py": Room(
        {"checkpoint", "files", "identity", "model", "pack", "provenance", "receipt", "tokenizer", "vectors"},
        {"tqdm", "IPython"},
    ),
    "lab/estimate.py": Room({"checkpoint", "files", "layouts", "model", "options", "pack"}, {"torch"}),
    "lab/claims.py": Room({"model", "lab.intervals"}, set()),
    "lab/intervals.py": Room({"metrics", "model"}, {"numpy", "scipy"}),
    "lab/complexity.py": Room({"lab.antonyms", "lab.claims", "lab.data"}, {"numpy"}),
    "lab/answers.py": Room(
        {
            "activations",
            "extract",
            "interventions",
            "metrics",
            "model",
            "prompts",
            "steer",
            "sweep",
            "tokenizer",
            "variants",
            "vectors",
        },
        {"torch", "numpy"},
    ),
    "lab/protocol.py": Room(
        {
            "extract",
            "generate",
            "interventions",
            "metrics",
            "model",
            "receipt",
            "steer",
            "vectors",
            "lab.answers",
            "lab.experiment",
        },
        {"torch"},
    ),
    "lab/antonyms.py": Room(
        {
            "extract",
            "metrics",
            "model",
            "tokenizer",
            "vectors",
            "lab.answers",
            "lab.claims",
            "lab.data",
            "lab.experiment",
            "lab.protocol",
        },
        {"numpy"},
    ),
    "lab/texts.py": Room(
        {"generate", "metrics", "model", "steer", "tokenizer", "vectors", "lab.answers", "lab.data", "lab.experiment"},
        {"torch"},
    ),
    "lab/values.py": Room(
        {
            "extract",
            "metrics",
            "steer",
            "vectors",
            "lab.answers",
            "lab.claims",
            "lab.data",
            "lab.experiment",
            "lab.figures",
            "lab.protocol",
        },
        {"numpy"},
    ),
    "lab/pronouns.py": Room(
        {"extract", "metrics", "receipt", "vectors", "lab.answers", "lab.data", "lab.experiment", "lab.protocol"},
        {"numpy"},
    ),
    "lab/facts.py": Room({"metrics", "lab.answers", "lab.data", "lab.experiment", "lab.protocol"}, {"numpy"}),
    "lab/tradeoff.py": Room({"metrics", "lab.experiment", "lab.facts", "lab.pronouns", "lab.protocol"}, {"numpy"}),
    "lab/persona.py": Room({"files", "hub", "model"}, set()),
    "lab/behaviours.py": Room(
        {
            "extract",
            "generate",
            "metrics",
            "model",
            "pairs",
            "prompts",
            "provenance",
            "receipt",
            "steer",
            "sweep",
            "tokenizer",
            "variants",
            "vectors",
            "lab.data",
            "lab.experiment",
            "lab.persona",
            "lab.protocol",
        },
        {"torch", "numpy"},
    ),
    "lab/atlas.py": Room({"metrics", "model", "lab.claims", "lab.intervals"}, {"numpy"}),
    "lab/atlas_page.py": Room({"lab.atlas", "lab.claims", "lab.page"}, set()),
    "lab/price.py": Room({"metrics", "model", "tokenizer", "vectors", "lab.behaviours", "lab.tradeoff"}, {"numpy"}),
    "lab/words_against.py": Room(
        {"metrics", "model", "tokenizer", "vectors", "lab.behaviours", "lab.data", "lab.tradeoff"}, set()
    ),
    "lab/long_context.py": Room({"metrics", "model", "tokenizer", "vectors", "lab.behaviours", "lab.data"}, {"numpy"}),
    "lab/privacy.py": Room(
        {"directions", "extract", "model", "pairs", "tokenizer", "vectors", "lab.behaviours", "lab.protocol"},
        {"numpy", "torch"},
    ),
    "lab/figures.py": Room({"files", "metrics", "model"}, {"matplotlib", "numpy"}),
    "lab/page.py": Room({"files", "lab.claims"}, set()),
    "lab/report.py": Room({"files", "lab.claims", "lab.page"}, set()),
    "play/__init__.py": Room(set(), set()),
    "play/asked.py": Room({"model", "pairs", "steer"}, set()),
    "play/words.py": Room({"model", "receipt", "steer", "play.asked"}, set()),
    "play/session.py": Room(
        {
            "extract",
            "formats",
            "generate",
            "layouts",
            "metrics",
            "model",
            "prompts",
            "provenance",
            "receipt",
            "steer",
            "strength",
            "tokenizer",
            "vectors",
            "sweep",
            "play.asked",
            "play.words",
        },
        {"torch"},
    ),
    "play/server.py": Room({"model", "play.session"}, {"anyio", "starlette", "uvicorn"}),
    "lab/record.py": Room({"files", "lab.claims", "lab.experiment", "lab.page", "lab.report"}, set()),
    "lab/published.py": Room({"metrics", "model", "prompts", "steer", "tokenizer", "vectors", "lab.data"}, {"torch"}),
}
# not installed with the package itself
EXTRAS = {"matplotlib", "scipy", "tqdm", "IPython", "huggingface_hub", "transformers", "gguf", "jinja2", "tokenizers"}
EXTRAS |= {"anyio", "starlette", "uvicorn"}

NOT_AT_IMPORT = "global setting changed at import"
GLOBAL_SETTINGS = {"set_default_dtype", "set_default_device", "set_grad_enabled", "manual_seed", "seed"}


def imports(tree: ast.AST, file: str) -> tuple[set[str], set[str]]:
    """Rooms of the package and top-level names of other packages that a file imports, wherever in it."""
    here = ["ministeer", *Path(file).parent.parts]
    rooms, outside = set(), set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = here[: len(here) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            names = [f"{module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            top, *rest = name.split(".")
            if top == "ministeer":
                rooms.add(".".join(rest[: 2 if rest[0] in ("lab", "play") else 1]) if rest else "")
            elif top not in sys.stdlib_module_names:
                outside.add(top)
    return rooms, outside


def name_of(file: str) -> str:
    """The room of a file as `imports` names it: `model`, `lab.experiment`, `lab.data`."""
    return file.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def called(node: ast.Call) -> str:
    """The dotted name a call is made by, as far as it is written as names: `torch.load`, `eval`, `?.manual_seed`."""
    parts, f = [], node.func
    while isinstance(f, ast.Attribute):
        parts.append(f.attr)
        f = f.value
    return (
        ".".join([f.id if isinstance(f, ast.Name) else "?", *reversed(parts)])
        if parts or isinstance(f, ast.Name)
        else ""
    )


def misdeeds(tree: ast.Module) -> list[str]:
    """What no room may do: hooks, text run as code, pickles, settings of torch that outlive a call."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            names = [alias.name for alias in node.names]
            names += [node.module] if isinstance(node, ast.ImportFrom) and node.module else []
            for name in names:
                if name.split(".")[0] in ("pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"):
                    found.append(f"pickle: imports {name}, line {node.lineno}")
        if isinstance(node, ast.Attribute) and node.attr.startswith("register_") and "hook" in node.attr:
            found.append(f"hook: {node.attr}, line {node.lineno}")
        if not isinstance(node, ast.Call):
            continue
        name = called(node)
        last = name.rsplit(".", 1)[-1]
        if name in ("exec", "eval", "compile", "builtins.exec", "builtins.eval", "__import__"):
            found.append(f"code from text: {name}, line {node.lineno}")
        elif name in ("torch.load", "torch.save"):
            found.append(f"pickle: {name}, line {node.lineno}")
        elif name.startswith(("torch.", "random.", "np.random.", "numpy.random.")) and last in GLOBAL_SETTINGS:
            found.append(f"global setting: {name}, line {node.lineno}")
    for node in at_import(tree):
        if isinstance(node, ast.Call) and called(node).startswith("torch."):
            last = called(node).rsplit(".", 1)[-1]
            if last.startswith(("set_", "use_", "enable_")):
                found.append(f"{NOT_AT_IMPORT}: {called(node)}, line {node.lineno}")
        if isinstance(node, ast.Assign) and any(ast.unparse(t).startswith("torch.backends") for t in node.targets):
            found.append(f"{NOT_AT_IMPORT}: {ast.unparse(node)}, line {node.lineno}")
    return found


ARCHITECTURES = {
    "model.py",
    "llama.py",
    "checkpoint.py",
    "layouts.py",
    "gguf_model.py",
}  # they, and those that load them
OF_ONE = re.compile(
    r"(?<![a-z_])(n_embd|n_positions|n_inner|c_attn|c_proj|c_fc|wpe|gelu|rope|silu|(GPT2|Llama)(Config|Attention)?\b)"
)


def of_one_architecture(tree: ast.Module) -> list[str]:
    """The words of GPT-2 or of Llama that a file says in code: names, attributes, keywords, strings that are no docstrings."""
    docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    found = []
    for node in ast.walk(tree):
        said = [
            value for field in ("id", "attr", "arg", "name") if isinstance(value := getattr(node, field, None), str)
        ]
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
            said.append(node.value)
        found += [match.group() for text in said for match in OF_ONE.finditer(text)]
    return found


def at_import(node: ast.AST) -> list[ast.AST]:
    """Every node that runs when the file is imported: all but the bodies of functions."""
    found = []
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            found += [child, *at_import(child)]
    return found


def files() -> dict[str, ast.Module]:
    return {
        path.relative_to(PACKAGE).as_posix(): ast.parse(path.read_text(encoding="utf-8"))
        for path in sorted(PACKAGE.rglob("*.py"))
    }


FILES = files()


def test_every_file_of_the_package_has_a_rule() -> None:
    unknown = set(FILES) - set(ROOMS)
    assert not unknown, f"add {sorted(unknown)} to ROOMS in {Path(__file__).name}, with what each may import"
    assert "model.py" in FILES


@pytest.mark.parametrize("file", FILES)
def test_a_room_imports_only_what_its_rule_allows(file: str) -> None:
    if file not in ROOMS:
        pytest.fail(f"{file} has no line in ROOMS")
    room = ROOMS[file]
    rooms, outside = imports(FILES[file], file)
    known = {name_of(file) for file in ROOMS}
    if room.rooms is not None:
        # a name imported from the package itself that is no room is a function of some room: it has to say which
        assert rooms <= room.rooms, f"{file} may import {sorted(room.rooms) or 'no room'}, and imports {sorted(rooms)}"
    elif file != "__init__.py":
        assert rooms <= known, f"{file} imports {sorted(rooms - known)} from the package: name the room it comes from"
    assert outside <= room.outside, f"{file} may import {sorted(room.outside)}, and imports {sorted(outside)}"


@pytest.mark.parametrize("file", [file for file in FILES if not file.startswith("lab/")])
def test_the_library_knows_nothing_of_the_laboratory_and_the_playground(file: str) -> None:
    """But for the command, which opens the playground and asks the laboratory for an estimate."""
    rooms, _ = imports(FILES[file], file)
    others = {"lab"} if file.startswith("play/") else {"lab", "play"} - ({"lab", "play"} if file == "cli.py" else set())
    assert [room for room in rooms if room.split(".")[0] in others] == []


@pytest.mark.parametrize("file", FILES)
def test_no_room_does_what_none_may(file: str) -> None:
    # lm-evaluation-harness reads no other file, and nothing is read back; what is compiled is compared and never run
    allowed = {"formats.py": "pickle: torch.save", "source.py": "code from text: compile"}
    assert [misdeed for misdeed in misdeeds(FILES[file]) if not misdeed.startswith(allowed.get(file, "nothing"))] == []


@pytest.mark.parametrize("file", [file for file in FILES if file not in ARCHITECTURES])
def test_no_room_knows_an_architecture(file: str) -> None:
    """What it needs of a model, every model answers. If it cannot do without, the contract lacks a word.

    Allowed are activations by their names, which oneDNN has too, and the sizes of GPT-2s on the hub.
    """
    allowed = {
        "pack.py": {"gelu", "silu"},
        "lab/estimate.py": {"GPT2Config"},
        "__init__.py": {"GPT2", "GPT2Config", "Llama", "LlamaConfig"},
    }
    assert set(of_one_architecture(FILES[file])) <= allowed.get(file, set())


def test_the_arrows_make_no_circle() -> None:
    """In the rules themselves, so that no pair of them can allow one."""
    rules = {name_of(file): room.rooms or set() for file, room in ROOMS.items()}
    order: list[str] = []
    while len(order) < len(rules):
        free = [name for name, needs in rules.items() if name not in order and needs <= set(order)]
        assert free, f"a circle among {sorted(set(rules) - set(order))}"
        order += free


def test_the_package_imports_without_its_extras() -> None:
    """Someone who installs it bare gets no ImportError before asking for a figure or a download."""
    block = "".join(f"sys.modules[{name!r}] = None; " for name in sorted(EXTRAS))
    command = f"import sys; sys.path.insert(0, {str(PACKAGE.parent)!r}); {block}import ministeer, ministeer.model"
    done = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr


def test_loading_and_steering_wait_for_no_compiler() -> None:
    """torch imports its compiler, a second's work, where a normal draw meets the meta device, and elsewhere unasked."""
    command = (
        f"import sys; sys.path.insert(0, {str(PACKAGE.parent)!r}); import ministeer; from ministeer import Steer; "
        "model, tok = ministeer.load('nano'); steer = Steer(model.wte.weight[5], ('pre', 1), 2.0); "
        "ministeer.generate(model, [tok.eot], max_new_tokens=2, steer=steer); print('torch._dynamo' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout == "False\n", done.stderr


# --- the reader itself ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "rooms", "outside"),
    [
        ("from .model import GPT2", {"model"}, set()),
        ("from . import model, vectors", {"model", "vectors"}, set()),
        ("from ministeer.model import GPT2", {"model"}, set()),
        ("import ministeer.model as m", {"model"}, set()),
        ("from ministeer import load", {"load"}, set()),
        ("import ministeer", {""}, set()),
        ("from ministeer.lab.experiment import Experiment", {"lab.experiment"}, set()),
        ("from ministeer.lab import data, report", {"lab.data", "lab.report"}, set()),
        ("import ministeer.lab.data.tables", {"lab.data"}, set()),
        ("from ministeer import lab", {"lab"}, set()),
        ("from ministeer.play import server", {"play.server"}, set()),
        ("from .lab.data import read", {"lab.data"}, set()),
        ("def f():\n    from .generate import generate", {"generate"}, set()),
        ("if TYPE_CHECKING:\n    from .tokenizer import Tokenizer", {"tokenizer"}, set()),
        ("import torch.nn.functional as F, json", set(), {"torch"}),
        ("from tests.reference import pair", set(), {"tests"}),
        ("import examples", set(), {"examples"}),
    ],
)
def test_imports_are_read(code: str, rooms: set[str], outside: set[str]) -> None:
    assert imports(ast.parse(code), "some.py") == (rooms, outside)


@pytest.mark.parametrize(
    ("file", "rooms"),
    [
        ("lab/some.py", {"model", "lab.facts", "lab.data"}),
        ("lab/data/__init__.py", {"lab.model", "lab.data"}),
    ],
)
def test_imports_are_read_in_a_folder_of_the_package(file: str, rooms: set[str]) -> None:
    code = "from ..model import GPT2\nfrom . import facts\nfrom .data import read"
    assert imports(ast.parse(code), file)[0] == rooms


@pytest.mark.parametrize(
    "code",
    [
        "block.register_forward_hook(f)",
        "hook = block.register_forward_pre_hook",
        "torch.nn.modules.module.register_module_forward_hook(f)",
        "x.register_hook(f)",
        "exec(text)",
        "def f():\n    return eval(text)",
        "import pickle",
        "def f():\n    from pickle import loads",
        "def f():\n    return torch.load(path)",
        "torch.save(x, path)",
        "torch.set_default_dtype(torch.bfloat16)",
        "def f():\n    torch.set_grad_enabled(False)",
        "def f():\n    torch.manual_seed(0)",
        "torch.cuda.manual_seed(0)",
        "torch.set_num_threads(1)",
        "class A:\n    torch.use_deterministic_algorithms(True)",
        "torch.backends.cuda.matmul.allow_tf32 = True",
        "np.random.seed(0)",
    ],
)
def test_misdeeds_are_seen(code: str) -> None:
    assert misdeeds(ast.parse(code)) != []


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("isinstance(model, GPT2)", ["GPT2"]),
        ("from ministeer.model import GPT2Config as C", ["GPT2Config"]),
        ("match model:\n    case Llama():\n        pass", ["Llama"]),
        ("x = model.config.n_embd", ["n_embd"]),
        ("f(n_positions=3)", ["n_positions"]),
        ("getattr(block, 'attn.c_proj')", ["c_proj"]),
        ("def f():\n    'The wpe of a GPT2.'\n    return model.config.width", []),
        ("{'llama': 'layers.{}', 'gpt2': 'h.{}'}", []),
        ("width_n_embd = Llamas", []),
    ],
)
def test_words_of_one_architecture_are_seen(code: str, words: list[str]) -> None:
    assert of_one_architecture(ast.parse(code)) == words


@pytest.mark.parametrize(
    "code",
    [
        "model.eval()",
        "generator = torch.Generator().manual_seed(0)",
        "def f(seed):\n    g = torch.Generator()\n    g.manual_seed(seed)",
        "pattern = re.compile('a')",
        "x = torch.zeros(3)",
        "def work():\n    torch.set_num_threads(1)",
        "safetensors.torch.load_file(path)",
        "self.register_buffer('mask', x)",
    ],
)
def test_what_is_allowed_is_not_taken_for_a_misdeed(code: str) -> None:
    assert misdeeds(ast.parse(code)) == []
