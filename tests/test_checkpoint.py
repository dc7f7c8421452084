"""Weights: the same logits as transformers both ways, what loading costs, and every kind of bad file refused by name."""

from __future__ import annotations

import base64
import copy
import gc
import json
import os
import re
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from ministeer import checkpoint
from ministeer.initialize import initialize
from ministeer.layouts import LAYOUTS, Layout
from ministeer.model import GPT2, GPT2Config, Linear
from ministeer.provenance import fingerprint

ROOT = Path(checkpoint.__file__).parents[1]
CONFIG = GPT2Config(vocab_size=300, n_positions=32, n_embd=48, n_layer=2, n_head=3)
IDS = torch.tensor([[5, 299, 0, 17, 42, 17], [1, 2, 3, 4, 5, 6]])


def make(config: GPT2Config = CONFIG, seed: int = 0) -> GPT2:
    """A model whose every weight matters: biases and norms too are random."""
    model = GPT2(config)
    generator = torch.Generator().manual_seed(seed)
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=0.3, generator=generator)
    return model


def close(ours: torch.Tensor, theirs: torch.Tensor) -> bool:
    """Within 1e-4 of the largest logit."""
    return bool((ours - theirs).abs().max() <= 1e-4 * theirs.abs().max())


@pytest.fixture
def saved(tmp_path) -> Path:
    checkpoint.save_model(make(), tmp_path / "model", dtype=torch.float32)
    return tmp_path / "model"


@pytest.fixture(scope="module")
def peer(tmp_path_factory):
    """A random transformers GPT-2, its folder as transformers writes it, and its logits."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        vocab_size=300, n_positions=32, n_embd=48, n_layer=2, n_head=3, bos_token_id=299, eos_token_id=299
    )
    model = transformers.GPT2LMHeadModel(config).eval()
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=0.3)
    folder = tmp_path_factory.mktemp("peer")
    model.save_pretrained(folder)
    with torch.no_grad():
        return model, folder, model(IDS).logits


# --- what is loaded ---


def test_the_logits_of_transformers(peer):
    _, folder, logits = peer
    model = checkpoint.load_model(folder)
    assert close(model(IDS), logits)
    assert not model.training
    assert not any(weight.requires_grad for weight in model.parameters())


def test_a_missed_turn_of_the_square_projection_passes_every_shape_check_but_not_the_logits(peer, monkeypatch):
    _, folder, logits = peer
    turned = Layout.is_turned
    monkeypatch.setattr(Layout, "is_turned", lambda self, name: turned(self, name) and "attn.c_proj" not in name)
    assert not close(checkpoint.load_model(folder)(IDS), logits)


def test_shards_and_single_file_paths(peer, tmp_path):
    model, folder, logits = peer
    model.save_pretrained(tmp_path, max_shard_size="100KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    for name in (tmp_path, str(tmp_path), tmp_path / "model.safetensors.index.json", folder / "model.safetensors"):
        assert close(checkpoint.load_model(name)(IDS), logits)


def test_keys_of_every_age(saved):
    """With `transformer.`, with the head beside the embedding, with the causal mask's buffers."""
    tensors = load_file(saved / "model.safetensors")
    assert "h.0.attn.c_attn.weight" in tensors
    plain = checkpoint.load_model(saved)(IDS)
    old = {f"transformer.{name}": tensor for name, tensor in tensors.items()}
    old["lm_head.weight"] = tensors["wte.weight"].clone()
    for i in range(2):
        old[f"transformer.h.{i}.attn.bias"] = torch.ones(1, 1, 32, 32, dtype=torch.uint8).tril()
        old[f"transformer.h.{i}.attn.masked_bias"] = torch.tensor(-1e4)
    save_file(old, saved / "model.safetensors")
    assert torch.equal(checkpoint.load_model(saved)(IDS), plain)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_saved_and_loaded_is_bit_equal_in_the_saved_dtype(dtype, tmp_path):
    model = make()
    checkpoint.save_model(model, tmp_path, dtype=dtype)
    again = checkpoint.load_model(tmp_path, dtype=str(dtype).removeprefix("torch."))
    assert again.config == model.config
    for (name, weight), (other, loaded) in zip(model.state_dict().items(), again.state_dict().items(), strict=True):
        assert (name, loaded.dtype) == (other, dtype)
        assert torch.equal(weight.to(dtype), loaded)
    assert {weight.dtype for weight in checkpoint.load_model(tmp_path).parameters()} == {torch.float32}


