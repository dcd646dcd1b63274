"""Untrained weights within a step: what a forward pass makes of them, before the step has moved any."""

import keras


def carried(function, model, argument, variables, values, scope=keras.StatelessScope):
    """A function of the model, called while its untrained weights have the given values.

    A forward pass may change them, as that of batch normalisation changes moving statistics. A step that takes several
    forward passes carries the values from one to the next and moves the weights once, at its end.

    Args:
        function: of the model and the argument.
        model: that holds the variables.
        argument: of the function, such as a batch.
        variables: the model's untrained weights.
        values: theirs, as the function is to find them.
        scope: makes the Keras scope, where the backend has one of its own.

    Returns:
        What the function gives, and the values that the variables would have afterwards; themselves they are left.
    """
    if not variables:
        return function(model, argument), values
    with scope(state_mapping=list(zip(variables, values, strict=True))) as entered:
        result = function(model, argument)
    return result, [entered.get_current_value(variable) for variable in variables]
