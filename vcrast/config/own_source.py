"""Let Hydra read a user's folder, whose top holds recipes and whose folders are groups."""

from __future__ import annotations

from hydra._internal.core_plugins.file_config_source import FileConfigSource
from hydra._internal.sources_registry import SourcesRegistry
from hydra.core.object_type import ObjectType
from hydra.plugins.config_source import ConfigResult

from vcrast.config.files import SCHEME


class OwnSource(FileConfigSource):
    """`recipe/NAME` is NAME.yaml at the top of the folder, or recipe/NAME.yaml as in `configs/`."""

    @staticmethod
    def scheme() -> str:
        """What an entry of Hydra's search path begins with."""
        return SCHEME

    def _place(self, config_path: str) -> str:
        at_top = config_path.removeprefix("recipe/")
        return at_top if super().is_config(at_top) and not super().is_config(config_path) else config_path

    def load_config(self, config_path: str) -> ConfigResult:
        """As Hydra's own."""
        return super().load_config(self._place(config_path))

    def is_config(self, config_path: str) -> bool:
        """As Hydra's own."""
        return bool(super().is_config(self._place(config_path)))

    def is_group(self, config_path: str) -> bool:
        """As Hydra's own; there are always recipes."""
        return config_path == "recipe" or bool(super().is_group(config_path))

    def list(self, config_path: str, results_filter: ObjectType | None) -> list[str]:
        """As Hydra's own."""
        found = set(super().list(config_path, results_filter)) if super().is_group(config_path) else set()
        if config_path == "recipe":
            found |= set(super().list("", ObjectType.CONFIG))
        return sorted(found)


SourcesRegistry.instance().register(OwnSource)