def test_a_model_is_saved_in_its_own_dtype_unless_told(tmp_path):
    model = make()
    checkpoint.save_model(model, tmp_path)
    again = checkpoint.load_model(tmp_path)
    assert all(map(torch.equal, model.state_dict().values(), again.state_dict().values()))
    checkpoint.save_model(make().bfloat16(), tmp_path / "half")
    checkpoint.save_model(model, tmp_path / "named", dtype="bfloat16")
    files = [(tmp_path / folder / "model.safetensors").read_bytes() for folder in ("half", "named")]
    assert files[0] == files[1]
    with pytest.raises(ValueError, match="expected dtype 'float32'.*got torch.float64"):
        checkpoint.save_model(model, tmp_path, dtype=torch.float64)


def test_weights_that_the_dtype_cannot_hold_are_not_saved(saved):
    content = (saved / "model.safetensors").read_bytes()
    model = checkpoint.load_model(saved)
    model.ln_f.bias[0] = 1e6
    with pytest.raises(ValueError, match="can hold, got NaN, infinity or more .* in ln_f.bias; nothing was written"):
        checkpoint.save_model(model, saved, dtype="float16")
    assert (saved / "model.safetensors").read_bytes() == content


@pytest.mark.parametrize("on", [True, False])
def test_a_load_leaves_the_garbage_collector_out_and_then_as_it_was(on, saved, monkeypatch):
    during = []
    finite = checkpoint._check_finite
    monkeypatch.setattr(checkpoint, "_check_finite", lambda *given: (during.append(gc.isenabled()), finite(*given)))
    try:
        gc.enable() if on else gc.disable()
        checkpoint.load("nano"), checkpoint.load_model(saved)
        rewrite(saved, lambda t: t.pop("h.1.ln_2.weight"))
        refused(saved, "a tensor h.1.ln_2.weight of shape [48], found none")
        assert during and not any(during) and gc.isenabled() == on
    finally:
        gc.enable()


@pytest.mark.parametrize("device", ["gpu", "cuda:99", "meta", 3.5, ""])
def test_a_device_that_is_not_there_is_one_sentence(device, saved):
    with pytest.raises(ValueError, match=f'expected a device that torch can use here, such as "cpu", got "{device}"'):
        checkpoint.load_model(saved, device=device)


