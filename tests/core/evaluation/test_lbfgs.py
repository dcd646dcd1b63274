"""The search for a minimum: quadratics solved by linear algebra, a curved valley, and functions that are no good."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diptych.core.evaluation.lbfgs import minimise


def quadratic(size: int, condition: float, seed: int):
    """½ x'Ax - b'x and its minimum."""
    rng = np.random.default_rng(seed)
    basis = np.linalg.qr(rng.normal(size=(size, size)))[0]
    matrix = (basis * np.geomspace(1, condition, size)) @ basis.T
    linear = rng.normal(size=size)
    return lambda x: (float(x @ matrix @ x / 2 - linear @ x), matrix @ x - linear), np.linalg.solve(matrix, linear)


def valley(place: np.ndarray) -> tuple[float, np.ndarray]:
    """Rosenbrock's, with its minimum of 0 at (1, 1)."""
    x, y = place
    value = (1 - x) ** 2 + 100 * (y - x**2) ** 2
    return value, np.array([-2 * (1 - x) - 400 * x * (y - x**2), 200 * (y - x**2)])


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 12), st.floats(1, 1e4), st.integers(0, 1000))
def test_a_quadratic_is_solved(size, condition, seed):
    function, minimum = quadratic(size, condition, seed)
    found = minimise(function, np.zeros(size), iterations=2000, tolerance=1e-9)
    assert found.converged
    # Values tell places apart to the root of their rounding alone.
    np.testing.assert_allclose(found.place, minimum, atol=1e-5 * max(1.0, np.abs(minimum).max()))


def test_a_curved_valley_is_followed():
    found = minimise(valley, np.array([-1.2, 1.0]), tolerance=1e-9)
    np.testing.assert_allclose(found.place, [1, 1], atol=1e-6)
    assert found.converged
    assert found.iterations < 80, "steepest descent needs thousands"


def test_the_value_never_rises_and_few_steps_say_so():
    values = [minimise(valley, np.array([-1.2, 1.0]), iterations=count).value for count in range(12)]
    assert values == sorted(values, reverse=True)
    assert not minimise(valley, np.array([-1.2, 1.0]), iterations=3).converged


def test_the_same_start_gives_the_same_place():
    first, second = (minimise(valley, np.array([-1.2, 1.0]), iterations=9).place for _ in range(2))
    np.testing.assert_array_equal(first, second)


def test_a_start_at_the_minimum_stays_there():
    found = minimise(valley, np.ones(2))
    assert (found.iterations, found.value, found.converged) == (0, 0.0, True)


def test_a_wrong_gradient_goes_nowhere():
    function, _ = quadratic(4, 10.0, 0)
    uphill = minimise(lambda x: (function(x)[0], -function(x)[1]), np.zeros(4))
    assert uphill.value == function(np.zeros(4))[0]
    np.testing.assert_array_equal(uphill.place, np.zeros(4))


def test_steps_beyond_the_domain_are_taken_back():
    def logarithm(place):
        with np.errstate(all="ignore"):
            return float(place[0] - np.log(place[0])), 1 - 1 / place

    np.testing.assert_allclose(minimise(logarithm, np.array([0.01]), tolerance=1e-8).place, [1.0], atol=1e-6)


def test_a_start_that_is_not_finite_is_refused():
    with pytest.raises(ValueError, match="not finite at the start"):
        minimise(lambda x: (float("nan"), x), np.ones(2))
