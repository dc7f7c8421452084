"""A GPT-2 you can read in one sitting, in which steering is a `+`."""

from ministeer import extract, metrics
from ministeer.generate import generate, prefill
from ministeer.model import GPT2, Cache, GPT2Config
from ministeer.vectors import Steer, SteeringVector
from ministeer.weights import load, load_model, save_model

__version__ = "0.1.0"
__all__ = [
    "GPT2",
    "Cache",
    "GPT2Config",
    "Steer",
    "SteeringVector",
    "extract",
    "generate",
    "load",
    "load_model",
    "metrics",
    "prefill",
    "save_model",
]