def test_the_same_model_gives_the_same_bytes_and_no_other_files(tmp_path):
    for folder in ("a", "b", "b"):
        checkpoint.save_model(make(), tmp_path / folder)
    assert sorted(path.name for path in (tmp_path / "b").iterdir()) == ["config.json", "model.safetensors"]
    for name in ("config.json", "model.safetensors"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_an_interrupted_save_leaves_what_was_there(saved, monkeypatch):
    before = {path.name: path.read_bytes() for path in saved.iterdir()}

    def full(*_: object, **__: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr("safetensors.torch.save_file", full)
    with pytest.raises(OSError, match="no space left"):
        checkpoint.save_model(make(seed=1), saved)
    assert {path.name: path.read_bytes() for path in saved.iterdir()} == before


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_transformers_loads_what_is_saved(dtype, tmp_path):
    transformers = pytest.importorskip("transformers")
    checkpoint.save_model(make(), tmp_path, dtype=dtype)
    theirs, report = transformers.GPT2LMHeadModel.from_pretrained(
        tmp_path, dtype=torch.float32, output_loading_info=True
    )
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert theirs.lm_head.weight is theirs.transformer.wte.weight
    assert theirs.config.eos_token_id == CONFIG.vocab_size - 1
    with torch.no_grad():
        assert close(checkpoint.load_model(tmp_path)(IDS), theirs.eval()(IDS).logits)
        assert torch.equal(theirs.train()(IDS).logits, theirs.eval()(IDS).logits), "no dropout"


def test_a_model_in_float32_stays_in_its_file_and_neither_changes_the_other(saved):
    model, file = checkpoint.load_model(saved), saved / "model.safetensors"
    before, content = model(IDS), file.read_bytes()
    checkpoint.save_model(make(seed=1), saved)  # another model of this name
    assert torch.equal(model(IDS), before)
    assert not torch.equal(checkpoint.load_model(saved)(IDS), before)
    checkpoint.save_model(model, saved)  # over what was read from here
    assert file.read_bytes() == content
    for weight in model.parameters():
        weight.zero_()
    assert not model(IDS).any()
    assert file.read_bytes() == content
    file.unlink()
    assert not model(IDS).any()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_file_with_a_header_of_odd_length_gives_numbers_at_whole_addresses(dtype, saved):
    """Early writers did not fill the header up to a multiple of 8."""
    checkpoint.save_model(checkpoint.load_model(saved), saved, dtype=dtype)
    expected = {name: weight.clone() for name, weight in checkpoint.load_model(saved).state_dict().items()}
    file = saved / "model.safetensors"
    content = file.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = content[8 : 8 + length].rstrip(b" ")
    for more in range(4):
        longer = header + b" " * more
        file.write_bytes(len(longer).to_bytes(8, "little") + longer + content[8 + length :])
        model = checkpoint.load_model(saved)
        assert all(torch.equal(weight, expected[name]) for name, weight in model.state_dict().items())
        assert all(weight.data_ptr() % weight.element_size() == 0 for weight in model.parameters())


def test_matrices_lie_as_is_quickest_in_their_dtype(saved):
    for dtype, turned in (("float32", False), ("bfloat16", True), ("float16", True)):
        model = checkpoint.load_model(saved, dtype=dtype)
        for name, weight in model.named_parameters():
            lies = weight if turned or not LAYOUTS[GPT2Config].is_turned(name) else weight.t()
            assert lies.is_contiguous()
            assert weight.dtype == checkpoint.DTYPES[dtype]


def test_load_gives_the_folders_tokenizer(saved):
    with pytest.raises(ValueError, match="vocab.tiktoken"):
        checkpoint.load(saved)
    lines = (base64.b64encode(bytes([b])) + b" %d\n" % b for b in range(256))
    (saved / "vocab.tiktoken").write_bytes(b"".join(lines))
    model, tok = checkpoint.load(saved)
    assert torch.equal(model(IDS), checkpoint.load_model(saved)(IDS))
    assert (tok.n_vocab, tok.encode("ab")) == (257, [97, 98])
    assert checkpoint.load(saved / "model.safetensors")[1].n_vocab == 257


def test_the_ids_that_end_an_answer_come_back_as_they_were_saved(saved, tmp_path):
    lines = (base64.b64encode(bytes([b])) + b" %d\n" % b for b in range(256))
    (saved / "vocab.tiktoken").write_bytes(b"".join(lines))
    (saved / "generation_config.json").write_text('{"eos_token_id": [256, 10, 13]}')
    model, tok = checkpoint.load(saved)
    assert tok.stop == (256, 10, 13)
    checkpoint.save_model(model, tmp_path / "again", tokenizer=tok)
    assert checkpoint.load(tmp_path / "again")[1].stop == tok.stop
    tok.stop = (46,)  # one, and not the end of a text
    checkpoint.save_model(model, tmp_path / "one", tokenizer=tok)
    assert 46 in checkpoint.load(tmp_path / "one")[1].stop
    checkpoint.save_model(model, tmp_path / "bare")  # whose config has a single one, the last id, by default
    tok.save(tmp_path / "bare")
    assert checkpoint.load(tmp_path / "bare")[1].stop == (256,)


def test_a_vocabulary_that_load_would_prefer_is_not_left_beside_another(saved):
    lines = [base64.b64encode(bytes([b])) + b" %d\n" % b for b in range(256)]
    (saved / "vocab.tiktoken").write_bytes(b"".join(lines))
    model, tok = checkpoint.load(saved)
    checkpoint.save_model(model, saved, tokenizer=tok)  # its own: both say the same
    (saved / "vocab.tiktoken").write_bytes(b"".join(lines) + base64.b64encode(b"ab") + b" 256\n")
    before = {path.name: path.read_bytes() for path in saved.iterdir()}
    with pytest.raises(
        ValueError, match="vocab.tiktoken: expected the vocabulary of the tokenizer to save, found anoth"
    ):
        checkpoint.save_model(model, saved, tokenizer=tok)
    assert {path.name: path.read_bytes() for path in saved.iterdir()} == before


def test_nano_is_found_in_an_installed_package_from_any_folder(saved, tmp_path):
    package = tmp_path / "site" / "ministeer"
    shutil.copytree(Path(checkpoint.__file__).parent, package, ignore=shutil.ignore_patterns("nano", "__pycache__"))
    checkpoint.save_model(make(GPT2Config(257, 8, 8, 1, 2)), package / "nano")
    lines = (base64.b64encode(bytes([b])) + b" %d\n" % b for b in range(256))
    (package / "nano" / "vocab.tiktoken").write_bytes(b"".join(lines))
    code = "from ministeer import checkpoint; m, t = checkpoint.load('nano'); print(m.config.n_embd, m.wte.weight.dtype, t.n_vocab)"
    env = {**os.environ, "PYTHONPATH": str(package.parent)}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=env, capture_output=True, text=True, check=False
    )
    assert done.stdout == "8 torch.float32 257\n", done.stderr


MEASURE = """
import sys
from ministeer import checkpoint
def status(key):
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(key)) / 1024
for dtype in ("float32", "bfloat16"):
    checkpoint.load_model(sys.argv[2], dtype=dtype)  # the code that every load uses is in memory now
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")  # the peak starts again from here
    before = status("VmHWM")
    own = status("RssAnon")
    model = checkpoint.load_model(sys.argv[1], dtype=dtype)
    print(status("VmHWM") - before, status("RssAnon") - own)
    del model
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="reads the peak from Linux's /proc")
def test_loading_needs_the_model_and_one_tensor(saved, tmp_path):
    """By the peak of resident memory, which counts the pages of the mapped file too, not only the process's own."""
    with torch.device("meta"):
        model = GPT2(GPT2Config(vocab_size=20000, n_positions=64, n_embd=640, n_layer=8, n_head=10))
    initialize(model.to_empty(device="cpu"), torch.Generator().manual_seed(0))
    checkpoint.save_model(model, tmp_path / "large", dtype=torch.float32)
    count = sum(weight.numel() for weight in model.parameters())
    largest = max(weight.numel() for weight in model.parameters())
    command = [sys.executable, "-c", MEASURE, str(tmp_path / "large"), str(saved)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    spare = 12  # MiB, for the allocator and the headers
    for size, line in zip((4, 2), done.stdout.splitlines(), strict=True):
        peak, own = map(float, line.split())
        assert count * size / 2**20 < peak < (count * size + largest * 4) / 2**20 + spare
        if size == 4:  # nothing is copied: these pages are the disk's cache
            assert own < spare
        else:
            assert own > 0.9 * count * size / 2**20


# --- what is refused ---


def rewrite(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


def configure(folder: Path, **entries: object) -> None:
    config = json.loads((folder / "config.json").read_text()) | entries
    (folder / "config.json").write_text(json.dumps({k: v for k, v in config.items() if v != "absent"}))


def refused(name: Path, *parts: str, kind: type[Exception] = ValueError) -> None:
    """Refused in one line that names the file and says all of `parts`."""
    with pytest.raises(kind) as caught:
        checkpoint.load_model(name)
    message = str(caught.value)
    assert "\n" not in message
    for part in (str(name), "expected", *parts):
        assert part in message, message


def cut(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def lie(folder: Path) -> None:
    """The header says that a tensor ends later than it does."""
    path = folder / "model.safetensors"
    data = path.read_bytes()
    length = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8 : 8 + length])
    header["wpe.weight"]["data_offsets"][1] += 4096
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + length :])


