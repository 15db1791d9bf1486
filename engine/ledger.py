"""Exact counts of what one sequence cost: every forward that ran for it and every token it was fed."""

from __future__ import annotations

from dataclasses import asdict, dataclass


@dataclass(slots=True)
class Ledger:
    """Costs of one sequence. Tokens fed to a model are split so that the parts add up to all that was fed."""

    base_forwards: int = 0  # forwards of the base that this sequence took part in
    prefill_tokens: int = 0  # prompt tokens fed to the base
    base_steps: int = 0  # generated tokens fed to the base one at a time (decode, and after a burst of one)
    catch_up_tokens: int = 0  # generated tokens fed to the base more than one at a time (after a burst, or the tail)
    oracle_forwards: int = 0
    sync_tokens: int = 0  # tokens fed to the oracle to catch up, the prompt and the tail included
    oracle_steps: int = 0  # burst tokens fed back to the oracle to get the next one (decode)
    burst_tokens: int = 0  # tokens that the oracle wrote
    base_tokens: int = 0  # tokens that the base wrote
    consults: int = 0
    wasted_steps: int = 0  # base distributions whose position the oracle took (when="before")
    shared_tokens: int = 0  # tokens not fed because another sequence's pages held them already
    recomputed_tokens: int = 0  # tokens fed to either model again after a preemption, part of the counts above
    base_flops: float = 0.0  # floating point operations, as LlamaConfig.flops_per_token counts them
    oracle_flops: float = 0.0
    shared_flops: float = 0.0  # that the shared tokens would have cost
    base_ms: float = 0.0  # wall time of the forwards, shared out by tokens fed
    oracle_ms: float = 0.0

    @property
    def base_fed(self) -> int:
        """All tokens fed to the base."""
        return self.prefill_tokens + self.base_steps + self.catch_up_tokens

    @property
    def oracle_fed(self) -> int:
        """All tokens fed to the oracle."""
        return self.sync_tokens + self.oracle_steps

    @property
    def flops(self) -> float:
        """Floating point operations of both models, as if nobody had shared the prompt: what this run alone costs."""
        return self.base_flops + self.oracle_flops + self.shared_flops

    def as_dict(self) -> dict[str, float]:
        """The counts by name, for a record."""
        return {name: round(value, 3) if isinstance(value, float) else value for name, value in asdict(self).items()}
