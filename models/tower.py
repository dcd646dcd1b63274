"""What every diptych model shares: a functional Keras model that is saved as the arguments it was built from."""

import keras


class Tower(keras.Model):
    """A functional Keras model whose `get_config` holds constructor arguments instead of a layer graph.

    So a `.keras` file stays readable, and loading it runs the constructor: the graph cannot drift from the code.
    """

    def remember(self, **arguments) -> None:
        """Records the constructor's arguments (JSON types) for `get_config`; to be called after `super().__init__`."""
        self._arguments = arguments

    def get_config(self):
        return {**self._arguments, "name": self.name, "frozen": self.frozen()}

    def frozen(self) -> list[str]:
        """The paths of the weights that are not trained."""
        return [weight.path for weight in self.weights if not weight.trainable]

    @classmethod
    def from_config(cls, config, custom_objects=None):
        arguments = keras.saving.deserialize_keras_object(config, custom_objects=custom_objects)
        frozen = set(arguments.pop("frozen", ()))
        model = cls(**arguments)
        for weight in model.weights:
            if weight.path in frozen:
                weight.trainable = False
        return model
