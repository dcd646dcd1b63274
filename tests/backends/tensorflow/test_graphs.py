"""Graphs that tensorflow would keep for ever are let go between two files of tests."""

import gc
import weakref

import pytest

from tests.plugin import let_graphs_go

tf = pytest.importorskip("tensorflow")


def test_a_graph_with_a_custom_gradient_goes_with_its_function():
    @tf.custom_gradient
    def doubled(x):
        return 2 * x, lambda gradient: 2 * gradient

    graph = weakref.ref(tf.function(doubled).get_concrete_function(tf.TensorSpec([], tf.float32)).graph)
    gc.collect()
    assert graph() is not None, "tensorflow itself keeps it no longer: let_graphs_go has nothing to do"
    let_graphs_go()
    gc.collect()
    assert graph() is None