def long_header(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(struct.pack("<Q", 2**60) + path.read_bytes()[8:])


@pytest.mark.parametrize("damage", [cut, lie, long_header, lambda f: (f / "model.safetensors").write_bytes(b"")])
def test_damaged_files(damage, saved):
    damage(saved)
    size = (saved / "model.safetensors").stat().st_size
    refused(saved, "model.safetensors", f"header fits its {size} bytes", "download or save it again")


@given(place=st.integers(0, 4000), byte=st.integers(0, 255))
@settings(deadline=None, max_examples=100)
def test_any_other_byte_in_the_header_is_loaded_or_refused_and_never_something_else(tmp_path_factory, place, byte):
    folder = tmp_path_factory.getbasetemp() / "flipped"
    if not folder.exists():
        checkpoint.save_model(make(GPT2Config(16, 8, 8, 1, 2)), folder)
        shutil.copy(folder / "model.safetensors", folder / "whole")
    data = bytearray((folder / "whole").read_bytes())
    data[place % len(data)] = byte
    (folder / "model.safetensors").write_bytes(data)
    try:
        checkpoint.load_model(folder)
    except ValueError as error:
        assert str(folder) in str(error)


@pytest.mark.parametrize("dtype", [torch.int64, torch.float64, torch.float8_e4m3fn, torch.bool])
def test_wrong_dtype(dtype, saved):
    rewrite(saved, lambda t: t.update({"h.1.mlp.c_fc.bias": t["h.1.mlp.c_fc.bias"].to(dtype)}))
    refused(saved, "h.1.mlp.c_fc.bias in F32, BF16, F16", "convert it")


@pytest.mark.parametrize("change", ["a block less", "parametrised", "a head of its own"])
def test_a_model_that_its_config_does_not_describe_is_not_written(change, tmp_path):
    model = make()
    if change == "a block less":
        del model.blocks[0]
    elif change == "parametrised":
        torch.nn.utils.parametrize.register_parametrization(model.blocks[0].mlp.c_fc, "weight", torch.nn.Identity())
    else:
        model.lm_head = copy.deepcopy(model.wte)
    with pytest.raises(ValueError, match="expected the weights that the model's config says, .*nothing was written"):
        checkpoint.save_model(model, tmp_path / "model")
    assert not (tmp_path / "model").exists()


class Doubled(Linear):
    """A matrix that multiplies by a buffer which is no part of the state."""

    def __init__(self, linear):
        super().__init__(*linear.weight.shape[::-1], bias=True)
        self.load_state_dict(linear.state_dict())
        self.register_buffer("factor", torch.tensor(2.0), persistent=False)

    def forward(self, x):
        return super().forward(self.factor * x)


def test_a_buffer_of_someone_elses_is_in_the_fingerprint_and_not_lost_in_silence(tmp_path):
    model = make()
    before = fingerprint(model)
    model.blocks[0].mlp.c_fc = Doubled(model.blocks[0].mlp.c_fc)
    assert fingerprint(model) != before
    with pytest.raises(ValueError, match="got a buffer blocks.0.mlp.c_fc.factor beside them, .*nothing was written"):
        checkpoint.save_model(model, tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_wrong_shape(saved):
    rewrite(saved, lambda t: t.update({"h.1.mlp.c_fc.weight": t["h.1.mlp.c_fc.weight"].t().contiguous()}))
    refused(saved, "h.1.mlp.c_fc.weight of shape [48, 192], found [192, 48]", "config.json")


def test_missing_tensor(saved):
    rewrite(saved, lambda t: t.pop("h.1.ln_2.weight"))
    refused(saved, "a tensor h.1.ln_2.weight of shape [48], found none")


def test_unknown_tensor(saved):
    rewrite(saved, lambda t: t.update({"h.2.ln_1.weight": torch.ones(48)}))
    refused(saved, "only GPT-2's tensors, found h.2.ln_1.weight of shape [48]")


def test_a_tensor_twice(saved):
    rewrite(saved, lambda t: t.update({"transformer.wpe.weight": t["wpe.weight"].clone()}))
    refused(saved, "each tensor once, found wpe.weight twice")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("name", ["wte.weight", "h.1.attn.c_proj.weight", "ln_f.bias"])
def test_values_that_are_not_finite(name, value, saved):
    rewrite(saved, lambda t: t[name].view(-1).__setitem__(7, value))
    refused(saved, f"finite numbers in {name}, found NaN or infinity", "download it again")


def test_two_infinities_do_not_cancel(saved):
    rewrite(saved, lambda t: t["ln_f.bias"].copy_(torch.tensor([float("inf"), -float("inf")] * 24)))
    refused(saved, "NaN or infinity")


def test_large_weights_whose_sum_overflows_are_not_refused(saved):
    rewrite(saved, lambda t: t["ln_f.bias"].fill_(3e38))
    assert checkpoint.load_model(saved).ln_f.bias[0] == torch.tensor(3e38)


def test_values_beyond_the_asked_dtype(saved):
    rewrite(saved, lambda t: t["ln_f.bias"].fill_(1e6))
    with pytest.raises(ValueError, match=r"ln_f.bias, found values beyond torch.float16; load with dtype=\"bfloat16\""):
        checkpoint.load_model(saved, dtype="float16")
    assert checkpoint.load_model(saved, dtype=torch.bfloat16).ln_f.bias.dtype == torch.bfloat16


def test_a_tied_head_in_another_dtype(saved):
    checkpoint.save_model(checkpoint.load_model(saved, dtype="bfloat16"), saved)
    rewrite(saved, lambda t: t.update({"lm_head.weight": t["wte.weight"].float()}))
    checkpoint.load_model(saved)
    rewrite(saved, lambda t: t["lm_head.weight"].add_(1e-3))
    refused(saved, "lm_head.weight equal to wte.weight", "tied head")


def test_an_untied_head(saved):
    rewrite(saved, lambda t: t.update({"lm_head.weight": t["wte.weight"] + 1e-3}))
    refused(saved, "lm_head.weight equal to wte.weight", "tied head")
    rewrite(saved, lambda t: [t[name].fill_(float("nan")) for name in ("wte.weight", "lm_head.weight")])
    refused(saved, "finite numbers in wte.weight")


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "model.pth", "model.ckpt"])
def test_a_pickle_is_refused_with_a_command_that_converts_it(name, saved, tmp_path):
    before = checkpoint.load_model(saved)(IDS)
    tensors = load_file(saved / "model.safetensors")
    tensors |= {"lm_head.weight": tensors["wte.weight"]}  # shared, as in the hub's files
    (saved / "model.safetensors").unlink()
    torch.save(tensors, saved / name)
    refused(saved / name, "pickles can run code", "python -c")
    with pytest.raises(ValueError, match="never opened") as caught:
        checkpoint.load_model(saved)
    command = re.search(r'python -c "(.*)"$', str(caught.value))
    assert command
    subprocess.run([sys.executable, "-c", command[1]], check=True)
    assert torch.equal(checkpoint.load_model(saved)(IDS), before)


