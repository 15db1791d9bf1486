"""The public engine: loads a base and an oracle into one process and generates with both."""

from __future__ import annotations

import gc
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from pathlib import Path
from typing import Any, overload

import torch

from dodona.engine.checkpoint import Checkpoint, load_model, open_checkpoint
from dodona.engine.device_loop import LOOKAHEAD, DeviceLoop
from dodona.engine.errors import CheckpointError, DodonaError, OutOfMemoryError, RequestError
from dodona.engine.flash import Flash, check_flash, find_flash
from dodona.engine.loop import Loop
from dodona.engine.memory import MemoryPlan, device_memory, plan_memory
from dodona.engine.ops import make_ops
from dodona.engine.options import BACKENDS, ONE_THREAD, backend_of, current, device_of, dtype_of
from dodona.engine.placement import on_one, parse_device_map, spread_layers
from dodona.engine.prompts import as_request, check_options, encode, expand, is_single
from dodona.engine.request import DEFAULT_CONSULTS, Prompt, Request
from dodona.engine.result import Result, Token, failed_result, make_result
from dodona.engine.runner import Runner
from dodona.engine.scheduler import Scheduler
from dodona.engine.sequence import BASE, ORACLE, Sequence
from dodona.engine.threads import check_threads
from dodona.engine.tokenizer import IncrementalDecoder, Tokenizer, check_same_vocabulary
from dodona.engine.trigger import ExpressionTrigger
from dodona.engine.turns import Turns

_PAGE_SIZE = {"cpu": 32, "cuda": 256}


