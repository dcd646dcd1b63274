"""Native hot paths, one room per framework, and the choice among them."""

if __name__ == "backends":
    from diptych.checkout import alias_room

    alias_room(__name__)
