"""A GPT-2 you can read in one sitting, in which steering is a `+`."""

from ministeer import extract, formats, heads, interventions, metrics, pack
from ministeer.calibrate import calibrate
from ministeer.checkpoint import from_transformers, load, load_model, save_model
from ministeer.generate import generate, prefill, say
from ministeer.llama import Llama, LlamaConfig
from ministeer.model import GPT2, Cache, GPT2Config, Site, Transformer
from ministeer.receipt import Receipt
from ministeer.steer import Steer
from ministeer.sweep import sweep
from ministeer.vectors import SteeringVector

__version__ = "0.1.0"
__all__ = [
    "GPT2",
    "Cache",
    "GPT2Config",
    "Llama",
    "LlamaConfig",
    "Receipt",
    "Site",
    "Steer",
    "SteeringVector",
    "Transformer",
    "calibrate",
    "extract",
    "formats",
    "from_transformers",
    "generate",
    "heads",
    "interventions",
    "load",
    "load_model",
    "metrics",
    "pack",
    "prefill",
    "save_model",
    "say",
    "sweep",
]
