"""What a run shows while it works: a live line on a terminal, plain lines elsewhere. Knows no meaning."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

PLAIN_EVERY = 10.0
"""Seconds between lines where there is no terminal."""


class Display:
    """Progress bars on one console.

    Args:
        console: where to write; a live bar if it is a terminal, else a line every :data:`PLAIN_EVERY` seconds.
    """

    def __init__(self, console: Console) -> None:
        self.console = console

    @contextmanager
    def bar(self, label: str, total: int, unit: str) -> Iterator[Callable[[int, str], None]]:
        """A bar of ``total`` units; yields a function of (units done since last told, note to show)."""
        if self.console.is_terminal:
            with Progress(
                TextColumn("{task.description}"),
                BarColumn(bar_width=24),
                MofNCompleteColumn(),
                TextColumn("{task.fields[note]}"),
                TimeRemainingColumn(),
                console=self.console,
                transient=True,
            ) as progress:
                task = progress.add_task(label, total=total, note="")

                def tell(done: int, note: str) -> None:
                    progress.update(task, advance=done, note=note)

                yield tell
        else:
            yield _plain(self.console, label, total, unit)

    def watch(self, label: str, total: int) -> Callable[[int], None]:
        """For ``scoring.score_model``: a bar that closes itself when ``total`` is reached."""
        context = self.bar(f"scoring {label}", total, "problems")
        tell = context.__enter__()
        left = total

        def advance(done: int) -> None:
            nonlocal left
            tell(done, "")
            left -= done
            if left <= 0:
                context.__exit__(None, None, None)

        return advance


def _plain(console: Console, label: str, total: int, unit: str) -> Callable[[int, str], None]:
    begun = last = time.monotonic()
    done = 0

    def tell(more: int, note: str = "") -> None:
        nonlocal done, last
        done += more
        now = time.monotonic()
        if now - last >= PLAIN_EVERY or done >= total:
            last = now
            left = (now - begun) / max(done, 1) * (total - done)
            ending = f", {left:.0f} s left" if done < total else f", {now - begun:.0f} s"
            console.print(f"{label}: {done}/{total} {unit}{', ' + note if note else ''}{ending}", highlight=False)

    return tell


class TrainingProgress(TrainerCallback):
    """Loss, samples a second, peak memory and time left, for every optimiser step."""

    def __init__(self, display: Display) -> None:
        self.display = display
        self.loss_of: Callable[[], float] = lambda: float("nan")
        self._bar: Any = None
        self._tell: Callable[[int, str], None] = lambda done, note: None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if not state.is_world_process_zero:
            return
        self._samples = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
        self._begun, self._steps = time.monotonic(), 0
        self._bar = self.display.bar("training", state.max_steps - state.global_step, "steps")
        self._tell = self._bar.__enter__()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if self._bar is None:
            return
        self._steps += 1
        rate = self._steps * self._samples / (time.monotonic() - self._begun)
        note = f"loss {self.loss_of():.3f}, {rate:.1f} samples/s{_peak_memory()}"
        self._tell(1, note)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.close()

    def close(self) -> None:
        """Take the live line away; also after an error."""
        if self._bar is not None:
            self._bar.__exit__(None, None, None)
            self._bar = None


def _peak_memory() -> str:
    if not torch.cuda.is_available():
        return ""
    return f", peak {torch.cuda.max_memory_allocated() / 2**30:.1f} GiB"
