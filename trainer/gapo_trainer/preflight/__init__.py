"""Opens what a manifest names before anything trains: its data, line by line, and its models."""

from __future__ import annotations

import gc
import multiprocessing
import signal
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import ParamSpec, TypeVar

from gapo.api.load import MODELS, LoadedRun
from gapo.api.run import GapoRunSpec
from gapo.preflight import Finding
from gapo.tasks import models_of
from gapo_trainer.preflight.data import check_data
from gapo_trainer.preflight.texts import Texts, counted
from gapo_trainer.user_files import Opener

P = ParamSpec("P")
T = TypeVar("T")


def check(loaded: LoadedRun) -> list[Finding]:
    """The entry point of `gapo validate`: what this machine's files show. Nothing is downloaded."""
    spec = loaded.spec
    if not models_of(spec):
        return check_data(spec, open=None)
    written = {section: (loaded.written.get(section) or {}).get("model") for section in MODELS}
    of_pods = {f"{section}.model" for section, model in written.items() if str(model).startswith("/")}
    # Reading every line takes seconds, and so does importing the library that opens models: one beside the other.
    with _without_collection(), _beside(_look_at_data, spec) as data:
        from gapo_trainer.preflight.models import check_models

        of_models = check_models(spec, open=None, into=None, texts=lambda: data()[1], of_pods=of_pods)
        return [*data()[0], *of_models]


def _look_at_data(spec: GapoRunSpec) -> tuple[list[Finding], Texts]:
    return check_data(spec, open=None), counted(spec)


@contextmanager
def _without_collection() -> Iterator[None]:
    """Imports make a million objects that all stay; looking for garbage among them takes a seventh of the time."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


@contextmanager
def _beside(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Iterator[Callable[[], T]]:
    """Calls `function` in a process of its own; gives what waits for its result or raises its error.

    The process is forked, for one that is started anew would import everything again; other systems than Linux cannot
    fork safely, and there the function is called where its result is asked for.
    """
    if sys.platform != "linux":
        yield cache(lambda: function(*args, **kwargs))
        return
    own = multiprocessing.get_context("fork")
    with ProcessPoolExecutor(1, mp_context=own, initializer=_leave_ctrl_c_to_the_command) as process:
        yield process.submit(function, *args, **kwargs).result


def _leave_ctrl_c_to_the_command() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def check_models_of(spec: GapoRunSpec, *, open: Opener, into: Path) -> list[Finding]:
    """Findings over a spec's models alone, for the `data` task, which checks its data as it reads them.

    `open` gives folders of object storage, `into` is where models are downloaded to.
    """
    if not models_of(spec):
        return []  # nothing to open: the library that opens models takes seconds to import
    from gapo_trainer.preflight.models import check_models

    return check_models(spec, open=open, into=into)
