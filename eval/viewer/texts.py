"""Where the texts of a run's tokens come from: the model's tokenizer, its trace, or its record in whole stretches."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from dodona.engine.errors import DodonaError
from dodona.eval.viewer.runs import Collection, Run
from dodona.eval.viewer.vocabulary import Tokenizers, TokenizerTexts, TokenTexts


class RunText(NamedTuple):
    """A run's text in the units that the page shows: tokens where their texts are known, else stretches."""

    tokens: TokenTexts | None
    by_token: bool


class TextSource:
    """The best source there is for each run; ``note`` is told where it is not a tokenizer's or a trace's."""

    def __init__(self, collection: Collection, tokenizers: Tokenizers, note: Callable[[str], None]) -> None:
        self._arms, self._tokenizers, self._note = collection.arms, tokenizers, note
        texts: dict[str, dict[int, str]] = {}
        for run in collection.runs.values():
            if (words := _trace_texts(run)) is not None:
                texts.setdefault(self._model(run), {}).update(zip(run.ids or (), words, strict=True))
        self._traced = {model: TokenTexts(f"trace {model}", known) for model, known in texts.items()}

    def text_of(self, run: Run) -> RunText:
        """How to show a run.

        A tokenizer is asked first, for it also knows characters that several tokens make. It is fetched from the hub
        only where there is no other source.

        Raises:
            DodonaError: the run has token ids alone, and nothing says their texts.
        """
        ids, arm = run.ids, self._arms[run.arm]
        if not ids:
            return RunText(None, by_token=not run.pieces)
        words = _trace_texts(run)
        opened = self._tokenizers.get(arm.base_model_id, download=words is None)
        if isinstance(opened, TokenizerTexts) and _fits(run, opened, words):
            return RunText(opened, by_token=True)
        if words is not None:
            return RunText(self._traced[self._model(run)], by_token=True)
        if run.result is None:
            raise DodonaError(
                f"{arm.file} holds token ids without their texts, {_why(opened)}: name the model whose tokenizer they "
                f"are of with --tokenizer, or give the records as well"
            )
        self._note(
            f"{arm.label}: shown in stretches of one author and not token by token, {_why(opened)} (--tokenizer names "
            f"another tokenizer)"
        )
        return RunText(None, by_token=False)

    def _model(self, run: Run) -> str:
        arm = self._arms[run.arm]
        return arm.base_model_id or str(arm.file)


def _why(opened: TokenizerTexts | DodonaError | None) -> str:
    """Why a tokenizer does not give the texts."""
    if opened is None:
        return "for no model is named"
    if isinstance(opened, DodonaError):
        return f"for {opened}"
    return f"for the tokenizer {opened.tokenizer.name} gives another text"


def _trace_texts(run: Run) -> list[str] | None:
    """The tokens' texts as the run's trace has them; None: it has none."""
    words = None if run.trace is None else run.trace.get("token")
    if words is None or not all(isinstance(word, str) for word in words):
        return None
    return list(words)


def _fits(run: Run, texts: TokenizerTexts, words: list[str] | None) -> bool:
    """Whether a tokenizer gives the texts that are there already."""
    ids = run.ids or []
    if run.result is not None:
        return texts.tokenizer.decode(ids) == "".join(piece.text for piece in run.pieces)
    return words is None or all(texts.text(i) == word for i, word in zip(ids, words, strict=True))
