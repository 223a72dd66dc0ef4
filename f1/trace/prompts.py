"""The prompts of a run as models read them, token by token, and what was written in answer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.text import Text

from f1.errors import NotFound
from f1.trace.entries import Shown, Turned, unpack_ids
from f1.trace.story import Story
from f1.trace.visible import visible
from f1.types import CallDelta, ReasoningDelta, TextDelta

if TYPE_CHECKING:
    from f1.models.tokenizer import Tokenizer


def show_prompts(story: Story, step: int, console: Console) -> None:
    """Of all turns of the step. Raises NotFound."""
    prompts = dict(prompts_of(story))
    turns = [turn for turn in story.turns if turn.step == step]
    if not turns:
        steps = sorted({turn.step for turn in story.turns})
        there = f"there are {steps[0]} to {steps[-1]}" if steps else "no model took a turn"
        raise NotFound(f"no model took a turn in step {step}; {there}", param="prompt")
    theirs = taken_over(story)
    tokenizers: dict[str, Tokenizer | None] = {}
    models = story.began.models if story.began is not None else {}
    for turn in turns:
        model = models.get(turn.role, "")
        if model not in tokenizers:
            tokenizers[model] = _tokenizer(model)
        tokenizer = None if turn.number in theirs else tokenizers[model]
        ids = prompts.get(turn.number)
        head = f"step {step}, turn {turn.number + 1} of the {turn.role} ({model})"
        console.rule(Text(visible(head)), style="dim")
        if turn.number in theirs:
            console.print(
                Text("taken over, as it was, from the run that this one forked", "yellow")
            )
        if ids is not None and tokenizer is not None:
            _plain(console, tokenizer.decode(ids).decode("utf-8", "replace"))
        else:
            _told(story, step, ids, model, console)
        console.rule(Text("what it wrote"), style="dim")
        for choice, packed in enumerate(turn.token_ids):
            if tokenizer is not None:
                text = tokenizer.decode(unpack_ids(packed)).decode("utf-8", "replace")
                _plain(console, text if len(turn.token_ids) == 1 else f"[{choice}] {text}")
        if not turn.token_ids or tokenizer is None:
            _plain(console, written(turn))


def prompts_of(story: Story) -> Iterator[tuple[int, list[int]]]:
    """Token ids of each turn's prompt, by the turn's number. An entry has what is new in it."""
    before: list[int] = []
    for turn in story.turns:
        if turn.prompt_ids is None:
            continue
        before = before[: turn.shared] + unpack_ids(turn.prompt_ids)
        yield turn.number, before


def taken_over(story: Story) -> set[int]:
    """Turns of the run that this one forked: another model's, it may be."""
    began = story.began
    kept = began.forked_from.rpartition("#")[2] if began is not None else ""
    if not kept.isdecimal():
        return set()
    return {turn.number for each, turn in story.each(Turned) if each.seq < int(kept)}


def written(turn: Turned) -> str:
    """Its words and calls."""
    parts = []
    for event in turn.events:
        match event:
            case TextDelta(text=text) | ReasoningDelta(text=text):
                parts.append(text)
            case CallDelta(call=call):
                parts.append(f"\n{call.name}({call.arguments})")
    return "".join(parts)


def _tokenizer(model: str) -> Tokenizer | None:
    """None where the model is not on this machine: nothing is fetched to look at a record."""
    from f1.models.load import load_checkpoint
    from f1.models.pull import installed
    from f1.settings import Settings

    settings = Settings.from_env()
    if all(here.name != model for here in installed(settings)):
        return None
    return load_checkpoint(model, settings).tokenizer


def _told(story: Story, step: int, ids: Sequence[int] | None, model: str, console: Console) -> None:
    """What is known of a prompt that cannot be spelled."""
    why = "its tokens are not recorded" if ids is None else f"{model or 'its model'} is not here"
    console.print(Text(f"{visible(why)}; the messages of the record:", "yellow"))
    shown = next((s for _, s in story.each(Shown) if s.step == step and s.left), None)
    for message in shown.left if shown is not None else story.said:
        calls = "".join(f"\n{call.name}({call.arguments})" for call in message.tool_calls)
        _plain(console, f"[{message.role}] {message.content}{calls}")


def _plain(console: Console, text: str) -> None:
    console.print(Text(visible(text, lines=True)), soft_wrap=True)