def test_a_pickle_is_never_run(tmp_path):
    (tmp_path / "model.bin").write_bytes(b"cos\nsystem\n(S'touch " + bytes(tmp_path / "ran") + b"'\ntR.")
    refused(tmp_path / "model.bin")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", ["config.json", "README.md", "LICENSE"])
def test_a_file_that_is_neither_weights_nor_a_pickle_is_called_neither(name, saved):
    (saved / name).touch()
    found = Path(name).suffix or "another"
    with pytest.raises(ValueError, match=f"{name}: expected a .safetensors file, .*, found {found}; name") as caught:
        checkpoint.load_model(saved / name)
    assert "pickle" not in str(caught.value)


def test_paths_where_nothing_is(saved, tmp_path):
    names = '"nano", "gpt2", "gpt2-medium"', "owner/name on the hub"
    refused(tmp_path / "nowhere", *names, kind=FileNotFoundError)
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", "model.safetensors.index.json", kind=FileNotFoundError)
    (saved / "config.json").unlink()
    refused(saved, "the model's config.json", kind=FileNotFoundError)


def test_shards_that_are_not_there(saved):
    index = saved / "model.safetensors.index.json"
    (saved / "model.safetensors").rename(saved / "one.safetensors")
    index.write_text(json.dumps({"weight_map": {"wte.weight": "one.safetensors", "wpe.weight": "two.safetensors"}}))
    refused(saved, "two.safetensors: expected this shard", kind=FileNotFoundError)
    index.write_text(json.dumps({"weight_map": {"wte.weight": "sub/one.safetensors"}}))
    refused(index, "shards in the same folder, found 'sub/one.safetensors'")
    for content in ("{}", '{"weight_map": []}', '{"weight_map": {"a": 1}}'):
        index.write_text(content)
        refused(index, "weight_map")
    index.write_text("[]")
    refused(index, "a JSON object, found a list")
    index.write_bytes(b"\xff\xfe")
    refused(index, "expected JSON")


