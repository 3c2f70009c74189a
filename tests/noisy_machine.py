"""A simulated machine with bad neighbours: its clock is a number, its noise has a seed, nothing is really timed."""

import math
from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np

from madx.clocks import CallTime
from madx.recipe import GateConfig, LatencyConfig
from madx.sensors import Watch
from madx.verify import Outcome, measure_latency
from madx.verify.gates import decide
from madx.verify.latency import Timed
from madx.verify.p99 import p99_ratio
from madx.verify.speed import speedup

NEIGHBOURS = {
    "quiet": {},
    "heavy-tailed": {"tail": 1.5},
    "short bursts": {"burst": 0.02, "calm": 0.1, "slow": 3.0},
    "bursts of many pairs": {"burst": 0.5, "calm": 0.5, "slow": 1.5},
    "a rare burst of many pairs": {"burst": 0.5, "calm": 5.0, "slow": 3.0},
    "drifting": {"drift": 0.3},
    "wandering": {"wander": 0.02},
    "bursts on the candidate alone": {"burst": 0.05, "calm": 0.5, "slow": 2.0, "hits": "B"},
    "bursts on the reference alone": {"burst": 0.05, "calm": 0.5, "slow": 2.0, "hits": "A"},
    "the whole run, on the reference alone": {"burst": 1e9, "calm": 1e-6, "slow": 2.0, "hits": "A"},
    "a third of the run, on the reference alone": {"from_to": (0.1, 0.3), "slow": 2.0, "hits": "A"},
}


def kept(timer):
    """An engine of which every load is the same."""
    return lambda: nullcontext(timer)


class NoisyMachine:
    """Calls take a true time, less or more as the neighbours have it.

    Args:
        seed: of all noise.
        tail: shape of Pareto noise on one call in five; without it none.
        burst: mean seconds of a burst.
        calm: mean seconds between two.
        slow: how many times slower a call is in a burst.
        hits: the engines that suffer from it, "A" being the reference.
        from_to: seconds of the one burst there is instead.
        drift: growth of all times a second.
        wander: step of a random walk of the logarithm of all times, a call.
        mood: standard deviation of the logarithm of the candidate's times, which stay alike for some twenty calls.
        spread: standard deviation of the logarithm of an engine's times between its loads.
        turns: (own, others') mean seconds: others take their turn on the CPU in the middle of a call or between two.
        regular: whether turns are all of their mean length, as where a quota is used up again and again.
        taker: "neighbours", whose turns the kernel's account of waiting shows, or a "hypervisor".
        charged: whether what a hypervisor takes is counted as the CPU time of whoever was running.
        cpu: whether there is a CPU clock, which stands still in neighbours' turns and bursts.
        sensors: whether the machine tells of its bursts and turns.
    """

    def __init__(self, seed, *, noise=0.01, tail=0.0, burst=0.0, calm=0.0, slow=1.0, hits="AB", **more):
        self.rng = np.random.default_rng(seed)
        self.now, self.weather, self.in_burst, self.until = 0.0, 0.0, False, 0.0
        self.noise, self.tail, self.burst, self.calm, self.slow, self.hits = noise, tail, burst, calm, slow, hits
        self.from_to, self.drift, self.wander = (more.get(name) for name in ("from_to", "drift", "wander"))
        self.mood, self.spread, self.turns = more.get("mood", 0.0), more.get("spread", 0.0), more.get("turns")
        self.taker, self.charged, self.cpu = more.get("taker"), more.get("charged", False), more.get("cpu", False)
        self.regular, self.sensors = more.get("regular", False), more.get("sensors", True)
        self.lost = self.taken = self.spent = self.left = self.humour = 0.0
        self.draws = iter(())

    def load(self, seconds, name):
        """What loads an engine of this true time anew."""
        return lambda: nullcontext(self.timer(seconds * math.exp(self.spread * self._normal()), name))

    def timer(self, seconds, name):
        def run(_number=0):
            work = seconds * (1 + abs(self.noise * self._normal()))
            if self.tail and self.rng.random() < 0.2:
                work *= 1 + 0.1 * self.rng.pareto(self.tail)
            if self.drift:
                work *= 1 + self.drift * self.now
            if self.wander:
                self.weather += self.wander * self._normal()
                work *= np.exp(self.weather)
            if self.mood and name == "B":
                self.humour = 0.95 * self.humour + math.sqrt(1 - 0.95**2) * self.mood * self._normal()
                work *= math.exp(self.humour)
            took = work * (self.slow if self._bursting() and name in self.hits else 1.0)
            self.lost += took - work
            others = self._turns_of_others(took)
            if self.taker == "hypervisor":
                self.taken += others
            else:
                self.lost += others
            self.now += took + others
            self.spent += took + others
            charged = others if self.taker == "hypervisor" and self.charged else 0.0
            return CallTime(took + others, work + charged) if self.cpu else took + others

        return run

    def _normal(self):
        for value in self.draws:
            return value
        self.draws = iter(self.rng.standard_normal(4096))
        return next(self.draws)

    def _bursting(self):
        if self.from_to:
            return self.from_to[0] <= self.now < self.from_to[1]
        while self.burst and self.now >= self.until:
            self.in_burst = not self.in_burst
            self.until += self.rng.exponential(self.burst if self.in_burst else self.calm)
        return self.in_burst

    def _turns_of_others(self, seconds):
        """What others take while so many seconds of the engine's own go by."""
        if not self.turns:
            return 0.0
        own, theirs = self.turns
        taken = 0.0
        while seconds > self.left:
            seconds -= self.left
            taken += theirs if self.regular else self.rng.exponential(theirs)
            self.left = own if self.regular else self.rng.exponential(own)
        self.left -= seconds
        return taken

    def read(self):
        shares = {"waiting": self.lost, "steal": self.taken}
        found = {name: lost / max(self.spent, 1e-9) for name, lost in shares.items()}
        self.lost = self.taken = self.spent = 0.0
        return found if self.sensors else {}

    def measure(self, speedup, *, seed, reference=1e-3, tails=False, **config):
        return measure_latency(
            self.load(reference, "A"),
            self.load(reference / speedup, "B"),
            config=LatencyConfig(**{"pairs": 30, "block_calls": 5, "seconds": 0.6} | config),
            seed=seed,
            timed=Timed("simulated"),
            tails=tails,
            watch=Watch(clock=lambda: self.now, read=self.read),
        )


def judged(latency, metric, bound):
    """The outcome of one gate on nothing but a latency."""
    direction = "at_least" if metric == "speedup" else "at_most"
    gate = GateConfig(metric=metric, **{direction: bound})
    found = {"speedup": speedup, "p99_ratio": p99_ratio}[metric](SimpleNamespace(latency=latency), gate)
    if found.void:
        return Outcome.INCONCLUSIVE
    return decide(found.lower, found.upper, bound=bound, direction=direction)