class Engine:
    """Two Llama models in one process: the base writes, the oracle is consulted where a trigger says so.

    Threads may share an engine: what they ask for runs in one batch.

    Args:
        base: alias (1B, 3B, 8B, 70B, smollm2, arith-base, arith-oracle), hub id, local folder, GGUF file or
            ``dummy:NAME``, each with ``@drop=24,26`` for the model without these layers; None: arith-base, and
            arith-oracle as the oracle where none is named.
        oracle: likewise; None, with a base named: no oracle, which leaves c=0.
        device: "cpu", "cuda", "cuda:1"; None: CUDA where there is one.
        dtype: of weights, activations and cache; None: bfloat16 on CUDA, float32 on the CPU.
        max_batch: sequences that run at once.
        max_length: tokens of a sequence that the caches are planned for; None: the models' context.
        kv_tokens: tokens of each KV cache; None: what the batch can use and memory allows.
        page_size: tokens of a cache page; None: 256 on CUDA, 32 on the CPU.
        chunk: the most tokens that one forward reads beyond one for each decoding sequence; on the device loop of each
            sequence, rounded down to a power of two.
        threads: CPU threads while it runs; None: one where both models are so small that more would only wait for each
            other, else as torch is set.
        backend: "eager" (plain torch, the host decides after each forward), or "triton" (the kernels of
            ``dodona.kernels``, state and decisions on the device, CUDA graphs).
        ops: "torch" or "triton": the step's operations; None: as the backend has them.
        loop: "host" or "device": where a step is decided; None: as the backend has it.
        attention: "own", or "flash": flash-attn 2 or 3, for the device loop on CUDA.
        oracle_device_map: spreads the oracle's layers over devices: "auto" (all CUDA devices) or as in "cuda:0,cuda:1";
            None: all on ``device``. For the eager backend.
        lookahead: ticks that the device loop launches before it reads the first one's record.
        poll_seconds: how long the device loop sleeps between two looks at a record that has not arrived, 0 to 1; 0: it
            looks all the time, which keeps one core busy.

    Raises:
        RequestError: an option out of range, options that exclude each other, or a device that is not here.
        CheckpointError: a model that cannot be used, or two models with different vocabularies.
        OutOfMemoryError: models and caches do not fit; raised before weights are loaded.
    """

    def __init__(
        self,
        base: str | Path | None = None,
        *,
        oracle: str | Path | None = None,
        device: str | torch.device | None = None,
        dtype: torch.dtype | str | None = None,
        max_batch: int = 64,
        max_length: int | None = None,
        kv_tokens: int | None = None,
        page_size: int | None = None,
        chunk: int = 512,
        threads: int | None = None,
        backend: str = "eager",
        ops: str | None = None,
        loop: str | None = None,
        attention: str = "own",
        oracle_device_map: str | Iterable[str] | None = None,
        lookahead: int = LOOKAHEAD,
        poll_seconds: float = 0.0,
    ) -> None:
        sizes = {"max_batch": max_batch, "max_length": max_length, "kv_tokens": kv_tokens}
        sizes |= {"page_size": page_size, "chunk": chunk, "threads": threads, "lookahead": lookahead}
        for name, value in sizes.items():
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
                raise RequestError(f"{name} must be a whole number of 1 or more, not {value!r}")
        check_threads(threads)
        if isinstance(poll_seconds, bool) or not isinstance(poll_seconds, (int, float)) or not 0 <= poll_seconds <= 1:
            raise RequestError(f"poll_seconds must be a number from 0 to 1, not {poll_seconds!r}")
        if base is None and oracle is None:
            base, oracle = "arith-base", "arith-oracle"
        self.device = device_of(device)
        self.dtype = dtype_of(dtype, self.device)
        self.backend = backend_of({"backend": backend, "ops": ops, "loop": loop})
        operations = make_ops(self.backend.ops, self.device)
        size = page_size or _PAGE_SIZE.get(self.device.type, 32)
        flash = self._flash(attention, size)
        spread = self._spread(oracle, oracle_device_map)
        opened = [open_checkpoint(base if base is not None else "arith-base")]
        if oracle is not None:
            opened.append(open_checkpoint(oracle))
        self.base_model_id = opened[0].name
        self.oracle_model_id = opened[1].name if oracle is not None else None
        self.identities = [checkpoint.identity for checkpoint in opened]
        self.tokenizer: Tokenizer = opened[0].tokenizer()
        if oracle is not None:
            _check_pair(opened, self.tokenizer)
        self.context = min(checkpoint.config.max_position_embeddings for checkpoint in opened)
        longest = -(-(max_length or self.context) // size) * size  # in whole pages
        self.plan = self._plan_memory(opened, spread, max_batch, longest, kv_tokens)
        placements = [on_one(checkpoint.config, self.device) for checkpoint in opened]
        if spread:
            reserved = self.plan.models[0].weight_bytes + self.plan.models[0].kv_bytes
            placements[1] = spread_layers(opened[1].config, spread, self.device, self.dtype, reserved)
        runners = [
            Runner(
                name,
                load_model(checkpoint, device=self.device, dtype=self.dtype, placement=placement),
                operations,
                pages=max(1, plan.kv_tokens // size),
                page_size=size,
                context=self.context,
                flash=flash,
            )
            for name, checkpoint, plan, placement in zip(
                (BASE, ORACLE), opened, self.plan.models, placements, strict=False
            )
        ]
        self.base = runners[0]
        self.oracle = runners[1] if oracle is not None else None
        vocabulary = range(opened[0].config.vocab_size)  # an end token beyond it is never written
        self._eos = [frozenset(checkpoint.config.eos_token_ids).intersection(vocabulary) for checkpoint in opened]
        largest = max(checkpoint.config.num_parameters for checkpoint in opened)
        if threads is None and self.device.type == "cpu" and largest < ONE_THREAD:
            threads = 1
        self.loop: Loop | DeviceLoop
        if self.backend.loop == "device":
            self.loop = DeviceLoop(
                self.base,
                self.oracle,
                max_batch=max_batch,
                chunk=chunk,
                eos=self._eos,
                lookahead=lookahead,
                poll_seconds=poll_seconds,
                threads=threads,
                kernels=self.backend.ops == "triton",
            )
            self.scheduler: Scheduler = self.loop.scheduler
        else:
            pools = self.base.cache.pool, self.oracle.cache.pool if self.oracle else None
            self.scheduler = Scheduler(*pools, max_batch=max_batch, chunk=chunk)
            self.loop = Loop(self.base, self.oracle, self.scheduler, threads=threads)
        self._configs = [checkpoint.config for checkpoint in opened]
        self._turns = Turns(self.loop, self.scheduler)

    @property
    def ops(self) -> str:
        """Whose operations the models run on: torch or triton."""
        return self.backend.ops

    def _flash(self, attention: str, page_size: int) -> Flash | None:
        if attention == "own":
            return None
        if attention != "flash":
            raise RequestError(f"attention must be 'own' or 'flash', not {attention!r}")
        if self.backend.loop != "device":
            raise RequestError("attention='flash' belongs to the device loop: set loop='device' or backend='triton'")
        check_flash(self.device, self.dtype, page_size)
        return find_flash()

    def _spread(self, oracle: object, device_map: str | Iterable[str] | None) -> tuple[torch.device, ...]:
        """The devices of the oracle's layers; none: the engine's own."""
        if device_map is None:
            return ()
        if oracle is None:
            raise RequestError("oracle_device_map needs an oracle, and none is named")
        if self.backend != BACKENDS["eager"]:
            raise RequestError("oracle_device_map belongs to the eager backend: CUDA graphs stay on one device")
        return parse_device_map(device_map, self.device)

    def _plan_memory(
        self,
        opened: list[Checkpoint],
        spread: tuple[torch.device, ...],
        max_batch: int,
        max_length: int,
        kv_tokens: int | None,
    ) -> MemoryPlan:
        total, budget = device_memory(self.device)
        if self.device.type == "cuda":  # CPU devices are one memory
            total += sum(device_memory(device)[0] for device in {*spread} - {self.device})
        names = (BASE, ORACLE)
        return plan_memory(
            [(names[i], checkpoint.config, self.dtype.itemsize) for i, checkpoint in enumerate(opened)],
            total=total,
            cache_budget=budget,
            max_batch=max_batch,
            max_length=max_length,
            kv_tokens=kv_tokens,
        )

    # --- generating ---

    @overload
    def generate(self, prompts: str | Request, **options: Any) -> Result: ...
    @overload
    def generate(self, prompts: Iterable[Any], **options: Any) -> Iterator[Result]: ...

    def generate(self, prompts: Any, **options: Any) -> Any:
        """Generate from one prompt or from many.

        Args:
            prompts: one prompt (text, token ids, chat messages, or a Request), which gives one Result; or an iterable
                of prompts or Requests, which may be produced lazily and gives an iterator of Results as they finish.
            **options: fields of Request (c, k, trigger, when, max_new_tokens, seed, temperature, stop, ...), and ``n``:
                that many samples of every prompt (one prompt with n gives a list).

        Raises:
            TypeError: an unknown option.
            DodonaError: a single prompt that cannot be generated from; among many, the failing one's Result has
                ``error`` set and the others are not touched.
        """
        n = options.pop("n", None)
        check_options(options)
        if not is_single(prompts):
            return self._run(self._prepare(expand(prompts, options, n)))
        request = as_request(prompts, options)
        sequences = [self._sequence(sample) for sample in ([request] if n is None else request.samples(n))]
        results = sorted(self._run(iter(sequences)), key=lambda result: result.request.sample)
        for result in results:
            result.raise_for_error()
        return results[0] if n is None else results

    def stream(self, prompt: Prompt | Request, **options: Any) -> Generator[Token, None, Result]:
        """Generate from one prompt and yield its tokens as they are written; a token's text is what became complete.

        The generator's return value (``result = yield from engine.stream(...)``) is the whole Result.

        Raises:
            DodonaError: as ``generate``; what was yielded before stays valid.
        """
        check_options(options)
        sequence = self._sequence(as_request(prompt, options))
        decoder = IncrementalDecoder(self.tokenizer)
        shown = 0
        finished: deque[Sequence] = deque()
        self._turns.add(sequence, finished)
        try:
            while not finished or shown < sequence.generated:
                if not finished:
                    self._tick()
                with self._turns.lock:
                    written, ended = sequence.generated, sequence.finished
                while shown < written:
                    token = sequence.ids[len(sequence.prompt) + shown]
                    text = decoder.push(token)
                    if ended and shown + 1 == written:
                        text += decoder.flush()
                    yield Token(shown, token, text, (BASE, ORACLE)[sequence.sources[shown]])
                    shown += 1
            return self._result(sequence).raise_for_error()
        finally:
            self._turns.drop(finished)

    def check(self, request: Request) -> Sequence:
        """Refuse what ``generate`` would refuse for this request; returns its sequence, which nobody runs.

        Raises:
            RequestError: a prompt or an option that these models cannot serve.
        """
        return self._sequence(request)

    def cancel(self, request_id: str) -> int:
        """Cancel the requests with this ``id``; their results come out as cancelled, with what was written so far."""
        return self._turns.cancel(lambda sequence: sequence.request.id == request_id and not sequence.finished)

    def reset(self) -> None:
        """Cancel everything and give all pages back."""
        self._turns.cancel(lambda sequence: True)

    def close(self) -> None:
        """Cancel everything and let go of models, caches and graphs; closing again does nothing."""
        if not self._turns.close():
            return
        del self.loop, self.base, self.oracle
        if self.device.type == "cuda":
            gc.collect()  # graphs and the programs in them hold each other
            torch.cuda.empty_cache()

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    # --- inside ---

    def _prepare(self, requests: Iterable[Request | DodonaError]) -> Iterator[Sequence | Result]:
        """Requests made ready one by one; what cannot be served comes out as its failed Result."""
        for request in requests:
            try:
                if isinstance(request, DodonaError):
                    raise request
                prepared: Sequence | Result = self._sequence(request)
            except DodonaError as error:
                prepared = failed_result(request, str(error), self.tokenizer, self.base_model_id, self.oracle_model_id)
            yield prepared

    def _run(self, sequences: Iterator[Sequence | Result]) -> Iterator[Result]:
        """Run sequences to their end, taking new ones as seats come free; results in the order they finish."""
        finished: deque[Sequence] = deque()
        exhausted, pending = False, 0
        try:
            while True:
                while not exhausted and len(self.scheduler.waiting) < self.scheduler.max_batch:
                    taken = next(sequences, None)
                    if taken is None:
                        exhausted = True
                    elif isinstance(taken, Result):
                        yield taken
                    else:
                        pending += 1
                        self._turns.add(taken, finished)
                while finished:
                    pending -= 1
                    sequence = finished.popleft()
                    yield self._result(sequence)
                if pending:
                    self._tick()
                elif exhausted:
                    return
        finally:
            self._turns.drop(finished)

    def _result(self, sequence: Sequence) -> Result:
        for config, view in zip(self._configs, (sequence.base, sequence.oracle), strict=False):
            if view.shared:
                sequence.ledger.shared_flops += view.shared * config.flops_per_token((view.shared + 1) / 2)
        return make_result(sequence, self.tokenizer, self.base_model_id, self.oracle_model_id)

    def _tick(self) -> None:
        try:
            with current(self.device):
                self._turns.tick()
        except torch.OutOfMemoryError as error:
            raise OutOfMemoryError(self._out_of_memory()) from error

    def _out_of_memory(self) -> str:
        scheduler, pool = self.scheduler, self.base.cache.pool
        return "\n".join(
            [
                f"{self.device} ran out of memory in a step. Lower max_batch (now {scheduler.max_batch}) or kv_tokens "
                f"(now {pool.capacity}), or chunk. The plan was:",
                *self.plan.lines(),
            ]
        )

    def _sequence(self, request: Request) -> Sequence:
        """A request made ready: encoded, checked against both models, its budget resolved.

        Raises:
            RequestError: a prompt or an option that these models cannot serve.
        """
        self._turns.check_open()
        c = request.c if request.c is not None else (DEFAULT_CONSULTS if self.oracle else 0)
        if self.oracle is None and c > 0:
            raise RequestError(f"c={c} consults need an oracle, and none is loaded: name one, or set c=0")
        if self.oracle is None and request.oracle_tail:
            raise RequestError("oracle_tail needs an oracle, and none is loaded")
        self._check_extras(request, c)
        ids = encode(request, self.tokenizer, self.base.config.vocab_size)
        if len(ids) >= self.context:
            raise RequestError(
                f"the prompt has {len(ids)} tokens, and the models' context of {self.context} leaves no room to write"
            )
        limit = min(request.max_new_tokens, self.context - len(ids))
        eos = self._eos[0].union(*self._eos[1:]) if c > 0 else self._eos[0]
        if request.ignore_eos:
            eos = frozenset()
        sequence = Sequence(request, ids, c=c, limit=limit, eos_ids=eos, tokenizer=self.tokenizer)
        too_large = self.scheduler.fits(sequence)
        if too_large:
            raise RequestError(too_large)
        return sequence

    def _check_extras(self, request: Request, c: float) -> None:
        """Refuse signals that are asked for and cannot be computed."""
        trigger, layer = request.parsed_trigger, request.attention_layer
        needs = isinstance(trigger, ExpressionTrigger) and trigger.attention and c > 0
        if layer is not None and not -self.base.config.num_layers <= layer < self.base.config.num_layers:
            raise RequestError(f"attention_layer={layer} is none of the base's {self.base.config.num_layers} layers")
        if request.divergence and self.oracle is None:
            raise RequestError("divergence compares the base with an oracle, and none is loaded")
        asked = "divergence" if request.divergence else "attention_layer" if layer is not None else None
        if self.backend.loop == "device" and (needs or asked):
            who = f"the trigger {trigger.text!r} needs attention signals" if needs else f"{asked} was asked for"
            raise RequestError(f"{who}, which only the host loop computes: set loop='host'")


def _check_pair(opened: list[Checkpoint], tokenizer: Tokenizer) -> None:
    base, oracle = opened
    check_same_vocabulary(tokenizer, oracle.tokenizer(), (base.name, oracle.name))
    if base.config.vocab_size != oracle.config.vocab_size:
        raise CheckpointError(
            f"{base.name} scores {base.config.vocab_size} tokens and {oracle.name} {oracle.config.vocab_size}: "
            "base and oracle must share one vocabulary"
        )