@pytest.mark.parametrize(
    ("entry", "value", "message"),
    [
        ("model_type", "mistral", 'expected model_type "gpt2" or "llama" or "qwen2", found \'mistral\'; only these'),
        ("model_type", "absent", "found None"),
        ("model_type", ["gpt2"], "found ['gpt2']"),
        (
            "activation_function",
            "swiglu",
            "expected activation_function gelu, relu, silu, gelu_new, ",
        ),
        ("activation_function", ["relu"], "found ['relu']"),
        ("scale_attn_by_inverse_layer_idx", "yes", "scale_attn_by_inverse_layer_idx true or false, found 'yes'"),
        ("add_cross_attention", True, "add_cross_attention False, found True; this variant of GPT-2 is not supported"),
        ("quantization_config", {"bits": 4}, "no quantization_config, found one; take the unquantised"),
        ("n_inner", 100, "of shape [48, 100], found [48, 192]; is the config.json beside it this model's?"),
        ("n_inner", 0, "n_inner to be a whole number above 0, found 0"),
        ("n_ctx", 33, "expected n_ctx 32, as n_positions, found 33; keep the right one"),
        ("n_layer", 1000, "expected tensors of 1000 layers, found 28 tensors in all"),
        ("vocab_size", 2**40, "vocab_size of at most 1048576, found 1099511627776"),
        ("n_layer", "absent", "expected n_layer, found no such entry"),
        ("n_head", 5, "expected n_embd to be a multiple of n_head=5, got 48"),
        ("n_embd", "48", "n_embd to be a whole number above 0, found '48'"),
        ("layer_norm_epsilon", "small", "layer_norm_epsilon between 0 and 1, found 'small'"),
    ],
)
def test_configs_that_are_not_this_gpt2(entry, value, message, saved):
    configure(saved, **{entry: value})
    refused(saved, "config.json", message)


def test_n_inner_may_say_what_it_is(saved):
    configure(saved, n_inner=192)
    assert checkpoint.load_model(saved).config == CONFIG


def test_the_context_by_its_older_name(saved):
    configure(saved, n_positions="absent")
    assert checkpoint.load_model(saved).config == CONFIG
    configure(saved, n_ctx="absent")
    refused(saved, "expected n_positions, found no such entry")


def test_unknown_dtypes(saved):
    for dtype in ("int8", torch.float64):
        with pytest.raises(ValueError, match="expected dtype 'float32', 'bfloat16', 'float16'"):
            checkpoint.load_model(saved, dtype=dtype)
