"""VERSION: of this package, as it is installed."""

from importlib.metadata import PackageNotFoundError, version


def _installed() -> str:
    try:
        return version("hguard")
    except PackageNotFoundError:  # run from a folder without installing
        return "0+unknown"


VERSION = _installed()
