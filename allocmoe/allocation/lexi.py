"""LExI's evolutionary search over layer allocations (arXiv 2509.02753), re-implemented.

No code or hyperparameters were published with it; those here are ours: tournament
parents, uniform crossover 0.5, sum-preserving +-1 mutation 0.2, population 100, fixed seed, and
four restarts, of which the best counts.
"""

from __future__ import annotations

import numpy as np

from allocmoe.allocation.check import matrix, whole_budget
from allocmoe.allocation.rule import LayerRule, Request
from allocmoe.errors import AllocMoEError

POPULATION, CROSSOVER, MUTATION = 100, 0.5, 0.2
RESTARTS, GENERATIONS, PATIENCE, ATTEMPTS, TOURNAMENT = 4, 2000, 200, 5, 3


def lexi(distances: np.ndarray, budget: int, seed: int = 0) -> np.ndarray:
    """Search for the allocation of least total distance with `sum k_l = B`.

    Args:
        distances: [L, K], column k-1 is D_l(k), the mean Frobenius distance of a module's output
            at top-k from its output at top-K on standard normal input.
        budget: B, a whole number within L..L*K.
        seed: of the search; the same seed gives the same allocation.

    Returns:
        int64 [L], sum exactly B. The objective is separable, so `alloc_l` gives its optimum.

    Raises AllocMoEError for a budget or a matrix that is none, or a negative seed.
    """
    cost = matrix(distances, "the distance matrix")
    layers, top_k = cost.shape
    budget = whole_budget(budget, layers, top_k)
    if seed < 0:
        raise AllocMoEError(f"the seed must not be negative, got {seed}")
    rng = np.random.default_rng(seed)
    found = [_search(cost, budget, rng) for _ in range(RESTARTS)]
    return min(found, key=lambda k: cost[np.arange(layers), k - 1].sum())


def _search(cost: np.ndarray, budget: int, rng: np.random.Generator) -> np.ndarray:
    """One evolution from a random population to its standstill."""
    layers, top_k = cost.shape
    columns = np.arange(layers)
    size = (POPULATION, layers)
    population = _repair(rng.integers(1, top_k + 1, size), budget, top_k, rng)
    best, stale = np.inf, 0
    for _ in range(GENERATIONS):
        fitness = cost[columns, population - 1].sum(axis=1)
        entrants = rng.integers(0, len(population), (2, POPULATION, TOURNAMENT))
        winners = np.take_along_axis(entrants, fitness[entrants].argmin(axis=2)[..., None], axis=2)[..., 0]
        mother, father = population[winners]
        children = np.where(rng.random(size) < CROSSOVER, mother, father)
        children = _mutate(_repair(children, budget, top_k, rng), top_k, rng)
        # twins are dropped, or the population collapses onto the first good allocation
        both = np.unique(np.concatenate([population, children]), axis=0)
        fitness = cost[columns, both - 1].sum(axis=1)
        population = both[np.argsort(fitness, kind="stable")[:POPULATION]]
        stale = stale + 1 if fitness.min() >= best else 0
        best = min(best, fitness.min())
        if stale == PATIENCE:
            break
    return population[0].astype(np.int64)


def _mutate(k: np.ndarray, top_k: int, rng: np.random.Generator) -> np.ndarray:
    """Move one expert between two random layers, ATTEMPTS times with probability MUTATION."""
    rows = np.arange(len(k))
    for _ in range(ATTEMPTS):
        up, down = rng.integers(0, k.shape[1], (2, len(k)))
        legal = (rng.random(len(k)) < MUTATION) & (up != down) & (k[rows, up] < top_k) & (k[rows, down] > 1)
        k[rows[legal], up[legal]] += 1
        k[rows[legal], down[legal]] -= 1
    return k


def _repair(k: np.ndarray, budget: int, top_k: int, rng: np.random.Generator) -> np.ndarray:
    """Change random layers of each row by one until every row sums to the budget."""
    rows = np.arange(len(k))
    while (gap := budget - k.sum(axis=1)).any():
        legal = np.where(gap[:, None] > 0, k < top_k, k > 1)
        layer = np.where(legal, rng.random(k.shape), -1).argmax(axis=1)
        k[rows, layer] += np.sign(gap)
    return k


def _allocate(request: Request) -> list[float]:
    return lexi(np.array(request.quantity("distances")), request.budget, int(request.options["seed"])).tolist()


RULE = LayerRule("lexi", _allocate, needs=("distances",), options={"seed": 0})
