"""What is a file's fault, and what the machine's while a file is read: one list for both."""

from __future__ import annotations

import errno
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager

import httpx2
import pytest
import torch
from tokenizers import Tokenizer

from gapo.errors import DataError, DiskFullError, RetryableError, UnforeseenError
from gapo_trainer.file_errors import blamed
from gapo_trainer.runtime.errors import OutOfMemoryError, as_gapo_error


@contextmanager
def no_file_can_be_opened() -> Iterator[None]:
    """Every descriptor that this process may have is taken."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + 8, limits[1]))
    taken = []
    try:
        while True:
            taken.append(os.open(os.devnull, os.O_RDONLY))
    except OSError:
        yield
    finally:
        for descriptor in taken:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def test_memory_that_runs_out_while_weights_are_read_is_no_fault_of_theirs() -> None:
    with pytest.raises(RuntimeError, match="can't allocate memory") as raised, blamed("generator.model"):
        torch.empty(10**15)
    assert isinstance(as_gapo_error(raised.value), OutOfMemoryError)


def test_too_many_open_files_are_no_fault_of_a_tokenizers_file() -> None:
    with (
        pytest.raises(Exception, match=r"^Too many open files \(os error 24\)$") as raised,
        no_file_can_be_opened(),
        blamed("generator.model"),
    ):
        Tokenizer.from_file(os.devnull)
    assert type(as_gapo_error(raised.value)) is RetryableError


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (MemoryError(), OutOfMemoryError),
        (Exception("Cannot allocate memory (os error 12)"), OutOfMemoryError),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), OutOfMemoryError),
        (Exception("Input/output error (os error 5)"), RetryableError),
        (OSError(errno.ESTALE, "Stale file handle"), RetryableError),
        (ConnectionError("reset"), RetryableError),
        (httpx2.ReadTimeout("slow"), RetryableError),
        (Exception("Disk quota exceeded (os error 122)"), DiskFullError),
    ],
    ids=repr,
)
def test_what_the_machine_lacks_goes_through_as_it_is(error: Exception, kind: type[RetryableError]) -> None:
    with pytest.raises(type(error)) as raised, blamed("generator.model: model.safetensors"):
        raise error
    assert raised.value is error
    assert type(as_gapo_error(error)) is kind


@pytest.mark.parametrize(
    "error",
    [
        ValueError("expected value\n  at line 1"),
        OSError("it looks like the config file is not valid"),
        FileNotFoundError(errno.ENOENT, "No such file or directory"),
        OSError(errno.ELOOP, "Too many levels of symbolic links"),
        Exception("No such file or directory (os error 2)"),
        RuntimeError("The size of tensor a (3) must match"),
    ],
    ids=repr,
)
def test_what_a_library_says_of_a_file_is_the_files_fault(error: Exception) -> None:
    with pytest.raises(DataError) as raised, blamed("generator.model: tokenizer.json"):
        raise error
    assert str(raised.value) == f"generator.model: tokenizer.json: {' '.join(str(error).split())}"


def test_an_error_without_words_is_told_by_its_kind() -> None:
    with pytest.raises(DataError, match=r"^config\.json: RecursionError$"), blamed("config.json"):
        raise RecursionError


def test_an_error_that_is_in_gapos_words_already_is_not_told_twice() -> None:
    original = UnforeseenError("said already")
    with pytest.raises(UnforeseenError) as raised, blamed("config.json"):
        raise original
    assert raised.value is original
