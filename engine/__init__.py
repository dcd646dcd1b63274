"""The carrying out of recipes: data sets, building and running, judging, embedding, exporting, serving."""

if __name__ == "engine":
    from diptych.checkout import alias_room

    alias_room(__name__)
