"""Weight files: formats, the hub, names, sizes."""
