"""One object under two names: in a checkout, `import models` from its root gives `diptych.models` itself.

The folders at the root are links inside `diptych/`. Without an alias `import models.siglip.vit` from the root would
load the file a second time, with classes that are not those of `diptych.models.siglip.vit` and a second entry in
Keras's registry. Each room's `__init__.py` calls `alias_room` when, and only when, it finds itself imported under its
bare name; so the `models` folder of somebody's own project is never touched.
"""

import sys
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec


def alias_room(room: str) -> None:
    """Let the bare name of a room (`core`, `models`, ...) and of all its modules mean the ones below `diptych`."""
    sys.modules[room] = import_module(f"diptych.{room}")
    if _ALIASES not in sys.meta_path:
        sys.meta_path.insert(0, _ALIASES)


class _Aliases(MetaPathFinder, Loader):
    """Finds `models.siglip.vit` as `diptych.models.siglip.vit`, for rooms that `alias_room` has named."""

    def find_spec(self, fullname, path=None, target=None):
        room, _, rest = fullname.partition(".")
        if not rest or getattr(sys.modules.get(room), "__name__", None) != f"diptych.{room}":
            return None
        real = find_spec(f"diptych.{fullname}")
        if real is None:
            return None
        spec = ModuleSpec(fullname, self, origin=real.origin, is_package=real.submodule_search_locations is not None)
        spec.has_location = real.has_location
        return spec

    def exec_module(self, module):
        # The import system hands out whatever stands in sys.modules once this returns.
        sys.modules[module.__name__] = import_module(f"diptych.{module.__name__}")

    def get_code(self, fullname):
        """The compiled module, as `python -m recipes.siglip` asks for it."""
        return find_spec(f"diptych.{fullname}").loader.get_code(f"diptych.{fullname}")


_ALIASES = _Aliases()
