"""All that is written once: data, losses, training, evaluation. Imports none of the other rooms."""

if __name__ == "core":
    from diptych.checkout import alias_room

    alias_room(__name__)
