"""For all lessons: `check` says whether an exercise is solved and never stops a lesson, `show` shows a figure."""

import traceback
from collections.abc import Callable
from typing import Any

tests: dict[str, Callable[[Callable[..., Any]], None]] = {}  # of each exercise met so far, by its function's name


def mistake(yours: Callable[..., Any], test: Callable[[Callable[..., Any]], None]) -> str:
    """What is wrong with an answer, in words; empty where the test passes."""

    def called(*given: Any) -> Any:
        found = yours(*given)
        assert found is not None, "it returns nothing so far"
        return found

    try:
        test(called)
    except AssertionError as error:
        return str(error) or "the check fails"
    except Exception as error:  # noqa: BLE001 - whatever a student's lines raise, the lesson goes on
        line = traceback.extract_tb(error.__traceback__)[-1].lineno
        return f"{type(error).__name__} in line {line}: {error}"
    return ""


def check(yours: Callable[..., Any]) -> Callable[[Callable[[Callable[..., Any]], None]], None]:
    """A decorator for the test of an exercise: it runs the test on your function and prints what came of it."""

    def run(test: Callable[[Callable[..., Any]], None]) -> None:
        tests[yours.__name__] = test
        wrong = mistake(yours, test)
        print(f"{yours.__name__}: " + (f"not yet: {wrong}" if wrong else "right"))

    return run


def by_hand(model: Any) -> Any:
    """A model like this one without tapes and adds, for an exercise that asks to do without."""

    class ByHand:
        def __getattr__(self, name: str) -> Any:
            return getattr(model, name)

        def __call__(self, ids: Any, **given: Any) -> Any:
            return model(ids, **refused(given))

        def stream(self, ids: Any, **given: Any) -> Any:
            return model.stream(ids, **refused(given))

    def refused(given: dict[str, Any]) -> dict[str, Any]:
        names = [name for name in ("tape", "adds") if given.get(name) is not None]
        assert not names, f"this time without `{names[0]}`: run embed and the blocks yourself"
        return given

    return ByHand()


def show() -> None:
    """The figure drawn last, in a notebook or on a screen; without either, a line that says so."""
    import matplotlib.pyplot as plt

    if plt.get_backend().lower() == "agg":
        print("(a figure was drawn; there is no screen to show it on)")
    else:
        plt.show()
    plt.close("all")
