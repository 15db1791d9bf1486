"""10,000 requests through one engine: nothing is lost, nothing grows."""

from __future__ import annotations

import subprocess
import sys

import pytest
from tiny_models import save_tiny

SCRIPT = """
import random, sys
from dodona.engine.engine import Engine
from dodona.engine.request import Request

def resident():
    with open("/proc/self/statm") as numbers:
        return int(numbers.read().split()[1])

engine = Engine(sys.argv[1], oracle=sys.argv[2], device="cpu", max_batch=64, max_length=64, page_size=8)
rng = random.Random(0)

def requests():
    for index in range(10_000):
        yield Request(
            prompt=[1] + [rng.randrange(3, 317) for _ in range(rng.randint(1, 6))], id=str(index), c=2, k=2,
            trigger=rng.choice(["every(2)", "entropy > 1.0"]), max_new_tokens=rng.randint(1, 5),
        )

seen = set()
for result in engine.generate(requests()):
    assert result.error is None, result.error
    assert result.request.id not in seen
    seen.add(result.request.id)
    if len(seen) == 1000:
        early = resident()
late = resident()
assert len(seen) == 10_000
for runner in (engine.base, engine.oracle):
    assert runner.cache.pool.free_pages == runner.cache.pool.pages and runner.cache.pool.open_slots == 0
print(early, late, late / early)
assert late <= 1.02 * early, f"resident memory grew from {early} to {late} pages"
"""


@pytest.mark.slow
def test_ten_thousand_requests_leak_nothing(tmp_path):
    """Catches results, slots, prompts or tables that are kept for ever."""
    base = save_tiny(tmp_path / "base", "gqa-tied", seed=3, layers=1)
    oracle = save_tiny(tmp_path / "oracle", "mha-untied", seed=4, layers=1)
    done = subprocess.run([sys.executable, "-c", SCRIPT, base, oracle], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
