"""Shows the progress of a run: a live bar on a terminal, plain lines elsewhere. Does not know the work."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from lora_mm.console import to_text
from lora_mm.printable import to_printable

PLAIN_EVERY = 10.0
"""Seconds between two lines when the output is not a terminal."""


class Display:
    """Progress bars and lines of text on one console, which may be one that reads markup.

    Args:
        console: where to write. A terminal gets a live bar, anything else a line every :data:`PLAIN_EVERY` seconds.
    """

    def __init__(self, console: Console) -> None:
        self.console = console

    def say(self, line: str) -> None:
        """Print a line; texts from outside in it stay text."""
        self.console.print(to_text(line), soft_wrap=True)

    @contextmanager
    def bar(self, label: str, total: int, unit: str) -> Iterator[Callable[[int, str], None]]:
        """Show a bar inside the block.

        Args:
            label: text before the bar.
            total: number of units.
            unit: name of the units.

        Yields:
            A function that reports progress: units done since the last call, and a note to show.
        """
        if self.console.is_terminal:
            with Progress(
                TextColumn("{task.description}", markup=False),
                BarColumn(bar_width=24),
                MofNCompleteColumn(),
                TextColumn("{task.fields[note]}", markup=False),
                TimeRemainingColumn(),
                console=self.console,
                transient=True,
            ) as progress:
                task = progress.add_task(to_printable(label), total=total, note="")

                def report(done: int, note: str) -> None:
                    progress.update(task, advance=done, note=note)

                yield report
        else:
            yield _print_lines(self.say, label, total, unit)

    def watch(self, label: str, total: int) -> Callable[[int], None]:
        """Show a bar that closes itself when ``total`` is reached.

        Args:
            label: name of the model that is scored.
            total: number of problems.

        Returns:
            A function that reports the number of problems done since the last call.
        """
        context = self.bar(f"scoring {label}", total, "problems")
        report = context.__enter__()
        left = total

        def advance(done: int) -> None:
            nonlocal left
            report(done, "")
            left -= done
            if left <= 0:
                context.__exit__(None, None, None)

        return advance


def _print_lines(say: Callable[[str], None], label: str, total: int, unit: str) -> Callable[[int, str], None]:
    """Make the function of :meth:`Display.bar` that prints plain lines."""
    start = last = time.monotonic()
    done = 0

    def report(more: int, note: str = "") -> None:
        nonlocal done, last
        done += more
        now = time.monotonic()
        if now - last >= PLAIN_EVERY or done >= total:
            last = now
            left = (now - start) / max(done, 1) * (total - done)
            ending = f", {left:.0f} s left" if done < total else f", {now - start:.0f} s"
            say(f"{label}: {done}/{total} {unit}{', ' + note if note else ''}{ending}")

    return report


class TrainingProgress(TrainerCallback):
    """Shows loss, samples per second, peak memory and time left at every optimizer step.

    Attributes:
        loss_of: returns the loss of the last step; set by whoever owns the trainer.
    """

    def __init__(self, display: Display) -> None:
        self.display = display
        self.loss_of: Callable[[], float] = lambda: float("nan")
        self._bar: Any = None
        self._report: Callable[[int, str], None] = lambda done, note: None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Show the bar, on rank 0 only."""
        if not state.is_world_process_zero:
            return
        self._samples = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
        self._start, self._steps = time.monotonic(), 0
        self._bar = self.display.bar("training", state.max_steps - state.global_step, "steps")
        self._report = self._bar.__enter__()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Advance the bar by one optimizer step."""
        if self._bar is None:
            return
        self._steps += 1
        rate = self._steps * self._samples / (time.monotonic() - self._start)
        note = f"loss {self.loss_of():.3f}, {rate:.1f} samples/s{_peak_memory()}"
        self._report(1, note)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Remove the bar."""
        self.close()

    def close(self) -> None:
        """Remove the live bar; call it after errors too."""
        if self._bar is not None:
            self._bar.__exit__(None, None, None)
            self._bar = None


def _peak_memory() -> str:
    """Peak GPU memory as part of a note; empty without a GPU."""
    if not torch.cuda.is_available():
        return ""
    return f", peak {torch.cuda.max_memory_allocated() / 2**30:.1f} GiB"
